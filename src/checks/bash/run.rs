//! What a program does with its arguments, as far as it leads to other programs: wrappers, shells, builtins.

use super::judge::Judge;
use super::output::printed;
use super::value::{Origin, Piece, Text, absolute};
use super::walk::Walk;

/// Programs that run what stands behind their own options and operands: name, options with a value of their own, operands.
const WRAPPERS: [(&str, &[&str], usize); 33] = [
    ("nohup", &[], 0),
    ("timeout", &["-s", "-k", "--signal", "--kill-after"], 1),
    ("nice", &["-n", "--adjustment"], 0),
    ("ionice", &["-c", "-n", "-p", "-P", "-u", "--class", "--classdata"], 0),
    ("chrt", &["-p", "-T", "-P", "-D"], 1),
    ("taskset", &["-p"], 1),
    ("setsid", &[], 0),
    ("stdbuf", &["-i", "-o", "-e"], 0),
    ("time", &["-f", "-o", "--format", "--output"], 0),
    ("command", &[], 0),
    ("builtin", &[], 0),
    ("exec", &["-a"], 0),
    ("sudo", &["-u", "-g", "-h", "-p", "-C", "-r", "-t", "-T", "-U", "-D", "-R"], 0),
    ("doas", &["-u", "-C"], 0),
    ("runuser", &["-u", "-g", "-G"], 0),
    ("setpriv", &["--reuid", "--regid", "--groups"], 0),
    ("chroot", &["--userspec", "--groups"], 1),
    ("unshare", &["-R", "-w", "-S", "-G"], 0),
    ("nsenter", &["-t", "-S", "-G"], 0),
    ("setarch", &[], 1),
    ("linux64", &[], 0),
    ("flock", &["-w", "-E", "--wait", "--timeout", "--conflict-exit-code"], 1),
    ("busybox", &[], 0),
    ("toybox", &[], 0),
    ("watch", &["-n", "--interval"], 0),
    ("strace", &["-o", "-e", "-p", "-s", "-u", "-P"], 0),
    ("ltrace", &["-o", "-e", "-p", "-s", "-u", "-n"], 0),
    ("fakeroot", &["-l", "-s", "-i", "-b"], 0),
    ("eatmydata", &[], 0),
    ("parallel", &["-j", "-n", "-N", "--jobs"], 0),
    ("prlimit", &["-p"], 0),
    ("cpulimit", &["-l", "-p"], 0),
    ("ld.so", &["--library-path", "--preload", "--argv0"], 0),
];

const SHELLS: [&str; 9] = ["bash", "sh", "dash", "ash", "zsh", "ksh", "mksh", "rbash", "yash"];
/// Names that a pattern may mean, beside those of rules.
const OTHERS: [&str; 8] = ["bash", "sh", "dash", "env", "xargs", "find", "busybox", "base64"];
const STDIN: [&str; 4] = ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", "-"];

impl Walk<'_> {
    /// Runs a command; returns what it prints.
    pub(super) fn run(&mut self, at: usize, fields: &[Text], stdin: &Text) -> Text {
        // A wrapper can wrap itself as often as there are words.
        self.deeper(fields.len(), |walk| walk.command(at, fields, stdin))
    }

    fn command(&mut self, at: usize, fields: &[Text], stdin: &Text) -> Text {
        let Some((first, arguments)) = fields.split_first() else { return Text::default() };
        let Some(name) = first.constant() else {
            if first.is_fetched() {
                self.judge.fetched(at);
            }
            return Text::unknown(Origin { fetched: stdin.is_fetched(), for_eval: false });
        };
        if let Some(body) = self.functions.get(&name).cloned() {
            return self.call(&name, &body, arguments, stdin);
        }
        if name.contains('/')
            && let Some(path) = absolute(&name, self.cwd.as_deref())
            && let Some(content) = self.files.get(&path).cloned()
        {
            return self.shell(at, &content, arguments, stdin);
        }
        let program = self.judge.name(&name, first.is_pattern(), self.cwd.as_deref(), &OTHERS);
        self.judge.program(at, &program, arguments, self.cwd.as_deref(), stdin);
        if let Some(out) = self.leads_on(at, &program, arguments, stdin) {
            return out;
        }
        if let Some(out) = self.builtin(at, &program, arguments, stdin) {
            return out;
        }
        if let Some(out) = printed(&program, arguments, stdin) {
            self.charge(out.constant().map_or(1, |text| text.len()));
            return out;
        }
        let fetched = stdin.is_fetched() || Judge::fetches(&program);
        if Judge::fetches(&program) {
            self.downloaded(arguments);
        }
        Text::unknown(Origin { fetched, for_eval: self.judge.prints_for_eval(&program) })
    }

    /// A program that runs another one, or a script.
    fn leads_on(&mut self, at: usize, program: &str, arguments: &[Text], stdin: &Text) -> Option<Text> {
        if SHELLS.contains(&program) {
            return Some(self.interpreter(at, arguments, stdin));
        }
        let text = |n: usize| arguments.get(n).and_then(Text::constant);
        match program {
            "env" => return Some(self.env(at, arguments, stdin)),
            "xargs" => return Some(self.xargs(at, arguments, stdin)),
            "find" => return Some(self.find(at, arguments, stdin)),
            "command" if text(0).is_some_and(|first| first.starts_with("-v") || first.starts_with("-V")) => {
                return Some(place_of(arguments.get(1)));
            }
            "su" | "runuser" | "script" | "flock" | "watch" | "sg"
                if let Some(n) =
                    arguments.iter().position(|a| matches!(a.constant().as_deref(), Some("-c" | "--command"))) =>
            {
                let script = arguments.get(n + 1).cloned().unwrap_or_default();
                return Some(self.shell(at, &script, &[], stdin));
            }
            _ => {}
        }
        let (_, valued, operands) = WRAPPERS.iter().find(|(name, ..)| *name == program)?;
        let from = first_operand(arguments, valued) + operands;
        let inner = arguments.get(from..).unwrap_or_default();
        // `sudo A=b rm`, as with env.
        let skipped = inner.iter().take_while(|a| program == "sudo" && a.prefix().contains('=')).count();
        Some(self.run(at, &inner[skipped..], stdin))
    }

    fn interpreter(&mut self, at: usize, arguments: &[Text], stdin: &Text) -> Text {
        let (mut from, mut is_command, mut is_stdin) = (0, false, false);
        while let Some(argument) = arguments.get(from).and_then(Text::constant) {
            let Some(letters) = argument.strip_prefix(['-', '+']).filter(|letters| !letters.is_empty()) else { break };
            from += 1;
            match letters {
                "-" => break,
                "-rcfile" | "-init-file" | "o" | "O" => from += 1,
                long if long.starts_with('-') => {}
                short => {
                    is_command |= short.contains('c');
                    is_stdin |= short.contains('s');
                    from += usize::from(short.ends_with(['o', 'O']));
                }
            }
        }
        let rest = arguments.get(from..).unwrap_or_default();
        match rest.split_first() {
            Some((script, rest)) if is_command => self.shell(at, script, rest.get(1..).unwrap_or_default(), stdin),
            Some((file, rest)) if !is_stdin && !is_standard_input(file) => {
                let content = self.content(file);
                self.shell(at, &content, rest, stdin)
            }
            _ => self.shell(at, stdin, rest, &Text::default()),
        }
    }

    fn env(&mut self, at: usize, arguments: &[Text], stdin: &Text) -> Text {
        let mut from = 0;
        while let Some(argument) = arguments.get(from) {
            let prefix = argument.prefix();
            let split = prefix.strip_prefix("-S").or_else(|| prefix.strip_prefix("--split-string="));
            if let Some(text) = split.filter(|text| !text.is_empty()) {
                return self.shell(at, &Text::known(text), &[], stdin);
            }
            match prefix.as_str() {
                "-S" | "--split-string" => {
                    let script = arguments.get(from + 1).cloned().unwrap_or_default();
                    return self.shell(at, &script, &[], stdin);
                }
                "-u" | "-C" | "--unset" | "--chdir" => from += 2,
                option if option.starts_with('-') => from += 1,
                set if set.contains('=') => {
                    if let Some((name, value)) = argument.constant().as_deref().and_then(|text| text.split_once('=')) {
                        self.set(name, Text::known(value));
                    }
                    from += 1;
                }
                _ => break,
            }
        }
        self.run(at, arguments.get(from..).unwrap_or_default(), stdin)
    }

    fn xargs(&mut self, at: usize, arguments: &[Text], stdin: &Text) -> Text {
        const VALUED: [&str; 10] = ["-I", "-n", "-P", "-L", "-d", "-E", "-s", "-a", "--max-args", "--max-procs"];
        let from = first_operand(arguments, &VALUED);
        let (own, inner) = arguments.split_at(from.min(arguments.len()));
        let added = match stdin.constant() {
            Some(_) => {
                stdin.split(&[' ', '\t', '\n']).into_iter().filter(|field| !field.pieces.is_empty()).take(64).collect()
            }
            None => vec![stdin.clone()],
        };
        let replaced = own.iter().position(|a| a.prefix().starts_with("-I")).and_then(|n| {
            let one = own[n].constant()?.strip_prefix("-I")?.to_owned();
            if one.is_empty() { own.get(n + 1)?.constant() } else { Some(one) }
        });
        let Some(mark) = replaced else {
            let fields: Vec<Text> = inner.iter().cloned().chain(added).collect();
            return self.run(at, &fields, &Text::default());
        };
        let fields: Vec<Text> = inner.iter().map(|field| filled(field, &mark, &added)).collect();
        self.run(at, &fields, &Text::default())
    }

    fn find(&mut self, at: usize, arguments: &[Text], stdin: &Text) -> Text {
        let is_root = |argument: &&Text| !argument.prefix().starts_with(['-', '(', '!']);
        let options =
            arguments.iter().take_while(|a| matches!(a.constant().as_deref(), Some("-H" | "-L" | "-P"))).count();
        let mut roots: Vec<Text> = arguments[options..].iter().take_while(is_root).cloned().collect();
        if roots.is_empty() {
            roots.push(Text::known("."));
        }
        let cwd = self.cwd.clone();
        let mut rest = arguments;
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            match first.constant().as_deref() {
                Some("-delete") => self.judge.removed(at, &roots, cwd.as_deref()),
                Some("-exec" | "-execdir" | "-ok" | "-okdir") => {
                    let end = rest.iter().position(|a| matches!(a.constant().as_deref(), Some(";" | "+")));
                    let (command, after) = rest.split_at(end.unwrap_or(rest.len()));
                    let mut fields = Vec::new();
                    for field in command {
                        match field.constant().as_deref() {
                            Some("{}") => fields.extend(roots.iter().cloned()),
                            _ => fields.push(filled(field, "{}", &roots)),
                        }
                    }
                    let removes =
                        fields.first().and_then(Text::constant).is_some_and(|name| name == "rm" || name == "/bin/rm");
                    if removes {
                        // Each by itself, so without any option that says so.
                        self.judge.removed(at, &roots, cwd.as_deref());
                    }
                    self.run(at, &fields, stdin);
                    rest = after;
                }
                _ => {}
            }
        }
        // Names below the first of them.
        let mut below = roots[0].clone();
        below.push(Piece::Known { text: "/".into(), quoted: true });
        below.push(Piece::Unknown(Origin::default()));
        below
    }

    fn builtin(&mut self, at: usize, program: &str, arguments: &[Text], stdin: &Text) -> Option<Text> {
        let skipped = arguments.iter().take_while(|a| a.constant().as_deref() == Some("--")).count();
        let plain = &arguments[skipped.min(1)..];
        match program {
            "eval" => {
                let mut text = Text::default();
                for (n, argument) in plain.iter().enumerate() {
                    if n > 0 {
                        text.push(Piece::Known { text: " ".into(), quoted: true });
                    }
                    text.append(argument);
                }
                // A variable that nothing here sets is somebody else's text as well.
                if text.certain().is_none() {
                    self.judge.evaluated(at, &text);
                }
                Some(self.script(at, &text, stdin))
            }
            "source" | "." => {
                let file = plain.first()?;
                let content = if is_standard_input(file) { stdin.clone() } else { self.content(file) };
                self.loose |= content.constant().is_none();
                Some(self.script(at, &content, stdin))
            }
            "trap" => {
                let action = plain.first()?;
                // Nothing tells when it comes; what it would do is told.
                if action.constant().is_some_and(|text| text != "-") && plain.len() > 1 {
                    self.script(at, action, &Text::default());
                }
                Some(Text::default())
            }
            "alias" => {
                for argument in plain {
                    if let Some((_, value)) = argument.constant().as_deref().and_then(|text| text.split_once('=')) {
                        self.script(at, &Text::known(value), stdin);
                    }
                }
                Some(Text::default())
            }
            "set" => {
                let from = arguments.iter().position(|a| a.constant().as_deref() == Some("--"));
                if let Some(from) = from {
                    self.positional = Some(arguments[from + 1..].to_vec());
                } else if arguments.first().is_some_and(|first| !first.prefix().starts_with(['-', '+'])) {
                    self.positional = Some(arguments.to_vec());
                }
                Some(Text::default())
            }
            "shift" => {
                let by = plain.first().map_or(Some(1), |n| n.constant()?.parse::<usize>().ok());
                match (&mut self.positional, by) {
                    (Some(all), Some(by)) => drop(all.drain(..by.min(all.len()))),
                    (all, _) => *all = None,
                }
                Some(Text::default())
            }
            "cd" | "pushd" => {
                let to = plain.iter().find(|a| !a.prefix().starts_with('-') || a.constant().as_deref() == Some("-"));
                self.cwd = match to {
                    None => Some("/workspace".to_owned()),
                    Some(to) => match to.certain() {
                        Some(to) if to != "-" => absolute(&to, self.cwd.as_deref()),
                        _ => None,
                    },
                };
                Some(Text::default())
            }
            "popd" => {
                self.cwd = None;
                Some(Text::default())
            }
            "read" => {
                self.read(arguments, stdin);
                Some(Text::default())
            }
            "mapfile" | "readarray" | "getopts" | "let" | "unset" => {
                for name in arguments.iter().filter_map(Text::constant).filter(|name| super::parse::is_name(name)) {
                    self.set(&name, Text::unknown(Origin { fetched: stdin.is_fetched(), for_eval: false }));
                }
                Some(Text::default())
            }
            "printf" if plain.first().and_then(Text::constant).as_deref() == Some("-v") => {
                let name = plain.get(1)?.constant()?;
                let value = printed("printf", plain.get(2..)?, stdin);
                self.set(&name, value.unwrap_or_else(|| Text::unknown(Origin::default())));
                Some(Text::default())
            }
            "cat" | "tac" | "zcat" => {
                let files: Vec<&Text> = arguments
                    .iter()
                    .filter(|a| a.constant().as_deref().is_none_or(|a| !a.starts_with('-') || a == "-"))
                    .collect();
                if files.is_empty() {
                    return Some(stdin.clone());
                }
                let mut out = Text::default();
                for file in files {
                    let content = if is_standard_input(file) { stdin.clone() } else { self.content(file) };
                    out.append(&content);
                }
                Some(out)
            }
            "tee" => {
                for file in arguments.iter().filter(|a| !a.prefix().starts_with('-')) {
                    self.judge.opened(at, file, true);
                    if let Some(path) = file.certain().and_then(|path| absolute(&path, self.cwd.as_deref())) {
                        self.keep(path, stdin.clone());
                    }
                }
                Some(stdin.clone())
            }
            "cp" | "mv" | "ln" => {
                let files: Vec<&Text> = arguments.iter().filter(|a| !a.prefix().starts_with('-')).collect();
                if let [from, to] = files.as_slice()
                    && let Some(to) = to.certain().and_then(|path| absolute(&path, self.cwd.as_deref()))
                {
                    let content = self.content(from);
                    self.keep(to, content);
                }
                Some(Text::default())
            }
            _ => None,
        }
    }

    fn read(&mut self, arguments: &[Text], stdin: &Text) {
        let from = first_operand(arguments, &["-d", "-p", "-t", "-n", "-N", "-u", "-a", "-i"]);
        let names: Vec<String> = arguments.get(from..).unwrap_or_default().iter().filter_map(Text::constant).collect();
        let line = stdin.constant().map(|text| text.lines().next().unwrap_or_default().to_owned());
        let Some(line) = line.filter(|line| !line.is_empty()) else {
            for name in &names {
                self.set(name, Text::unknown(Origin { fetched: stdin.is_fetched(), for_eval: false }));
            }
            return;
        };
        let mut rest = line.trim();
        for (n, name) in names.iter().enumerate() {
            let (value, after) = match rest.split_once([' ', '\t']) {
                Some((value, after)) if n + 1 < names.len() => (value, after.trim_start()),
                _ => (rest, ""),
            };
            self.set(name, Text::known(value));
            rest = after;
        }
    }

    /// Files that a fetching program writes.
    fn downloaded(&mut self, arguments: &[Text]) {
        let content = Text::unknown(Origin { fetched: true, for_eval: false });
        for (n, argument) in arguments.iter().enumerate() {
            let Some(text) = argument.constant() else { continue };
            let is_cluster = text.starts_with('-') && !text.starts_with("--") && text.ends_with(['o', 'O']);
            let is_named = is_cluster || matches!(text.as_str(), "--output" | "--output-document");
            let named = if is_named { arguments.get(n + 1).and_then(Text::constant) } else { None };
            let attached = text.strip_prefix("--output-document=").or_else(|| text.strip_prefix("--output="));
            let of_url = text.split_once("://").and_then(|(_, rest)| rest.rsplit('/').next());
            for name in named.as_deref().into_iter().chain(attached).chain(of_url) {
                if let Some(path) = absolute(name, self.cwd.as_deref()) {
                    self.keep(path, content.clone());
                }
            }
        }
    }
}

fn is_standard_input(file: &Text) -> bool {
    file.constant().is_some_and(|file| STDIN.contains(&file.as_str()))
}

/// What `command -v` prints: a path of the program.
fn place_of(name: Option<&Text>) -> Text {
    match name.and_then(Text::constant) {
        Some(name) if !name.contains('/') => Text::known(format!("/usr/bin/{name}\n")),
        _ => Text::unknown(Origin::default()),
    }
}

/// Where the options end.
fn first_operand(arguments: &[Text], valued: &[&str]) -> usize {
    let mut from = 0;
    while let Some(argument) = arguments.get(from) {
        let text = argument.prefix();
        if text == "--" {
            return from + 1;
        }
        if !text.starts_with('-') || text.len() < 2 {
            break;
        }
        from += if valued.contains(&text.as_str()) { 2 } else { 1 };
    }
    from
}

/// `field` with every `mark` replaced by `with`.
fn filled(field: &Text, mark: &str, with: &[Text]) -> Text {
    let mut out = Text::default();
    for piece in &field.pieces {
        let Piece::Known { text, quoted } = piece else {
            out.push(piece.clone());
            continue;
        };
        for (n, part) in text.split(mark).enumerate() {
            if n > 0 {
                for (m, one) in with.iter().enumerate() {
                    if m > 0 {
                        out.push(Piece::Known { text: " ".into(), quoted: true });
                    }
                    out.append(one);
                }
            }
            out.push(Piece::Known { text: part.to_owned(), quoted: *quoted });
        }
    }
    out
}
