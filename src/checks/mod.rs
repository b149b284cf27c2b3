//! What a caller's code is looked at for before it runs.
//!
//! This classifies; it fences nothing. Code that is refused would mostly fail in its sandbox anyway, and now fails early, with
//! a name and a hint; code that hides well enough runs, and meets the sandbox. So what can not be read, is too deep or takes
//! too long is let through.

mod bash;
mod python;
mod rules;

use std::sync::LazyLock;

pub use rules::Rule;
use rules::Test;

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
    Python,
}

impl Language {
    fn of(rule: &Rule) -> Self {
        if rule.name.starts_with("python/") { Language::Python } else { Language::Bash }
    }
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

/// Language, name of the file, its text.
const FILES: [(&str, &str, &str); 2] = [
    ("bash", "checks/bash.toml", include_str!("../../checks/bash.toml")),
    ("python", "checks/python.toml", include_str!("../../checks/python.toml")),
];

static RULES: LazyLock<Result<Vec<Rule>, RuleError>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for (language, file, text) in FILES {
        all.extend(rules::read(language, text).map_err(|(line, reason)| RuleError { file, line, reason })?);
    }
    Ok(all)
});

/// A rule file is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub struct RuleError {
    pub file: &'static str,
    pub line: usize,
    pub reason: String,
}

/// Reads the rules and tries every case of each. Nothing is to be served by a daemon whose rules do not do what they say.
pub fn load() -> Result<(), RuleError> {
    try_cases(RULES.as_deref().map_err(Clone::clone)?)
}

fn try_cases(rules: &[Rule]) -> Result<(), RuleError> {
    let settings = Checks { bash: true, python: true, python_modules: Vec::new(), off: Vec::new() };
    for rule in rules {
        let language = Language::of(rule);
        let file = if language == Language::Bash { FILES[0].1 } else { FILES[1].1 };
        for (cases, meets) in [(&rule.meets, true), (&rule.passes, false)] {
            for case in cases {
                let script = Script { language, code: &case.code, stdin: "", env: &[], cwd: "/workspace" };
                // Where a rule is for one level alone, its cases are too.
                let level = rule.levels.iter().copied().find(|level| *level == Level::Standard);
                let level = level.or(rule.levels.first().copied()).unwrap_or(Level::Standard);
                let reason = match (screened(&script, level, &settings, rules), meets) {
                    (Err(blocked), true) if blocked.rule == rule.name => continue,
                    (Ok(()), false) => continue,
                    (Err(blocked), true) => format!("{} should meet {:?}, and {blocked} does", rule.name, case.code),
                    (Ok(()), true) => format!("{} should meet {:?}", rule.name, case.code),
                    (Err(blocked), false) => format!("{} should pass {:?}: {blocked}", rule.name, case.code),
                };
                return Err(RuleError { file, line: case.line, reason });
            }
        }
    }
    Ok(())
}

/// Every rule of this version, in the order in which they are asked. None where they can not be read: see [`load`].
pub fn rules() -> &'static [Rule] {
    RULES.as_deref().unwrap_or_default()
}

/// Whether `rule` is asked under these settings, at the levels that it is for.
pub fn is_on(rule: &Rule, settings: &Checks) -> bool {
    let language = match Language::of(rule) {
        Language::Bash => settings.bash,
        Language::Python => settings.python,
    };
    language && !settings.off.contains(&rule.name)
}

/// What an interpreter of Python refuses by itself while it runs a caller's code: names, each kind with the rule's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restrictions {
    /// The only ones that may be imported.
    pub modules: Option<(String, Vec<String>)>,
    pub builtins: Option<(String, Vec<String>)>,
    pub attributes: Option<(String, Vec<String>)>,
}

/// The same rules that [`screen`] asks about Python.
pub fn restrictions(level: Level, settings: &Checks) -> Restrictions {
    let mut found = Restrictions::default();
    for rule in rules().iter().filter(|rule| rule.levels.contains(&level) && is_on(rule, settings)) {
        let name = rule.name.clone();
        match &rule.test {
            Test::Modules { seed, more, .. } => {
                found.modules =
                    Some((name, seed.iter().chain(more).chain(&settings.python_modules).cloned().collect()));
            }
            Test::Builtins { names } => found.builtins = Some((name, names.clone())),
            Test::Attributes { names } => found.attributes = Some((name, names.clone())),
            _ => {}
        }
    }
    found
}

/// The first rule that `script` meets, if any.
pub fn screen(script: &Script<'_>, level: Level, settings: &Checks) -> Result<(), Blocked> {
    screened(script, level, settings, rules())
}

fn screened(script: &Script<'_>, level: Level, settings: &Checks, rules: &[Rule]) -> Result<(), Blocked> {
    let is_asked =
        |rule: &&Rule| Language::of(rule) == script.language && rule.levels.contains(&level) && is_on(rule, settings);
    let rules: Vec<&Rule> = rules.iter().filter(is_asked).collect();
    if rules.is_empty() {
        return Ok(());
    }
    let met = match script.language {
        Language::Bash => bash::screen(script, &rules),
        Language::Python => python::screen(script.code, &rules, &settings.python_modules),
    };
    let Some((rule, at)) = met else { return Ok(()) };
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
