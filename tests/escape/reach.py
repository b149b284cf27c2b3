# Sockets and programs, and the run itself. Goes on where files.py ends.

# Sockets.
def opens(family, kind, protocol=0):
    try:
        socket.socket(family, kind, protocol).close()
        return "ok"
    except OSError as e:
        return name(e.errno)


for _label, _args in {
    "socket_packet": (17, 3), "socket_packet_old": (2, 10), "socket_raw_icmp": (2, 3, 1), "socket_icmp": (2, 2, 1),
    "socket_vsock": (40, 1), "socket_alg": (38, 5), "socket_bluetooth": (31, 5, 1), "socket_kcm": (41, 2),
    "socket_xdp": (44, 3), "socket_key": (15, 3, 2), "socket_tipc": (30, 1), "socket_can": (29, 3, 1),
    "socket_rds": (21, 5), "socket_smc": (43, 1), "socket_netfilter": (16, 3, 12), "socket_audit": (16, 3, 9),
    "socket_sock_diag": (16, 3, 4), "socket_mptcp": (2, 1, 262), "socket_sctp": (2, 1, 132), "socket_udplite": (2, 2, 136),
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


PROBES["tcp_host"] = lambda: connecting(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", int(ENV["P_PORT"])))
PROBES["mptcp_host"] = lambda: connecting(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", int(ENV["P_PORT"])), 262)
# Connecting a datagram socket sends nothing: it only asks for a route.
PROBES["route_out"] = lambda: connecting(socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 53))
PROBES["route_metadata"] = lambda: connecting(socket.AF_INET, socket.SOCK_DGRAM, ("169.254.169.254", 80))
PROBES["route_out6"] = lambda: connecting(socket.AF_INET6, socket.SOCK_DGRAM, ("2001:db8::1", 53))
PROBES["abstract_host"] = lambda: connecting(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + ENV["P_ABSTRACT"])
PROBES["path_socket_host"] = lambda: connecting(socket.AF_UNIX, socket.SOCK_STREAM, ENV["P_PATHSOCK"])
PROBES["seam_socket"] = lambda: connecting(socket.AF_UNIX, socket.SOCK_SEQPACKET, ENV["P_SEAM"])


@probe
def tcp_fastopen():
    try:
        s = socket.socket()
        s.settimeout(3)
        s.sendto(b"x", 0x20000000, ("127.0.0.1", int(ENV["P_PORT"])))
        return "ok"
    except OSError as e:
        return name(e.errno)


@probe
def tcp_own_listener():
    try:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        return connecting(socket.AF_INET, socket.SOCK_STREAM, listener.getsockname())
    except OSError as e:
        return name(e.errno)


@probe
def forged_credentials():
    ours, _theirs = socket.socketpair()
    cred = struct.pack("iII", os.getpid(), 0, 0)
    return trying(ours.sendmsg, [b"x"], [(socket.SOL_SOCKET, 2, cred)])


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
    _, status = os.waitpid(child, 0)
    if said:
        return said
    return "ok" if status == 0 else "status:%d" % (os.waitstatus_to_exitcode(status))


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
PROBES["exec_shm"] = lambda: carried("/dev/shm")
PROBES["exec_workspace"] = lambda: carried("/workspace" if TARGET == 1 else DIR)


@probe
def exec_by_loader():
    path = copied(DIR + "/loaded")
    result = executing("/lib64/ld-linux-x86-64.so.2", path)
    os.unlink(path)
    return result


@probe
def exec_by_descriptor():
    path = copied(DIR + "/held")
    fd = os.open(path, os.O_RDONLY)
    os.unlink(path)
    os.set_inheritable(fd, True)
    return executing(f"/proc/self/fd/{fd}")


@probe
def exec_memfd():
    fd, error = raw(319, b"x", 0)
    if fd < 0:
        return "create:" + name(error)
    with open("/usr/bin/true", "rb") as source:
        os.write(fd, source.read())
    os.set_inheritable(fd, True)
    copy = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.set_inheritable(copy, True)
    os.close(fd)
    return executing(f"/proc/self/fd/{copy}")


@probe
def exec_memfd_marked():
    """MFD_EXEC asks for a memfd that may be executed."""
    fd, error = raw(319, b"x", 0x10)
    return "ok" if fd >= 0 else name(error)


@probe
def exec_script():
    path = DIR + "/script"
    with open(path, "w") as f:
        f.write("#!/bin/sh\nexit 0\n")
    os.chmod(path, 0o755)
    result = executing(path)
    os.unlink(path)
    return result


PROBES["exec_stdin"] = lambda: executing("/proc/self/fd/0")
PROBES["exec_program"] = lambda: executing("/usr/bin/true")


def machine_code(code):
    libc.mmap.restype = ctypes.c_void_p
    page = libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))
    if page in (None, ctypes.c_void_p(-1).value):
        return None
    ctypes.memmove(page, code, len(code))
    return ctypes.CFUNCTYPE(ctypes.c_int)(page)


@probe
def int80():
    """getpid of the 32-bit table, from a 64-bit program."""
    run = machine_code(bytes.fromhex("53b814000000cd805bc3"))
    got = run()
    return "ok" if got > 0 else name(-got)


@probe
def int80_ptrace():
    run = machine_code(bytes.fromhex("53b81a000000bbffffffff31c931d231f6cd805bc3"))
    got = run()
    return "ok" if got >= 0 else name(-got)


PROBES["x32_getpid"] = lambda: sc(39 | 0x40000000)
PROBES["x32_ptrace"] = lambda: sc(521 | 0x40000000, 0, 0, 0, 0)


def run(label):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            said = PROBES[label]()
        except BaseException as e:
            said = "raised:" + type(e).__name__ + ":" + str(e).replace("\n", " ")[:80]
        os.write(write, str(said).encode())
        os._exit(0)
    os.close(write)
    said = b""
    if select.select([read], [], [], 10)[0]:
        said = os.read(read, 400)
    else:
        os.kill(child, signal.SIGKILL)
        said = b"hangs"
    os.close(read)
    _, status = os.waitpid(child, 0)
    if not said:
        said = b"died:%d" % status
    return said.decode()


if __name__ == "__main__":
    as_user = ENV.get("P_UID")
    if as_user:
        os.setgroups([])
        os.setgid(int(as_user))
        os.setuid(int(as_user))
    wanted = sys.argv[1:] or list(PROBES)
    for label in wanted:
        print(label, run(label), sep="\t", flush=True)
