//! The engine, held to what every monitor promises. Another backend's test asks the same of its own.

#[path = "support/machine.rs"]
mod machine;
#[path = "support/outside.rs"]
mod outside;
#[path = "support/promises.rs"]
mod promises;
#[path = "support/engine.rs"]
mod support;

use sandkeep::wire::LevelWire;
use support::Engine;

#[test]
fn the_engine_keeps_every_promise() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with("[levels]\nminimal = true\n", &[]);
    let given = promises::kept(&engine.socket());
    assert_eq!(given, [LevelWire::Minimal, LevelWire::Standard, LevelWire::Strict]);
    assert!(engine.stop());
}

#[test]
fn a_level_that_is_turned_off_is_refused_by_name() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    assert_eq!(promises::kept(&engine.socket()), [LevelWire::Standard, LevelWire::Strict]);
    assert!(engine.stop());
}
