//! Rules as they are written: files of `checks/`, read once, each rule with texts that it must meet and texts that it must not.

use serde::Deserialize;
use toml::Spanned;

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
    pub meets: Vec<Case>,
    pub passes: Vec<Case>,
}

#[derive(Debug)]
pub struct Case {
    /// Of the rule file.
    pub line: usize,
    pub code: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Spanned<String>,
    levels: Vec<Spanned<String>>,
    about: String,
    hint: String,
    test: Test,
    meets: Vec<Spanned<String>>,
    passes: Vec<Spanned<String>>,
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
    /// One of `programs` asks for something that is not `local`, without a `harmless` argument. What follows one of `texts`
    /// is sent, or is a file, and is no place.
    Fetch {
        programs: Vec<String>,
        harmless: Vec<String>,
        local: Vec<String>,
        texts: Vec<String>,
    },
    /// A module is imported that is none of `seed`, `more` and the operator's; or one that is `reached` as an attribute of one
    /// that is.
    Modules {
        seed: Vec<String>,
        more: Vec<String>,
        reached: Vec<String>,
    },
    /// A name is used that means the builtin.
    Builtins {
        names: Vec<String>,
    },
    /// An attribute of this name is read or written.
    Attributes {
        names: Vec<String>,
    },
    /// A source has more lines.
    Lines {
        most: usize,
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
            _ => &[],
        };
        programs.iter().filter(|program| !program.ends_with('*'))
    }
}

/// The rules of `text`, in its order; the first that is met is told. `Err`: line and reason.
pub(super) fn read(language: &str, text: &str) -> Result<Vec<Rule>, (usize, String)> {
    let line = |at: usize| text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
    let file: File =
        toml::from_str(text).map_err(|e| (e.span().map_or(1, |span| line(span.start)), e.message().to_owned()))?;
    file.rule.into_iter().map(|raw| rule(language, raw, &line)).collect()
}

fn rule(language: &str, raw: Raw, line: &impl Fn(usize) -> usize) -> Result<Rule, (usize, String)> {
    let at = line(raw.name.span().start);
    let name = format!("{language}/{}", raw.name.get_ref());
    let mut levels = Vec::new();
    for level in raw.levels {
        let at = line(level.span().start);
        levels.push(level.get_ref().parse().map_err(|e| (at, format!("{name}: {e}")))?);
    }
    if raw.meets.is_empty() || raw.passes.is_empty() {
        return Err((at, format!("{name}: has no cases")));
    }
    let cases = |all: Vec<Spanned<String>>| {
        all.into_iter().map(|case| Case { line: line(case.span().start), code: case.into_inner() }).collect()
    };
    let (meets, passes) = (cases(raw.meets), cases(raw.passes));
    Ok(Rule { name, levels, about: raw.about, hint: raw.hint, test: raw.test, meets, passes })
}
