//! `sandkeep doctor` on the machine as it is, and on one from which something was taken away.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/machine.rs"]
mod machine;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use daemon::Daemon;
use serde_json::{Value, json};

const SANDKEEP: &str = env!("CARGO_BIN_EXE_sandkeep");
const LEVELS: [&str; 3] = ["minimal", "standard", "strict"];

struct Doctor {
    report: Value,
    code: i32,
}

impl Doctor {
    fn run(command: &mut Command) -> Self {
        let out = command.output().unwrap();
        let report = serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|e| panic!("{e}: {:?}: {}", out.status, String::from_utf8_lossy(&out.stderr)));
        Self { report, code: out.status.code().unwrap() }
    }

    fn offline(extra: &[&str]) -> Self {
        Self::run(Command::new(SANDKEEP).args(["doctor", "--offline", "--json"]).args(extra))
    }

    /// In a mount namespace of its own, after `script`.
    fn after(script: &str) -> Self {
        let script = format!("{script} exec {SANDKEEP} doctor --offline --json --allow-degraded");
        Self::run(Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-ec", &script]))
    }

    /// Without a capability.
    fn without(capability: &str) -> Self {
        let dropped = format!("-{capability}");
        let mut command = Command::new("setpriv");
        command.args(["--inh-caps", &dropped, "--bounding-set", &dropped, SANDKEEP, "doctor", "--offline", "--json"]);
        Self::run(command.arg("--allow-degraded"))
    }

    fn check(&self, id: &str) -> &Value {
        let all = self.report["checks"].as_array().unwrap().iter().chain(self.report["deployment"].as_array().unwrap());
        all.into_iter().find(|c| c["id"] == id).unwrap_or_else(|| panic!("no {id} in {:#}", self.report))
    }

    fn status(&self, id: &str) -> &str {
        self.check(id)["status"].as_str().unwrap()
    }

    fn found(&self, id: &str) -> &str {
        self.check(id)["found"].as_str().unwrap()
    }

    fn state(&self, level: &str) -> &str {
        let levels = self.report["levels"].as_array().unwrap();
        levels.iter().find(|l| l["level"] == level).unwrap()["state"].as_str().unwrap()
    }
}

/// What a probe might leave: cgroups, and entries of directories that it uses.
fn traces() -> Vec<String> {
    let mut directories = vec!["/run".to_owned(), "/tmp".to_owned()];
    if let Some(mount) = machine::cgroup2() {
        directories.push(mount.display().to_string());
    }
    let listed = |dir: &String| {
        let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path().display().to_string());
        entries.filter(|name| name.contains("sandkeep-probe")).collect::<Vec<_>>()
    };
    directories.iter().flat_map(listed).collect()
}

/// Other tests' probes come and go; what is left stays.
#[track_caller]
fn nothing_is_left() {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !traces().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", traces());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn without_a_daemon_the_host_is_tried_out_and_nothing_is_left() {
    if !machine::expect("root") {
        return;
    }
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let doctor = Doctor::offline(&[]);
    assert_eq!(doctor.report["source"], "probe");
    assert_eq!(doctor.report["host"]["landlock_abi"], machine::landlock());
    assert_eq!(doctor.report["exit_code"], doctor.code);
    for id in ["user_namespaces", "proc_mount", "time_namespaces", "cgroup2", "seccomp", "landlock", "overlay"] {
        assert_eq!(doctor.status(id), "ok", "{:#}", doctor.check(id));
    }
    if machine::controllers() {
        assert!(LEVELS[1..].iter().all(|level| doctor.state(level) == "available"), "{:#}", doctor.report);
        assert!(doctor.code < 2);
    } else {
        let owned = std::fs::read_to_string("/proc/cgroups").unwrap();
        for name in ["memory", "pids", "cpu"] {
            let check = doctor.check(&format!("controller_{name}"));
            assert_eq!((&check["status"], &check["costs"]), (&json!("failure"), &json!(LEVELS)), "{check:#}");
            let hierarchy =
                owned.lines().find(|l| l.starts_with(&format!("{name}\t"))).and_then(|l| l.split('\t').nth(1));
            if hierarchy.is_some_and(|number| number != "0") {
                assert!(check["found"].as_str().unwrap().contains("belongs to cgroup v1"), "{check:#}");
                assert!(check["fix"].as_str().unwrap().contains("kernel's command line"), "{check:#}");
            }
        }
        assert!(LEVELS.iter().all(|level| doctor.state(level) == "unavailable"));
        assert_eq!(doctor.code, 2);
        let degraded = Doctor::offline(&["--allow-degraded"]);
        assert_eq!((degraded.state("strict"), degraded.code), ("degraded", 1));
        assert_eq!(degraded.check("controller_memory")["degrades"], json!(LEVELS));
    }
    assert_eq!(doctor.state("maximum"), "unavailable");
    nothing_is_left();
    assert_eq!(before, std::fs::read_to_string("/proc/self/mountinfo").unwrap());
}

#[test]
fn the_daemon_and_its_doctor_say_the_same_and_a_probe_beside_it_disturbs_nothing() {
    if !machine::expect("root") {
        return;
    }
    let daemon = Daemon::start("[levels]\nminimal = true\n[leases]\nfirst_uid = 1998000000\ncount = 256\n", &[]);
    let config = daemon.dir.path().join("sandkeep.toml");
    let doctor = || {
        let mut command = Command::new(SANDKEEP);
        Doctor::run(command.args(["doctor", "--json"]).arg("--socket").arg(daemon.socket()))
    };
    let told = daemon.request("GET", "/api/v1/capabilities", None).body;
    let online = doctor();
    assert_eq!(online.report["source"], "daemon");
    // How much memory is available is looked at anew each time.
    let still = |checks: &Value| {
        let all = checks.as_array().unwrap().iter().filter(|c| c["id"] != "memory");
        all.cloned().collect::<Vec<_>>()
    };
    assert_eq!(still(&online.report["checks"]), still(&told["checks"]));
    assert_eq!(online.status("daemon"), "ok");
    assert!(online.status("lease_range") == "ok" && online.found("lease_range").contains("held by this engine"));
    let expected = if machine::controllers() { "available" } else { "degraded" };
    for level in LEVELS {
        assert_eq!(online.state(level), expected);
        let of_daemon = told["levels"].as_array().unwrap().iter().find(|l| l["level"] == level).unwrap();
        assert_eq!(of_daemon["available"], true);
        assert_eq!(of_daemon["degraded"].as_array().unwrap().is_empty(), expected == "available");
    }
    assert!(online.code < 2, "{:#}", online.report);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| daemon.bash("for i in $(seq 40); do sleep 0.05; done; echo done", 20.0));
        std::thread::sleep(Duration::from_millis(300));
        for _ in 0..5 {
            let beside = Doctor::offline(&["--config", config.to_str().unwrap()]);
            assert_eq!(beside.status("lease_range"), "info", "{:#}", beside.check("lease_range"));
            assert!(beside.found("lease_range").contains("held by an engine that runs"));
        }
        let reply = call.join().unwrap();
        assert_eq!((&reply["outcome"]["kind"], &reply["result"]["stdout"]), (&json!("exited"), &json!("done\n")));
    });
    assert_eq!(still(&doctor().report["checks"]), still(&told["checks"]));
    nothing_is_left();
    assert!(daemon.stop().1);
    // The control: the lease is free once the daemon is gone.
    let gone = Doctor::offline(&[]);
    assert_eq!(gone.status("lease_range"), "ok");
}

#[test]
fn what_is_taken_away_shows_and_costs_its_levels() {
    if !machine::expect("root") {
        return;
    }
    let control = Doctor::after("");
    let private = json!(["standard", "strict"]);
    for id in ["proc_mount", "overlay", "cgroup2", "runtime_python", "user_namespaces"] {
        assert_eq!(control.status(id), "ok", "{:#}", control.check(id));
    }

    // As in a container: something lies over a part of the host's /proc.
    let masked = Doctor::after("mount --bind /dev/null /proc/version;");
    let check = masked.check("proc_mount");
    assert_eq!((&check["status"], &check["costs"]), (&json!("failure"), &private), "{check:#}");
    assert!(check["found"].as_str().unwrap().contains("EPERM"), "{check:#}");
    assert_eq!((masked.state("strict"), masked.code), ("unavailable", 2));
    assert_eq!(masked.status("user_namespaces"), "ok");

    if let Some(mount) = machine::cgroup2() {
        let none = Doctor::after(&format!("umount --lazy {};", mount.display()));
        let check = none.check("cgroup2");
        assert_eq!((&check["status"], &check["degrades"]), (&json!("warning"), &json!(LEVELS)), "{check:#}");
        assert!(check["found"].as_str().unwrap().contains("no cgroup2 mount"), "{check:#}");
        assert_eq!(none.report["host"]["cgroup2"], false);
    }

    if let Some(mount) = machine::cgroup2() {
        let fixed = Doctor::after(&format!("mount -o remount,bind,ro {};", mount.display()));
        let check = fixed.check("cgroup2");
        assert_eq!((&check["status"], &check["costs"]), (&json!("failure"), &json!(LEVELS)), "{check:#}");
        assert!(check["found"].as_str().unwrap().contains("EROFS"), "{check:#}");
        assert!(check["fix"].as_str().unwrap().contains("remount,rw"), "{check:#}");
    }

    let python = Doctor::after("mount --bind /dev/null $(readlink -f /usr/bin/python3);");
    assert_eq!(python.status("runtime_python"), "warning");
    assert_eq!(python.check("runtime_python")["costs"], json!([]));
    assert!(python.check("runtime_python")["fix"].as_str().unwrap().contains("apt-get install python3"));
}

#[test]
fn capabilities_that_are_missing_are_named_and_what_they_cost_is_found_by_doing() {
    if !machine::expect("root") {
        return;
    }
    let control = Doctor::offline(&["--allow-degraded"]);
    assert!(!control.found("capabilities").contains("CAP_MKNOD"));
    assert_eq!(control.status("overlay"), "ok");

    let mknod = Doctor::without("mknod");
    assert!(mknod.found("capabilities").contains("CAP_MKNOD") && mknod.status("capabilities") == "warning");
    assert_eq!(mknod.status("overlay"), "ok");

    let admin = Doctor::without("sys_admin");
    assert!(admin.found("capabilities").contains("CAP_SYS_ADMIN"));
    let check = admin.check("overlay");
    assert_eq!((&check["status"], &check["costs"]), (&json!("failure"), &json!(["standard", "strict"])), "{check:#}");
    assert!(check["found"].as_str().unwrap().contains("EPERM"), "{check:#}");
    assert_eq!(admin.status("time_namespaces"), "warning");
    assert_eq!((admin.state("standard"), admin.code), ("unavailable", 2));
    nothing_is_left();
}

/// A cgroup that is marked as systemd marks them, with the process that asks in it.
#[test]
fn a_delegated_cgroup_is_tried_out_from_inside_and_left_as_it_was() {
    let Some(mount) = machine::cgroup2().filter(|_| machine::expect("root")) else { return };
    let own = mount.join(format!("sandkeep-doctor-test-{}", std::process::id()));
    std::fs::create_dir(&own).unwrap();
    let run = |marked: bool| {
        let mark = format!("os.setxattr({own:?}, 'trusted.delegate', b'{}')", u8::from(marked));
        let join = format!("open({:?}, 'w').write('0')", own.join("cgroup.procs"));
        let exec = format!("os.execl({SANDKEEP:?}, 'sandkeep', 'doctor', '--offline', '--json')");
        Doctor::run(Command::new("python3").args(["-c", &format!("import os\n{mark}\n{join}\n{exec}")]))
    };
    let (delegated, control) = (run(true), run(false));
    let left: Vec<_> = std::fs::read_dir(&own).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).collect();
    let control_left = std::fs::read_to_string(own.join("cgroup.subtree_control")).unwrap();
    let removed = std::fs::remove_dir(&own);
    assert!(left.is_empty() && control_left.trim().is_empty(), "{left:?} {control_left}");
    removed.unwrap();
    assert!(delegated.found("delegation").contains("systemd delegated /sandkeep-doctor-test-"));
    assert_eq!((delegated.status("cgroup2"), control.status("cgroup2")), ("ok", "ok"));
    assert!(control.found("delegation").contains("the top of"), "{}", control.found("delegation"));
}

/// In a user namespace whose own limit is 0 no further one can be made, whoever asks.
#[test]
fn refused_user_namespaces_are_told_with_the_setting_that_refuses() {
    if !machine::expect("root") {
        return;
    }
    let inside = |script: &str| {
        let script = format!("{script} exec {} --probe", env!("CARGO_BIN_EXE_sandkeep-engine"));
        let out = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-ec", &script])
            .output()
            .unwrap();
        let probed: sandkeep::wire::Probed = sandkeep::wire::decode(&out.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)));
        let checks = sandkeep::spec::HostChecks::from(probed.facts.checks);
        let all = sandkeep::policy::doctor::findings(&checks, true);
        all.into_iter().find(|f| f.id == "user_namespaces").unwrap()
    };
    // The control: one can be made; only that ids of the host can not be mapped in there.
    let control = inside("");
    assert!(control.found.starts_with("made, but its id map can not be written: EPERM"), "{control:?}");
    let refused = inside("echo 0 > /proc/sys/user/max_user_namespaces;");
    assert!(refused.found.starts_with("can not be made: ENOSPC"), "{refused:?}");
    assert!(refused.fix.as_deref().is_some_and(|fix| fix.contains("user.max_user_namespaces")), "{refused:?}");
    assert_eq!(refused.costs.iter().map(|l| l.name()).collect::<Vec<_>>(), ["standard", "strict"]);
}

#[test]
fn one_without_rights_and_without_a_daemon_is_told_what_to_do() {
    if !machine::expect("root") {
        return;
    }
    // The build directory may be root's alone.
    let dir =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let program = dir.path().join("sandkeep");
    std::fs::copy(SANDKEEP, &program).unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "60000", "--regid", "60000", "--clear-groups"]).arg(&program).args(words);
        let out = command.env("SANDKEEP_SOCKET", "/nonexistent/socket").current_dir("/").output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stderr).unwrap(), out.stdout.len())
    };
    let (code, message, written) = run(&["doctor"]);
    assert_eq!((code, written), (125, 0), "{message}");
    assert!(message.contains("/nonexistent/socket") && message.contains("sudo sandkeep doctor"), "{message}");
    let (code, message, _) = run(&["doctor", "--offline"]);
    assert!(code == 125 && message.contains("needs root"), "{message}");
    // The control: root, with an engine that is not there beside it but somewhere else or nowhere.
    let missing = Command::new(&program).args(["doctor", "--offline"]).output().unwrap();
    let installed = ["/usr/bin", "/usr/local/bin"].iter().any(|d| Path::new(d).join("sandkeep-engine").exists());
    if !installed {
        assert_eq!(missing.status.code(), Some(125));
        assert!(String::from_utf8_lossy(&missing.stderr).contains("sandkeep-engine"));
    }
}
