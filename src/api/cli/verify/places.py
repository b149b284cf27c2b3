

# Files of the host, and what the sandbox sees of its own.
PROBES["host_file"] = lambda: trying(os.stat, SET["secret"])
PROBES["scratch_mark"] = lambda: trying(os.stat, SET["mark"])
PROBES["root_home"] = lambda: trying(os.listdir, "/root")
PROBES["list_elsewhere"] = lambda: trying(os.listdir, SET["elsewhere"])
file("read_shadow", "/etc/shadow", os.O_RDONLY)
file("write_usr", SET["usr_file"], os.O_WRONLY)
file("write_etc", "/etc/passwd", os.O_WRONLY)
file("write_sysctl", "/proc/sys/kernel/core_pattern", os.O_WRONLY)
file("write_uid_map", "/proc/self/uid_map", os.O_WRONLY)
file("write_oom", "/proc/self/oom_score_adj", os.O_WRONLY)
file("write_cgroup", SET["cgroup"], os.O_WRONLY)


@probe
def make_in_root():
    """Only inside: there the root is the sandbox's own, whatever else fails."""
    return trying(os.mkdir, "/sandkeep-verify") if INSIDE else "not tried"


@probe
def write_workspace():
    return trying(lambda: os.close(os.open("/workspace/x", os.O_WRONLY | os.O_CREAT))) if INSIDE else "not tried"


@probe
def usr_file():
    """Whether a program of /usr is the host's own inode: locks and watches on it would then reach across."""
    s = os.stat("/usr/bin/env")
    return "the host's" if [s.st_dev, s.st_ino] == SET["usr_inode"] else "its own"


def mounts():
    """Mount point and the set of options of the mount, of all in view; the last one on a point is seen."""
    seen = {}
    with open("/proc/self/mountinfo") as f:
        for line in f:
            words = line.split()
            seen[words[4]] = set(words[5].split(","))
    return seen


def lacking(option, wanted):
    seen = mounts()
    missing = [path for path in wanted if option not in seen.get(path, ())]
    return ",".join(missing) if missing else "none"


PROBES["mounts_noexec"] = lambda: lacking("noexec", SET["noexec"])
PROBES["mounts_readonly"] = lambda: lacking("ro", SET["readonly"])
PROBES["proc_readonly"] = lambda: lacking("ro", ["/proc"])
PROBES["mounts_nosuid"] = lambda: lacking("nosuid", mounts())


@probe
def mounts_shared():
    """Whether a mount would travel: propagation shows as an optional field before the hyphen."""
    with open("/proc/self/mountinfo") as f:
        return "some" if any(line.split()[6] != "-" for line in f) else "none"


@probe
def masks():
    """Files of /proc that still say something. Outside those are left out that reading changes."""
    said = []
    paths = ["interrupts", "kallsyms", "key-users", "keys", "modules", "timer_list", "sched_debug", "cmdline", "locks",
             "config.gz", "acpi", "scsi", "asound", "latency_stats", "pressure"]
    for path in paths + (["kmsg", "kcore"] if INSIDE else []):
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
    return ",".join(said[:4]) if said else "nothing"


@probe
def scratch_inodes():
    """Files in the smallest scratch until no more can be made: without the fence this ends after 2,000."""
    if not INSIDE:
        return "not tried"
    made = []
    try:
        for number in range(2000):
            path = "/dev/shm/%d" % number
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
            made.append(path)
        return "no end"
    except OSError as e:
        return name(e.errno)
    finally:
        for path in made:
            os.unlink(path)


@probe
def scratch_sizes():
    """Scratch mounts that are larger than the most that the level gives (tmpfs counts in pages)."""
    over = []
    for path, (most_bytes, most_inodes) in SET["scratch"].items():
        v = os.statvfs(path)
        if v.f_blocks * v.f_frsize > most_bytes or not 0 < v.f_files <= most_inodes:
            over.append("%s:%d:%d" % (path, v.f_blocks * v.f_frsize, v.f_files))
    return ",".join(over) if over else "none"


# Devices.
def making(kind, major, minor):
    path = f"{DIR}/node{major}.{minor}"
    try:
        os.mknod(path, kind | 0o600, os.makedev(major, minor))
        os.unlink(path)
        return "ok"
    except OSError as e:
        return name(e.errno)


PROBES["mknod_char"] = lambda: making(0o020000, 1, 3)
PROBES["mknod_block"] = lambda: making(0o060000, 7, 0)


@probe
def device_names():
    """What /dev holds beside the six devices and what every program expects there."""
    known = {"null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr", "shm"}
    more = sorted(set(os.listdir("/dev")) - known)
    return "more:" + ",".join(more[:4]) if more else "none"


@probe
def host_devices():
    """Devices that open although a sandbox has no use for them. None of these acts on being opened."""
    found = []
    for device in ("kmsg", "mem", "port", "sda", "vda", "nvme0n1", "loop-control", "mapper/control", "uinput", "kvm"):
        if os.path.exists("/dev/" + device) and opening("/dev/" + device, os.O_RDWR) == "ok":
            found.append(device)
    return ",".join(found[:4]) if found else "none"


@probe
def device_node():
    """A node in scratch is none of the kernel's, whoever made it: the mounts have nodev."""
    return lacking("nodev", SET["nodev"])


# Sockets.
def opens(family, kind, protocol=0):
    return trying(lambda: socket.socket(family, kind, protocol).close())


for _label, _args in {
    "socket_packet": (17, 3), "socket_raw": (2, 3, 1), "socket_vsock": (40, 1), "socket_alg": (38, 5),
    "socket_xdp": (44, 3), "socket_netfilter": (16, 3, 12), "socket_audit": (16, 3, 9), "socket_sock_diag": (16, 3, 4),
    "socket_mptcp": (2, 1, 262), "socket_sctp": (2, 1, 132), "socket_inet": (2, 1), "socket_inet6": (10, 1),
}.items():
    PROBES[_label] = lambda args=_args: opens(*args)


def connecting(family, kind, address, protocol=0):
    try:
        s = socket.socket(family, kind, protocol)
        s.settimeout(3)
        s.connect(address)
        return "ok"
    except OSError as e:
        return name(e.errno) if e.errno else "timeout"


PROBES["tcp_host"] = lambda: connecting(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", SET["port"]))
PROBES["mptcp_host"] = lambda: connecting(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", SET["port"]), 262)
# Connecting a datagram socket sends nothing: it only asks for a route.
PROBES["route_out"] = lambda: connecting(socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 53))
PROBES["route_metadata"] = lambda: connecting(socket.AF_INET, socket.SOCK_DGRAM, ("169.254.169.254", 80))
PROBES["abstract_host"] = lambda: connecting(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + SET["abstract"])
PROBES["path_socket_host"] = lambda: connecting(socket.AF_UNIX, socket.SOCK_STREAM, SET["path_socket"])


@probe
def interfaces():
    with open("/proc/self/net/dev") as f:
        names = sorted(line.split(":")[0].strip() for line in f if ":" in line)
    return ",".join(names[:4])


@probe
def tcp_own_listener():
    try:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        return connecting(socket.AF_INET, socket.SOCK_STREAM, listener.getsockname())
    except OSError as e:
        return name(e.errno)


# Running what was brought along.
def executing(path, *args):
    """Forks, so that the answer comes from execve itself."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        fcntl.fcntl(write, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        try:
            os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
            os.dup2(1, 2)
            os.execv(path, [path, *args])
        except OSError as e:
            os.write(write, name(e.errno).encode())
        os._exit(99)
    os.close(write)
    said = os.read(read, 64).decode()
    _, ended = os.waitpid(child, 0)
    if said:
        return said
    return "ok" if ended == 0 else "status:%d" % os.waitstatus_to_exitcode(ended)


def copied(path):
    with open("/usr/bin/true", "rb") as source, open(path, "wb") as copy:
        copy.write(source.read())
    os.chmod(path, 0o755)
    return path


def carried(where):
    try:
        path = copied(where + "/carried")
    except OSError as e:
        return "write:" + name(e.errno)
    result = executing(path)
    os.unlink(path)
    return result


PROBES["exec_scratch"] = lambda: carried(DIR)
PROBES["exec_shm"] = lambda: carried("/dev/shm" if INSIDE else DIR)
PROBES["exec_program"] = lambda: executing("/usr/bin/true")


@probe
def exec_by_loader():
    path = copied(DIR + "/loaded")
    result = executing("/lib64/ld-linux-x86-64.so.2", path)
    os.unlink(path)
    return result


@probe
def exec_script():
    path = DIR + "/script"
    with open(path, "w") as f:
        f.write("#!/bin/sh\nexit 0\n")
    os.chmod(path, 0o755)
    result = executing(path)
    os.unlink(path)
    return result


@probe
def exec_memfd():
    fd, error = raw(319, b"x", 0)
    if fd < 0:
        return "create:" + name(error)
    with open("/usr/bin/true", "rb") as source:
        os.write(fd, source.read())
    copy = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.set_inheritable(copy, True)
    os.close(fd)
    return executing(f"/proc/self/fd/{copy}")


PROBES["memfd_sysctl"] = lambda: first_line("/proc/sys/vm/memfd_noexec")


@probe
def int80():
    """getpid of the 32-bit table, from a 64-bit program."""
    code = bytes.fromhex("53b814000000cd805bc3")
    libc.mmap.restype = ctypes.c_void_p
    page = libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))
    if page in (None, ctypes.c_void_p(-1).value):
        return "no page"
    ctypes.memmove(page, code, len(code))
    got = ctypes.CFUNCTYPE(ctypes.c_int)(page)()
    return "ok" if got > 0 else name(-got)


# What changes the process that tries it, or may end it, is tried in one of its own.
FORKED = ("unshare_", "clone_", "exec_", "set", "prctl_", "capset", "personality", "nice_up", "realtime", "add_key",
          "ptrace", "int80", "signal_pid1", "landlock_create", "iopl", "modify_ldt", "fsopen", "chroot")


def hung(*_):
    raise TimeoutError


def said_by(label):
    signal.signal(signal.SIGALRM, hung)
    signal.alarm(20)
    try:
        return str(PROBES[label]())
    except TimeoutError as e:
        return name(e.errno) if e.errno else "hangs"
    except OSError as e:
        return name(e.errno) if e.errno else "raised:" + str(e)
    except BaseException as e:
        return "raised:" + type(e).__name__ + ":" + str(e)
    finally:
        signal.alarm(0)


def run(label):
    if not label.startswith(FORKED):
        return said_by(label)[:400]
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.write(write, said_by(label).encode()[:400])
        os._exit(0)
    os.close(write)
    said = b""
    if select.select([read], [], [], 25)[0]:
        said = os.read(read, 400)
    else:
        os.kill(child, signal.SIGKILL)
        said = b"hangs"
    os.close(read)
    _, ended = os.waitpid(child, 0)
    return said.decode(errors="replace") if said else "died:%d" % ended


for _label in SET["probes"]:
    _said = run(_label) if _label in PROBES else "no such probe"
    print(json.dumps({"probe": _label, "got": _said}), flush=True)
