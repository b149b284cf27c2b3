"""The peers: each gets the nearest isolation to ours that its own flags give, and nothing that slows it further."""
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time

from . import daemon, generator

LINKS = [("usr/bin", "bin"), ("usr/lib", "lib"), ("usr/lib64", "lib64"), ("usr/sbin", "sbin")]
DIRECTORIES = ["usr", "proc", "dev", "tmp", "workspace", "etc", "sys", "run"]
ENVIRONMENT = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/workspace", "LANG=C.UTF-8"]

# How the cgroups begin that runc (in its caller's own) and a Docker engine of the bench's own (in the root) make.
CGROUP = "sandkeep-bench-%d" % os.getpid()


def remove_cgroups():
    """What was left because its container ended badly: empty ones only can be removed."""
    for at, directories, _ in os.walk(generator.cgroup2() or "/nowhere", topdown=False):
        for name in directories:
            path = os.path.join(at, name)
            if CGROUP in path:
                try:
                    os.rmdir(path)
                except OSError:
                    # In use by the other one, which will remove it; or gone meanwhile.
                    pass


class Unmeasured(Exception):
    """A peer that this host does not have, and why."""


def package(program, name):
    """`program`'s path; the Debian package is installed, and said so, where it is missing."""
    found = shutil.which(program)
    if found is None and shutil.which("apt-get"):
        print("%s is missing: installing Debian's package %s" % (program, name), flush=True)
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", name], env=environment,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        found = shutil.which(program)
    if found is None:
        raise Unmeasured("%s is missing (apt-get install %s)" % (program, name))
    return found


def mode(directory):
    """runc, Docker's too, gives a tmpfs the mode of the directory below it, whatever its options say."""
    return 0o1777 if directory in ("tmp", "workspace") else 0o755


class Bare:
    """The floor: the same command, started and waited for. Its files lie on the host's shared memory."""
    name = "bare"

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="sandkeep-bench-", dir="/dev/shm")

    def argv(self, workload):
        return workload.at(self.directory).argv

    def stop(self):
        shutil.rmtree(self.directory)


class Bubblewrap:
    """All namespaces and a root of its own; no seccomp, no Landlock, no cgroup. The flags are fixed."""
    name = "bubblewrap"

    def __init__(self):
        self.flags = [package("bwrap", "bubblewrap"), "--unshare-all", "--die-with-parent", "--new-session",
                      "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
                      "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]

    def argv(self, workload):
        workspace = ["--tmpfs", "/workspace"] if workload.name == "files" else []
        return self.flags + workspace + workload.argv

    def stop(self):
        pass


class Runc:
    """All namespaces with ids mapped, no capability, no_new_privs, a cgroup; no seccomp. One bundle a workload."""
    name = "runc"

    def __init__(self):
        self.program = package("runc", "runc")
        self.directory = tempfile.mkdtemp(prefix="sandkeep-bench-runc-", dir="/dev/shm")
        # Inner root, an unprivileged uid of the host, passes through it.
        os.chmod(self.directory, 0o755)

    def argv(self, workload):
        bundle = os.path.join(self.directory, workload.name)
        root = os.path.join(bundle, "rootfs")
        for name in DIRECTORIES:
            os.makedirs(os.path.join(root, name))
            os.chmod(os.path.join(root, name), mode(name))
        for target, name in LINKS:
            os.symlink(target, os.path.join(root, name))
        with open(os.path.join(bundle, "config.json"), "w") as file:
            json.dump(self.spec(workload), file)
        # Each run is a container of its own, so each needs a name of its own.
        return [self.program, "--root", os.path.join(self.directory, "state"), "run", "--bundle", bundle,
                CGROUP + "-@N@"]

    def spec(self, workload):
        def mount(kind, target, *options):
            return {"destination": target, "type": kind, "source": kind, "options": list(options)}

        id_map = [{"containerID": 0, "hostID": 1_900_000_000, "size": 65536}]
        kinds = ["user", "pid", "mount", "network", "ipc", "uts", "cgroup"]
        none = {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")}
        return {
            "ociVersion": "1.0.2",
            "process": {"terminal": False, "user": {"uid": 1000, "gid": 1000}, "args": workload.argv,
                        "env": ENVIRONMENT, "cwd": "/workspace", "capabilities": none, "noNewPrivileges": True},
            "root": {"path": "rootfs", "readonly": True},
            "hostname": "sandbox",
            "mounts": [
                {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["bind", "ro", "nosuid", "nodev"]},
                mount("proc", "/proc", "nosuid", "noexec", "nodev"),
                mount("tmpfs", "/dev", "nosuid", "mode=755", "size=65536k"),
                mount("tmpfs", "/tmp", "nosuid", "nodev", "mode=1777"),
                mount("tmpfs", "/workspace", "nosuid", "nodev", "mode=1777"),
            ],
            "linux": {"namespaces": [{"type": kind} for kind in kinds], "uidMappings": id_map, "gidMappings": id_map,
                      "maskedPaths": ["/proc/kcore", "/proc/keys"], "readonlyPaths": ["/proc/sys"]},
        }

    def stop(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        remove_cgroups()


class Docker:
    """docker run with no network, no capability, no_new_privs and a read-only root; Docker's own seccomp profile.

    An engine that runs already is used; else one is started with a data root, a socket and a containerd of its own,
    and ended. The image holds directories and links only, /usr is the host's: no registry is asked.
    """
    name = "docker"
    IMAGE = "sandkeep-bench:root"

    def __init__(self):
        self.engine = None
        self.client = [shutil.which("docker") or ""]
        if not self.client[0]:
            raise Unmeasured("the docker command is missing (apt-get install docker.io)")
        try:
            if not self.answers():
                self.start()
            self.load()
        except BaseException:
            self.stop()
            raise

    def answers(self):
        ask = subprocess.run(self.client + ["version", "--format", "{{.Server.Version}}"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.version = ask.stdout.strip()
        return ask.returncode == 0

    def start(self):
        if not shutil.which("dockerd"):
            raise Unmeasured("no engine runs, and there is no dockerd to start one")
        # On a disk, as it is where Docker is installed: its storage driver may not take a tmpfs.
        self.directory = tempfile.mkdtemp(prefix="sandkeep-bench-docker-")
        inside = {name: os.path.join(self.directory, name) for name in ("data", "exec", "pid", "socket", "json", "log")}
        with open(inside["json"], "w") as file:
            file.write("{}")
        self.client += ["--host", "unix://" + inside["socket"]]
        argv = ["dockerd", "--config-file", inside["json"], "--data-root", inside["data"],
                "--exec-root", inside["exec"], "--pidfile", inside["pid"], "--host", "unix://" + inside["socket"],
                "--bridge", "none",
                "--cgroup-parent", "/" + CGROUP, "--exec-opt", "native.cgroupdriver=cgroupfs",
                "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        # In a pid namespace of its own nothing of it can stay: its containerd and its shims end with the first process.
        # And the first process ends with this one, however that ends.
        apart = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation",
                 "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with open(inside["log"], "w") as log:
            self.engine = subprocess.Popen(apart + generator.own_view(argv), stdin=subprocess.DEVNULL, stdout=log,
                                           stderr=log)
        deadline = time.monotonic() + 40
        while not self.answers():
            if self.engine.poll() is not None or time.monotonic() > deadline:
                with open(inside["log"]) as log:
                    lines = log.read().strip().splitlines() or [""]
                raise Unmeasured("an engine of its own did not start: " + lines[-1][-300:])
            time.sleep(0.2)

    def load(self):
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            for name in DIRECTORIES:
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, mode(name)
                archive.addfile(entry)
            for target, name in LINKS:
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                archive.addfile(entry)
        made = subprocess.run(self.client + ["import", "-", self.IMAGE], input=tar.getvalue(), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
        if made.returncode:
            raise Unmeasured("docker import: " + made.stderr.decode(errors="replace").strip()[-300:])
        trial = subprocess.run(self.run() + ["/usr/bin/true"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
        if trial.returncode:
            raise Unmeasured("docker run: " + trial.stdout.strip()[-300:])

    def run(self):
        return self.client + ["run", "--rm", "--pull", "never", "--network", "none", "--read-only", "--cap-drop", "ALL",
                              "--security-opt", "no-new-privileges", "--user", "1000:1000", "--volume", "/usr:/usr:ro",
                              "--tmpfs", "/tmp", "--tmpfs", "/workspace:mode=1777", self.IMAGE]

    def argv(self, workload):
        return self.run() + workload.argv

    def stop(self):
        if self.engine is None:
            if getattr(self, "version", ""):
                subprocess.run(self.client + ["image", "rm", self.IMAGE], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, check=False)
        else:
            # The first process of the namespace is dockerd: what passes it on are execs.
            for pid in daemon.children(self.engine.pid):
                os.kill(pid, signal.SIGTERM)
            try:
                self.engine.wait(40)
            except subprocess.TimeoutExpired:
                self.engine.kill()
                self.engine.wait()
            self.engine = None
            remove_cgroups()
        if getattr(self, "directory", None):
            shutil.rmtree(self.directory, ignore_errors=True)


def found(skip=()):
    """The floor and the peers that this host has; and for each other one a line that says why not."""
    peers, missing = [], []
    for kind in (Bare, Bubblewrap, Runc, Docker):
        if kind.name in skip:
            missing.append("%s: not measured: left out by --skip" % kind.name)
            continue
        try:
            peers.append(kind())
        except Unmeasured as why:
            missing.append("%s: not measured: %s" % (kind.name, why))
    return peers, missing
