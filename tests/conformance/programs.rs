//! Real programs at standard and at strict.

use sandkeep::wire::*;

use crate::machine;
use crate::support::*;

fn runs(level: LevelWire, needs: &[&str], script: &str, expected: &str) {
    if !machine::expect("root") || !machine::expect_all(needs) {
        return;
    }
    let engine = Engine::start(&[]);
    let ran = engine.connect().run(level, &format!("set -e\n{script}"));
    assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 0 }, "{}\n{}", ran.stdout, ran.stderr);
    assert_eq!(ran.stdout, expected, "{}", ran.stderr);
}

use LevelWire::{Standard, Strict};

#[test]
fn shell_and_coreutils() {
    let script = "printf '3\\n1\\n2\\n' | sort | tr '\\n' ' '; echo; a=(x y z); echo ${#a[@]} | sed s/3/three/\n\
                  mkdir -p /tmp/a/b; touch /tmp/a/b/c; find /tmp/a -type f | wc -l; seq 1 100 | awk '{s+=$1} END {print s}'\n\
                  df -h / > /dev/null; date +%Y | grep -qE '^20'; diff <(echo a) <(echo a) && cat <<< here; nproc > /dev/null";
    let expected = "1 2 3 \nthree\n1\n5050\nhere\n";
    runs(Standard, &["bash"], script, expected);
    runs(Strict, &["bash"], script, expected);
}

#[test]
fn git() {
    let script = "cd /workspace; git init -q .; git config user.email a@b; git config user.name a\n\
                  for n in 1 2 3; do echo $n > f$n; git add .; git commit -qm $n; done; git gc -q; git log --oneline | wc -l\n\
                  git clone -q . ../tmp/clone; ls /tmp/clone | tr '\\n' ' '; git fsck";
    runs(Standard, &["git"], script, "3\nf1 f2 f3 ");
}

#[test]
fn python_with_its_processes() {
    let script = "cat > /tmp/t.py <<'X'\n\
                  import multiprocessing as mp, threading, tempfile, subprocess, sqlite3, socket\n\
                  from multiprocessing import shared_memory\n\
                  def f(x): return x * x\n\
                  if __name__ == '__main__':\n \
                  with mp.Pool(3) as pool: print(sum(pool.map(f, range(10))))\n \
                  with mp.Lock(): print('lock')\n \
                  s = shared_memory.SharedMemory(create=True, size=4096); s.buf[0] = 7; print(s.buf[0]); s.close(); s.unlink()\n \
                  q = mp.Queue(); p = mp.Process(target=q.put, args=('queue',)); p.start(); print(q.get()); p.join()\n \
                  t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n \
                  print(subprocess.check_output(['echo', 'sub']).decode().strip())\n \
                  db = sqlite3.connect(tempfile.mktemp()); db.execute('create table t(x)'); db.commit(); print('sql')\n \
                  a, b = socket.socketpair(); a.send(b'pair'); print(b.recv(9).decode())\n\
                  X\n\
                  python3 /tmp/t.py";
    let expected = "285\nlock\n7\nqueue\nthread\nsub\nsql\npair\n";
    runs(Standard, &["python3"], script, expected);
    runs(Strict, &["python3"], script, expected);
}

#[test]
fn node() {
    let script = "node -e 'const {Worker}=require(\"worker_threads\"),fs=require(\"fs\"),cp=require(\"child_process\");\n\
                  fs.writeFileSync(\"/tmp/x\",\"1\"); console.log(fs.readFileSync(\"/tmp/x\").toString(), cp.execSync(\"echo sub\").toString().trim());\n\
                  new Worker(\"require(\\\"worker_threads\\\").parentPort.postMessage(42)\",{eval:true}).on(\"message\",m=>console.log(m));'";
    runs(Standard, &["node"], script, "1 sub\n42\n");
    runs(Strict, &["node"], script, "1 sub\n42\n");
}

#[test]
fn gcc() {
    let script =
        "cd /tmp; echo 'int puts(const char*); int main(){puts(\"built\");return 0;}' > a.c; gcc -O2 a.c -o a; ./a";
    runs(Standard, &["gcc"], script, "built\n");
}

#[test]
fn perl() {
    let script = "perl -e 'my @a = map { $_ ** 2 } 1..4; print \"@a\\n\"; my $p = fork; if (!$p) { exit 3 } wait; print $? >> 8, \"\\n\"'";
    runs(Standard, &["perl"], script, "1 4 9 16\n3\n");
    runs(Strict, &["perl"], script, "1 4 9 16\n3\n");
}

#[test]
fn tar() {
    let script = "cd /tmp; mkdir d; echo x > d/f; ln -s f d/l; mkfifo d/p; chmod 640 d/f; tar czf t.tgz d; rm -r d; tar xzpf t.tgz\n\
                  stat -c '%a %F' d/f d/l d/p";
    runs(Standard, &["tar"], script, "640 regular file\n777 symbolic link\n644 fifo\n");
}

#[test]
fn java() {
    let script = "cd /tmp; echo 'class A{public static void main(String[] a){System.out.println(\"jvm\");}}' > A.java; java A.java";
    runs(Standard, &["java"], script, "jvm\n");
}

/// Strict runs what the runtime directories hold and nothing else; at standard the same works.
#[test]
fn strict_runs_nothing_that_was_brought_along() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let copied =
        "cp /usr/bin/true /tmp/t; chmod 755 /tmp/t; /tmp/t; echo $?; cp /usr/bin/true /dev/shm/t; /dev/shm/t; echo $?";
    assert_eq!(front.run(Standard, copied).stdout, "0\n126\n");
    assert_eq!(front.run(Strict, copied).stdout, "126\n126\n");
    assert_eq!(front.run(Strict, "echo x > /workspace/f; echo $?; echo x > /usr/f; echo $?").stdout, "1\n1\n");
}
