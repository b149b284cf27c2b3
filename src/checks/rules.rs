//! Rules as they are written: files of `checks/`, read once, each rule with texts that it must meet and texts that it must not.

use serde::Deserialize;

use crate::spec::Level;

/// One thing that is refused.
#[derive(Debug)]
pub struct Rule {
    /// With the language before it: `bash/netcat`.
    pub name: String,
    /// Where it applies.
    pub levels: Vec<Level>,
    /// What it is about, for whoever is refused.
    pub about: String,
    /// What to do instead.
    pub hint: String,
    pub test: Test,
    pub meets: Vec<String>,
    pub passes: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    levels: Vec<String>,
    about: String,
    hint: String,
    test: Test,
    meets: Vec<String>,
    passes: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rule: Vec<Raw>,
}

/// When a command meets a rule. A program's name that ends with `*` stands for all that begin so.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Test {
    /// One of `programs` runs, with anything but `harmless` arguments alone.
    Run {
        programs: Vec<String>,
        harmless: Vec<String>,
    },
    /// One of `programs` removes a tree that lies not `within`.
    Remove {
        programs: Vec<String>,
        within: Vec<String>,
    },
    /// A text is evaluated that is not constant, does not begin with any of `before`, and was not printed by `printers`.
    Eval {
        before: Vec<String>,
        printers: Vec<String>,
    },
    /// A shell, or one of `interpreters`, runs what came over the network.
    Fetched {
        interpreters: Vec<String>,
    },
    ForkBomb {},
    /// A file `below` is written, by a redirection or by one of `programs`, that is not among `except`.
    Write {
        programs: Vec<String>,
        below: Vec<String>,
        except: Vec<String>,
    },
    /// A file `below` is opened in any way.
    Open {
        below: Vec<String>,
    },
    /// One of `programs` asks for something that is not `local`, without a `harmless` argument.
    Fetch {
        programs: Vec<String>,
        harmless: Vec<String>,
        local: Vec<String>,
    },
}

impl Test {
    /// Names of programs that it knows, without those that stand for several.
    pub(super) fn programs(&self) -> impl Iterator<Item = &String> {
        let programs: &[String] = match self {
            Test::Run { programs, .. }
            | Test::Remove { programs, .. }
            | Test::Write { programs, .. }
            | Test::Fetch { programs, .. } => programs,
            Test::Eval { .. } | Test::Fetched { .. } | Test::ForkBomb {} | Test::Open { .. } => &[],
        };
        programs.iter().filter(|program| !program.ends_with('*'))
    }
}

/// The rules of `text`, in its order; the first that is met is told.
pub(super) fn read(language: &str, text: &str) -> Result<Vec<Rule>, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    file.rule.into_iter().map(|raw| rule(language, raw)).collect()
}

fn rule(language: &str, raw: Raw) -> Result<Rule, String> {
    let name = format!("{language}/{}", raw.name);
    let levels: Result<Vec<Level>, String> =
        raw.levels.iter().map(|level| level.parse().map_err(|e| format!("{name}: {level}: {e}"))).collect();
    if raw.meets.is_empty() || raw.passes.is_empty() {
        return Err(format!("{name}: has no cases"));
    }
    Ok(Rule {
        levels: levels?,
        about: raw.about,
        hint: raw.hint,
        test: raw.test,
        meets: raw.meets,
        passes: raw.passes,
        name,
    })
}
