//! What each level promises, seen from inside and from the host.

#[path = "conformance/ends.rs"]
mod ends;
#[path = "conformance/enforced.rs"]
mod enforced;
#[path = "conformance/inside.rs"]
mod inside;
#[path = "support/ledger.rs"]
mod ledger;
#[path = "conformance/limits.rs"]
mod limits;
#[path = "support/machine.rs"]
mod machine;
#[path = "conformance/many.rs"]
mod many;
#[path = "conformance/networks.rs"]
mod networks;
#[path = "support/outside.rs"]
mod outside;
#[path = "conformance/programs.rs"]
mod programs;
#[path = "conformance/strangers.rs"]
mod strangers;
#[path = "support/engine.rs"]
mod support;

use sandkeep::wire::LevelWire;

const LEVELS: [LevelWire; 3] = [LevelWire::Minimal, LevelWire::Standard, LevelWire::Strict];
const MINIMAL_TOO: &str = "[levels]\nminimal = true\n";
