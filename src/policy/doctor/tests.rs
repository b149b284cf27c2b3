//! What `doctor` says a level costs is what plans are refused by.

use super::*;
use crate::policy::plan::availability;
use crate::spec::{Attempt, ControllerState, LandlockAbi, LeaseState, SeccompAction};

const FAILED: Attempt = Attempt::Failed { errno: libc::EPERM };

type Flip = (&'static str, fn(&mut HostChecks));

/// One of each thing that can be taken from a host, and the finding that must tell.
const FLIPS: &[Flip] = &[
    ("user_namespaces", |c| c.namespaces.user = FAILED),
    ("user_namespaces", |c| c.namespaces.id_map = FAILED),
    ("proc_mount", |c| c.namespaces.proc_mount = FAILED),
    ("time_namespaces", |c| c.namespaces.time = FAILED),
    ("cgroup2", |c| c.cgroup = crate::spec::CgroupChecks::none()),
    ("cgroup2", |c| c.cgroup.born = FAILED),
    ("cgroup2", |c| c.cgroup.killed = FAILED),
    ("controller_memory", |c| c.cgroup.memory = ControllerState::V1 { mount: None }),
    ("controller_pids", |c| c.cgroup.pids = ControllerState::NotBuilt),
    ("controller_cpu", |c| c.cgroup.cpu = ControllerState::SwitchedOff),
    ("seccomp", |c| c.seccomp.load = FAILED),
    ("landlock", |c| c.landlock.abi = LandlockAbi::NotBuilt),
    ("landlock", |c| c.landlock.abi = LandlockAbi::Has(1)),
    ("landlock", |c| c.landlock.restrict = FAILED),
    ("overlay", |c| c.overlay = FAILED),
];

/// Things that cost no level.
const HARMLESS: &[Flip] = &[
    ("kernel", |c| c.kernel.major = 5),
    ("capabilities", |c| c.capabilities_missing.push("CAP_MKNOD".into())),
    ("userns_policy", |c| c.namespaces.user_max = Some(3)),
    ("delegation", |c| c.cgroup.delegated = false),
    ("seccomp_actions", |c| c.seccomp.missing.push(SeccompAction::Log)),
    ("workspaces", |c| c.idmap[0].idmap = FAILED),
    ("idmap_usr", |c| c.idmap[1].idmap = FAILED),
    ("idmap_tmpfs", |c| c.idmap[2].idmap = FAILED),
    ("memfd_noexec", |c| c.memfd.refused = FAILED),
    ("core_pattern", |c| c.core.limit = FAILED),
    ("core_pattern", |c| c.core.pattern = "@/run/cores.sock".into()),
    ("memory", |c| c.memory.available_bytes = 1 << 20),
    ("memory", |c| c.memory.wanted_bytes = 1 << 50),
    ("swap", |c| (c.memory.swap_bytes, c.cgroup.swap_limit) = (1, Some(false))),
    ("descriptors", |c| c.room.descriptors = 1024),
    ("processes", |c| c.room.pid_max = 300),
    ("runtime_bash", |c| c.runtimes[0].found = FAILED),
    ("runtime_python", |c| c.runtimes[1].found = FAILED),
];

fn with(flip: fn(&mut HostChecks)) -> HostChecks {
    let mut checks = HostChecks::complete();
    flip(&mut checks);
    checks
}

fn find<'a>(findings: &'a [Finding], id: &str) -> &'a Finding {
    findings.iter().find(|f| f.id == id).unwrap_or_else(|| panic!("no finding {id}"))
}

#[test]
fn a_complete_host_is_all_well_but_for_maximum() {
    for finding in findings(&HostChecks::complete(), false) {
        let (status, costs) = match finding.id.as_str() {
            "docker" => (Status::Info, vec![Level::Maximum]),
            _ => (Status::Ok, vec![]),
        };
        assert_eq!((finding.status, &finding.costs, &finding.fix), (status, &costs, &None), "{finding:?}");
        assert!(!finding.found.is_empty() && !finding.needed_by.is_empty() && finding.degrades.is_empty());
    }
}

#[test]
fn a_level_is_refused_exactly_where_a_finding_costs_it() {
    let pairs = FLIPS.iter().flat_map(|a| FLIPS.iter().map(move |b| (a, b)));
    let hosts = pairs.map(|((_, a), (_, b))| {
        let mut checks = with(*a);
        b(&mut checks);
        checks
    });
    let mut seen = 0;
    for checks in std::iter::once(HostChecks::complete()).chain(hosts) {
        for allow in [false, true] {
            let findings = findings(&checks, allow);
            for level in Level::ALL {
                let given = availability(level, &checks.facts(), allow);
                let costing: Vec<_> = findings.iter().filter(|f| f.costs.contains(&level)).collect();
                let degrading: Vec<_> = findings.iter().filter(|f| f.degrades.contains(&level)).collect();
                assert_eq!(given.is_err(), !costing.is_empty(), "{level} {allow} {checks:?}");
                assert!(costing.iter().chain(&degrading).all(|f| f.status != Status::Ok));
                if let Ok(substituted) = given {
                    assert_eq!(substituted.len(), degrading.len(), "{level} {allow} {checks:?}");
                }
                seen += 1;
            }
        }
    }
    assert_eq!(seen, (1 + FLIPS.len() * FLIPS.len()) * 8);
}

#[test]
fn what_is_taken_away_is_told_with_what_mends_it() {
    for (id, flip) in FLIPS {
        let found = findings(&with(*flip), false);
        let finding = find(&found, id);
        assert!(finding.status == Status::Failure && finding.fix.is_some(), "{finding:?}");
        assert!(finding.costs.contains(&Level::Strict), "{finding:?}");
        let worst = findings(&with(*flip), true).iter().map(|f| f.status).max();
        assert!(worst >= Some(Status::Warning), "{id}");
    }
    for (id, flip) in HARMLESS {
        let found = findings(&with(*flip), false);
        let finding = find(&found, id);
        assert!(finding.status != Status::Ok && finding.costs.is_empty(), "{finding:?}");
        assert!(finding.fix.is_some(), "{finding:?}");
        let others = found.iter().filter(|f| f.id != *id && f.id != "docker");
        for other in others {
            assert_eq!(other.status, Status::Ok, "{id} shows in {other:?}");
        }
    }
}

#[test]
fn what_keeps_the_engine_from_starting_costs_every_level_it_builds() {
    let cases: [fn(&mut HostChecks); 3] = [
        |c| c.leases.state = LeaseState::Overlaps { with: "user x".into() },
        |c| c.leases.state = LeaseState::AllTaken,
        |c| c.cgroup.subtree = Attempt::Failed { errno: libc::EROFS },
    ];
    for flip in cases {
        let checks = with(flip);
        let findings = findings(&checks, true);
        let costing = findings.iter().find(|f| f.costs == Level::PROCESS && f.status == Status::Failure);
        assert!(costing.is_some_and(|f| f.fix.is_some()), "{findings:?}");
    }
    let running = with(|c| c.leases.state = LeaseState::Taken);
    assert_eq!(find(&findings(&running, false), "lease_range").status, Status::Info);
}

#[test]
fn ids_are_unique_and_every_fix_is_for_something() {
    let found = findings(&HostChecks::complete(), false);
    let mut ids: Vec<&str> = found.iter().map(|f| f.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), found.len());
}

#[test]
fn reasons_choose_the_remedy() {
    let fix = |flip: fn(&mut HostChecks), id: &str| find(&findings(&with(flip), false), id).fix.clone().unwrap();
    let v1 = |c: &mut HostChecks| c.cgroup.memory = ControllerState::V1 { mount: Some("/x".into()) };
    assert!(fix(v1, "controller_memory").contains("systemd.unified_cgroup_hierarchy=1"));
    let bare = |c: &mut HostChecks| {
        c.systemd = false;
        c.cgroup.memory = ControllerState::V1 { mount: Some("/x".into()) };
    };
    assert!(fix(bare, "controller_memory").contains("cgroup_no_v1=all"));
    let off = |c: &mut HostChecks| {
        c.landlock.abi = LandlockAbi::SwitchedOff;
        c.landlock.modules = Some("capability,yama,apparmor".into());
    };
    assert!(fix(off, "landlock").contains("lsm=landlock,yama,apparmor "));
    let none = |c: &mut HostChecks| c.namespaces.user = Attempt::Failed { errno: libc::ENOSPC };
    assert!(fix(none, "user_namespaces").contains("user.max_user_namespaces"));
    let apparmor = |c: &mut HostChecks| {
        c.namespaces.apparmor_restricts = Some(true);
        c.namespaces.proc_mount = Attempt::Failed { errno: libc::EACCES };
    };
    assert!(fix(apparmor, "proc_mount").contains("apparmor_restrict_unprivileged_userns"));
    let undelegated = |c: &mut HostChecks| c.cgroup.delegated = false;
    assert!(fix(undelegated, "delegation").contains("Delegate="));
}

#[test]
fn a_piped_core_pattern_is_no_complaint_and_a_socket_is() {
    let piped = with(|c| c.core.pattern = "|/lib/systemd/systemd-coredump %P".into());
    assert_eq!(find(&findings(&piped, false), "core_pattern").status, Status::Ok);
}
