//! A network namespace is used again where nothing was left in it, and never where something may have been.

use sandkeep::wire::LevelWire::{self, Standard, Strict};
use sandkeep::wire::{Create, LimitsWire};

use crate::support::*;
use crate::{machine, outside};

/// Prints the cookie of its network namespace, having done `what` before; any socket can be asked for it.
fn cookie_after(front: &mut Front, level: LevelWire, what: &str) -> String {
    let script = format!(
        "cat > /tmp/t.py <<'PY'\nimport os, socket\nfrom socket import *\n{what}\n\
         a, b = socketpair()\nprint(int.from_bytes(a.getsockopt(SOL_SOCKET, 71, 8), 'little'))\nPY\npython3 /tmp/t.py"
    );
    let ran = front.run(level, &script);
    assert_eq!(ran.stderr, "", "{what}");
    let cookie = ran.stdout.trim().to_owned();
    assert!(cookie.parse::<u64>().is_ok_and(|cookie| cookie > 0), "{cookie:?}");
    cookie
}

const PYTHON: &[&str] = &["root", "cgroup2", "python3"];

#[test]
fn one_in_which_no_internet_socket_was_made_comes_again() {
    if !machine::expect_all(PYTHON) || !machine::expect("socket-watch") || !machine::nothing_waits() {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let first = cookie_after(&mut front, Standard, "");
    // Not with a netlink socket: the kernel frees one a moment after its end, and until then it counts as left.
    for what in [
        "",
        "s = socket(AF_UNIX, SOCK_DGRAM); s.bind(chr(0) + 'name')",
        "open('/proc/net/tcp').read(); os.listdir('/proc/sys/net/ipv4')",
    ] {
        assert_eq!(cookie_after(&mut front, Standard, what), first, "{what}");
    }
    assert_eq!(cookie_after(&mut front, Strict, ""), first);
    assert_eq!(cookie_after(&mut front, Standard, ""), first);
}

#[test]
fn one_in_which_an_internet_socket_was_made_never_comes_again() {
    if !machine::expect_all(PYTHON) {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let mut gone = Vec::new();
    for what in [
        "s = socket(AF_INET, SOCK_DGRAM)",
        "s = socket(AF_INET, SOCK_STREAM); s.close()",
        "s = socket(AF_INET6, SOCK_DGRAM); s.close()",
        "s = socket(AF_INET6, SOCK_STREAM)",
        // In a process that is gone before the command ends, and of which nobody knows.
        "if os.fork() == 0:\n  os.setsid()\n  socket(AF_INET, SOCK_DGRAM)\n  os._exit(0)\nos.wait()",
        "s = socket(AF_INET, SOCK_DGRAM); s.sendto(b'x', ('127.0.0.1', 9))",
    ] {
        gone.push(cookie_after(&mut front, Standard, what));
    }
    // More than wait at a time, with several alive, so that all that wait are taken.
    let small = LimitsWire { memory_bytes: Some(32 << 20), ..LimitsWire::default() };
    let mut hold = || {
        let id = random_id();
        front.start_as(Create { limits: small, ..create(&id, Standard) }, exec(&id, "sleep 60"))
    };
    let held: Vec<Running> = (0..20).map(|_| hold()).collect();
    for _ in 0..machine::times(10, 4) {
        let now = cookie_after(&mut front, Standard, "s = socket(AF_INET, SOCK_DGRAM)");
        assert!(!gone.contains(&now), "{now} of {gone:?}");
        gone.push(now);
    }
    // Two that live at a time have one each.
    let mut inodes: Vec<u64> =
        held.iter().map(|one| outside::namespace(front.stat(&one.id).host_pid, "net").unwrap()).collect();
    inodes.sort_unstable();
    inodes.dedup();
    assert_eq!(inodes.len(), held.len());
}

#[test]
fn a_next_user_sees_what_the_first_one_saw() {
    if !machine::expect_all(PYTHON) {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    // All of /proc/net but what counts for the whole host, and addresses of kernel objects.
    let look = "import glob\n\
        seen = {}\n\
        for name in sorted(glob.glob('/proc/self/net/**', recursive=True)):\n\
        \x20 if os.path.isdir(name) or any(part in name for part in\n\
        \x20     ('softnet_stat', 'sockstat', 'protocols', '/stat/', 'netlink', 'ptype')): continue\n\
        \x20 try: seen[name] = open(name).read()\n\
        \x20 except OSError as e: seen[name] = str(e.errno)\n\
        for table in ('unix', 'tcp', 'tcp6', 'udp', 'udp6', 'raw', 'packet', 'ip6_flowlabel'):\n\
        \x20 rows = seen.get('/proc/self/net/' + table, '').splitlines()[1:]\n\
        \x20 assert not rows, (table, rows)\n\
        import hashlib\n\
        print(len(seen) > 20, hashlib.sha256(repr(seen).encode()).hexdigest())";
    let script =
        |what: &str| format!("cat > /tmp/t.py <<'PY'\nimport os\nfrom socket import *\n{what}\nPY\npython3 /tmp/t.py");
    let mut run = |what: &str| {
        let ran = front.run(Standard, &script(what));
        assert_eq!(ran.stderr, "", "{what}");
        ran.stdout
    };
    let first = run(look);
    assert!(first.starts_with("True "), "{first}");
    for what in [
        // Every question that a route socket can ask, answered.
        "for kind in range(16, 120):\n  s = socket(AF_NETLINK, SOCK_RAW, 0); s.settimeout(0.2)\n  \
         s.send((20).to_bytes(4, 'little') + kind.to_bytes(2, 'little') + (0x301).to_bytes(2, 'little') + bytes(12))\n  \
         try: s.recv(65536)\n  except OSError: pass",
        // A single look-up, which is no dump: of 127.0.0.1 and of ::1. The kernel frees such a socket a moment after its end,
        // and one that is left keeps the namespace from coming again: without that moment nothing else would be looked at.
        "for family, address in ((2, bytes([127, 0, 0, 1])), (10, bytes(15) + b'\\x01')):\n  \
         s = socket(AF_NETLINK, SOCK_RAW, 0); s.settimeout(0.2)\n  size = len(address)\n  \
         body = bytes([family, size * 8, 0, 0, 0, 0, 0, 0]) + bytes(4) + (4 + size).to_bytes(2, 'little') + b'\\x01\\x00' + address\n  \
         for _ in range(50):\n    s.send((16 + len(body)).to_bytes(4, 'little') + (26).to_bytes(2, 'little') + b'\\x01\\x00' + bytes(8) + body)\n    \
         answer = s.recv(65536)\n    assert int.from_bytes(answer[4:6], 'little') == 24, answer\n  s.close()\n\
         import time; time.sleep(0.3)",
        "s = [socket(AF_UNIX, SOCK_STREAM) for _ in range(100)]\n[x.bind(chr(0) + str(i)) for i, x in enumerate(s)]",
        // Sockets that hold each other and that nobody else holds.
        "a, b = socketpair()\nsend_fds(a, [b'x'], [a.fileno(), b.fileno()])\nsend_fds(b, [b'x'], [a.fileno(), b.fileno()])",
        "s = socket(AF_INET, SOCK_DGRAM); s.sendto(b'x', ('127.0.0.1', 9))",
        "s = socket(AF_INET6, SOCK_DGRAM); s.sendto(b'x', ('::1', 9))",
    ] {
        run(what);
        assert_eq!(run(look), first, "{what}");
    }
}

/// A container may withhold the capability to raise an interface: then every sandbox has a namespace of its own making.
#[test]
fn without_the_right_to_make_them_every_sandbox_makes_its_own() {
    if !machine::expect_all(PYTHON) {
        return;
    }
    let engine = Engine::start_under(&["setpriv", "--bounding-set", "-net_admin"]);
    let mut front = engine.connect();
    let mut seen = Vec::new();
    for level in [Standard, Strict, Standard] {
        let cookie = cookie_after(&mut front, level, "");
        assert!(!seen.contains(&cookie), "{cookie} of {seen:?}");
        seen.push(cookie);
        let ran = front.run(level, "cat /proc/net/if_inet6 /proc/net/dev | grep -c lo");
        assert_eq!(ran.stdout, "2\n", "{level:?}");
    }
}
