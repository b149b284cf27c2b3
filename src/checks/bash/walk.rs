//! Goes through a script as the shell would and keeps what is certain: values of variables, texts that commands print, files
//! that they write. Branches are all taken, loops once for each word that is known; what hangs on anything else is unknown.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::bomb::bombs;
use super::judge::Judge;
use super::parse::parse;
use super::syntax::{Assign, Assigned, Kind, List, Node, Parameter, Part, Redirect, RedirectKind, Simple, Word};
use super::value::{Origin, Piece, Text, UNKNOWN, absolute, braces, glob};

/// Nested calls, subshells and texts that are scripts: bounds the stack.
const DEPTH_MAX: usize = 96;
/// Nodes that are visited, and bytes of text that are made, of any script; and how many more for each byte of it. A command takes
/// thirty bytes or so, and loops visit it up to [`TURNS_MAX`] times.
const NODES: usize = 16_384;
const BYTES_PER_NODE: usize = 4;
const BYTES: usize = 1024 * 1024;
const BYTES_PER_BYTE: usize = 64;
/// The shell's own IFS.
pub(super) const BLANKS: &str = " \t\n";
/// Words of a loop that are tried one by one.
const TURNS_MAX: usize = 8;

enum Variable {
    One(Text),
    Many(Vec<Text>),
}

pub(super) struct Walk<'a> {
    pub(super) judge: Judge<'a>,
    variables: HashMap<String, Variable>,
    pub(super) functions: HashMap<String, Rc<Node>>,
    /// Where each is defined.
    places: HashMap<String, usize>,
    pub(super) called: HashSet<String>,
    pub(super) positional: Option<Vec<Text>>,
    pub(super) cwd: Option<String>,
    /// By absolute path.
    pub(super) files: HashMap<String, Text>,
    /// Another file was read as a script: it may have set anything.
    pub(super) loose: bool,
    depth: usize,
    nodes: usize,
    bytes: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(judge: Judge<'a>, cwd: &str, env: &[(String, String)]) -> Self {
        let own = [
            ("HOME", "/workspace"),
            ("TMPDIR", "/tmp"),
            ("LANG", "C.UTF-8"),
            ("IFS", BLANKS),
            ("SHELL", "/bin/bash"),
            ("0", "bash"),
        ];
        let mut variables = HashMap::new();
        for (name, value) in own.into_iter().chain(env.iter().map(|(n, v)| (n.as_str(), v.as_str()))) {
            variables.insert(name.to_owned(), Variable::One(Text::known(value)));
        }
        Self {
            judge,
            variables,
            functions: HashMap::new(),
            places: HashMap::new(),
            called: HashSet::new(),
            positional: Some(Vec::new()),
            cwd: Some(cwd.to_owned()),
            files: HashMap::new(),
            loose: false,
            depth: 0,
            nodes: NODES,
            bytes: BYTES,
        }
    }

    /// Everything that `source` does; functions that nothing calls last.
    pub(super) fn whole(&mut self, source: &str, stdin: &Text) {
        self.nodes = NODES + source.len() / BYTES_PER_NODE;
        self.bytes = BYTES + source.len() * BYTES_PER_BYTE;
        let list = parse(source, None);
        self.list(&list, stdin);
        for name in bombs(&self.functions) {
            self.judge.fork_bomb(self.places.get(name).copied().unwrap_or_default());
        }
        let mut left: Vec<_> = self.functions.iter().filter(|(name, _)| !self.called.contains(*name)).collect();
        left.sort_by(|a, b| a.0.cmp(b.0));
        let left: Vec<_> = left.into_iter().map(|(_, body)| Rc::clone(body)).collect();
        for body in left {
            self.positional = None;
            self.cwd = None;
            self.node(&body, &Text::default());
        }
    }

    pub(super) fn charge(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.bytes > 0
    }

    /// One level down, where there is one, for `work` over as many `words`.
    pub(super) fn deeper(&mut self, words: usize, work: impl FnOnce(&mut Self) -> Text) -> Text {
        if self.depth >= DEPTH_MAX || !self.charge(words * 64) {
            return Text::unknown(Origin::default());
        }
        self.depth += 1;
        let out = work(self);
        self.depth -= 1;
        out
    }

    /// Returns what the commands print.
    pub(super) fn list(&mut self, nodes: &[Node], stdin: &Text) -> Text {
        let mut out = Text::default();
        for node in nodes {
            let printed = self.node(node, stdin);
            out.append(&printed);
        }
        out
    }

    /// As [`Walk::list`], in a shell of its own.
    fn capture(&mut self, nodes: &[Node], stdin: &Text) -> Text {
        let cwd = self.cwd.clone();
        let out = self.list(nodes, stdin);
        self.cwd = cwd;
        out
    }

    pub(super) fn node(&mut self, node: &Node, stdin: &Text) -> Text {
        if self.nodes == 0 {
            return Text::unknown(Origin::default());
        }
        self.nodes -= 1;
        self.deeper(1, |walk| walk.visit(node, stdin))
    }

    fn visit(&mut self, node: &Node, stdin: &Text) -> Text {
        match node {
            Node::Simple(simple) => self.simple(simple, stdin),
            Node::Pipeline(stages) => {
                let cwd = self.cwd.clone();
                let mut text = stdin.clone();
                for stage in stages {
                    text = self.node(stage, &text);
                }
                self.cwd = cwd;
                text
            }
            Node::Background(node) => self.node(node, stdin),
            Node::Compound { kind, body, redirects } => {
                let own = self.redirects(redirects);
                let before = self.cwd.clone();
                let out = self.list(body, own.stdin.as_ref().unwrap_or(stdin));
                match kind {
                    Kind::Group => {}
                    Kind::Subshell => self.cwd = before,
                    Kind::Perhaps if self.cwd != before => self.cwd = None,
                    Kind::Perhaps => {}
                }
                self.written(own.to, out)
            }
            Node::For { name, words, body } => self.for_each(name, words, body, stdin),
            Node::Function { name, body, at } => {
                self.functions.insert(name.clone(), Rc::clone(body));
                self.places.insert(name.clone(), *at);
                Text::default()
            }
            Node::Words(words) => {
                for word in words {
                    self.text(word);
                }
                Text::default()
            }
        }
    }

    fn for_each(&mut self, name: &str, words: &[Word], body: &List, stdin: &Text) -> Text {
        let mut values = Vec::new();
        for word in words {
            values.extend(self.fields(word));
        }
        let many = values.len() > TURNS_MAX || self.depth > DEPTH_MAX / 4;
        if many || values.is_empty() {
            values = vec![Text::unknown(Origin::default())];
        }
        let before = self.cwd.clone();
        let mut out = Text::default();
        for value in values {
            if !name.is_empty() {
                self.set(name, value.into_value());
            }
            let printed = self.list(body, stdin);
            out.append(&printed);
        }
        if self.cwd != before {
            self.cwd = None;
        }
        out
    }

    fn simple(&mut self, simple: &Simple, stdin: &Text) -> Text {
        for assign in &simple.assigns {
            self.assign(assign);
        }
        let own = self.redirects(&simple.redirects);
        let mut fields = Vec::new();
        for word in &simple.words {
            fields.extend(self.fields(word));
        }
        let out = self.run(simple.at, &fields, own.stdin.as_ref().unwrap_or(stdin));
        self.written(own.to, out)
    }

    /// What a command prints, once its redirections had it.
    fn written(&mut self, to: Option<Text>, out: Text) -> Text {
        let Some(to) = to else { return out };
        match to.constant().as_deref() {
            Some("/dev/stdout" | "1" | "2" | "/dev/stderr" | "/dev/fd/1" | "/dev/tty") => out,
            Some(path) => {
                if let Some(path) = absolute(path, self.cwd.as_deref()) {
                    self.keep(path, out);
                }
                Text::default()
            }
            None => Text::default(),
        }
    }

    pub(super) fn keep(&mut self, path: String, content: Text) {
        const FILES_MAX: usize = 256;
        if !path.starts_with("/dev/") && (self.files.len() < FILES_MAX || self.files.contains_key(&path)) {
            self.files.insert(path, content);
        }
    }

    fn redirects(&mut self, redirects: &[Redirect]) -> Redirected {
        let mut found = Redirected::default();
        for redirect in redirects {
            let target = self.text(&redirect.target);
            match redirect.kind {
                RedirectKind::Text => found.stdin = Some(target.into_value()),
                RedirectKind::Read => {
                    self.judge.opened(redirect.at, &target, false);
                    found.stdin = Some(self.content(&target));
                }
                RedirectKind::Write => {
                    self.judge.opened(redirect.at, &target, true);
                    found.to = Some(target);
                }
            }
        }
        found
    }

    /// What the file named so holds.
    pub(super) fn content(&self, name: &Text) -> Text {
        if let [Piece::File(content)] = name.pieces.as_slice() {
            return (**content).clone();
        }
        let path = name.constant().and_then(|path| absolute(&path, self.cwd.as_deref()));
        let known = path.and_then(|path| self.files.get(&path).cloned());
        known.unwrap_or_else(|| Text::unknown(Origin::default()))
    }

    fn assign(&mut self, assign: &Assign) {
        let value = match &assign.value {
            Assigned::Word(word) => Variable::One(self.text(word).into_value()),
            Assigned::Array(words) => {
                let mut all = Vec::new();
                for word in words {
                    all.extend(self.fields(word));
                }
                Variable::Many(all)
            }
        };
        let value = match (assign.append, self.variables.remove(&assign.name), value) {
            (true, Some(Variable::One(mut old)), Variable::One(more)) => {
                old.append(&more);
                Variable::One(old)
            }
            (true, Some(Variable::Many(mut old)), Variable::Many(more)) => {
                old.extend(more);
                Variable::Many(old)
            }
            (_, _, value) => value,
        };
        self.variables.insert(assign.name.clone(), value);
    }

    pub(super) fn set(&mut self, name: &str, value: Text) {
        self.variables.insert(name.to_owned(), Variable::One(value));
    }

    /// The text of `word`, not split.
    pub(super) fn text(&mut self, word: &Word) -> Text {
        let mut all = Text::default();
        for (at, part) in word.parts.iter().enumerate() {
            for (n, value) in self.part(part, at == 0).into_iter().enumerate() {
                if n > 0 {
                    all.push(Piece::Known { text: " ".into(), quoted: true });
                }
                all.append(&value);
            }
        }
        all
    }

    /// The fields that `word` becomes.
    fn fields(&mut self, word: &Word) -> Vec<Text> {
        if let Some(text) = word.bare()
            && text.contains('{')
        {
            let known = |text| Text { pieces: vec![Piece::Known { text, quoted: false }] };
            return braces(text).into_iter().map(known).collect();
        }
        let mut fields = vec![Text::default()];
        let mut is_quoted = false;
        for (at, part) in word.parts.iter().enumerate() {
            let quoted = match part {
                Part::Text { quoted, .. } | Part::Command { quoted, .. } => *quoted,
                Part::Parameter(parameter) => parameter.quoted,
                Part::Process(_) | Part::Arithmetic(_) => true,
            };
            is_quoted |= quoted && !matches!(part, Part::Parameter(parameter) if parameter.name == "@");
            let whole = quoted || matches!(part, Part::Text { .. });
            self.charge(1);
            for (n, value) in self.part(part, at == 0).into_iter().enumerate() {
                let split = if whole { vec![value] } else { value.split(&self.separators()) };
                for (m, field) in split.into_iter().enumerate() {
                    match fields.last_mut() {
                        Some(last) if n + m == 0 => last.append(&field),
                        _ => fields.push(field),
                    }
                }
            }
        }
        let is_there = |field: &Text| {
            field.pieces.iter().any(|piece| match piece {
                Piece::Known { text, quoted } => *quoted || !text.is_empty(),
                Piece::Unset => false,
                _ => true,
            })
        };
        fields.retain(|field| is_quoted || is_there(field));
        fields
    }

    /// More than one where the shell makes fields of it whatever the quotes.
    fn part(&mut self, part: &Part, first: bool) -> Vec<Text> {
        match part {
            Part::Text { text, quoted } => {
                let text = if first && !quoted && text.starts_with('~') { home(text) } else { text.clone() };
                vec![Text { pieces: vec![Piece::Known { text, quoted: *quoted }] }]
            }
            Part::Parameter(parameter) => self.parameter(parameter),
            Part::Command { body, .. } => {
                vec![self.capture(body, &Text::default()).without_trailing_newlines().into_value()]
            }
            Part::Process(body) => {
                let content = self.capture(body, &Text::default());
                vec![Text { pieces: vec![Piece::File(Box::new(content))] }]
            }
            Part::Arithmetic(body) => {
                self.list(body, &Text::default());
                vec![Text::known("0")]
            }
        }
    }

    /// What the shell splits fields at.
    fn separators(&self) -> Vec<char> {
        let ifs = match self.variables.get("IFS") {
            Some(Variable::One(text)) => text.constant(),
            _ => None,
        };
        ifs.unwrap_or_else(|| BLANKS.to_owned()).chars().collect()
    }

    fn variable(&self, name: &str) -> Vec<Text> {
        const NUMBERS: [&str; 12] =
            ["?", "$", "!", "#", "UID", "EUID", "PPID", "LINENO", "SECONDS", "RANDOM", "BASHPID", "EPOCHSECONDS"];
        const OTHERS: [&str; 11] =
            ["-", "_", "PATH", "HOSTNAME", "OSTYPE", "HOSTTYPE", "MACHTYPE", "OLDPWD", "REPLY", "SHELLOPTS", "TERM"];
        let unknown = || vec![Text::unknown(Origin::default())];
        match (self.variables.get(name), &self.positional) {
            (Some(Variable::One(text)), _) => vec![text.clone()],
            (Some(Variable::Many(all)), _) => all.clone(),
            (None, Some(all)) if name == "@" || name == "*" => all.clone(),
            (None, Some(all)) if name.parse::<usize>().is_ok() => {
                let at = name.parse::<usize>().unwrap_or_default();
                let unset = || Text { pieces: vec![Piece::Unset] };
                vec![at.checked_sub(1).and_then(|at| all.get(at)).cloned().unwrap_or_else(unset)]
            }
            (None, None) if name == "@" || name == "*" || name.parse::<usize>().is_ok() => unknown(),
            _ if NUMBERS.contains(&name) => vec![Text::known("0")],
            _ if name == "PWD" => self.cwd.as_ref().map_or_else(unknown, |cwd| vec![Text::known(cwd.clone())]),
            _ if self.loose || name == UNKNOWN || OTHERS.contains(&name) || name.starts_with("BASH") => unknown(),
            _ => vec![Text { pieces: vec![Piece::Unset] }],
        }
    }

    fn parameter(&mut self, parameter: &Parameter) -> Vec<Text> {
        let mut name = parameter.name.clone();
        if parameter.indirect {
            let Some(Some(inner)) = self.variable(&name).first().map(Text::constant) else {
                return vec![Text::unknown(Origin::default())];
            };
            name = inner;
        }
        let mut all = self.variable(&name);
        let is_list = matches!(name.as_str(), "@" | "*") || matches!(parameter.subscript.as_deref(), Some("@" | "*"));
        if !is_list {
            let at = parameter.subscript.as_deref().map_or(Some(0), |s| s.trim().parse::<usize>().ok());
            let one = at.and_then(|at| all.get(at).cloned());
            all = vec![one.unwrap_or_else(|| Text::unknown(Origin::default()))];
        }
        let bytes: usize = all.iter().flat_map(|text| &text.pieces).map(piece_bytes).sum();
        self.charge(bytes);
        if parameter.length {
            return vec![Text::known("0")];
        }
        if parameter.operator.is_empty() {
            return all;
        }
        let argument = self.text(&parameter.argument).into_value();
        let is_unset = all.iter().all(|text| text.constant().is_some_and(|text| text.is_empty()));
        match parameter.operator.as_str() {
            ":-" | "-" if is_unset => vec![argument],
            ":=" | "=" if is_unset => {
                self.set(&name, argument.clone());
                vec![argument]
            }
            ":+" | "+" if is_unset => vec![Text::default()],
            ":+" | "+" => vec![argument],
            ":-" | "-" | ":=" | "=" | ":?" | "?" => all,
            operator => all.iter().map(|text| changed(text, operator, &argument)).collect(),
        }
    }

    /// Runs `text` as a script that was put together at `at`.
    pub(super) fn script(&mut self, at: usize, text: &Text, stdin: &Text) -> Text {
        if text.is_fetched() {
            self.judge.fetched(at);
        }
        let source = text.script();
        if source.trim().is_empty() || !self.charge(source.len() * 4) {
            return Text::default();
        }
        let list = parse(&source, Some(at));
        self.list(&list, stdin)
    }

    /// As [`Walk::script`], with `arguments` and in a place of its own.
    pub(super) fn shell(&mut self, at: usize, text: &Text, arguments: &[Text], stdin: &Text) -> Text {
        let outer = self.positional.replace(arguments.to_vec());
        let cwd = self.cwd.clone();
        let out = self.script(at, text, stdin);
        (self.positional, self.cwd) = (outer, cwd);
        out
    }

    pub(super) fn call(&mut self, name: &str, body: &Rc<Node>, arguments: &[Text], stdin: &Text) -> Text {
        self.called.insert(name.to_owned());
        let outer = self.positional.replace(arguments.to_vec());
        let out = self.node(&Rc::clone(body), stdin);
        self.positional = outer;
        out
    }
}

#[derive(Default)]
struct Redirected {
    stdin: Option<Text>,
    to: Option<Text>,
}

fn piece_bytes(piece: &Piece) -> usize {
    8 + if let Piece::Known { text, .. } = piece { text.len() } else { 0 }
}

/// `~` is the sandbox's home; another user's is somewhere else.
fn home(text: &str) -> String {
    let (user, rest) = text[1..].split_once('/').map_or((&text[1..], ""), |(user, _)| (user, &text[1 + user.len()..]));
    match user {
        "" => format!("/workspace{rest}"),
        "root" => format!("/root{rest}"),
        user if user.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') => {
            format!("/home/{user}{rest}")
        }
        _ => text.to_owned(),
    }
}

/// `${name<operator>argument}` of a text that is set.
fn changed(text: &Text, operator: &str, argument: &Text) -> Text {
    let origin = Origin { fetched: text.is_fetched(), for_eval: false };
    let (Some(value), Some(argument)) = (text.constant(), argument.constant()) else { return Text::unknown(origin) };
    const BYTES_MAX: usize = 1024;
    if value.len() > BYTES_MAX {
        return Text::unknown(origin);
    }
    let ends = || (0..=value.len()).filter(|at| value.is_char_boundary(*at));
    let made = match operator {
        "^^" => value.to_uppercase(),
        ",," => value.to_lowercase(),
        "^" | "," => {
            let mut chars = value.chars();
            let first = chars.next().map(String::from).unwrap_or_default();
            let first = if operator == "^" { first.to_uppercase() } else { first.to_lowercase() };
            first + chars.as_str()
        }
        ":" => {
            let mut numbers = argument.splitn(2, ':').map(|n| n.trim().parse::<i64>().ok());
            let chars: Vec<char> = value.chars().collect();
            let length = chars.len() as i64;
            let place = |n: i64| if n < 0 { (length + n).max(0) } else { n.min(length) };
            let Some(Some(from)) = numbers.next() else { return Text::unknown(origin) };
            let to = match numbers.next() {
                None => length,
                Some(Some(n)) if n < 0 => place(n),
                Some(Some(n)) => (place(from) + n).min(length),
                Some(None) => return Text::unknown(origin),
            };
            chars.iter().take(to as usize).skip(place(from) as usize).collect()
        }
        "/" | "//" | "/#" | "/%" => {
            let (pattern, with) = argument.split_once('/').unwrap_or((&argument, ""));
            if pattern.is_empty() || pattern.contains(['*', '?', '[']) {
                return Text::unknown(origin);
            }
            match operator {
                "/" => value.replacen(pattern, with, 1),
                "//" => value.replace(pattern, with),
                "/#" => value.strip_prefix(pattern).map_or(value.clone(), |rest| format!("{with}{rest}")),
                _ => value.strip_suffix(pattern).map_or(value.clone(), |rest| format!("{rest}{with}")),
            }
        }
        "#" => ends().find(|at| glob(&argument, &value[..*at])).map_or(value.clone(), |at| value[at..].to_owned()),
        "##" => {
            ends().rev().find(|at| glob(&argument, &value[..*at])).map_or(value.clone(), |at| value[at..].to_owned())
        }
        "%" => {
            ends().rev().find(|at| glob(&argument, &value[*at..])).map_or(value.clone(), |at| value[..at].to_owned())
        }
        "%%" => ends().find(|at| glob(&argument, &value[*at..])).map_or(value.clone(), |at| value[..at].to_owned()),
        _ => value,
    };
    Text::known(made)
}
