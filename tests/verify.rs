//! `sandkeep verify` against a whole daemon: all green on a good one, and each fence that is left out named.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/machine.rs"]
mod machine;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use daemon::Daemon;
use serde_json::Value;

const MINIMAL_TOO: &str = "[levels]\nminimal = true\n";
const NOBODY: u32 = 65_534;

/// Where verify puts its directory: its unprivileged controls must be able to walk there.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn verify(socket: &Path, tmp: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandkeep"));
    command.arg("--socket").arg(socket).arg("verify").args(args).env("TMPDIR", tmp).stdin(Stdio::null());
    command.output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// `fence at level` of every cell with that status.
fn cells(report: &Value, status: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for fence in report["fences"].as_array().unwrap() {
        for (level, cell) in fence["levels"].as_object().unwrap() {
            if cell["status"] == status {
                found.insert(format!("{} at {level}", fence["fence"].as_str().unwrap()));
            }
        }
    }
    found
}

/// Every check that did not pass, in full.
fn failed(report: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for fence in report["fences"].as_array().unwrap() {
        for (level, cell) in fence["levels"].as_object().unwrap() {
            let checks = cell["checks"].as_array().unwrap().iter();
            let wrong = checks.filter(|c| c["status"] == "fail" || cell["status"] == "untested");
            found.extend(wrong.map(|check| format!("{} at {level}: {check}", fence["fence"])));
        }
    }
    found
}

fn fences(report: &Value, status: &str) -> BTreeSet<String> {
    cells(report, status).iter().map(|c| c.split(' ').next().unwrap().to_owned()).collect()
}

fn set(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(ToString::to_string).collect()
}

/// What no kernel gives at these levels; a host without controllers gives less still.
fn not_promised() -> BTreeSet<String> {
    let mut all = set(&[
        "overlay at minimal",
        "memfd-noexec at minimal",
        "memfd-noexec at standard",
        "user-namespace at minimal",
        "uts-namespace at minimal",
        "cgroup-namespace at minimal",
        "time-namespace at minimal",
        "time-offsets at minimal",
        "namespace-sysctls at minimal",
        "net-namespace at minimal",
    ]);
    if !machine::controllers() {
        for level in ["minimal", "standard", "strict"] {
            all.extend([format!("memory-limit at {level}"), format!("cpu-share at {level}")]);
        }
    }
    all
}

#[test]
fn everything_that_is_promised_passes_and_nothing_is_left() {
    if !machine::expect_all(&["root", "cgroup2", "landlock", "python3"]) {
        return;
    }
    let daemon = Daemon::start(MINIMAL_TOO, &[]);
    let tmp = open_dir();
    let xml = tmp.path().join("report.xml");
    let begin = Instant::now();
    let output = verify(&daemon.socket(), tmp.path(), &["--json", "--junit", xml.to_str().unwrap()]);
    let took = begin.elapsed();
    let report = json(&output);
    for status in ["fail", "untested", "not_run"] {
        let found = cells(&report, status);
        assert!(found.is_empty(), "{status}: {found:?}\n{}", daemon.log());
    }
    assert_eq!(cells(&report, "not_promised"), not_promised());
    assert_eq!(output.status.code(), Some(0));
    // The daemon's own words, and nobody else's, excuse what a degraded host lacks.
    for fence in report["fences"].as_array().unwrap() {
        for (level, cell) in fence["levels"].as_object().unwrap() {
            let checks = cell["checks"].as_array().unwrap();
            if cell["status"] == "pass" {
                assert!(checks.iter().any(|c| c["status"] == "pass"), "{fence}");
            }
            let state = report["levels"].as_array().unwrap().iter().find(|l| l["level"] == level.as_str()).unwrap();
            for excuse in checks.iter().filter(|c| c["status"] == "not_promised") {
                assert!(state["degraded"].as_array().unwrap().contains(&excuse["reason"]), "{excuse}");
            }
        }
    }
    let maximum = report["levels"].as_array().unwrap().iter().find(|l| l["level"] == "maximum").unwrap();
    assert_eq!(maximum["available"], false);
    assert!(maximum["reason"].as_str().unwrap().contains("Docker"), "{maximum}");
    assert_eq!(report["summary"]["pass"], cells(&report, "pass").len());

    junit(&xml, &report);
    // Nothing but the report is left in the directory, and no call.
    let left: Vec<_> = fs::read_dir(tmp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["report.xml"]);
    assert_eq!(daemon.request("GET", "/api/v1/executions", None).body["total"], 0);
    println!("{took:?}");
    // Where controllers are promised the machine may be an emulated one.
    let most = if machine::promised("controllers") { 240 } else { 60 };
    assert!(took < Duration::from_secs(most), "{took:?}");
}

/// Read by a parser that is not ours.
fn junit(xml: &Path, report: &Value) {
    const READ: &str = "import sys, xml.etree.ElementTree as e\n\
        for s in e.parse(sys.argv[1]).getroot():\n\
        \x20cases = s.findall('testcase')\n\
        \x20tags = [c.tag for t in cases for c in t]\n\
        \x20print(s.get('name'), s.get('tests'), s.get('failures'), s.get('errors'), s.get('skipped'), len(cases), \
        tags.count('failure'), tags.count('skipped'))";
    let read = Command::new("python3").args(["-c", READ]).arg(xml).output().unwrap();
    assert!(read.status.success(), "{read:?}");
    let text = String::from_utf8(read.stdout).unwrap();
    let suites: Vec<Vec<&str>> = text.lines().map(|l| l.split(' ').collect()).collect();
    assert_eq!(suites.iter().map(|s| s[0]).collect::<Vec<_>>(), ["minimal", "standard", "strict", "maximum"]);
    let fences = report["fences"].as_array().unwrap().len().to_string();
    for suite in &suites[..3] {
        let excused = cells(report, "not_promised").iter().filter(|c| c.ends_with(suite[0])).count().to_string();
        assert_eq!(suite[1..], [&fences, "0", "0", &excused, &fences, "0", &excused], "{suite:?}");
    }
    assert_eq!(suites[3][1..], ["1", "0", "0", "1", "1", "0", "1"]);
}

#[test]
fn a_caller_who_is_not_root_is_told_what_only_root_sees() {
    if !machine::expect_all(&["root", "cgroup2", "python3"]) {
        return;
    }
    let daemon = Daemon::start("[[principals]]\nname = \"nobody\"\nuids = [65534]\nrole = \"user\"\n", &[]);
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(daemon.dir.path(), 0o755);
    mode(&daemon.socket(), 0o666);
    let tmp = open_dir();
    let program = tmp.path().join("sandkeep");
    fs::copy(env!("CARGO_BIN_EXE_sandkeep"), &program).unwrap();
    let own = tmp.path().join("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    let output = Command::new(&program)
        .args(["--json", "--socket"])
        .arg(daemon.socket())
        .arg("verify")
        .env("TMPDIR", &own)
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{:?} {:?}", cells(&report, "fail"), cells(&report, "untested"));
    assert_eq!((&report["root"], report["summary"]["untested"].as_u64()), (&Value::Bool(false), Some(0)));
    // All that is seen from the host alone.
    assert_eq!(fences(&report, "not_run"), set(&["descriptors", "report"]));
    let fence = |id: &str| report["fences"].as_array().unwrap().iter().find(|f| f["fence"] == id).unwrap().clone();
    let reasons = &fence("descriptors")["levels"]["strict"]["reasons"];
    assert_eq!(*reasons, serde_json::json!(["needs root"]));
    // Uids are told by replies.
    assert_eq!(fence("lease")["levels"]["strict"]["status"], "pass");
    let minimal = &report["levels"][0];
    assert_eq!((&minimal["available"], &minimal["reason"]), (&false.into(), &"turned off on this host".into()));
    assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
}

#[test]
fn other_calls_make_no_fence_fail() {
    if !machine::expect_all(&["root", "cgroup2", "python3"]) {
        return;
    }
    let daemon = Daemon::start(MINIMAL_TOO, &[]);
    let tmp = open_dir();
    let over = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        for n in 0..20 {
            let (daemon, over) = (&daemon, &over);
            scope.spawn(move || {
                let script =
                    ["sleep 0.3", "sleep 1", "head -c 100000 /dev/zero | wc -c", "sleep 0.2 & sleep 0.5"][n % 4];
                while !over.load(Ordering::Relaxed) {
                    daemon.bash(script, 30.0);
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let output = verify(&daemon.socket(), tmp.path(), &["--json"]);
        over.store(true, Ordering::Relaxed);
        output
    });
    let report = json(&output);
    let wrong = (cells(&report, "fail"), cells(&report, "untested"));
    assert!(wrong.0.is_empty() && wrong.1.is_empty(), "{wrong:?}\n{}", failed(&report).join("\n"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn who_can_not_be_asked_is_told_from_what_fails() {
    if !machine::expect_all(&["root", "python3"]) {
        return;
    }
    let tmp = open_dir();
    let nowhere = verify(&tmp.path().join("none.sock"), tmp.path(), &[]);
    assert_eq!(nowhere.status.code(), Some(125), "{nowhere:?}");
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("no daemon answers"), "{nowhere:?}");
    let daemon = Daemon::start("", &[]);
    let ask = |args: &[&str]| verify(&daemon.socket(), tmp.path(), args);
    // Off by default: no fault by itself, one where it is asked for.
    let asked = ask(&["--level", "minimal", "--fence", "launch"]);
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    assert!(String::from_utf8_lossy(&asked.stdout).contains("minimal, and was asked for: turned off on this host"));
    let one = ask(&["--level", "strict", "--fence", "masks", "--junit", "-"]);
    assert_eq!(one.status.code(), Some(0), "{one:?}");
    let xml = String::from_utf8(one.stdout).unwrap();
    assert!(xml.starts_with("<?xml") && xml.matches("<testcase").count() == 1, "{xml}");
    assert_eq!(ask(&["--json", "--junit", "-"]).status.code(), Some(125));
    assert_eq!(ask(&["--fence", "hope"]).status.code(), Some(2));
    assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    use nix::sys::signal::{Signal, kill};
    if !machine::expect_all(&["root", "python3"]) {
        return;
    }
    let daemon = Daemon::start("", &[]);
    let tmp = open_dir();
    let mut child = Command::new(env!("CARGO_BIN_EXE_sandkeep"))
        .arg("--socket")
        .arg(daemon.socket())
        .arg("verify")
        .env("TMPDIR", tmp.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(700));
    kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
    let deadline = Instant::now() + Duration::from_secs(5);
    while daemon.request("GET", "/api/v1/executions", None).body["total"] != 0 {
        assert!(Instant::now() < deadline, "its calls go on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(feature = "fault-injection")]
mod left_out {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use sandkeep::launch::fault::Fence;

    use super::*;

    struct Drop {
        fences: &'static [&'static str],
        /// What stands on it, and may fail with it.
        also: &'static [&'static str],
        level: &'static str,
        needs: &'static str,
    }

    const fn alone(fences: &'static [&'static str]) -> Drop {
        Drop { fences, also: &[], level: "strict", needs: "root" }
    }

    const DROPS: &[Drop] = &[
        // The kernel then takes no filter: no sandbox can be built, and the cause is named.
        Drop { also: &["launch"], ..alone(&["no-new-privs"]) },
        // With its capabilities kept pid 1 may install one.
        alone(&["no-new-privs", "capabilities"]),
        alone(&["seccomp"]),
        // Without a user namespace of its own nothing else stands before those that a process may make.
        Drop { level: "minimal", also: &["new-namespaces"], ..alone(&["seccomp"]) },
        alone(&["workload-filter"]),
        alone(&["landlock"]),
        Drop { level: "standard", ..alone(&["landlock"]) },
        Drop { level: "minimal", ..alone(&["landlock"]) },
        alone(&["capabilities"]),
        alone(&["namespace-sysctls"]),
        alone(&["dumpable"]),
        Drop { level: "minimal", ..alone(&["dumpable"]) },
        alone(&["overlay"]),
        alone(&["masks"]),
        Drop { level: "minimal", ..alone(&["masks"]) },
        alone(&["read-only-proc"]),
        alone(&["noexec"]),
        Drop { level: "standard", ..alone(&["noexec"]) },
        Drop { needs: "memfd-noexec", ..alone(&["memfd-noexec"]) },
        alone(&["net-namespace"]),
        alone(&["ipc-namespace"]),
        Drop { level: "minimal", ..alone(&["ipc-namespace"]) },
        alone(&["uts-namespace"]),
        alone(&["lease"]),
        // One file's size is a limit of each process, and so is, without a controller, the number of processes.
        Drop { also: &["file-size", "pids-limit"], ..alone(&["rlimits"]) },
        alone(&["scratch-size"]),
        alone(&["time-offsets"]),
        alone(&["read-only-root"]),
        alone(&["descriptors"]),
        alone(&["core-limit"]),
        // Layers that stand behind each other, both down.
        Drop { also: &["first-process"], ..alone(&["dumpable", "landlock"]) },
        alone(&["noexec", "landlock"]),
        Drop { level: "standard", ..alone(&["net-namespace", "landlock"]) },
        Drop { also: &["new-namespaces"], ..alone(&["seccomp", "workload-filter", "namespace-sysctls"]) },
    ];

    fn one(drop: &Drop) -> Result<(), String> {
        let flags: Vec<&str> = drop.fences.iter().flat_map(|f| ["--drop-fence", f]).collect();
        let daemon = Daemon::start(MINIMAL_TOO, &flags);
        let tmp = open_dir();
        let output = verify(&daemon.socket(), tmp.path(), &["--json", "--level", drop.level]);
        let report = json(&output);
        let failed = fences(&report, "fail");
        let named = drop.fences.iter().all(|f| failed.contains(*f));
        let too_many: Vec<_> =
            failed.iter().filter(|f| !drop.fences.contains(&f.as_str()) && !drop.also.contains(&f.as_str())).collect();
        println!("{:?} at {}: {failed:?}", drop.fences, drop.level);
        if named && too_many.is_empty() && output.status.code() == Some(1) {
            Ok(())
        } else {
            Err(format!("{:?} at {}: failed {failed:?}, {:?}", drop.fences, drop.level, output.status))
        }
    }

    /// A part of the table, so that parts can run side by side.
    fn part(n: usize, of: usize) {
        if !machine::expect_all(&["root", "cgroup2", "landlock", "python3"]) {
            return;
        }
        let todo: Mutex<VecDeque<&Drop>> = Mutex::new(DROPS.iter().skip(n).step_by(of).collect());
        let wrong = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some(drop) = { todo.lock().unwrap().pop_front() } {
                        if machine::expect(drop.needs)
                            && let Err(what) = one(drop)
                        {
                            wrong.lock().unwrap().push(what);
                        }
                    }
                });
            }
        });
        let wrong = wrong.into_inner().unwrap();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_fence_is_named_1() {
        part(0, 2);
    }

    #[test]
    fn a_fence_is_named_2() {
        part(1, 2);
    }

    #[test]
    fn every_fence_is_left_out_once() {
        for (name, _) in Fence::ALL {
            assert!(DROPS.iter().any(|d| d.fences == [name]), "{name}");
        }
    }
}
