"""The load generator (benches/load.rs): compiled, started, told what to do."""
import array
import hashlib
import os
import resource
import subprocess
import sys

from . import workloads

# Each held call has a descriptor here, and each connection one in the front.
DESCRIPTORS = 8192


class Wrong(Exception):
    """A call was answered otherwise than it must be."""


def compiled(root):
    """The generator's program, built by rustc alone where its source changed."""
    source = os.path.join(root, "benches", "load.rs")
    with open(source, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()[:16]
    directory = os.path.join(root, "target", "bench")
    program = os.path.join(directory, "load-" + digest)
    if not os.path.exists(program):
        os.makedirs(directory, exist_ok=True)
        fresh = "%s.%d" % (program, os.getpid())
        argv = ["rustc", "--edition", "2024", "-C", "opt-level=3", "-C", "codegen-units=1", source, "-o", fresh]
        subprocess.run(argv, check=True)
        os.rename(fresh, program)
    return program


def cgroup2():
    """Where cgroup v2 is mounted, or None."""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if after.startswith("cgroup2 "):
                return before.split()[4]
    return None


def own_view(argv):
    """`argv` in a mount namespace where /sys/fs/cgroup is cgroup v2.

    runc and Docker look nowhere else. On a hybrid host they would find version 1 there and make groups in it; so they
    see version 2 alone, and the host sees no change.
    """
    found = cgroup2()
    if found in (None, "/sys/fs/cgroup"):
        return argv
    script = 'mount --bind "$0" /sys/fs/cgroup && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, found] + argv


class Generator:
    def __init__(self, root, directory):
        def raise_limit():
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

        # What is launched gets what a command in a sandbox gets, and Docker's client what tells it of its engine.
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
                       "HOME": os.environ.get("HOME", "/"), "TMPDIR": "/tmp"}
        environment.update({name: value for name, value in os.environ.items() if name.startswith("DOCKER_")})
        self.directory = directory
        self.process = subprocess.Popen(own_view([compiled(root)]), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, preexec_fn=raise_limit,
                                        env=environment)
        self.names = []

    def stop(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def send(self, text):
        """Sends one command; its answer is read by `answer`."""
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline().rstrip("\n")
        if not line.startswith("ok "):
            raise SystemExit("the load generator: " + (line or "ended"))
        told, _, first = line[3:].partition(" first=")
        found = {key: int(value) for key, value in (word.split("=") for word in told.split())}
        found["first"] = first
        return found

    def ask(self, text):
        self.send(text)
        return self.answer()

    def subject(self, name, lines):
        """A subject called `name`; its number."""
        self.names.append(name)
        return self.ask("\n".join(lines + ["end"]))["subject"]

    def spawn(self, name, argv, stdout):
        def escaped(text):
            return text.replace("\\", "\\\\").replace("\n", "\\n")
        lines = ["subject spawn"] + ["arg " + escaped(a) for a in argv]
        return self.subject(name, lines + (["stdout " + escaped(stdout)] if stdout is not None else []))

    def call(self, name, socket, workload, level, timeout=None):
        """A call of Sandkeep."""
        parameters = dict(workload.parameters, **({"timeout": timeout} if timeout else {}))
        body = {"tool_name": workload.tool, "parameters": parameters, "context": {"security_level": level}}
        return self.subject(name, ["subject http", "socket " + socket, "request POST /api/v1/tools/execute",
                                   "body " + workloads.compact(body), "result " + workloads.compact(workload.result)])

    def get(self, name, socket, path):
        return self.subject(name, ["subject http", "socket " + socket, "request GET " + path])

    def records(self, path):
        """What a command wrote: [(subject, began, took)], in seconds."""
        numbers = array.array("Q")
        with open(path, "rb") as file:
            numbers.frombytes(file.read())
        if sys.byteorder == "big":
            numbers.byteswap()
        os.unlink(path)
        return [(numbers[i], numbers[i + 1] / 1e9, numbers[i + 2] / 1e9) for i in range(0, len(numbers), 3)]

    def run(self, command, *arguments):
        """`command` with a file for its records, all answers right: the records and the seconds it took."""
        path = os.path.join(self.directory, "records")
        told = self.ask(" ".join([command, path] + [str(a) for a in arguments]))
        if told["wrong"] or told["refused"]:
            raise Wrong("%d wrong and %d refused of %d calls, first: %s" % (
                told["wrong"], told["refused"], told["calls"] + told["wrong"] + told["refused"], told["first"]))
        return self.records(path), told["ns"] / 1e9
