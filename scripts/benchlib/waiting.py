"""Memory: of the daemon at rest, and of sandboxes that wait."""
import statistics
import time

from . import daemon as daemons
from . import measure, workloads

# Nothing of these numbers may be what stops 1,000 sandboxes: only what they take.
ROOM = """
[http]
connections_max = 8192
%squeue_max = 8192
[capacity]
sandboxes = 8192
memory_mb = 16777216
processes = 4194304
"""
PER_PEER = "connections_per_peer_max = 8192\n"


def room(binaries):
    """ROOM in the words of these binaries: earlier ones do not know all of them."""
    return ROOM % (PER_PEER if daemons.knows(binaries, "[http]\n" + PER_PEER) else "")


# Where there is a pool it may hold this many and their memory.
POOL = "[pool]\nwaiting_max = %d\nmemory_mb = %d\n"

# One process that is up and waits, as the interpreter of a pool does: it is not to go on by itself.
HELD = {"bash": workloads.bash("held", "held bash", "kill -STOP $$", ""),
        "python": workloads.python("held", "held python", "import time; time.sleep(600)")}
# The longest that a call may take: they are let go long before.
HELD_SECONDS = 300
SETTLE_SECONDS = 90


def kernel_kib():
    """What the kernel holds for all processes and namespaces of the host, KiB."""
    found = 0
    with open("/proc/meminfo") as file:
        for line in file:
            name, value = line.split(":")
            if name in ("Slab", "KernelStack", "PageTables", "SecPageTables", "Percpu", "Shmem"):
                found += int(value.split()[0])
    return found


def settled_kernel_kib():
    """The least of some looks: builds and caches of others come on top of what is ours."""
    return min((time.sleep(0.2), kernel_kib())[1] for _ in range(5))


def idle(binaries, config=""):
    """The daemon's own processes, some seconds after it started and before any call, KiB."""
    daemon = daemons.Daemon(binaries, "idle", config)
    try:
        time.sleep(2)
        found = daemon.own_memory()
        found["waiting"] = len(daemons.children(daemon.pids()["engine"]))
        return found
    finally:
        daemon.stop()


def waiters(daemon):
    return len(daemons.children(daemon.pids()["engine"]))


def reach(daemon, count, at_least):
    """Waits until `count` sandboxes are there and complete; how many there are when no more come."""
    last, since, deadline = 0, time.monotonic(), time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.2)
        now = waiters(daemon)
        if now != last:
            last, since = now, time.monotonic()
        if now >= count and time.monotonic() - since > 1 or time.monotonic() - since > at_least:
            break
    return last


def taken(daemon, waiting, kernel_before):
    """What `waiting` sandboxes take, each: KiB."""
    pss = sum(daemons.memory(pid)["pss"] for pid in daemon.sandboxes())
    own = daemon.own_memory()
    return {"waiting": waiting, "pss_kib": pss / max(1, waiting),
            "kernel_kib": (settled_kernel_kib() - kernel_before) / max(1, waiting),
            "engine_kib": own.get("engine"), "front_kib": own.get("front")}


def held(generator, binaries, kind, counts, runs):
    """Calls that wait, since every version has those: for each of `counts` what one takes, and bash true beside them.

    The daemon's pool is off where it has one: what is counted are the calls alone.
    """
    off = "[pool]\nenabled = false\n" if daemons.has_pool(binaries) else ""
    daemon = daemons.Daemon(binaries, "waiting", room(binaries) + off)
    try:
        workload = HELD[kind]
        number = generator.call("held " + kind, daemon.socket, workload, "standard", HELD_SECONDS)
        beside = measure.Subject("beside", "ours", daemon=daemon, level="standard")
        daemon.execute(workloads.TRUE.tool, workloads.TRUE.parameters)
        time.sleep(1)
        before, rows, now = settled_kernel_kib(), [], 0
        for count in counts:
            generator.ask("hold %d %d" % (count - now, number))
            now = reach(daemon, count, 15)
            row = taken(daemon, now, before)
            row["asked"], row["how"] = count, "calls that wait"
            times = measure.latency(generator, [beside], [workloads.TRUE], runs)["true"]["beside"]
            row["p50_ms"] = statistics.median(times)
            rows.append(row)
            if now < count:
                break
        return rows
    finally:
        generator.ask("release")
        daemon.stop()


def pooled(generator, binaries, kind, counts, runs):
    """Sandboxes that a pool holds ready. How many it holds is its own decision, after as many callers at once."""
    rows = []
    for count in counts:
        daemon = daemons.Daemon(binaries, "pool of %d" % count, room(binaries) + POOL % (count, 16 * count + 64))
        try:
            time.sleep(1)
            before, start = settled_kernel_kib(), waiters(daemon)
            workload = workloads.TRUE if kind == "bash" else workloads.PYTHON
            subject = measure.Subject("pool", "ours", daemon=daemon, level="standard")
            generator.run("flood", min(count, 256), 3000, subject.known_to(generator, workload))
            now = reach(daemon, count, 5)
            row = taken(daemon, now, before)
            if now != start and start:
                # What was there before the first look is in both: only the growth is told apart.
                row["kernel_kib"] = row["kernel_kib"] * now / max(1, now - start)
            row["asked"], row["how"] = count, "pool, after calls of %s" % kind
            times = measure.latency(generator, [subject], [workloads.TRUE], runs)["true"]["pool"]
            row["p50_ms"] = statistics.median(times)
            rows.append(row)
        finally:
            daemon.stop()
    return rows


def shown(rows, kind):
    lines = ["%-28s %8s %8s %10s %12s %10s %10s %12s" % (
        kind + " waiting, KiB", "asked", "there", "pss each", "kernel each", "engine", "front", "true, p50 ms")]
    for row in rows:
        def rss(name):
            return row[name + "_kib"]["rss"] if row[name + "_kib"] else 0
        lines.append("%-28s %8d %8d %10.0f %12.0f %10d %10d %12.2f" % (
            row["how"], row["asked"], row["waiting"], row["pss_kib"], row["kernel_kib"], rss("engine"), rss("front"),
            row["p50_ms"]))
    return lines
