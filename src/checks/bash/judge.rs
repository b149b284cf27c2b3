//! Which rule a command meets.

use super::super::rules::{Rule, Test};
use super::value::{Text, absolute, glob};

/// Keeps the first rule, in the order of the rule file, that anything in a script meets.
pub(super) struct Judge<'a> {
    rules: &'a [&'a Rule],
    /// Place in `rules`, and in the source.
    found: Option<(usize, usize)>,
}

/// Where programs lie.
const DIRECTORIES: [&str; 6] = ["/bin/", "/usr/bin/", "/sbin/", "/usr/sbin/", "/usr/local/bin/", "/usr/local/sbin/"];

impl<'a> Judge<'a> {
    pub(super) fn new(rules: &'a [&'a Rule]) -> Self {
        Self { rules, found: None }
    }

    pub(super) fn verdict(&self) -> Option<(&'a Rule, usize)> {
        self.found.map(|(rule, at)| (self.rules[rule], at))
    }

    fn hit(&mut self, rule: usize, at: usize) {
        let hit = (rule, at);
        self.found = Some(self.found.map_or(hit, |found| found.min(hit)));
    }

    fn meet(&mut self, at: usize, meets: impl Fn(&Test) -> bool) {
        let rules = self.rules;
        if let Some(rule) = rules.iter().position(|rule| meets(&rule.test)) {
            self.hit(rule, at);
        }
    }

    /// Of a path or a pattern of one, the program that is run; as it is where it is none that this process could know.
    pub(super) fn name(&self, name: &str, is_pattern: bool, cwd: Option<&str>, others: &[&str]) -> String {
        if !name.contains('/') {
            return name.to_owned();
        }
        let path = absolute(name, cwd).unwrap_or_else(|| name.to_owned());
        let Some(directory) = DIRECTORIES.iter().find(|directory| path.starts_with(**directory)) else {
            if !is_pattern {
                return path;
            }
            let programs = self.rules.iter().flat_map(|rule| rule.test.programs());
            let mut all = programs.map(String::as_str).chain(others.iter().copied());
            let is_meant = |program: &&str| DIRECTORIES.iter().any(|dir| glob(name, &format!("{dir}{program}")));
            return all.find(is_meant).map_or(path, str::to_owned);
        };
        let base = &path[directory.len()..];
        if !is_pattern {
            return base.to_owned();
        }
        let programs = self.rules.iter().flat_map(|rule| rule.test.programs());
        let mut all = programs.map(String::as_str).chain(others.iter().copied());
        all.find(|program| glob(base, program)).unwrap_or(base).to_owned()
    }

    pub(super) fn program(&mut self, at: usize, program: &str, arguments: &[Text], cwd: Option<&str>, stdin: &Text) {
        let rules = self.rules;
        for (n, rule) in rules.iter().enumerate() {
            let meets = match &rule.test {
                Test::Run { programs, harmless } => {
                    let is_harmless = |argument: &Text| argument.constant().is_some_and(|a| harmless.contains(&a));
                    is_one_of(program, programs) && (arguments.is_empty() || !arguments.iter().all(is_harmless))
                }
                Test::Remove { programs, within } => {
                    is_one_of(program, programs)
                        && is_recursive(arguments)
                        && operands(arguments).any(|path| is_outside(path, within, cwd))
                }
                Test::Fetch { programs, harmless, local, texts } => {
                    is_one_of(program, programs) && reaches_out(arguments, harmless, local, texts)
                }
                Test::Write { programs, .. } => {
                    let to = arguments.iter().filter_map(|argument| {
                        let first = argument.prefix();
                        first.strip_prefix("of=").map(str::to_owned)
                    });
                    is_one_of(program, programs) && to.into_iter().any(|path| is_written(&rule.test, &path, cwd))
                }
                Test::Fetched { interpreters, .. } => {
                    let reads = arguments.first().is_none_or(|first| first.constant().as_deref() == Some("-"));
                    is_one_of(program, interpreters) && reads && stdin.is_fetched()
                }
                _ => false,
            };
            if meets {
                self.hit(n, at);
            }
        }
    }

    /// All below `roots` is removed, one by one.
    pub(super) fn removed(&mut self, at: usize, roots: &[Text], cwd: Option<&str>) {
        self.meet(at, |test| {
            matches!(test, Test::Remove { within, .. } if roots.iter().any(|root| is_outside(root, within, cwd)))
        });
    }

    /// A file is opened, to be written where `write`.
    pub(super) fn opened(&mut self, at: usize, name: &Text, write: bool) {
        let prefix = name.prefix();
        let constant = name.certain();
        let rules = self.rules;
        for (n, rule) in rules.iter().enumerate() {
            let meets = match &rule.test {
                Test::Open { below } => below.iter().any(|below| prefix.starts_with(below.as_str())),
                test @ Test::Write { .. } => {
                    write && constant.as_ref().is_some_and(|path| is_written(test, path, None))
                }
                _ => false,
            };
            if meets {
                self.hit(n, at);
            }
        }
    }

    /// `text`, which is not constant, is evaluated.
    pub(super) fn evaluated(&mut self, at: usize, text: &Text) {
        let prefix = text.prefix();
        self.meet(at, |test| match test {
            Test::Eval { before, .. } => {
                !text.is_for_eval() && !before.iter().any(|before| prefix.starts_with(before.as_str()))
            }
            _ => false,
        });
    }

    /// What came over the network is run.
    pub(super) fn fetched(&mut self, at: usize) {
        self.meet(at, |test| matches!(test, Test::Fetched { .. }));
    }

    pub(super) fn fork_bomb(&mut self, at: usize) {
        self.meet(at, |test| matches!(test, Test::ForkBomb {}));
    }

    pub(super) fn fetches(program: &str) -> bool {
        matches!(program, "curl" | "wget" | "fetch" | "aria2c" | "lynx" | "w3m" | "http" | "https" | "GET")
    }

    /// Whether what `program` prints is made to be evaluated.
    pub(super) fn prints_for_eval(&self, program: &str) -> bool {
        let prints = |rule: &&Rule| matches!(&rule.test, Test::Eval { printers, .. } if is_one_of(program, printers));
        self.rules.iter().any(prints)
    }
}

fn is_one_of(program: &str, programs: &[String]) -> bool {
    programs.iter().any(|one| match one.strip_suffix('*') {
        Some(start) => program.starts_with(start),
        None => program == one,
    })
}

fn is_option(argument: &Text) -> bool {
    argument.prefix().starts_with('-')
}

fn is_recursive(arguments: &[Text]) -> bool {
    arguments.iter().take_while(|a| a.constant().as_deref() != Some("--")).any(|argument| {
        let text = argument.prefix();
        match text.strip_prefix("--") {
            Some(long) => long.len() >= 3 && "recursive".starts_with(long),
            None => text.strip_prefix('-').is_some_and(|short| short.contains(['r', 'R'])),
        }
    })
}

fn operands(arguments: &[Text]) -> impl Iterator<Item = &Text> {
    let end = arguments.iter().position(|a| a.constant().as_deref() == Some("--")).unwrap_or(arguments.len());
    arguments.iter().enumerate().filter(move |(at, a)| *at > end || (*at < end && !is_option(a))).map(|(_, a)| a)
}

fn is_outside(path: &Text, within: &[String], cwd: Option<&str>) -> bool {
    let known = match (path.certain(), path.constant()) {
        (Some(path), _) => path,
        // A variable that nothing sets, and the whole tree is meant.
        (None, Some(path)) if ["/", "/*", "/.*"].contains(&path.as_str()) => path,
        (None, _) => {
            // What follows can not lead back but by `..`.
            let prefix = path.prefix();
            match prefix.rsplit_once('/') {
                Some((directory, _)) if directory.starts_with('/') => directory.to_owned(),
                _ => return false,
            }
        }
    };
    if known.is_empty() {
        return false;
    }
    let Some(path) = absolute(&known, cwd) else { return false };
    !within
        .iter()
        .any(|root| path == *root || path.strip_prefix(root.as_str()).is_some_and(|rest| rest.starts_with('/')))
}

/// Whether a call of a fetching program leaves this host, as far as its arguments tell.
fn reaches_out(arguments: &[Text], harmless: &[String], local: &[String], texts: &[String]) -> bool {
    let is_harmless = |argument: &Text| argument.constant().is_some_and(|a| harmless.contains(&a));
    if arguments.iter().any(is_harmless) {
        return false;
    }
    let is_local = |argument: &Text| local.iter().any(|local| argument.prefix().starts_with(local.as_str()));
    let is_remote = |argument: &Text| argument.prefix().contains("://") && !is_local(argument);
    let is_named = |option: &Text| option.constant().is_some_and(|option| texts.contains(&option));
    let is_text = |at: usize| {
        let attached = |text: &String| {
            arguments[at].prefix().strip_prefix(text.as_str()).is_some_and(|rest| rest.starts_with('='))
        };
        (at > 0 && is_named(&arguments[at - 1])) || texts.iter().any(attached)
    };
    let places: Vec<&Text> = (0..arguments.len()).filter(|at| !is_text(*at)).map(|at| &arguments[at]).collect();
    places.iter().any(|place| is_remote(place)) || !places.iter().any(|place| is_local(place))
}

fn is_written(test: &Test, path: &str, cwd: Option<&str>) -> bool {
    let Test::Write { below, except, .. } = test else { return false };
    let Some(path) = absolute(path, cwd).or_else(|| path.starts_with('/').then(|| path.to_owned())) else {
        return false;
    };
    below.iter().any(|below| path.starts_with(below.as_str()))
        && !except.iter().any(|free| path == *free || (free.ends_with('/') && path.starts_with(free.as_str())))
}
