"""One side leaves things everywhere it can; the other looks for them. `hold` says when it is ready, and on SIGUSR1 what it
saw."""
import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
DIR = os.environ.get("S_DIR", "")
KEY = int(os.environ["S_KEY"])
NAME = os.environ["S_NAME"]
PLACES = [f"{DIR}/tmp", f"{DIR}/workspace", f"{DIR}/dev/shm"] if DIR else ["/tmp", "/workspace", "/dev/shm"]


def writable(place):
    return os.access(place, os.W_OK)


def hold():
    for place in filter(writable, PLACES):
        with open(f"{place}/{NAME}", "w") as f:
            f.write("left")
    shm = libc.shmget(KEY, 4096, 0o1666)
    msg = libc.msgget(KEY, 0o1666)
    sem = libc.semget(KEY, 1, 0o1666)
    queue = libc.mq_open(f"/{NAME}".encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\0" + NAME)
        listener.listen()
    except OSError:
        pass
    lock = os.open("/usr/bin/id", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    watch = libc.inotify_init()
    libc.inotify_add_watch(watch, b"/usr/bin", 0x20)
    told = []
    signal.signal(signal.SIGUSR1, lambda *_: told.append(True))
    print("ready", flush=True)
    # Nobody waits for ever for a word that does not come.
    end, seen, last = time.time() + 60, False, False
    while not last and time.time() < end:
        # What it was told after, it has seen.
        last = bool(told)
        while select.select([watch], [], [], 0 if last else 0.05)[0]:
            seen |= b"true" in os.read(watch, 65536)
    print("inotify", "seen" if seen else "nothing", flush=True)
    libc.shmctl(shm, 0, None)
    libc.msgctl(msg, 0, None)
    libc.semctl(sem, 0, 0)
    if queue >= 0:
        libc.mq_unlink(f"/{NAME}".encode())


def seek():
    subprocess.run(["/usr/bin/true"])
    found = {}
    for place in PLACES:
        if writable(place):
            found["file " + place.removeprefix(DIR)] = os.path.exists(f"{place}/{NAME}")
    found["sysv shm"] = libc.shmget(KEY, 0, 0) != -1
    found["sysv msg"] = libc.msgget(KEY, 0) != -1
    found["sysv sem"] = libc.semget(KEY, 0, 0) != -1
    found["mqueue"] = libc.mq_open(f"/{NAME}".encode(), os.O_RDWR) != -1
    try:
        socket.socket(socket.AF_UNIX).connect("\0" + NAME)
        found["abstract socket"] = True
    except OSError:
        found["abstract socket"] = False
    try:
        fcntl.flock(os.open("/usr/bin/id", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        found["flock"] = False
    except OSError:
        found["flock"] = True
    found["process"] = False
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if f"S_ROLE=hold-{NAME}".encode() in f.read():
                    found["process"] = True
        except OSError:
            pass
    for name, there in found.items():
        print(name, "found" if there else "nothing", sep="\t")


hold() if sys.argv[1] == "hold" else seek()
