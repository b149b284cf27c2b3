//! The machine as it was declared: `SANDKEEP_EXPECT=root,cgroup2,controllers,landlock=7,python3,node,…`.
//!
//! What is promised and missing fails the test; what is not promised and missing is not run, and said so. A test never
//! asks the engine what to expect of the engine.
#![allow(dead_code, reason = "each test program uses a part")]

use std::path::Path;

/// Whether this machine promises `name`.
pub fn promised(name: &str) -> bool {
    let declared = std::env::var("SANDKEEP_EXPECT").unwrap_or_default();
    declared.split(',').any(|word| word.split('=').next() == Some(name))
}

/// The number after `name=`, if one was declared.
pub fn promised_number(name: &str) -> Option<u32> {
    let declared = std::env::var("SANDKEEP_EXPECT").unwrap_or_default();
    declared.split(',').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// How often: `full` times, or `few` where the run says that its machine is slow (`SANDKEEP_SLOW_MACHINE`, as `scripts/vm`
/// does). For counts that show nothing more on another kernel.
pub fn times(full: usize, few: usize) -> usize {
    if std::env::var_os("SANDKEEP_SLOW_MACHINE").is_some() { few } else { full }
}

/// How long something may take that takes at most `seconds`: five times as much on a slow machine. For what must happen, not
/// for what says how fast.
pub fn soon(seconds: u64) -> std::time::Duration {
    std::time::Duration::from_secs(if std::env::var_os("SANDKEEP_SLOW_MACHINE").is_some() {
        5 * seconds
    } else {
        seconds
    })
}

/// False where sandboxes wait for calls (`SANDKEEP_TEST_AHEAD`): a test that counts what is left would count them.
pub fn nothing_waits() -> bool {
    let waits = std::env::var_os("SANDKEEP_TEST_AHEAD").is_some();
    if waits {
        println!("not run: what waits for calls would be counted");
    }
    !waits
}

/// True where the test may go on. Missing and promised: a failure. Missing and not promised: says so.
#[track_caller]
pub fn expect(name: &str) -> bool {
    if has(name) {
        if let Some(number) = promised_number(name) {
            assert_eq!(number_of(name), Some(number), "the machine promises {name}={number}");
        }
        return true;
    }
    assert!(!promised(name), "the machine promises {name} and does not have it");
    println!("not run: this machine has no {name}");
    false
}

#[track_caller]
pub fn expect_all(names: &[&str]) -> bool {
    names.iter().all(|name| expect(name))
}

fn has(name: &str) -> bool {
    match name {
        "root" => nix::unistd::geteuid().is_root(),
        "cgroup2" => cgroup2().is_some(),
        "controllers" => {
            let list = cgroup2().and_then(|m| std::fs::read_to_string(m.join("cgroup.controllers")).ok());
            list.is_some_and(|l| ["memory", "pids", "cpu"].iter().all(|c| l.split_whitespace().any(|w| w == *c)))
        }
        // Every program that `code_executor` may need, in its place.
        "languages" => sandkeep::policy::TOOLCHAINS.iter().all(|t| Path::new(t.program).exists()),
        "landlock" => landlock() > 0,
        "landlock-net" => landlock() >= 4,
        "landlock-scopes" => landlock() >= 6,
        // Sandkeep is installed and this test may do with the service what it likes.
        "systemd" => {
            let unit = |dir: &str| Path::new(dir).join("systemd/system/sandkeepd.service").exists();
            Path::new("/run/systemd/system").is_dir()
                && promised("systemd")
                && ["/usr/lib", "/usr/local/lib", "/etc"].iter().any(|dir| unit(dir))
        }
        "socket-watch" => socket_watch(),
        "memfd-noexec" => Path::new("/proc/sys/vm/memfd_noexec").exists(),
        "schema-suite" => schema_suite().join("tests/draft2020-12").is_dir(),
        "searxng" => searxng().join(".pins").exists(),
        "fault-injection" => cfg!(feature = "fault-injection"),
        program => ["/usr/bin", "/usr/local/bin", "/bin"].iter().any(|d| Path::new(d).join(program).exists()),
    }
}

/// Where `scripts/fetch-schema-suite` leaves the JSON-Schema-Test-Suite.
pub fn schema_suite() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/json-schema-suite")
}

/// Where `scripts/fetch-searxng` leaves a Python with a real SearXNG.
pub fn searxng() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/searxng-venv")
}

fn number_of(name: &str) -> Option<u32> {
    (name == "landlock").then(landlock)
}

/// The kernel's own answer.
pub fn landlock() -> u32 {
    sandkeep::sys::process::landlock_abi()
}

/// Whether a program can be attached to a cgroup that notes internet sockets. Tried on an empty one.
fn socket_watch() -> bool {
    use std::os::fd::AsFd;
    let Some(dir) = cgroup2().map(|m| m.join(format!("sandkeep-try-{}", std::process::id()))) else { return false };
    if std::fs::create_dir(&dir).is_err() {
        return false;
    }
    let attached = std::fs::File::open(&dir).and_then(|fd| sandkeep::sys::bpf::SocketWatch::attach(fd.as_fd(), 1));
    std::fs::remove_dir(&dir).unwrap();
    attached.is_ok()
}

/// Where cgroup2 is mounted, from the mount table.
pub fn cgroup2() -> Option<std::path::PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|l| l.contains(" - cgroup2 ") && l.split(' ').nth(3) == Some("/"))?;
    Some(line.split(' ').nth(4)?.into())
}

pub fn controllers() -> bool {
    has("controllers")
}

pub fn memfd_noexec() -> bool {
    has("memfd-noexec")
}
