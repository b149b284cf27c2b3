"""Attempts to get out, as small functions. Each runs in a process of its own and prints one word.

`ok` and the like mean that it worked, an errno's name that it did not. The same functions run on the bare host first, so
that a refusal inside is a fence's and not a mistake of the probe. Calls that would change the machine are made with
arguments that cannot work: any other answer than EPERM and ENOSYS then says that the call was reached.
"""
import ctypes
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
ENV = os.environ
TARGET = int(ENV.get("P_TARGET", "1"))
VICTIM = int(ENV.get("P_VICTIM", "0"))
DIR = ENV.get("P_DIR", "/tmp")
PROBES = {}
AT_FDCWD = -100


def probe(function):
    PROBES[function.__name__] = function
    return function


def name(number):
    return errno.errorcode.get(number, str(number))


def raw(number, *args):
    """A system call as the kernel sees it: six whole registers."""
    ctypes.set_errno(0)
    words = [a if isinstance(a, (bytes, ctypes.Array, ctypes.Structure)) or a is None or not isinstance(a, int)
             else ctypes.c_ulong(a & (2**64 - 1)) for a in args]
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
    try:
        os.close(os.open(path, flags))
        return "ok"
    except OSError as e:
        return name(e.errno)


def call(label, number, *args):
    PROBES[label] = lambda: sc(number, *args)


def file(label, path, flags):
    PROBES[label] = lambda: opening(path, flags)


# Pid 1 of the sandbox, which began as a copy of the engine.
file("pid1_mem", f"/proc/{TARGET}/mem", os.O_RDWR)
file("pid1_environ", f"/proc/{TARGET}/environ", os.O_RDONLY)
file("pid1_maps", f"/proc/{TARGET}/maps", os.O_RDONLY)
file("pid1_exe_write", f"/proc/{TARGET}/exe", os.O_WRONLY)
PROBES["pid1_root"] = lambda: trying(os.listdir, f"/proc/{TARGET}/root")
PROBES["pid1_cwd"] = lambda: trying(os.listdir, f"/proc/{TARGET}/cwd")
PROBES["pid1_fd"] = lambda: trying(os.listdir, f"/proc/{TARGET}/fd")
PROBES["pid1_ns"] = lambda: trying(os.readlink, f"/proc/{TARGET}/ns/mnt")
PROBES["pid1_setns"] = lambda: trying(lambda: os.open(f"/proc/{TARGET}/ns/user", os.O_RDONLY))
PROBES["ptrace_seize"] = lambda: sc(101, 0x4206, TARGET, 0, 0)


@probe
def process_vm_readv():
    local = ctypes.create_string_buffer(8)
    one = struct.pack("QQ", ctypes.addressof(local), 8)
    other = struct.pack("QQ", 0, 8)
    return sc(310, TARGET, ctypes.create_string_buffer(one), 1, ctypes.create_string_buffer(other), 1, 0)


@probe
def process_vm_writev():
    local = ctypes.create_string_buffer(8)
    one = struct.pack("QQ", ctypes.addressof(local), 8)
    other = struct.pack("QQ", 0, 8)
    return sc(311, TARGET, ctypes.create_string_buffer(one), 1, ctypes.create_string_buffer(other), 1, 0)


@probe
def pidfd_getfd():
    fd, error = raw(434, TARGET, 0)
    return sc(438, fd, 0, 0) if fd >= 0 else "pidfd_open:" + name(error)


PROBES["kcmp"] = lambda: sc(312, os.getpid(), TARGET, 0, 0, 0)


@probe
def kill9_pid1():
    """On the host a child of this probe stands in for pid 1."""
    if TARGET != 1:
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "killed"
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGTERM):
        try:
            os.kill(1, number)
        except OSError as e:
            return name(e.errno)
    return "survived"


PROBES["prlimit_pid1"] = lambda: sc(302, TARGET, resource.RLIMIT_CORE, None, ctypes.create_string_buffer(16))


@probe
def prlimit_pid1_cpu():
    """A processor limit of nothing, set on pid 1, kills it: the end would look like the engine's fault."""
    if TARGET != 1:
        return sc(302, TARGET, resource.RLIMIT_CORE, ctypes.create_string_buffer(struct.pack("QQ", 0, 0)), None)
    return sc(302, 1, resource.RLIMIT_CPU, ctypes.create_string_buffer(struct.pack("QQ", 2**62, 2**62)), None)


# Processes of the host.
PROBES["kill_host"] = lambda: trying(os.kill, VICTIM, 0)
PROBES["prlimit_host"] = lambda: sc(302, VICTIM, resource.RLIMIT_CORE, None, ctypes.create_string_buffer(16))
PROBES["affinity_host"] = lambda: trying(os.sched_getaffinity, VICTIM)
PROBES["nice_host"] = lambda: sc(140, 0, VICTIM)
PROBES["pidfd_host"] = lambda: sc(434, VICTIM, 0)
PROBES["proc_host"] = lambda: trying(os.listdir, f"/proc/{VICTIM}")

# The tree of mounts.
call("mount_tmpfs", 165, b"x", b"/nonexistent", b"tmpfs", 0, None)
call("mount_proc", 165, b"x", b"/nonexistent", b"proc", 0, None)
call("mount_cgroup1", 165, b"x", b"/nonexistent", b"cgroup", 0, b"none,name=x")
call("mount_remount_rw", 165, None, b"/usr", None, 0x20 | 0x1000, None)
call("mount_bind", 165, b"/nonexistent", b"/nonexistent", None, 0x1000, None)
call("mount_shared", 165, None, b"/nonexistent", None, 1 << 20, None)
call("umount", 166, b"/nonexistent", 2)
call("pivot_root", 155, b"/nonexistent", b"/nonexistent")
call("chroot", 161, b"/nonexistent")
call("fsopen", 430, b"tmpfs", 0)
call("fsconfig", 431, -1, 0, None, None, 0)
call("fsmount", 432, -1, 0, 0)
call("fspick", 433, AT_FDCWD, b"/nonexistent", 0)
call("open_tree_clone", 428, AT_FDCWD, b"/", 1)
call("move_mount", 429, -1, b"/x", -1, b"/y", 0)
call("mount_setattr", 442, AT_FDCWD, b"/nonexistent", 0, ctypes.create_string_buffer(32), 32)

# Namespaces.
SPACES = {"user": 0x10000000, "mnt": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000,
          "uts": 0x4000000, "cgroup": 0x2000000, "time": 0x80}
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


for _space in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
    PROBES[f"clone_{_space}"] = lambda flag=SPACES[_space]: cloning(flag)
PROBES["clone_user_dirty"] = lambda: cloning(SPACES["user"] | 1 << 40)
call("clone3", 435, None, 0)
PROBES["setns_own"] = lambda: sc(308, os.open("/proc/self/ns/uts", os.O_RDONLY), 0)

# Calls of the whole machine, with arguments that cannot work.
call("bpf", 321, 0xffff, None, 0)
call("perf_event_open", 298, None, 0, -1, -1, 0)
call("userfaultfd", 323, 0xffff0000)
call("io_uring_setup", 425, 0, None)
call("keyctl", 250, 9999, 0, 0, 0, 0)
call("request_key", 249, None, None, None, 0)


@probe
def add_key():
    return sc(248, b"user", b"sandkeep-probe", b"x", 1, -2)


call("kexec_load", 246, 0, 0, None, 0xdead0000)
call("kexec_file_load", 320, -1, -1, 0, None, 0xdead0000)
call("init_module", 175, None, 0, None)
call("finit_module", 313, -1, None, 0)
call("delete_module", 176, None, 0)
call("open_by_handle_at", 304, -1, None, 0)
call("name_to_handle_at", 303, AT_FDCWD, b"/nonexistent", None, None, 0)
call("acct", 163, b"/nonexistent")
call("swapon", 167, b"/nonexistent", 0)
call("swapoff", 168, b"/nonexistent")
call("quotactl", 179, 0xdead00, None, 0, None)
call("syslog", 103, 10, None, 0)
call("reboot", 169, 0, 0, 0, None)
call("settimeofday", 164, None, None)
call("clock_settime", 227, 0, None)
call("adjtimex", 159, None)
call("sethostname", 170, None, 65)
call("setdomainname", 171, None, 65)
call("iopl", 172, 4)
call("ioperm", 173, 0, 0, 0)
call("modify_ldt", 154, 0, None, 0)
call("fanotify_init", 300, 0xffffffff, 0)
call("process_madvise", 440, -1, None, 0, 0, 0)
call("migrate_pages", 256, TARGET, 0, None, None)
call("personality_norandomize", 135, 0x0040000)
call("seccomp_filter", 317, 1, 0, None)
call("seccomp_listener", 317, 1, 8, None)
call("landlock_create", 444, None, 0, 1)
call("cachestat", 451, -1, None, None, 0)
call("move_pages", 279, TARGET, 0, None, None, None, 0)

# prctl and credentials.
call("prctl_securebits", 157, 28, 0, 0, 0, 0)
call("prctl_keepcaps", 157, 8, 1, 0, 0, 0)
call("prctl_mm", 157, 35, 9, 0, 0, 0)
call("prctl_seccomp", 157, 22, 2, None, 0, 0)
call("prctl_nnp_off", 157, 38, 0, 0, 0, 0)
call("prctl_dirty_seccomp", 157, 22 | 1 << 40, 2, None, 0, 0)
call("setuid_root", 105, 0)
call("setgid_root", 106, 0)
call("setgroups_root", 116, 1, struct.pack("I", 0))


@probe
def capset_all():
    head = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(struct.pack("IIIIII", 1 << 21, 1 << 21, 0, 0, 0, 0))
    return sc(126, head, data)


@probe
def capabilities():
    with open("/proc/self/status") as f:
        sets = {line.split()[0]: int(line.split()[1], 16) for line in f if line.startswith("Cap")}
    return "some" if any(sets.values()) else "none"


@probe
def no_new_privs():
    return str(raw(157, 39, 0, 0, 0, 0)[0])


@probe
def file_caps():
    path = DIR + "/capped"
    with open(path, "w"):
        pass
    cap = struct.pack("<IIIII", 0x02000001, 1 << 21, 0, 0, 0)
    result = trying(os.setxattr, path, "security.capability", cap)
    os.unlink(path)
    return result


@probe
def setuid_mount():
    """Whether any mount in view would honour a set-id bit."""
    with open("/proc/self/mountinfo") as f:
        honoured = [line.split()[4] for line in f if "nosuid" not in line.split()[5].split(",")]
    return "honoured" if honoured else "none"


@probe
def rlimit_raise():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1))
        return "ok"
    except (ValueError, OSError):
        return "EPERM"


PROBES["rlimit_core"] = lambda: "%d,%d" % resource.getrlimit(resource.RLIMIT_CORE)
PROBES["rlimit_nofile"] = lambda: "%d,%d" % resource.getrlimit(resource.RLIMIT_NOFILE)
PROBES["nice_up"] = lambda: trying(os.nice, -5)
PROBES["realtime"] = lambda: trying(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
