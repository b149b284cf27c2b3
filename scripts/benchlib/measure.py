"""Latency and rate: every subject in turn, in one run."""
from . import stats, workloads

# Rounds that come first and are not counted: connections are made, caches and pools filled.
WARM = 10
# A peer that takes a tenth of a second is run in so many rounds only.
SLOW_SAMPLES = 20
# A rate is measured in so many turns of each subject, so that drift hits all alike.
TURNS = 6
SEED = 20


class Subject:
    """What is measured: a peer, or a level of a daemon."""

    def __init__(self, name, kind, peer=None, daemon=None, level=None):
        self.name, self.kind, self.peer, self.daemon, self.level = name, kind, peer, daemon, level
        self.numbers = {}

    def known_to(self, generator, workload):
        """Its number in the generator for `workload`."""
        if workload.name not in self.numbers:
            name = "%s, %s" % (workload.title, self.name)
            if self.peer:
                argv = self.peer.argv(workload)
                self.numbers[workload.name] = generator.spawn(name, argv, workload.stdout)
            else:
                # At strict and above the workspace is read-only and small; /tmp is what a call may write.
                here = workload if self.level == "standard" else workload.at("/tmp")
                self.numbers[workload.name] = generator.call(name, self.daemon.socket, here, self.level)
        return self.numbers[workload.name]


def latency(generator, subjects, chosen, runs):
    """One caller, every subject of every workload once a round: {workload: {subject: [milliseconds]}}."""
    numbers, listed = {}, []
    for workload in chosen:
        for subject in subjects:
            number = subject.known_to(generator, workload)
            slow = subject.peer is not None and subject.peer.name == "docker"
            listed.append("%d:%d" % (number, max(1, runs // SLOW_SAMPLES) if slow else 1))
            numbers[number] = (workload.name, subject.name)
    found = {w.name: {s.name: [] for s in subjects} for w in chosen}
    records, _ = generator.run("rounds", WARM, runs, SEED, ",".join(listed))
    for number, _, took in records:
        workload, subject = numbers[number]
        found[workload][subject].append(took * 1000)
    return found


def listing(generator, daemon, runs):
    """What HTTP itself costs, and the listing of all tools: {path: [milliseconds]}."""
    paths = {path: generator.get("GET " + path, daemon.socket, path) for path in ("/readyz", "/api/v1/tools")}
    records, _ = generator.run("rounds", WARM, runs, SEED, ",".join(str(n) for n in paths.values()))
    return {path: [took * 1000 for number, _, took in records if number == mine] for path, mine in paths.items()}


def rates(generator, subjects, workload, callers, seconds):
    """As fast as it goes, `callers` at once, the subjects taking turns: {subject: {"turns", "ms"}}."""
    found = {s.name: {"turns": [], "ms": []} for s in subjects}
    turn_ms = max(200, int(seconds * 1000 / TURNS))
    for turn in range(TURNS):
        for subject in subjects if turn % 2 == 0 else reversed(subjects):
            records, took = generator.run("flood", callers, turn_ms, subject.known_to(generator, workload))
            found[subject.name]["turns"].append(len(records) / took)
            found[subject.name]["ms"] += [r[2] * 1000 for r in records]
    return found


def rate_row(found):
    """One row of a table of rates."""
    return dict(stats.row(found["ms"]), rate=sum(found["turns"]) / len(found["turns"]))


def named(names):
    """Workloads by name."""
    known = {w.name: w for w in workloads.ALL}
    unknown = [n for n in names if n not in known]
    if unknown:
        raise SystemExit("no such workload: %s (there are %s)" % (", ".join(unknown), ", ".join(known)))
    return [known[n] for n in names]
