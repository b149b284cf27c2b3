"""A long run under load: nothing may grow, no answer may be wrong, the end must be as fast as the start."""
import os
import re
import statistics
import threading
import time

from . import daemon as daemons
from . import stats

CALLERS = 16
SHARE = 0.8
# What a machine gives in its first seconds it may not give for long: the peak is what comes after them.
WARM_SECONDS = 3
PEAK_SECONDS = 6
# Bare launches a second beside the soak. They tell a machine that became slower from a service that did.
FLOOR_RATE = 20
# How much of that calls may have on top, at the most: beyond it what slows the launches may be what the service left.
FLOOR_EXCUSE_MAX = 3
# Of the calls that begin in a second, answered in a second: less means that they pile up.
KEPT_SHARE = 0.9
# Of the run, from its start: caches and pools fill, allocators take what they keep.
WARM_SHARE = 0.1
# A quantile of fewer calls is their largest.
P99_CALLS_MIN = 200
# Parts of a quarter, each with so many calls at the least.
PARTS, PART_CALLS_MIN = 5, 100

# What may come on top of the first quarter's median by noise: absolute, and relative to it.
ALLOWED = {
    "descriptors": (24, 0.1), "mounts": (4, 0.05), "cgroups": (12, 0.2), "leases": (12, 0.2),
    "network namespaces": (32, 0.2), "journal KiB": (2048, 0.1), "rss KiB": (2048, 0.1), "pss KiB": (2048, 0.1),
}
# A pool grows with demand until its ceiling, and that is no leak. What each sandbox that lives may hold of these, at
# the most, is taken off before growth is judged; the sandboxes themselves have a bound of their own.
EACH_MOST = {"descriptors": 16, "cgroups": 1, "leases": 1, "network namespaces": 1, "pss KiB": 8, "rss KiB": 8}
# A machine that slows down takes down later: up to 64 of the dead (the engine's GRAVES_MAX) with four descriptors each. At rest,
# where none waits, what is left is judged without this.
DEAD_HOLD = {"descriptors, engine": 64 * 4}
# What an engine has open for itself, kept network namespaces with it.
REST_MOST = 96
# And for each sandbox: eight, and one that is on its way.
REST_EACH = 9
# The default pool.waiting_max; those that callers have and that are being taken down come on top.
WAITING_MAX = 64


def seconds(text):
    """`30m`, `2m`, `20s`, `1h` as seconds."""
    match = re.fullmatch(r"(\d+)([smh])", text)
    if not match:
        raise SystemExit("%s is not a duration such as 20s, 2m or 1h" % text)
    return int(match.group(1)) * {"s": 1, "m": 60, "h": 3600}[match.group(2)]


def count_in(path):
    try:
        return len(os.listdir(path))
    except OSError:
        return None


def lines_in(path):
    try:
        with open(path) as file:
            return sum(1 for _ in file)
    except OSError:
        return None


def network_namespaces():
    """All that the kernel holds, those too that only a descriptor or a queue for destruction keeps."""
    try:
        with open("/proc/slabinfo") as file:
            for line in file:
                if line.startswith("net_namespace "):
                    return int(line.split()[1])
    except OSError:
        pass
    return None


def sample(daemon):
    """One look at everything that could grow: {name: number}."""
    pids, found = daemon.pids(), {}
    for name, pid in pids.items():
        found["descriptors, " + name] = count_in("/proc/%d/fd" % pid)
        memory = daemons.memory(pid)
        found["rss KiB, " + name], found["pss KiB, " + name] = memory["rss"], memory["pss"]
    if "engine" in pids:
        found["sandboxes"] = len(daemons.children(pids["engine"]))
        found["mounts, engine"] = lines_in("/proc/%d/mountinfo" % pids["engine"])
        found["processes, sandboxes"] = len(daemons.descendants(pids["engine"]))
    found["mounts, host"] = lines_in("/proc/self/mountinfo")
    found["cgroups"] = daemon.leaves()
    found["leases"] = daemon.leases()
    found["network namespaces"] = network_namespaces()
    try:
        journal = os.path.join(daemon.directory, "run", "engine", "journal")
        found["journal KiB"] = os.stat(journal).st_size / 1024
    except OSError:
        pass
    return {name: value for name, value in found.items() if value is not None}


def beyond(samples, sandboxes, most):
    """`samples` less what the sandboxes that lived then account for: the slope between both, within 0 and `most`."""
    alive = dict(sandboxes)
    pairs = [(alive[at], value) for at, value in samples if at in alive]
    if len(pairs) < len(samples):
        return samples
    mean_x, mean_y = (statistics.fmean(column) for column in zip(*pairs))
    variance = sum((x - mean_x) ** 2 for x, _ in pairs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in pairs) / variance if variance else 0
    slope = min(max(slope, 0), most)
    return [(at, value - slope * alive[at]) for at, value in samples]


def growth(series, callers):
    """Of {name: [(seconds, value)]}, what grew: [sentence]."""
    found, sandboxes = [], series.get("sandboxes", [])
    bound = WAITING_MAX + 2 * callers
    over = [value for _, value in sandboxes if value > bound]
    if over:
        found.append("%d sandboxes lived at once, %d are what pool and callers may have" % (max(over), bound))
    for name, samples in sorted(series.items()):
        kind = name.split(",")[0]
        if kind not in ALLOWED:
            continue
        if kind in EACH_MOST:
            samples = beyond(samples, sandboxes, EACH_MOST[kind])
        absolute, relative = ALLOWED[kind]
        absolute += DEAD_HOLD.get(name, 0)
        why = stats.grown(samples, absolute, relative)
        if why:
            found.append("%s grew %s" % (name, why))
    return found


def p99(values):
    """The median of the p99 of several parts of `values`, which are in the order of time: a machine that stands still for a
    second spoils one of them, a service that became slower all."""
    parts = max(1, min(PARTS, len(values) // PART_CALLS_MIN))
    cuts = [len(values) * at // parts for at in range(parts + 1)]
    return statistics.median(stats.quantile(sorted(values[a:b]), .99) for a, b in zip(cuts, cuts[1:]))


def slower(records, names, factor, floor=()):
    """Kinds of call whose p99 of the last quarter is beyond `factor` times that of the first; and the figures.

    `floor`, bare launches at the same time: where those became slower, calls may by as much, up to FLOOR_EXCUSE_MAX times.
    """
    found, told = [], []
    kinds = [(name, [r for r in records if number in (None, r[0])])
             for number, name in [(None, "all calls")] + list(names.items())]
    if floor:
        kinds.insert(0, ("bare launch", floor))
    for name, mine in kinds:
        mine = sorted((at, took * 1000) for _, at, took in mine)
        if not mine:
            found.append("%s: no call was answered" % name)
            continue
        first, last = stats.quarters(mine)
        if min(len(first), len(last)) < P99_CALLS_MIN:
            told.append("%-18s p99 not judged: %d and %d calls in the first and last quarter, %d are needed" % (
                name, len(first), len(last), P99_CALLS_MIN))
            continue
        ratio = p99(last) / p99(first)
        told.append("%-18s p50 %.2f, p99 %.2f ms in the first quarter; p50 %.2f, p99 %.2f ms in the last (%.2f times)"
                    % (name, statistics.median(first), p99(first), statistics.median(last), p99(last), ratio))
        if name == "bare launch":
            factor *= min(max(1, ratio), FLOOR_EXCUSE_MAX)
            continue
        if ratio > factor:
            found.append("%s: p99 went from %.2f to %.2f ms, more than %.3g times" % (
                name, p99(first), p99(last), factor))
    return found, told


def rest(daemon):
    """Waits for what was under way; what is left without an owner then: [sentence]."""
    deadline = time.monotonic() + 15
    while True:
        there = len(daemons.children(daemon.pids().get("engine", 0)))
        left = []
        for name, count in (("cgroups", daemon.leaves()), ("leases", daemon.leases())):
            if count is not None and count > there:
                left.append("%d %s are left for %d sandboxes" % (count, name, there))
        held, most = count_in("/proc/%d/fd" % daemon.pids().get("engine", 0)), REST_MOST + REST_EACH * there
        if held is not None and held > most:
            left.append("%d descriptors are left in the engine for %d sandboxes, %d may be" % (held, there, most))
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.25)


def run(generator, daemon, mix, duration, factor, callers=CALLERS, share=SHARE, rate=None, floor=None, say=print):
    """Soaks `daemon` for `duration` seconds: {"failures": [sentence], …}. `floor`: a generator for bare launches."""
    numbers = {generator.call(w.title, daemon.socket, w, "standard"): (w.title, weight) for w, weight in mix}
    listed = ",".join("%d:%d" % (number, weight) for number, (_, weight) in numbers.items())
    if rate is None:
        generator.run("flood", callers, WARM_SECONDS * 1000, listed)
        records, took = generator.run("flood", callers, PEAK_SECONDS * 1000, listed)
        peak = len(records) / took
        rate = share * peak
        say("peak of the mix: %.0f calls a second with %d callers; soaking at %.0f" % (peak, callers, rate))
    before = dict(daemon.pids())
    path = os.path.join(generator.directory, "soak")
    answer, beside = {}, path + ".floor"
    if floor:
        number = floor.spawn("true", ["/bin/true"], None)
        floor.send("pace %s 2 %d %d %d:1" % (beside, FLOOR_RATE, int(duration * 1000), number))
    generator.send("pace %s %d %.3f %d %s" % (path, callers, rate, int(duration * 1000), listed))
    waiter = threading.Thread(target=lambda: answer.update(generator.answer()))
    waiter.start()
    begin, every = time.monotonic(), max(0.25, min(5.0, duration / 120))
    series, next_word = {}, 60.0
    while waiter.is_alive():
        at = time.monotonic() - begin
        if at >= duration * WARM_SHARE and at < duration:
            for name, value in sample(daemon).items():
                series.setdefault(name, []).append((at, value))
        if at > next_word:
            next_word += 60
            say("%4.0f s: %s" % (at, ", ".join("%s %g" % (n, s[-1][1]) for n, s in sorted(series.items())
                                               if n in ("descriptors, engine", "cgroups", "rss KiB, front"))))
        waiter.join(every)
    records = generator.records(path)
    failures = []
    if not answer:
        raise SystemExit("the load generator ended")
    if answer["wrong"]:
        failures.append("%d wrong answers, first: %s" % (answer["wrong"], answer["first"][:600]))
    if answer["refused"]:
        failures.append("%d calls were refused below the peak, first: %s" % (answer["refused"], answer["first"][:600]))
    if dict(daemon.pids()) != before:
        failures.append("a process was replaced: %s before, %s after" % (before, daemon.pids()))
    failures += growth(series, callers)
    launched = []
    if floor:
        told = floor.answer()
        if told["wrong"]:
            failures.append("%d bare launches failed, first: %s" % (told["wrong"], told["first"][:600]))
        launched = floor.records(beside)
    warm, launched = ([r for r in each if r[1] >= duration * WARM_SHARE] for each in (records, launched))
    late, told = slower(warm, {n: title for n, (title, _) in numbers.items()}, factor, launched)
    failures += rest(daemon)
    errors = [line for line in daemon.text().splitlines() if " ERROR " in line]
    if errors:
        failures.append("%d errors in the log, first: %s" % (len(errors), errors[0][:300]))
    done = answer["calls"] / (answer["ns"] / 1e9)
    if done < KEPT_SHARE * rate and not (answer["wrong"] or answer["refused"]):
        late.append("only %.0f calls a second were answered, %.0f began" % (done, rate))
    return {"failures": failures + late, "only_late": not failures, "calls": answer["calls"], "rate": rate, "done": done, "seconds": duration,
            "latency": told, "wrong": answer["wrong"], "refused": answer["refused"],
            "series": {name: {"first": statistics.median(stats.quarters(s)[0]),
                              "last": statistics.median(stats.quarters(s)[1])} for name, s in series.items()}}


def shown(found):
    lines = ["%d calls in %d s (%.0f a second, %.0f asked for), %d wrong, %d refused" % (
        found["calls"], found["seconds"], found["done"], found["rate"], found["wrong"], found["refused"])]
    lines += found["latency"]
    lines.append("%-28s %12s %12s" % ("median of a quarter", "first", "last"))
    for name, ends in sorted(found["series"].items()):
        lines.append("%-28s %12.0f %12.0f" % (name, ends["first"], ends["last"]))
    lines += ["FAILED: " + why for why in found["failures"]]
    lines.append("soak: " + ("FAILED" if found["failures"] else "passed"))
    return lines
