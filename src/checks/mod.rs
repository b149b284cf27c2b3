//! What a caller's code is looked at for before it runs.
//!
//! This classifies; it fences nothing. Code that is refused would mostly fail in its sandbox anyway, and now fails early, with
//! a name and a hint; code that hides well enough runs, and meets the sandbox. So what can not be read, is too deep or takes
//! too long is let through.

mod bash;
mod rules;

use std::sync::LazyLock;

pub use rules::Rule;

use crate::config::Checks;
use crate::spec::Level;

/// Code of a caller's, and what it will find around it.
pub struct Script<'a> {
    pub language: Language,
    pub code: &'a str,
    pub stdin: &'a str,
    pub env: &'a [(String, String)],
    /// Where it starts.
    pub cwd: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Bash,
}

/// Code was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {about} ({rule})")]
pub struct Blocked {
    pub rule: String,
    pub about: String,
    /// What to do instead.
    pub hint: String,
    /// From 1, in characters.
    pub line: u32,
    pub column: u32,
}

const BASH: &str = include_str!("../../checks/bash.toml");

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| rules::read("bash", BASH).expect("tests read the rule files"));

/// Every rule of this version, in the order in which they are asked.
pub fn rules() -> &'static [Rule] {
    &RULES
}

/// Whether `rule` is asked under these settings, at the levels that it is for.
pub fn is_on(rule: &Rule, settings: &Checks) -> bool {
    settings.bash && !settings.off.contains(&rule.name)
}

/// The first rule that `script` meets, if any.
pub fn screen(script: &Script<'_>, level: Level, settings: &Checks) -> Result<(), Blocked> {
    let Language::Bash = script.language;
    let rules: Vec<&Rule> =
        rules().iter().filter(|rule| rule.levels.contains(&level) && is_on(rule, settings)).collect();
    if rules.is_empty() {
        return Ok(());
    }
    let Some((rule, at)) = bash::screen(script, &rules) else { return Ok(()) };
    let (line, column) = place(script.code, at);
    Err(Blocked { rule: rule.name.clone(), about: rule.about.clone(), hint: rule.hint.clone(), line, column })
}

fn place(code: &str, at: usize) -> (u32, u32) {
    let before = &code[..code.floor_char_boundary(at)];
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line as u32, column as u32)
}

#[cfg(test)]
mod tests;
