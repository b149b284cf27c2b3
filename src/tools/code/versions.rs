//! Which languages a host has, and in which versions: each program is asked once, in a sandbox as every other command.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::config::Role;
use crate::policy::Toolchain;
use crate::policy::table::resolve_limits;
use crate::runtimes::languages::{LANGUAGES, Language};
use crate::runtimes::{Runtime, WORKSPACE, environment};
use crate::spec::{ExecutionId, Level, LimitRequest, capped};
use crate::tools::call::CallError;
use crate::tools::execute::Service;
use crate::tools::live::{Entry, Following};
use crate::tools::plan::{Job, Terms, clamp};
use crate::tools::principal::Principal;
use crate::tools::run::{Attempt, Part, random};
use crate::wire::FactsWire;

/// The one whose share of the host is used.
const ASKER: &str = "sandkeep-versions";
const VERSION_CHARS_MAX: usize = 120;
/// All at once; some take seconds on a busy host.
const WALL_MS: u64 = 20_000;
const EACH_SECONDS: u32 = 15;

/// A language here.
#[derive(Debug)]
pub struct Found {
    pub language: &'static Language,
    pub programs: Vec<Program>,
}

#[derive(Debug)]
pub struct Program {
    pub toolchain: &'static Toolchain,
    pub available: bool,
    /// The first line that it says about itself; `None` where it says nothing.
    pub version: Option<String>,
}

/// What was found out, for the programs that were there then.
#[derive(Default)]
pub struct Versions(Mutex<Option<Asked>>);

struct Asked {
    there: Vec<&'static str>,
    versions: BTreeMap<String, String>,
}

impl Service {
    /// The languages of the table as `facts` has them.
    pub async fn languages(self: &Arc<Self>, facts: &FactsWire, with_versions: bool) -> Vec<Found> {
        let has = |t: &Toolchain| facts.runtimes.iter().any(|r| r.name == t.name && r.program.is_some());
        let mut there: Vec<&'static Toolchain> = LANGUAGES.iter().flat_map(Language::toolchains).collect();
        there.retain(|t| has(t));
        there.sort_unstable_by_key(|t| t.name);
        there.dedup();
        let versions = if with_versions { self.versions_of(&there, facts).await } else { BTreeMap::new() };
        let program = |toolchain: &'static Toolchain| Program {
            toolchain,
            available: has(toolchain),
            version: versions.get(toolchain.name).cloned(),
        };
        let found = |language: &'static Language| {
            let programs = language.toolchains().into_iter().map(program).collect();
            Found { language, programs }
        };
        LANGUAGES.iter().map(found).collect()
    }

    async fn versions_of(&self, there: &[&'static Toolchain], facts: &FactsWire) -> BTreeMap<String, String> {
        let names: Vec<&'static str> = there.iter().map(|t| t.name).collect();
        // Whoever else asks meanwhile waits for the same answer.
        let mut asked = self.versions.0.lock().await;
        if let Some(known) = asked.as_ref().filter(|known| known.there == names) {
            return known.versions.clone();
        }
        let levels = [Level::Standard, Level::Strict, Level::Minimal];
        let can = |level: &Level| facts.levels.iter().any(|l| Level::from(l.level) == *level && l.available);
        let Some(level) = levels.into_iter().find(can).filter(|_| !there.is_empty()) else { return BTreeMap::new() };
        match self.ask_for_versions(there, level).await {
            Ok(versions) => {
                // What said nothing may have been too slow: it is asked again.
                if versions.len() == there.len() {
                    *asked = Some(Asked { there: names, versions: versions.clone() });
                }
                versions
            }
            Err(error) => {
                tracing::warn!(%error, "the versions of languages can not be found out");
                BTreeMap::new()
            }
        }
    }

    async fn ask_for_versions(
        &self,
        there: &[&'static Toolchain],
        level: Level,
    ) -> Result<BTreeMap<String, String>, CallError> {
        let config = self.config();
        let mut request = LimitRequest { wall_ms: Some(WALL_MS), ..LimitRequest::default() };
        clamp(&mut request, level, &config, &LimitRequest::default());
        let limits = resolve_limits(level, &request, &config.ceilings)
            .map_err(|_| CallError::Internal("the limits of a look at versions".into()))?;
        let env = environment(&[], &[]);
        let terms = Terms { env, is_plain: true, level, request, limits, volumes: Vec::new() };
        let job = Job { cwd: WORKSPACE.to_owned(), ..Job::new(Runtime::Bash, script(there).into_bytes()) };
        let asker = Principal::new(ASKER, Role::User);
        let entry = Entry::new(ExecutionId::from_random(random()?), &asker, ASKER, level, None, Following::Plain);
        let attempt = Attempt {
            monitor: &self.monitor,
            admission: &self.admission,
            terms: &terms,
            job: &job,
            deadline: None,
            entry: &entry,
            number: 1,
            part: Part::Side,
        };
        let (text, _) = attempt.run().await?.stdout.into_text();
        Ok(read(&text, there))
    }
}

/// A line each, in whichever order they come: name and what the program says first.
fn script(there: &[&'static Toolchain]) -> String {
    let mut script = String::from(
        "ask() { v=$(timeout -k 1 \"$3\" \"$2\" \"$4\" 2>&1 </dev/null | grep -m 1 .); printf '%s\\t%s\\n' \"$1\" \"$v\"; }\n",
    );
    for t in there {
        script.push_str(&format!("ask {} {} {EACH_SECONDS} {} &\n", t.name, t.program, t.version));
    }
    script + "wait\n"
}

fn read(text: &str, there: &[&'static Toolchain]) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (name, version) = line.split_once('\t')?;
        let known = there.iter().any(|t| t.name == name) && !version.trim().is_empty();
        known.then(|| (name.to_owned(), capped(version.trim(), VERSION_CHARS_MAX)))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_nobody_asked_for_are_left_out() {
        let there: Vec<_> = ["go", "lua"].into_iter().filter_map(Toolchain::named).collect();
        let found = read("go\tgo version go1.19\nlua\t \nsqlite\t3\nrubbish\n", &there);
        assert_eq!(found, BTreeMap::from([("go".to_owned(), "go version go1.19".to_owned())]));
        assert!(script(&there).contains("ask lua /usr/bin/lua5.4 15 -v &\n"));
    }
}
