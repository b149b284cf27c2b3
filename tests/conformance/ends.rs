//! A sandbox whose command has ended takes itself down.

use std::time::Duration;

use nix::sys::signal::Signal;
use sandkeep::wire::OutcomeWire;

use crate::support::*;
use crate::{LEVELS, MINIMAL_TOO, machine, outside};

/// Processes of a leaf, by their numbers on the host.
fn processes(leaf: &str) -> usize {
    std::fs::read_to_string(format!("{leaf}/cgroup.procs")).map_or(0, |text| text.lines().count())
}

#[test]
fn what_a_command_leaves_ends_with_it_and_needs_no_engine_for_that() {
    if !machine::expect_all(&["root", "cgroup2"]) {
        return;
    }
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let mut front = engine.connect();
    for level in LEVELS {
        // In the background, in sessions of their own, stopped, deaf to signals, forking.
        let script = "sleep 100 & setsid sleep 100 & (trap '' TERM HUP; sleep 100; sleep 100) & \
            sleep 100 & kill -STOP $!; (while :; do sleep 0.01; done) & sleep 2; exit 3";
        let running = front.start(level, script);
        let stat = front.stat(&running.id);
        let leaf = stat.cgroup_path.expect("a cgroup");
        assert!(outside::within(Duration::from_secs(2), || processes(&leaf) >= 7), "{level:?}: {}", processes(&leaf));
        engine.signal(Signal::SIGSTOP);
        // Its parent does not look: dead, it stays a zombie.
        let ended = outside::within(Duration::from_secs(10), || {
            outside::status(stat.host_pid).get("State").is_some_and(|state| state.starts_with('Z'))
        });
        let left = processes(&leaf);
        engine.signal(Signal::SIGCONT);
        assert!(ended && left == 0, "{level:?}: {ended}, {left} left");
        let end = front.wait_exited(&running.id);
        assert_eq!(end.outcome, OutcomeWire::Exited { code: 3 }, "{level:?}");
        front.wait_reaped(&running.id);
    }
}
