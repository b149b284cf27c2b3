//! The project's own operations on files, inside a sandbox, on workspaces that commands have filled with the worst.

#[path = "support/machine.rs"]
mod machine;
#[path = "support/engine.rs"]
mod support;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use sandkeep::wire::files::*;
use sandkeep::wire::*;
use support::*;

struct Scene {
    engine: Engine,
    front: Front,
    volume: VolumeWire,
}

const CONFIG: &str = "[workspaces]\nsize_mb = 8\nfiles = 1000\n";

fn scene() -> Option<Scene> {
    if !machine::expect("root") {
        return None;
    }
    let engine = Engine::start_with(CONFIG, &[]);
    let mut front = engine.connect();
    let volume = VolumeWire::Workspace { owner: "uid:1".into(), name: "w".into() };
    let opened = front.call(Verb::Open(Open { volume: volume.clone(), create: true, bytes: None }));
    assert!(matches!(opened, Reply::Opened { .. }), "{opened:?}");
    Some(Scene { engine, front, volume })
}

fn given(volume: &VolumeWire, read_only: bool) -> Vec<VolumeUseWire> {
    vec![VolumeUseWire { volume: volume.clone(), place: PlaceWire::Workspace, read_only }]
}

impl Scene {
    fn ask(&mut self, request: &FileRequest, input: &[u8]) -> (Answer, Vec<u8>) {
        ask(&mut self.front, &self.volume, request, input)
    }

    fn answer(&mut self, request: &FileRequest) -> Answer {
        self.ask(request, b"").0
    }

    #[track_caller]
    fn fails(&mut self, request: &FileRequest, kind: FaultKind) {
        match self.answer(request) {
            Answer::Failed(fault) => assert_eq!(fault.kind, kind, "{request:?} {fault:?}"),
            other => panic!("{request:?}: {other:?}"),
        }
    }

    fn bash(&mut self, script: &str) -> String {
        let id = random_id();
        let volumes = given(&self.volume, false);
        let ran = self.front.run_as(Create { volumes, ..create(&id, LevelWire::Standard) }, exec(&id, script));
        assert_eq!(ran.stderr, "", "{script}");
        ran.stdout
    }

    fn write(&mut self, path: &str, content: &[u8]) -> Answer {
        self.ask(&written(path, content.len()), content).0
    }
}

fn ask(front: &mut Front, volume: &VolumeWire, request: &FileRequest, input: &[u8]) -> (Answer, Vec<u8>) {
    let id = random_id();
    let read_only = matches!(
        request,
        FileRequest::Read { .. } | FileRequest::List(_) | FileRequest::Pack { .. } | FileRequest::Collect { .. }
    );
    let create =
        Create { runtime: "files".into(), volumes: given(volume, read_only), ..create(&id, LevelWire::Standard) };
    let (result, theirs) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let created = front.call(Verb::Create(create));
    assert!(matches!(created, Reply::Created(_)), "{created:?}");
    let (out, err, mut fds) = pipes();
    fds[0] = sealed(input);
    fds.extend([nothing(), sealed(&to_bytes(request).unwrap()), theirs]);
    let seq = front.send(Verb::Exec(Exec { argv: vec!["files".into()], ..exec(&id, "") }), &fds);
    drop(fds);
    let (out, err, result) = (read_bytes(out), read_bytes(err), read_bytes(result));
    let started = front.reply_to(seq).0;
    assert!(matches!(started, Reply::Started { .. }), "{started:?}");
    let end = front.wait_exited(&id);
    let (result, err) = (result.join().unwrap(), err.join().unwrap());
    assert_eq!(end.outcome, OutcomeWire::Exited { code: 0 }, "{request:?} {}", String::from_utf8_lossy(&err));
    (from_bytes(&result).unwrap(), out.join().unwrap())
}

fn read_bytes(fd: OwnedFd) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(fd), &mut bytes).unwrap();
        bytes
    })
}

fn read(path: &str) -> FileRequest {
    FileRequest::Read { path: path.into(), offset: 0, limit: 1 << 20 }
}

fn written(path: &str, bytes: usize) -> FileRequest {
    FileRequest::Write {
        path: path.into(),
        bytes: Some(bytes as u64),
        append: false,
        backup: false,
        parents: false,
        mode: None,
    }
}

fn listed(path: &str, recursive: bool, pattern: Option<&str>, hidden: bool, limit: u32) -> FileRequest {
    FileRequest::List(ListRequest { path: path.into(), recursive, pattern: pattern.map(Into::into), hidden, limit })
}

fn names(answer: Answer) -> (Vec<String>, bool) {
    match answer {
        Answer::Listed { entries, truncated } => (entries.into_iter().map(|e| e.path).collect(), truncated),
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_are_written_whole_or_not_at_all_and_read_in_ranges() {
    let Some(mut s) = scene() else { return };
    assert_eq!(s.write("a.txt", b"hello world"), Answer::Written { bytes: 11, size: 11, backup: None, made: true });
    let range = FileRequest::Read { path: "/workspace/a.txt".into(), offset: 6, limit: 3 };
    assert_eq!(s.ask(&range, b""), (Answer::Read { size: 11, bytes: 3 }, b"wor".to_vec()));
    let beyond = FileRequest::Read { path: "a.txt".into(), offset: 100, limit: 3 };
    assert_eq!(s.ask(&beyond, b""), (Answer::Read { size: 11, bytes: 0 }, Vec::new()));
    assert_eq!(s.bash("chmod 750 a.txt; stat -c '%a %U' a.txt"), "750 box\n");
    // Its mode stays; what was there is kept on request.
    let mut request = written("a.txt", 3);
    if let FileRequest::Write { backup, .. } = &mut request {
        *backup = true;
    }
    let answer = s.ask(&request, b"new").0;
    assert_eq!(answer, Answer::Written { bytes: 3, size: 3, backup: Some("a.txt.bak".into()), made: false });
    assert_eq!(s.bash("cat a.txt a.txt.bak; stat -c %a a.txt; ls -A"), "newhello world750\na.txt\na.txt.bak\n");
    // Set-id bits are nobody's to give.
    let mut request = written("b", 1);
    if let FileRequest::Write { mode, .. } = &mut request {
        *mode = Some(0o6755);
    }
    s.ask(&request, b"x");
    assert_eq!(s.bash("stat -c %a b"), "755\n");
    let mut request = written("d/e/f", 1);
    s.fails(&request, FaultKind::NotFound);
    if let FileRequest::Write { parents, append, .. } = &mut request {
        (*parents, *append) = (true, true);
    }
    s.ask(&request, b"1");
    assert_eq!(s.ask(&request, b"2").0, Answer::Written { bytes: 1, size: 2, backup: None, made: false });
    assert_eq!(s.bash("cat d/e/f"), "12");
    // Less than was promised is no file; more than fits leaves the old one, and nothing behind.
    s.fails(&written("a.txt", 5), FaultKind::Cut);
    let answer = s.write("a.txt", &vec![b'x'; 20 << 20]);
    assert!(matches!(&answer, Answer::Failed(fault) if fault.kind == FaultKind::NoSpace), "{answer:?}");
    let mut request = written("d/e/f", 20 << 20);
    if let FileRequest::Write { append, .. } = &mut request {
        *append = true;
    }
    let answer = s.ask(&request, &vec![b'x'; 20 << 20]).0;
    assert!(matches!(&answer, Answer::Failed(fault) if fault.kind == FaultKind::NoSpace), "{answer:?}");
    assert_eq!(
        s.bash("cat a.txt d/e/f; ls -A; [ $(df --output=used -k . | tail -1) -lt 100 ] && echo little"),
        "new12a.txt\na.txt.bak\nb\nd\nlittle\n"
    );
    // In pieces, whole and cut.
    let pieces = |ends: &[&[u8]]| ends.concat();
    let request =
        FileRequest::Write { path: "p".into(), bytes: None, append: false, backup: false, parents: false, mode: None };
    let whole = pieces(&[&3u32.to_le_bytes(), b"abc", &2u32.to_le_bytes(), b"de", &0u32.to_le_bytes()]);
    assert!(matches!(s.ask(&request, &whole).0, Answer::Written { bytes: 5, .. }));
    for cut in [&whole[..whole.len() - 4], &whole[..whole.len() - 5], &whole[..2], b""] {
        let answer = s.ask(&request, cut).0;
        assert!(matches!(&answer, Answer::Failed(fault) if fault.kind == FaultKind::Cut), "{answer:?}");
    }
    assert_eq!(s.bash("cat p"), "abcde");
    assert!(s.engine.stop());
}

#[test]
fn nothing_that_is_no_file_is_taken_for_one_and_nothing_hangs() {
    let Some(mut s) = scene() else { return };
    let script = "mkdir d; mkfifo fifo d/fifo; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'
        ln -s /etc/passwd abs; ln -s ../../etc/passwd up; ln -s loop loop; ln -s d/../x inner; echo in > x; ln x hard
        ln -s /proc/self/environ magic; ln -s /proc/1/root/etc/passwd root; ln -s fifo tofifo";
    s.bash(script);
    let began = Instant::now();
    for (path, kind) in [
        ("fifo", FaultKind::NotAFile),
        ("tofifo", FaultKind::NotAFile),
        ("sock", FaultKind::NotAFile),
        ("d", FaultKind::IsADirectory),
        ("abs", FaultKind::Outside),
        ("up", FaultKind::Outside),
        ("magic", FaultKind::Outside),
        ("root", FaultKind::Outside),
        ("loop", FaultKind::TooManyLinks),
        ("nonesuch", FaultKind::NotFound),
        ("x/y", FaultKind::NotADirectory),
        ("..", FaultKind::Outside),
        ("d/../../etc/passwd", FaultKind::Outside),
        ("/etc/passwd", FaultKind::Outside),
        ("/workspace/../etc/passwd", FaultKind::Outside),
        ("/proc/self/environ", FaultKind::Outside),
        (&"n".repeat(300), FaultKind::BadName),
    ] {
        s.fails(&read(path), kind);
    }
    for path in ["inner", "hard", "x", "d/../x"] {
        assert_eq!(s.ask(&read(path), b"").1, b"in\n", "{path}");
    }
    for (path, kind) in [
        ("fifo", FaultKind::NotAFile),
        ("sock", FaultKind::NotAFile),
        ("d", FaultKind::IsADirectory),
        ("d/", FaultKind::IsADirectory),
        (".", FaultKind::IsADirectory),
        ("../x", FaultKind::Outside),
        ("/etc/cron.d/x", FaultKind::Outside),
        ("loop/x", FaultKind::TooManyLinks),
    ] {
        s.fails(&written(path, 0), kind);
        let mut append = written(path, 0);
        if let FileRequest::Write { append, .. } = &mut append {
            *append = true;
        }
        s.fails(&append, kind);
    }
    // A link is replaced, not followed; the other name of a file keeps what it had.
    s.write("abs", b"mine");
    s.write("hard", b"new");
    assert_eq!(s.bash("cat abs hard x; stat -c %h x"), "mineNEWin\n1\n".replace("NEW", "new"));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(s.engine.stop());
}

#[test]
fn who_exchanges_directories_for_links_under_it_gains_nothing() {
    let Some(mut s) = scene() else { return };
    s.bash("mkdir -p a/b; echo in > a/b/f; ln -s /etc l");
    let id = random_id();
    // Exchanges a and a link to /etc as fast as it can (RENAME_EXCHANGE).
    let race = "import ctypes\nlibc = ctypes.CDLL(None)\nwhile True: libc.renameat2(-100, b'a', -100, b'l', 2)";
    let mut exec = exec(&id, &format!("mkdir -p a; exec python3 -c \"{race}\""));
    exec.wall_ms = 60_000;
    let mut front = s.engine.connect();
    let create = Create { volumes: given(&s.volume, false), ..create(&id, LevelWire::Standard) };
    let running = front.start_as(create, exec);
    let (mut inside, mut refused) = (0, 0);
    for _ in 0..60 {
        let (answer, bytes) = s.ask(&read("a/b/f"), b"");
        match answer {
            Answer::Read { .. } => {
                assert_eq!(bytes, b"in\n");
                inside += 1;
            }
            Answer::Failed(fault) => {
                assert!(matches!(fault.kind, FaultKind::Outside | FaultKind::NotFound), "{fault:?}");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
        let answer = s.write("a/passwd", b"x");
        assert!(
            matches!(&answer, Answer::Written { .. })
                || matches!(&answer, Answer::Failed(f) if matches!(f.kind, FaultKind::Outside | FaultKind::NotFound)),
            "{answer:?}"
        );
    }
    assert!(inside > 0 && refused > 0, "no race: {inside} {refused}");
    assert_eq!(front.call(Verb::Destroy { id: running.id.to_string() }), Reply::Done);
    assert!(s.engine.stop());
}

#[test]
fn directories_are_listed_within_bounds() {
    let Some(mut s) = scene() else { return };
    s.bash("mkdir -p src/deep .git; touch src/a.rs src/b.py src/deep/c.rs .git/x .hidden; mkfifo f; ln -s src l; truncate -s 5 src/a.rs; chmod 600 src/a.rs");
    let sorted = |all: &[&str]| (all.iter().map(|s| s.to_string()).collect::<Vec<_>>(), false);
    assert_eq!(names(s.answer(&listed(".", false, None, false, 100))), sorted(&["f", "l", "src"]));
    assert_eq!(names(s.answer(&listed(".", false, None, true, 100))), sorted(&[".git", ".hidden", "f", "l", "src"]));
    let deep = ["f", "l", "src", "src/a.rs", "src/b.py", "src/deep", "src/deep/c.rs"];
    assert_eq!(names(s.answer(&listed("/workspace", true, None, false, 100))), sorted(&deep));
    assert_eq!(names(s.answer(&listed(".", true, Some("*.rs"), false, 100))), sorted(&["src/a.rs", "src/deep/c.rs"]));
    assert_eq!(names(s.answer(&listed(".", true, Some("src/*.rs"), false, 100))), sorted(&["src/a.rs"]));
    assert_eq!(names(s.answer(&listed(".", true, Some("**/c.*"), false, 100))), sorted(&["src/deep/c.rs"]));
    assert!(names(s.answer(&listed(".", true, None, false, 3))).1);
    s.fails(&listed(".", true, Some("[a"), false, 3), FaultKind::BadName);
    s.fails(&listed("f", true, None, false, 3), FaultKind::NotADirectory);
    s.fails(&listed("../..", true, None, false, 3), FaultKind::Outside);
    let Answer::Listed { entries, .. } = s.answer(&listed("src", false, Some("a*"), false, 9)) else { panic!() };
    let one = &entries[0];
    assert_eq!((one.kind, one.size, one.mode, one.path.as_str()), (EntryKind::File, 5, 0o600, "a.rs"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    assert!((now - one.modified_ms).abs() < 60_000, "{}", one.modified_ms);
    // Deeper than anybody needs, and names that are no text.
    s.bash("python3 -c \"\nimport os\nos.mkdir('deep')\nfd = os.open('deep', os.O_RDONLY)\nfor _ in range(500):\n os.mkdir('d' * 100, dir_fd=fd)\n fd = os.open('d' * 100, os.O_RDONLY, dir_fd=fd)\n\"; touch $'\\xff\\xfe'");
    let (all, truncated) = names(s.answer(&listed(".", true, None, false, 10_000)));
    assert!(truncated && all.len() > 60, "{}", all.len());
    assert!(names(s.answer(&listed(".", false, None, false, 10_000))).0.contains(&"\u{fffd}\u{fffd}".to_owned()));
    let all = FileRequest::Remove { path: "deep".into(), recursive: true };
    s.fails(&FileRequest::Remove { path: "deep".into(), recursive: false }, FaultKind::NotEmpty);
    assert_eq!(s.answer(&all), Answer::Removed);
    s.fails(&all, FaultKind::NotFound);
    s.fails(&FileRequest::Remove { path: ".".into(), recursive: true }, FaultKind::IsADirectory);
    assert_eq!(s.answer(&FileRequest::Remove { path: "l".into(), recursive: true }), Answer::Removed);
    assert_eq!(s.bash("ls src"), "a.rs\nb.py\ndeep\n");
    assert!(s.engine.stop());
}

#[test]
fn archives_go_out_and_come_in_without_what_is_no_file_of_theirs() {
    let Some(mut s) = scene() else { return };
    let long = "n".repeat(120);
    s.bash(&format!("mkdir -p d/{long}; echo one > d/{long}/f; ln -s {long}/f d/l; mkfifo d/p; head -c 100000 /dev/zero > d/z; chmod 4755 d/z"));
    let (answer, archive) = s.ask(&FileRequest::Pack { path: "d".into() }, b"");
    let Answer::Packed { entries: 4, skipped, more_skipped: 0 } = answer else { panic!("{answer:?}") };
    assert_eq!(skipped, [Skipped { path: "p".into(), why: SkipReason::Kind }]);
    let unpack = |path: &str, most| FileRequest::Unpack { path: path.into(), entries_max: most };
    let (answer, _) = s.ask(&unpack("copy/of", 100), &archive);
    assert!(matches!(answer, Answer::Unpacked { entries: 4, bytes: 100_004, .. }), "{answer:?}");
    assert_eq!(s.bash("cd copy/of; cat l; cmp z ../../d/z; stat -c %a z; ls -A | wc -l"), "one\n755\n3\n");
    assert_eq!(s.ask(&unpack("x", 2), &archive).0, failed(FaultKind::TooManyEntries, "x"));
    assert!(
        matches!(s.ask(&unpack("x", 9), &archive[..archive.len() / 2]).0, Answer::Failed(f) if f.kind == FaultKind::Cut)
    );
    assert!(matches!(s.ask(&unpack("x", 9), &[b'x'; 2000]).0, Answer::Failed(f) if f.kind == FaultKind::NotAnArchive));
    s.bash("rm -r x copy");

    // Made by another hand, which knows no shame.
    let hostile = "import io, tarfile, sys
t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|')
def add(name, kind=tarfile.REGTYPE, link='', data=b'', mode=0o644):
    i = tarfile.TarInfo(name); i.type = kind; i.linkname = link; i.size = len(data); i.mode = mode; i.uid = 0
    t.addfile(i, io.BytesIO(data))
add('../up', data=b'x'); add('/abs', data=b'x'); add('a/../../up', data=b'x')
add('dev', tarfile.CHRTYPE); add('blk', tarfile.BLKTYPE); add('fifo', tarfile.FIFOTYPE)
add('out', tarfile.SYMTYPE, '/etc'); add('out2', tarfile.SYMTYPE, '../../etc'); add('hard', tarfile.LNKTYPE, '../f'); add('hard2', tarfile.LNKTYPE, 'nonesuch')
add('suid', data=b'x', mode=0o6777)
add('dir', tarfile.SYMTYPE, 'real'); add('real', tarfile.DIRTYPE); add('dir/f', data=b'through')
add('good', data=b'ok'); add('again', tarfile.LNKTYPE, 'good')
t.close()";
    let id = random_id();
    let made = std::process::Command::new("python3").args(["-c", hostile]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (answer, _) = s.ask(&unpack("in", 100), &made.stdout);
    let Answer::Unpacked { skipped, .. } = &answer else { panic!("{answer:?}") };
    let skipped: Vec<(&str, SkipReason)> = skipped.iter().map(|s| (s.path.as_str(), s.why)).collect();
    use SkipReason::{Failed, Kind, Link, Outside};
    let expected = [
        ("../up", Outside),
        ("/abs", Outside),
        ("a/../../up", Outside),
        ("dev", Kind),
        ("blk", Kind),
        ("fifo", Kind),
        ("out", Link),
        ("out2", Link),
        ("hard", Link),
        ("hard2", Failed),
    ];
    assert_eq!(skipped, expected, "{id}");
    let found = s.bash("cd in; find . -printf '%P %y %m\\n' | LC_ALL=C sort; cat again real/f; ls -A ..");
    let expected = " d 755\nagain f 644\ndir l 777\ngood f 644\nreal d 755\nreal/f f 644\nsuid f 777\nokthroughd\nin\n";
    assert_eq!(found, expected);
    // A bomb ends at the workspace's size, a million entries at the number of its files.
    let bomb = "import tarfile, sys, io
t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|')
i = tarfile.TarInfo('big'); i.size = 30 << 20
t.addfile(i, io.BytesIO(bytes(30 << 20))); t.close()";
    let made = std::process::Command::new("python3").args(["-c", bomb]).output().unwrap();
    assert!(matches!(s.ask(&unpack("b", 9), &made.stdout).0, Answer::Failed(f) if f.kind == FaultKind::NoSpace));
    let many = "import tarfile, sys
t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|')
for n in range(2000): t.addfile(tarfile.TarInfo(str(n)))
t.close()";
    let made = std::process::Command::new("python3").args(["-c", many]).output().unwrap();
    assert!(matches!(s.ask(&unpack("m", 9999), &made.stdout).0, Answer::Failed(f) if f.kind == FaultKind::NoSpace));
    assert!(s.engine.stop());
}

fn failed(kind: FaultKind, path: &str) -> Answer {
    Answer::Failed(FileFault { kind, path: path.into(), errno: 0 })
}

#[test]
fn files_are_placed_before_a_command_and_collected_after_it_at_every_level() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with("", &[]);
    for level in [LevelWire::Standard, LevelWire::Strict] {
        let mut front = engine.connect();
        let volume = VolumeWire::Scratch { id: format!("vol_{:026}", level as u32) };
        front.call(Verb::Open(Open { volume: volume.clone(), create: true, bytes: None }));
        let placed = |path: &str, bytes, executable| Placed { path: path.into(), bytes, executable };
        let files = vec![placed("in/data", 3, false), placed("run", 21, true)];
        let request = FileRequest::Place { files };
        assert_eq!(ask(&mut front, &volume, &request, b"abc#!/bin/sh\ncat in/data").0, Answer::Placed);
        let id = random_id();
        let strict = level == LevelWire::Strict;
        let create = Create { volumes: given(&volume, strict), ..create(&id, level) };
        let script = if strict {
            "cat in/data"
        } else {
            "./run; mkdir out; echo r > out/r.txt; echo s > out/s.bin; ln -s /etc/passwd out/l.txt"
        };
        assert_eq!(front.run_as(create, exec(&id, script)).stdout, "abc");
        if !strict {
            let collect =
                FileRequest::Collect { patterns: vec!["*.txt".into(), "run".into()], files_max: 9, bytes_max: 1000 };
            let (answer, bytes) = ask(&mut front, &volume, &collect, b"");
            let of = |path: &str, bytes, executable| Collected { path: path.into(), bytes, executable };
            let files = vec![of("out/r.txt", 2, false), of("run", 21, true)];
            assert_eq!(answer, Answer::Collected { files, truncated: false });
            assert_eq!(bytes, b"r\n#!/bin/sh\ncat in/data");
            let little = FileRequest::Collect { patterns: vec!["*".into()], files_max: 1, bytes_max: 1000 };
            assert!(matches!(ask(&mut front, &volume, &little, b"").0, Answer::Collected { truncated: true, .. }));
        }
    }
    assert!(engine.stop());
}
