//! The engine alone, spoken to over its seam.

#[path = "support/engine.rs"]
mod support;

use sandkeep::wire::*;
use support::*;

#[test]
fn a_command_runs_and_its_end_is_told() {
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let ran = front.run(LevelWire::Standard, "id; echo err >&2; ls /; cat /proc/self/status | head -60; exit 3");
    assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 3 });
    assert_eq!(ran.stderr, "err\n");
    drop(front);
    assert!(engine.stop());
}
