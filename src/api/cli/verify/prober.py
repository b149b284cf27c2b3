"""What `sandkeep verify` tries, as small functions that each say one word.

`ok` and the like mean that it worked, an errno's name that it did not. The same functions run outside of any sandbox as
the control. Nothing here may change the machine, with or without a fence: files are opened and not written, calls that
act on the whole machine get arguments that can not work, and what is made is made in the directory given.

A line before this text sets SET, the settings; `python3 -I -` reads both from standard input.
"""
import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import select
import signal
import socket
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
INSIDE = SET["inside"]
# The process that stands for pid 1 outside: one of verify's own.
TARGET = 1 if INSIDE else SET["victim"]
VICTIM = SET["victim"]
DIR = SET["dir"]
PROBES = {}
AT_FDCWD = -100


def probe(function):
    PROBES[function.__name__] = function
    return function


def name(number):
    return errno.errorcode.get(number, str(number))


def raw(number, *args):
    """A system call as the kernel sees it: six whole registers."""
    if platform.machine() != "x86_64":
        raise OSError(0, "numbers of another architecture")
    ctypes.set_errno(0)
    words = [ctypes.c_ulong(a & (2**64 - 1)) if isinstance(a, int) else a for a in args]
    got = libc.syscall(ctypes.c_long(number), *words)
    return got, ctypes.get_errno()


def sc(number, *args):
    got, error = raw(number, *args)
    return name(error) if got == -1 else "ok"


def trying(function, *args):
    try:
        function(*args)
        return "ok"
    except OSError as e:
        return name(e.errno)


def opening(path, flags):
    """Outside, whether it could be opened for writing is only asked: who watches such files is not alarmed."""
    if not INSIDE and flags & (os.O_WRONLY | os.O_RDWR):
        kind = os.W_OK | (os.R_OK if flags & os.O_RDWR else 0)
        return "ok" if os.access(path, kind) else "EACCES"
    return trying(lambda: os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)))


def call(label, number, *args):
    PROBES[label] = lambda: sc(number, *args)


def file(label, path, flags):
    PROBES[label] = lambda: opening(path, flags)


def first_line(path):
    with open(path) as f:
        return f.readline().strip()


# Pid 1 of the sandbox, which began as a copy of the engine.
file("pid1_mem", f"/proc/{TARGET}/mem", os.O_RDONLY)
file("pid1_environ", f"/proc/{TARGET}/environ", os.O_RDONLY)
file("pid1_maps", f"/proc/{TARGET}/maps", os.O_RDONLY)
PROBES["pid1_root"] = lambda: trying(os.listdir, f"/proc/{TARGET}/root")
PROBES["pid1_fd"] = lambda: trying(os.listdir, f"/proc/{TARGET}/fd")
PROBES["pid1_ns"] = lambda: trying(os.readlink, f"/proc/{TARGET}/ns/mnt")
PROBES["ptrace"] = lambda: sc(101, 0x4206, TARGET, 0, 0)
PROBES["prlimit_pid1"] = lambda: sc(302, TARGET, resource.RLIMIT_CORE, None, ctypes.create_string_buffer(16))


@probe
def pid1_owner():
    """The files of a process that may be dumped are its own; of one that may not be, root's."""
    owner = os.stat(f"/proc/{TARGET}/environ").st_uid
    return "its own" if owner == os.stat(f"/proc/{TARGET}").st_uid else "another's"


@probe
def process_vm_readv():
    local = ctypes.create_string_buffer(8)
    one = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(local), 8))
    other = ctypes.create_string_buffer(struct.pack("QQ", 0, 8))
    return sc(310, TARGET, one, 1, other, 1, 0)


@probe
def pidfd_getfd():
    fd, error = raw(434, TARGET, 0)
    return sc(438, fd, 0, 0) if fd >= 0 else "pidfd_open:" + name(error)


PROBES["kcmp"] = lambda: sc(312, os.getpid(), TARGET, 0, 0, 0)


@probe
def signal_pid1():
    """Harmless to a first process of a pid namespace, which the kernel spares. Outside a child stands in for it."""
    if INSIDE:
        return trying(os.kill, 1, signal.SIGCONT)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    result = trying(os.kill, child, signal.SIGKILL)
    os.waitpid(child, 0)
    return result


# Processes of the host.
PROBES["kill_host"] = lambda: trying(os.kill, VICTIM, 0)
PROBES["affinity_host"] = lambda: trying(os.sched_getaffinity, VICTIM)
PROBES["nice_host"] = lambda: sc(140, 0, VICTIM)
PROBES["pidfd_host"] = lambda: sc(434, VICTIM, 0)
PROBES["proc_host"] = lambda: trying(os.listdir, f"/proc/{VICTIM}")


@probe
def own_pid_one():
    """Whether pid 1, by the name that it shows, is a sandbox's and not the host's."""
    return "the sandbox's" if first_line("/proc/1/comm").startswith("sandkeep") else "the host's"


# The tree of mounts. What is named is not there.
call("mount_tmpfs", 165, b"x", b"/nonexistent", b"tmpfs", 0, None)
call("mount_bind", 165, b"/nonexistent", b"/nonexistent", None, 0x1000, None)
call("mount_remount", 165, None, b"/nonexistent", None, 0x20 | 0x1000, None)
call("umount", 166, b"/nonexistent", 2)
call("pivot_root", 155, b"/nonexistent", b"/nonexistent")
call("chroot", 161, b"/nonexistent")
call("fsopen", 430, b"tmpfs", 0)
call("open_tree", 428, AT_FDCWD, b"/nonexistent", 1)
call("move_mount", 429, -1, b"/x", -1, b"/y", 0)
call("mount_setattr", 442, AT_FDCWD, b"/nonexistent", 0, ctypes.create_string_buffer(32), 32)

# Namespaces.
SPACES = {"user": 0x10000000, "mnt": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000,
          "uts": 0x4000000, "cgroup": 0x2000000}
for _space, _flag in SPACES.items():
    call(f"unshare_{_space}", 272, _flag)


def cloning(flags):
    got, error = raw(56, flags | signal.SIGCHLD, 0, 0, 0, 0)
    if got == 0:
        os._exit(0)
    if got == -1:
        return name(error)
    os.waitpid(got, 0)
    return "ok"


for _space, _flag in SPACES.items():
    PROBES[f"clone_{_space}"] = lambda flag=_flag: cloning(flag)
PROBES["setns_own"] = lambda: sc(308, os.open("/proc/self/ns/uts", os.O_RDONLY), 0)
call("clone3", 435, None, 0)


def same_space(space):
    return "the host's" if os.readlink("/proc/self/ns/" + space) == SET["ns"].get(space) else "its own"


for _space in (*SPACES, "time"):
    PROBES[f"ns_{_space}"] = lambda space=_space: same_space(space)


@probe
def namespace_counts():
    """How many namespaces the kernel would let this user namespace make."""
    allowed = []
    for file in sorted(os.listdir("/proc/sys/user")):
        if file.endswith("_namespaces") and int(first_line("/proc/sys/user/" + file)) > 0:
            allowed.append(file)
    return ",".join(allowed) if allowed else "none"


@probe
def clock_offsets():
    with open("/proc/self/timens_offsets") as f:
        moved = [line for line in f if any(int(word) for word in line.split()[1:])]
    return "moved" if moved else "none"


@probe
def uptime():
    own = time.clock_gettime(time.CLOCK_BOOTTIME)
    return "the host's" if abs(own - SET["boottime"] - (time.time() - SET["now"])) < 5 else "its own"


PROBES["hostname"] = socket.gethostname

# Calls that no sandbox needs, with arguments that can not work.
call("bpf", 321, 0xffff, None, 0)
call("perf_event_open", 298, None, 0, -1, -1, 0)
call("userfaultfd", 323, 0xffff0000)
call("io_uring_setup", 425, 0, None)
call("keyctl", 250, 9999, 0, 0, 0, 0)
call("request_key", 249, None, None, None, 0)
call("open_by_handle_at", 304, -1, None, 0)
call("quotactl", 179, 0xdead00, None, 0, None)
call("syslog", 103, 10, None, 0)
call("clock_settime", 227, 0, None)
call("sethostname", 170, None, 65)
call("iopl", 172, 4)
call("modify_ldt", 154, 0, None, 0)
call("fanotify_init", 300, 0xffffffff, 0)
call("process_madvise", 440, -1, None, 0, 0, 0)
call("migrate_pages", 256, TARGET, 0, None, None)
call("personality", 135, 0x0040000)
call("kexec_load", 246, 0, 0, None, 0xdead0000)
call("init_module", 175, None, 0, None)
call("finit_module", 313, -1, None, 0)
call("delete_module", 176, None, 0)
call("swapon", 167, b"/nonexistent", 0)
call("acct", 163, b"/nonexistent")
call("reboot", 169, 0, 0, 0, None)
call("tiocsti", 16, -1, 0x5412, None)
call("tiocsti_dirty", 16, -1, 0x5412 | 7 << 32, None)
call("seccomp_filter", 317, 1, 0, None)
call("seccomp_listener", 317, 1, 8, None)
call("prctl_seccomp", 157, 22, 2, None, 0, 0)
call("landlock_create", 444, None, 0, 1)
call("prctl_securebits", 157, 28, 0, 0, 0, 0)
call("prctl_keepcaps", 157, 8, 1, 0, 0, 0)
call("setuid_root", 105, 0)
call("setgid_root", 106, 0)
call("setgroups_root", 116, 1, struct.pack("I", 0))
call("x32_getpid", 39 | 0x40000000)


@probe
def add_key():
    """Into the keyring of this process alone, which ends with it."""
    return sc(248, b"user", b"sandkeep-verify", b"x", 1, -2)


@probe
def capset_all():
    head = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(struct.pack("IIIIII", 1 << 21, 1 << 21, 0, 0, 0, 0))
    return sc(126, head, data)


def status(field):
    with open("/proc/self/status") as f:
        return next((line.split()[1] for line in f if line.startswith(field + ":")), "not told")


@probe
def capabilities():
    held = [s for s in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(status(s), 16)]
    return ",".join(held) if held else "none"


PROBES["no_new_privs"] = lambda: status("NoNewPrivs")
PROBES["seccomp_mode"] = lambda: status("Seccomp")


@probe
def file_caps():
    path = DIR + "/capped"
    with open(path, "w"):
        pass
    cap = struct.pack("<IIIII", 0x02000001, 1 << 21, 0, 0, 0)
    result = trying(os.setxattr, path, "security.capability", cap)
    os.unlink(path)
    return result


PROBES["nice_up"] = lambda: trying(os.nice, -5)
PROBES["realtime"] = lambda: trying(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))


# Limits of a process.
def limits(which):
    soft, hard = resource.getrlimit(which)
    return "%d" % soft if soft == hard else "%d,%d" % (soft, hard)


@probe
def limit_core():
    """One byte: a pattern that is a pipe ignores nought. Where it is a file nought does as well."""
    value = limits(resource.RLIMIT_CORE)
    if value == "0":
        return "0:piped" if first_line("/proc/sys/kernel/core_pattern").startswith("|") else "0:file"
    return value


LIMITS = {"nofile": resource.RLIMIT_NOFILE, "fsize": resource.RLIMIT_FSIZE, "nproc": resource.RLIMIT_NPROC,
          "data": resource.RLIMIT_DATA, "memlock": resource.RLIMIT_MEMLOCK, "nice": 13, "rtprio": 14, "msgqueue": 12,
          "sigpending": 11}


@probe
def limits_over():
    """Limits of this process above the most that the level gives. A host may give less."""
    over = []
    for label, most in SET["limits"].items():
        hard = resource.getrlimit(LIMITS[label])[1]
        if hard == -1 or hard > most:
            over.append("%s:%d" % (label, hard))
    return ",".join(over) if over else "none"
