"""A daemon of the bench's own, and what it and its processes take."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time

from . import generator


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def base():
    """Where the daemons' directories go: a tmpfs, as /run is where Sandkeep is installed."""
    for path in ("/run", "/dev/shm"):
        with open("/proc/self/mountinfo") as file:
            if any(line.split()[4] == path and " - tmpfs " in line for line in file):
                return path
    return tempfile.gettempdir()


def knows(binaries, text):
    """Whether the daemon of `binaries` takes a config file with this text."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        check = [os.path.join(binaries, "sandkeep"), "config", "check", file.name]
        return subprocess.run(check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def has_pool(binaries):
    return knows(binaries, "[pool]\nenabled = false\n")


def children(pid):
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def descendants(pid):
    found = []
    for child in children(pid):
        found += [child] + descendants(child)
    return found


def memory(pid):
    """Resident and proportional set size in KiB; zeros for a process that is gone."""
    found = {"rss": 0, "pss": 0}
    try:
        with open("/proc/%d/smaps_rollup" % pid) as file:
            for line in file:
                word = line.split()
                if word[0] in ("Rss:", "Pss:"):
                    found[word[0][:-1].lower()] += int(word[1])
    except OSError:
        pass
    return found


class Daemon:
    def __init__(self, binaries, name, config=""):
        self.name, self.binaries = name, binaries
        self.directory = tempfile.mkdtemp(prefix="sandkeep-bench-", dir=base())
        # The front, another user, passes through it.
        os.chmod(self.directory, 0o755)
        path = os.path.join(self.directory, "sandkeep.toml")
        with open(path, "w") as file:
            file.write(config)
        os.chmod(path, 0o600)
        self.log_path = os.path.join(self.directory, "log")
        self.log = open(self.log_path, "w")
        # However the bench ends, its daemons end with it.
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", os.path.join(binaries, "sandkeepd"), "--config", path, "--state-dir",
             self.directory, "--allow-degraded"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.socket = os.path.join(self.directory, "run", "sandkeep.sock")
        self.ready()

    def ready(self):
        for _ in range(600):
            try:
                if self.get("/readyz")[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        text = self.text()
        self.stop()
        raise SystemExit("the daemon (%s) was not ready:\n%s" % (self.name, text[-4000:]))

    def text(self):
        with open(self.log_path) as file:
            return file.read()

    def get(self, path):
        connection = Unix(self.socket)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def execute(self, tool, parameters, level="standard"):
        """One call; the whole reply as a value."""
        connection = Unix(self.socket)
        body = {"tool_name": tool, "parameters": parameters, "context": {"security_level": level}}
        try:
            connection.request("POST", "/api/v1/tools/execute", json.dumps(body), {"Content-Type": "application/json"})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        subprocess.run(["rm", "-rf", "--one-file-system", self.directory], check=False)

    def pids(self):
        """Its own processes by name; what the engine built is not among them."""
        found = {"supervisor": self.process.pid}
        for child in children(self.process.pid):
            try:
                with open("/proc/%d/comm" % child) as file:
                    found["engine" if file.read().strip() == "sandkeep-engine" else "front"] = child
            except OSError:
                pass
        return found

    def sandboxes(self):
        """Processes inside of sandboxes: all that descend from the engine."""
        return descendants(self.pids()["engine"])

    def own_memory(self):
        """Resident and proportional set size of each of its processes, KiB."""
        return {name: memory(pid) for name, pid in self.pids().items()}

    def leaves(self):
        """Cgroups that the engine has made and not removed."""
        name = re.findall(r'engine ready .*cgroup="([^"]*)"', re.sub(r"\x1b\[[0-9;]*m", "", self.text()))
        root = generator.cgroup2()
        if not name or root is None:
            return None
        count = 0
        for at, directories, _ in os.walk(root):
            if os.path.basename(at) == os.path.basename(name[-1]):
                count += sum(len(below) for _, below, _ in os.walk(at))
                directories.clear()
        return count

    def leases(self):
        """Sandboxes that the journal says are alive, each with a uid of its own."""
        alive = set()
        try:
            with open(os.path.join(self.directory, "run", "engine", "journal")) as file:
                for line in file:
                    word = line.split()
                    if line.startswith("+ "):
                        alive.add(word[1])
                    elif line.startswith("- "):
                        alive.discard(word[1])
        except OSError:
            return None
        return len(alive)
