//! Attempts to get out: each works on the bare host and fails inside, at every level as the table says.

#[path = "escape/fences.rs"]
#[cfg(feature = "fault-injection")]
mod fences;
#[path = "support/machine.rs"]
mod machine;
#[path = "support/outside.rs"]
#[cfg(feature = "fault-injection")]
mod outside;
#[path = "escape/single.rs"]
mod single;
#[path = "support/engine.rs"]
mod support;
#[path = "escape/table.rs"]
mod table;
#[path = "escape/world.rs"]
mod world;

use std::collections::BTreeMap;

use sandkeep::wire::*;
use support::*;
use table::*;
use world::*;

const MINIMAL_TOO: &str = "[levels]\nminimal = true\n";

#[test]
fn every_attempt_fails_inside_as_the_table_says() {
    if !machine::expect_all(&["root", "python3"]) {
        return;
    }
    let mut world = World::make();
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let levels = [LevelWire::Minimal, LevelWire::Standard, LevelWire::Strict];
    let inside: Vec<BTreeMap<String, String>> = levels.iter().map(|&l| world.inside(&engine, l, &[])).collect();
    let mut wrong = Vec::new();
    println!("{:<26}{:<18}{:<18}{:<18}", "attempt", "minimal", "standard", "strict");
    for row in TABLE {
        let got: Vec<&str> = inside.iter().map(|r| r.get(row.probe).map_or("-", String::as_str)).collect();
        println!("{:<26}{:<18}{:<18}{:<18}", row.probe, got[0], got[1], got[2]);
        for (level, got) in levels.iter().zip(got) {
            let expected = row.expected(*level);
            if !is(got, expected) {
                wrong.push(format!("{} at {level:?}: {got}, expected {expected}", row.probe));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    world.check();
}

/// Without it a probe that is wrong would pass for a fence.
#[test]
fn every_attempt_works_on_the_bare_host() {
    if !machine::expect_all(&["root", "python3"]) {
        return;
    }
    let mut world = World::make();
    let engine = Engine::start(&[]);
    let of = |wanted: fn(&Control) -> bool| -> Vec<&str> {
        TABLE.iter().filter(|r| wanted(&r.control)).map(|r| r.probe).collect()
    };
    let root = world.outside(&engine, true, &of(|c| matches!(c, Control::Root(_) | Control::Reached)));
    let nobody = world.outside(&engine, false, &of(|c| matches!(c, Control::Nobody(_))));
    let mut wrong = Vec::new();
    for row in TABLE {
        let (got, works) = match row.control {
            // The flag came with the sysctl, in Linux 6.3.
            Control::Root(_) if row.probe == "exec_memfd_marked" && !machine::memfd_noexec() => {
                println!("not run: {}: this kernel does not know the flag", row.probe);
                continue;
            }
            Control::Root(expected) => (&root[row.probe], is(&root[row.probe], expected)),
            Control::Nobody(expected) => (&nobody[row.probe], is(&nobody[row.probe], expected)),
            Control::Reached => {
                let got = &root[row.probe];
                if is(got, "ENOSYS|EAFNOSUPPORT|EPROTONOSUPPORT|ENOENT|ENXIO") && not_built_in(row.probe, got) {
                    println!("not run: {}: this kernel was built without it ({got})", row.probe);
                    continue;
                }
                (got, !is(got, "EPERM|EACCES|ENOSYS"))
            }
            Control::No(why) => {
                println!("no control: {}: {why}", row.probe);
                continue;
            }
        };
        if !works {
            wrong.push(format!("{}: {got} on the bare host, {:?} expected", row.probe, row.control));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    world.check();
}

fn not_built_in(probe: &str, got: &str) -> bool {
    probe.starts_with("socket_") || probe.starts_with("dev_") || got == "ENOSYS"
}

#[test]
fn every_probe_is_in_the_table_once() {
    let listed: Vec<&str> = TABLE.iter().map(|r| r.probe).collect();
    let mut once = listed.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), listed.len());
}
