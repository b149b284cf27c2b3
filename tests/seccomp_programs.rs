//! Real programs under the filters that a workload gets: the level's, then the second one. Each script checks its own
//! work and ends with zero.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use sandkeep::policy::seccomp::{Profile, for_level, quiet, workload};
use sandkeep::spec::Level;
use sandkeep::sys::seccomp::install;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a shell script in a new directory under each of the levels' filters. `needs` are the programs it uses; where
/// one is missing the test says so and passes, unless the run promises them all (`SANDKEEP_EXPECT=programs`).
fn under_filters(levels: &[Level], needs: &[&str], script: &str) {
    for program in needs {
        let found = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).exists()));
        if !found {
            let promised =
                std::env::var("SANDKEEP_EXPECT").is_ok_and(|list| list.split(',').any(|word| word == "programs"));
            assert!(!promised, "SANDKEEP_EXPECT promises {program}");
            eprintln!("not run: no {program} here");
            return;
        }
    }
    for level in levels {
        for memfd_noexec in [true, false] {
            if memfd_noexec || *level == Level::Strict {
                let profile = for_level(*level, memfd_noexec).expect("a process level has a filter");
                run(profile, script);
            }
        }
    }
}

fn run(profile: &'static Profile, script: &str) {
    let directory = tempfile::tempdir().unwrap();
    let output = filtered(profile, directory.path(), script).output().unwrap();
    assert!(
        output.status.success(),
        "{}: {}\n{}{}",
        profile.name,
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn filtered(profile: &'static Profile, directory: &Path, script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(directory).stdin(Stdio::null());
    // Nobody holds a listener here; `tests/denials.rs` has the same kinds of programs where somebody does.
    let level = quiet(profile.program);
    command.env("HOME_FOR_TEST", directory).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            install(&level)?;
            install(workload().program)
        });
    }
    command
}

const ALL: &[Level] = &Level::PROCESS;
const WITH_NETWORK: &[Level] = &[Level::Minimal, Level::Standard];

#[test]
fn the_filters_are_in_force() {
    under_filters(ALL, &["bash", "grep"], r#"grep -q '^Seccomp_filters:[[:space:]]*[2-9]' /proc/self/status"#);
}

#[test]
fn shell_and_coreutils() {
    let script = r#"
        mkdir -p a/b && printf 'c\nb\na\n' > a/b/list && cp -a a copy && mv copy/b/list copy/sorted-later
        [ "$(sort copy/sorted-later | tr -d '\n')" = abc ]
        ln -s a link && ln a/b/list hard && stat a/b/list > /dev/null && touch -d yesterday hard && chmod 640 hard
        chown "$(id -u):$(id -g)" hard && mkfifo fifo && (echo through > fifo & read -r line < fifo && [ "$line" = through ])
        df . > /dev/null && du -s . > /dev/null && ls -la / > /dev/null && find . -newer a/b/list > /dev/null
        truncate -s 1M big && dd if=/dev/urandom of=big bs=64k count=4 conv=notrunc,fsync 2> /dev/null && sync big
        sha256sum big > sums && sha256sum -c sums > /dev/null && timeout 5 nproc > /dev/null && nice -n 5 true
        sleep 5 & kill %1; wait %1 || [ $? = 143 ]
        (ulimit -n 64; ulimit -n) > /dev/null; date > /dev/null; uname -a > /dev/null; tail -n1 a/b/list > /dev/null
        exec 3<<< here; read -r word <&3; [ "$word" = here ]; coproc cat; kill "$COPROC_PID"; rm -rf a copy link hard
    "#;
    under_filters(ALL, &["bash", "sha256sum"], script);
}

#[test]
fn tar_and_compression() {
    let script = r#"
        mkdir -p tree/deep && echo text > tree/deep/file && ln -s deep tree/link && mkfifo tree/fifo
        tar --xattrs -czf tree.tgz tree && mkdir out && tar --xattrs --same-owner -xzf tree.tgz -C out
        [ "$(cat out/tree/deep/file)" = text ] && [ -p out/tree/fifo ] && [ -L out/tree/link ]
    "#;
    under_filters(ALL, &["tar", "gzip"], script);
}

#[test]
fn git() {
    let script = r#"
        git init -q repo && cd repo && git config user.name t && git config user.email t@example.invalid
        echo one > file && git add . && git commit -qm one && git checkout -qb side && echo two >> file
        git commit -qam two && git gc -q && cd .. && git clone -q repo copy && git -C copy log --oneline | wc -l | grep -qx 2
    "#;
    under_filters(ALL, &["git"], script);
}

#[test]
fn perl() {
    let script = r#"perl -MSocket -e '
        socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, 0) or die $!;
        if (my $pid = fork) { close $b; local $/; <$a> eq "hi" or die; waitpid $pid, 0; exit($? >> 8) }
        close $a; print $b "hi"; exit 0'"#;
    under_filters(ALL, &["perl"], script);
}

#[test]
fn python() {
    let script = r#"
cat > job.py <<'PY'
import asyncio, ctypes, mmap, multiprocessing as mp, os, random, select, signal, socket, sqlite3, subprocess, sys
import tempfile, threading, time
from multiprocessing import shared_memory

def square(n):
    with lock:
        counter.value += 1
    return n * n

def start(l, c):
    global lock, counter
    lock, counter = l, c

async def event_loop():
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
    return await asyncio.to_thread(lambda: 7)

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = mp.get_context(method)
        l, c = context.Lock(), context.Value("i", 0, lock=False)
        with context.Pool(2, start, (l, c)) as pool:
            assert pool.map(square, range(20)) == [n * n for n in range(20)]
        assert c.value == 20
    queue = mp.Queue(); queue.put("x"); assert queue.get() == "x"
    block = shared_memory.SharedMemory(create=True, size=4096)
    block.buf[0] = 1; block.close(); block.unlink()
    assert asyncio.run(event_loop()) == 7
    assert subprocess.run(["cat"], input=b"in", capture_output=True).stdout == b"in"
    os.sched_setaffinity(0, os.sched_getaffinity(0)); os.urandom(8); os.getloadavg()
    left, right = socket.socketpair(); left.sendmsg([b"y"]); assert right.recv(1) == b"y"
    database = sqlite3.connect("data.db"); database.execute("create table t (n)"); database.commit()
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(8192); mmap.mmap(file.fileno(), 8192).close()
    os.mkfifo("fifo"); os.utime("fifo"); signal.setitimer(signal.ITIMER_REAL, 60); signal.alarm(0)
    for thread in [threading.Thread(target=time.sleep, args=(0.01,)) for _ in range(4)]:
        thread.start(); thread.join()
    if sys.argv[1:] == ["network"]:
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname()); client.setsockopt(6, 1, 1)
        peer, _ = server.accept(); client.sendall(b"z"); assert peer.recv(1) == b"z"
        assert ("lo" in [name for _, name in socket.if_nameindex()])
    else:
        try:
            socket.socket()
        except OSError as error:
            assert error.errno == 97, error
        else:
            raise SystemExit("a socket in strict")
PY
python3 job.py "#;
    under_filters(WITH_NETWORK, &["python3"], &format!("{script} network"));
    under_filters(&[Level::Strict], &["python3"], &format!("{script} none"));
}

#[test]
fn numpy_and_pandas() {
    let imports = Command::new("python3").args(["-c", "import numpy, pandas"]).stderr(Stdio::null()).status();
    if !imports.is_ok_and(|status| status.success()) {
        eprintln!("not run: no numpy and pandas here");
        return;
    }
    let script = r#"
        python3 -c 'import numpy as n, pandas as p
a = n.random.rand(400, 400); assert abs((a @ n.linalg.inv(a)).trace() - 400) < 1e-3
assert p.DataFrame({"k": [1, 1, 2], "v": [1, 2, 3]}).groupby("k").v.sum().tolist() == [3, 3]'
    "#;
    under_filters(ALL, &["python3"], script);
}

#[test]
fn pip() {
    under_filters(ALL, &["python3", "pip3"], "pip3 --version > /dev/null && python3 -m venv --without-pip env");
}

#[test]
fn node() {
    let script = r#"
cat > job.js <<'JS'
const { Worker, isMainThread, parentPort } = require('worker_threads');
if (!isMainThread) { parentPort.postMessage(6 * 7); return; }
const fs = require('fs'), child = require('child_process'), crypto = require('crypto'), assert = require('assert');
let sum = 0;
for (let i = 0; i < 3e6; i++) sum = (sum + i * i) % 1000003;
const code = new WebAssembly.Module(Uint8Array.from([0, 97, 115, 109, 1, 0, 0, 0]));
new WebAssembly.Instance(code);
crypto.pbkdf2Sync('a', 'b', 1000, 32, 'sha256');
assert.equal(child.execFileSync('echo', ['hi']).toString(), 'hi\n');
fs.writeFileSync('f', 'x'); fs.watch('f').close(); fs.copyFileSync('f', 'g');
new Worker(__filename).once('message', (n) => {
  assert.equal(n, 42);
  if (process.argv[2] !== 'network') return;
  const server = require('http').createServer((_, reply) => reply.end('ok')).listen(0, '127.0.0.1', () =>
    require('http').get({ port: server.address().port, host: '127.0.0.1' }, (reply) => {
      reply.resume(); reply.on('end', () => server.close());
    }));
});
JS
node job.js "#;
    under_filters(WITH_NETWORK, &["node"], &format!("{script} network"));
    under_filters(&[Level::Strict], &["node"], &format!("{script} none"));
}

#[test]
fn gcc() {
    let script = r#"
        printf '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n' > hello.c
        gcc -O2 -pipe -o hello hello.c && [ "$(./hello)" = hello ]
    "#;
    under_filters(ALL, &["gcc"], script);
}

#[test]
fn rustc() {
    let script = r#"
        echo 'fn main() { std::thread::spawn(|| println!("hello")).join().unwrap(); }' > hello.rs
        rustc -o hello hello.rs && [ "$(./hello)" = hello ]
    "#;
    under_filters(ALL, &["rustc", "cc"], script);
}

#[test]
fn java() {
    let script = r#"
        java -version 2> /dev/null
        command -v javac > /dev/null || exit 0
        echo 'class Hello { public static void main(String[] a) throws Exception {
            Thread t = new Thread(() -> System.out.println("hello")); t.start(); t.join();
            if (new ProcessBuilder("true").start().waitFor() != 0) System.exit(1); } }' > Hello.java
        javac -J-XX:+UseSerialGC Hello.java && [ "$(java -XX:+UseNUMA Hello)" = hello ]
    "#;
    under_filters(ALL, &["java"], script);
}

#[test]
fn go() {
    let script = r#"
        printf 'package main\nimport ("fmt"; "os/exec")\nfunc main() { c := make(chan int); go func() { c <- 1 }(); <-c
        if exec.Command("true").Run() != nil { panic(1) }; fmt.Println("hello") }\n' > hello.go
        export GOCACHE="$HOME_FOR_TEST/cache" GOPATH="$HOME_FOR_TEST/path" GO111MODULE=off GOTELEMETRY=off
        go build -o hello hello.go && [ "$(./hello)" = hello ]
    "#;
    under_filters(ALL, &["go"], script);
}
