"""Does the judge see what it must? Its statistics on made series, and soaks of a service with a fault built in."""
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from . import daemon as daemons
from . import generator as generators
from . import marks, measure, plot, soak, stats, workloads

SOAK_SECONDS = 4
# So many that a quarter of the run has enough calls of a kind for a p99.
RATE = 300
# A slow stub falls behind: its last calls take a thousand times as long. What a busy machine adds lies between.
FACTOR = 30
MIX = [(workloads.bash("small", "bash, small", "echo n@N@", "n@N@\n"), 3),
       (workloads.python("python", "python", "print('p@N@')", "p@N@\n"), 1)]


class Stub:
    """A service with a built-in fault, in a process of its own that stands for front, engine and supervisor."""

    def __init__(self, fault):
        self.directory = tempfile.mkdtemp(prefix="sandkeep-bench-stub-")
        self.socket = os.path.join(self.directory, "socket")
        stub = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stub.py")
        self.process = subprocess.Popen([sys.executable, stub, self.socket, fault])
        for _ in range(400):
            if os.path.exists(self.socket):
                return
            time.sleep(0.05)
        raise AssertionError("the stub did not start")

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory)

    def pids(self):
        return {"front": self.process.pid}

    def leaves(self):
        return 0

    def leases(self):
        return 0

    def text(self):
        return ""


class Statistics(unittest.TestCase):
    def test_quantiles_lie_between_neighbours(self):
        self.assertEqual(stats.quantile([1, 2, 3, 4, 5], .5), 3)
        self.assertEqual(stats.quantile([1, 2], .5), 1.5)
        self.assertEqual(stats.quantile([7], .99), 7)

    def test_a_difference_is_told_from_noise(self):
        old = [10 + (i * 7919 % 100) / 50 for i in range(400)]
        self.assertEqual(stats.compared(old[::-1], old)["verdict"], "no difference beyond the noise")
        faster, slower = stats.compared([v * .8 for v in old], old), stats.compared([v * 1.2 for v in old], old)
        self.assertEqual(faster["verdict"], "less time, beyond the noise")
        self.assertEqual(slower["verdict"], "more time, beyond the noise")
        self.assertTrue(.75 < faster["low"] <= faster["ratio"] <= faster["high"] < .85, faster)

    def test_growth_is_told_from_noise(self):
        noise = [(t, 100 + (t * 7919 % 13)) for t in range(100)]
        self.assertIsNone(stats.grown(noise, 4, .05))
        self.assertIsNone(stats.grown([(t, 200 - t) for t in range(100)], 4, .05), "less is not more")
        self.assertIn("from", stats.grown([(t, v + t) for t, v in noise], 4, .05))
        self.assertIsNone(stats.grown([(t, 1000 + t / 50) for t in range(100)], 4, .05))

    def test_a_pool_that_fills_is_no_leak_and_hides_none(self):
        # It grows for the whole run; each sandbox holds four descriptors and one lease.
        pool = [(t, 10 + t // 2) for t in range(100)]
        held = {"sandboxes": pool, "descriptors, engine": [(t, 20 + 4 * n) for t, n in pool], "leases": pool}
        self.assertEqual(soak.growth(held, 16), [])
        # The pool is full and something goes on growing.
        full = [(t, min(64, 10 + 3 * t)) for t in range(100)]
        leak = {"sandboxes": full, "descriptors, engine": [(t, 20 + 4 * n + 8 * t) for t, n in full],
                "leases": [(t, n + t) for t, n in full]}
        found = soak.growth(leak, 16)
        self.assertTrue(len(found) == 2 and all("grew" in why for why in found), found)
        endless = [(t, 10 + 3 * t) for t in range(100)]
        self.assertIn("sandboxes lived at once", soak.growth({"sandboxes": endless}, 16)[0])

    def test_marks_are_judged_in_their_direction(self):
        names = {"bash true, p50 / bare": 1.5, "calls a second / bubblewrap launches a second": 1.5,
                 "python 1+1, p50 / bare": .1, "bash true, p50 with 1,000 waiting / with the fewest": 1.5}
        verdicts = {m["mark"]: m["verdict"] for m in marks.judged(names, {})}
        self.assertEqual(verdicts["bash true, p50 / bare"], "reached")
        self.assertEqual(verdicts["calls a second / bubblewrap launches a second"], "NOT REACHED")
        self.assertEqual(verdicts["python 1+1, p50 / bare"], "reached, and the moonshot")
        self.assertEqual(verdicts["bash true, p50 with 1,000 waiting / with the fewest"], "not the moonshot")
        self.assertIn("not measured", verdicts["waiting bash sandboxes held"])
        self.assertEqual(len(marks.shown(marks.judged(names, {}))), len(verdicts) + 1)

    def test_a_machine_that_became_slower_is_not_a_service_that_did(self):
        def calls(factor):
            return [(0, n / 10, .01 * (1 + n % 7) * (factor if n >= 1500 else 1)) for n in range(2000)]
        for service, machine, faults in ((1, 1, 0), (4, 1, 2), (4, 4, 0), (4, 1.2, 2), (1, 4, 0), (10, 10, 2)):
            found, told = soak.slower(calls(service), {0: "small"}, 1.5, calls(machine))
            self.assertEqual(len(found), faults, (service, machine, found))
            self.assertIn("bare launch", told[0])

    def test_a_stall_is_no_trend_and_a_trend_is_one(self):
        def calls(slow):
            return [(0, n / 100, .01 * (1 + n % 7) * (100 if slow(n / 100) else 1)) for n in range(4000)]
        # A second and a half of the last ten; every thirtieth call of them.
        stall = soak.slower(calls(lambda at: 33 < at < 34.5), {0: "small"}, 1.5)[0]
        trend = soak.slower(calls(lambda at: at > 30 and int(at * 100) % 30 == 0), {0: "small"}, 1.5)[0]
        self.assertEqual((len(stall), len(trend)), (0, 2), (stall, trend))

    def test_durations_and_plots(self):
        self.assertEqual((soak.seconds("30m"), soak.seconds("20s")), (1800, 20))
        self.assertRaises(SystemExit, soak.seconds, "30")
        drawn = plot.svg("<&>", {"w": {"a": stats.curve([1, 2, 3]), "b": stats.curve([5])}})
        self.assertIn("&lt;&amp;&gt;", drawn)
        self.assertEqual(drawn.count("<polyline"), 2)


class Faults(unittest.TestCase):
    """Each soak runs in a thread of its own: together they take as long as one."""
    # The fault of the stub, and what the failure must say; None: there must be none.
    CASES = {"none": None, "wrong": "wrong answers, first: another result", "twice": "was used twice",
             "refuse": "refused below the peak", "hang-up": "wrong answers", "leak": "descriptors, front grew",
             "grow": "KiB, front grew", "slow": "p99 went from", "stray": "wrong answers, first: another result"}

    def test_a_soak_finds_each_fault_and_no_other(self):
        found, threads = {}, []

        def one(fault):
            directory = tempfile.mkdtemp(prefix="sandkeep-bench-records-")
            stub = Stub(fault)
            generator = generators.Generator(self.root, directory)
            try:
                found[fault] = soak.run(generator, stub, MIX, SOAK_SECONDS, FACTOR, callers=4, rate=RATE,
                                        say=lambda _: None)
            finally:
                generator.stop()
                stub.stop()
                shutil.rmtree(directory)

        # A few at a time: the faults of time would else be those of a crowded machine.
        cases = list(self.CASES)
        for at in range(0, len(cases), 3):
            threads = [threading.Thread(target=one, args=(fault,)) for fault in cases[at:at + 3]]
            [t.start() for t in threads]
            [t.join() for t in threads]
        for fault, due in self.CASES.items():
            self.assertIn(fault, found)
            failures = found[fault]["failures"]
            with self.subTest(fault, failures=failures):
                if due is None:
                    self.assertEqual(failures, [])
                    self.assertGreater(found[fault]["calls"], SOAK_SECONDS * RATE * .9)
                else:
                    self.assertTrue(any(due in f for f in failures))
                    self.assertIn("FAILED", soak.shown(found[fault])[-1])
                    # What another try may forgive.
                    self.assertEqual(found[fault]["only_late"], fault == "slow")

    def test_a_measurement_stops_at_a_wrong_answer(self):
        directory = tempfile.mkdtemp(prefix="sandkeep-bench-records-")
        generator = generators.Generator(self.root, directory)
        try:
            for fault, wrong in (("none", False), ("wrong", True), ("twice", True)):
                stub = Stub(fault)
                try:
                    subject = measure.Subject(fault, "ours", daemon=stub, level="standard")
                    if wrong:
                        self.assertRaises(generators.Wrong, measure.latency, generator, [subject], [MIX[0][0]], 300)
                    else:
                        times = measure.latency(generator, [subject], [MIX[0][0]], 30)["small"]["none"]
                        self.assertEqual(len(times), 30)
                finally:
                    stub.stop()
            for argv, stdout, wrong in ((["/bin/echo", "@N@"], "@N@\n", False), (["/bin/echo", "a"], "b\n", True),
                                        (["/bin/false"], None, True), (["/nowhere"], None, True)):
                number = generator.spawn("peer", argv, stdout)
                if wrong:
                    self.assertRaises(generators.Wrong, generator.run, "rounds", 0, 3, 1, number)
                else:
                    self.assertEqual(len(generator.run("rounds", 0, 3, 1, number)[0]), 3)
        finally:
            generator.stop()
            shutil.rmtree(directory)


def run(root):
    Faults.root = root
    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(c) for c in (Statistics, Faults))
    return 0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1
