//! Callers' code: whatever it says, looking at it neither panics nor takes long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandkeep::checks::{Language, Script, screen};
use sandkeep::config::Config;
use sandkeep::spec::Level;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, code)) = bytes.split_first() else { return };
    let language = if first & 1 == 0 { Language::Bash } else { Language::Python };
    let code = String::from_utf8_lossy(code);
    let script = Script { language, code: &code, stdin: "", env: &[], cwd: "/workspace" };
    if let Err(blocked) = screen(&script, Level::Standard, &Config::default().checks) {
        assert!(blocked.line as usize <= code.len() + 1);
    }
});
