# Terminals, devices and files. Goes on where probes.py ends.

# Terminals.
call("tiocsti", 16, -1, 0x5412, None)
call("tiocsti_dirty", 16, -1, 0x5412 | 7 << 32, None)
call("tioclinux", 16, -1, 0x541C, None)
call("tiocsetd", 16, -1, 0x5423, None)
file("dev_tty", "/dev/tty", os.O_RDWR)


# Devices and files of the host.
def making(kind, major, minor):
    path = f"{DIR}/node{major}.{minor}"
    try:
        os.mknod(path, kind | 0o600, os.makedev(major, minor))
        os.unlink(path)
        return "ok"
    except OSError as e:
        return name(e.errno)


PROBES["mknod_mem"] = lambda: making(0o020000, 1, 1)
PROBES["mknod_disk"] = lambda: making(0o060000, 8, 0)
PROBES["mknod_whiteout"] = lambda: making(0o020000, 0, 0)


@probe
def host_devices():
    """Devices beyond null, zero, full, random, urandom, tty that open at all."""
    found = []
    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx"}
    for where, _, files in os.walk("/dev"):
        for file in files:
            path = os.path.join(where, file)
            try:
                if os.path.islink(path) or not os.lstat(path).st_mode & 0o020000 or file in harmless:
                    continue
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY))
                found.append(path)
            except OSError:
                pass
    return "some" if found else "none"


file("kmsg", "/dev/kmsg", os.O_RDWR)
file("dev_kvm", "/dev/kvm", os.O_RDONLY)
file("write_program", "/usr/bin/env", os.O_WRONLY)
file("write_etc", "/etc/passwd", os.O_WRONLY)
file("write_sysctl", "/proc/sys/kernel/core_pattern", os.O_WRONLY)
file("write_sysctl_ns", "/proc/sys/kernel/domainname", os.O_WRONLY)
file("write_sysrq", "/proc/sysrq-trigger", os.O_WRONLY)
file("write_uid_map", "/proc/self/uid_map", os.O_WRONLY)
file("write_oom", "/proc/self/oom_score_adj", os.O_WRONLY)
file("write_device_mode", "/dev/null", os.O_WRONLY)
file("create_in_usr", "/usr/sandkeep-probe", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
file("read_shadow", "/etc/shadow", os.O_RDONLY)
file("kcore", "/proc/kcore", os.O_RDONLY)
file("timer_list_write", "/proc/timer_list", os.O_WRONLY)
PROBES["list_root_home"] = lambda: trying(os.listdir, "/root")
PROBES["host_file"] = lambda: trying(os.stat, ENV["P_SECRET"])
PROBES["state_dir"] = lambda: trying(os.listdir, ENV["P_STATE"])
PROBES["docker_socket"] = lambda: "there" if os.path.exists("/run/docker.sock") else "ENOENT"
PROBES["cgroup_write"] = lambda: opening(ENV["P_CGROUP"] + "/cgroup.procs", os.O_WRONLY)
PROBES["remove_create_root"] = lambda: trying(os.mkdir, "/sandkeep-probe")
PROBES["write_workspace"] = lambda: opening("/workspace/x", os.O_WRONLY | os.O_CREAT)
PROBES["uptime"] = lambda: str(int(time.clock_gettime(time.CLOCK_BOOTTIME)))
PROBES["hostname"] = lambda: socket.gethostname()


@probe
def run_dir():
    try:
        return "shown" if os.listdir("/run") else "empty"
    except OSError as e:
        return name(e.errno)


@probe
def masks():
    """Files and directories of /proc that still say something."""
    said = []
    for path in ("interrupts", "kallsyms", "key-users", "keys", "modules", "timer_list", "sched_debug", "kmsg",
                 "kcore", "acpi", "scsi", "asound", "latency_stats"):
        path = "/proc/" + path
        try:
            if os.path.isdir(path):
                if os.listdir(path):
                    said.append(path)
            elif os.path.exists(path):
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                if os.read(fd, 16):
                    said.append(path)
        except OSError:
            pass
    return "shown" if said else "nothing"


@probe
def kernel_addresses():
    try:
        with open("/proc/kallsyms") as f:
            first = f.readline()
        return "shown" if first and int(first.split()[0], 16) else "nothing"
    except OSError as e:
        return name(e.errno)


@probe
def inode_bomb():
    os.mkdir(DIR + "/bomb")
    made, result = 0, "ok"
    try:
        # One call each: on an emulated machine at half a core's share thousands of them take long.
        for made in range(int(ENV["P_INODES"])):
            os.symlink("x", f"{DIR}/bomb/{made}")
    except OSError as e:
        result = name(e.errno)
    for number in range(made + 1):
        try:
            os.unlink(f"{DIR}/bomb/{number}")
        except OSError:
            pass
    os.rmdir(DIR + "/bomb")
    return result


@probe
def flock_usr():
    """The test holds this lock on the host's own file."""
    fd = os.open("/usr/bin/env", os.O_RDONLY)
    return trying(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


@probe
def sysv_host():
    got, error = raw(29, int(ENV["P_SHMKEY"]), 0, 0)
    return name(error) if got == -1 else "ok"
