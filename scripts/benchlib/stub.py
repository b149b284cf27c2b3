"""A service that answers as Sandkeep does, for two commands, with one fault: python3 stub.py SOCKET FAULT."""
import json
import os
import re
import secrets
import socket
import sys
import threading
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
# Every so many calls the fault shows.
EVERY = 50
DELAY = 0.03
# After this many seconds a slow service is slow.
LATER = 2.5


class Service:
    def __init__(self, path, fault):
        self.fault, self.count, self.begin = fault, 0, time.monotonic()
        self.lock, self.held, self.last = threading.Lock(), [], None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(64)

    def serve(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        file = connection.makefile("rb")
        while True:
            head = {}
            if not file.readline():
                return
            for line in iter(file.readline, b"\r\n"):
                name, _, value = line.decode().partition(":")
                head[name.lower()] = value.strip()
            status, body = self.answer(json.loads(file.read(int(head["content-length"]))))
            if status == 0:
                connection.shutdown(socket.SHUT_RDWR)
                return
            connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))

    def answer(self, call):
        with self.lock:
            self.count += 1
            due = self.count % EVERY == 0
            box = "sbx_" + "".join(secrets.choice(ALPHABET[:8] if i == 0 else ALPHABET) for i in range(26))
            if self.fault == "twice" and due and self.last:
                box = self.last
            self.last = box
            if self.fault == "leak" and self.count % 5 == 0:
                self.held.append(os.open("/dev/null", os.O_RDONLY))
            if self.fault == "grow":
                self.held.append(bytearray(os.urandom(16384)))
        if self.fault == "slow" and time.monotonic() - self.begin > LATER:
            time.sleep(DELAY)
        if self.fault == "hang-up" and due:
            return 0, b""
        if self.fault == "refuse" and due:
            return 503, b'{"code":"at_capacity"}'
        if call["tool_name"] == "bash":
            text = re.fullmatch(r"echo (\S+)", call["parameters"]["command"]).group(1) + "\n"
            result = {"stdout": text, "stderr": "", "exit_code": 0, "success": True}
        else:
            text = re.fullmatch(r"print\('(\S+)'\)", call["parameters"]["code"]).group(1) + "\n"
            result = {"output": text, "variables": {}, "success": True}
        key = next(iter(result))
        if self.fault == "wrong" and due:
            result[key] = "n000000000000\n"
        if self.fault == "stray" and due:
            result["more"] = 1
        reply = {"execution_id": "exe_1", "success": True, "result": result, "error": None, "sandbox": {"id": box}}
        return 200, json.dumps(reply, separators=(",", ":")).encode()


Service(sys.argv[1], sys.argv[2]).serve()
