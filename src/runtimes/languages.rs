//! The languages of `code_executor`: a table of what compiles and runs each.

use std::io;

use super::Invocation;
use crate::policy::Toolchain;
use crate::wire::code;

/// One language.
#[derive(Debug)]
pub struct Language {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    /// What the file with the code is called.
    pub file: &'static str,
    /// None where the code is run as it is.
    pub compile: Option<Step>,
    pub run: Step,
}

/// A command of a language.
#[derive(Debug)]
pub struct Step {
    /// By the names of `policy::TOOLCHAINS`. The first is the one that is run.
    pub needs: &'static [&'static str],
    /// [`PROGRAM`], [`CODE`], [`ARGS`] and, within a word, [`HEAP`] stand for what differs.
    argv: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    /// Of a compiler, where it is more than a level gives.
    pub memory_mb: u64,
    pub pids: u32,
}

const PROGRAM: &str = "{program}";
const CODE: &str = "{code}";
const ARGS: &str = "{args}";
/// Half of the memory limit in MiB, for who would else go by the host's memory.
const HEAP: &str = "{heap}";

/// Where a compiled program is, in the sandbox that makes it and in the one that runs it.
const MADE: &str = "/program/main";

/// Node's own types are no part of Debian's compiler: without these lines no program could read its input. Those of a
/// browser take the compiler twice the time, and their names are in the way.
const TSC: &str = r#"for name in process Buffer console module exports global __dirname __filename setTimeout setInterval \
  setImmediate clearTimeout clearInterval queueMicrotask performance structuredClone fetch URL URLSearchParams TextEncoder \
  TextDecoder AbortController; do echo "declare var $name: any;"; done >/program/node.d.ts
echo 'declare function require(name: string): any; declare module "*";' >>/program/node.d.ts
exec "$0" --outDir /program --target es2020 --lib es2020 --module commonjs --moduleDetection force --esModuleInterop \
  --noEmitOnError /program/node.d.ts "$1""#;

const fn run(needs: &'static [&'static str], argv: &'static [&'static str]) -> Step {
    Step { needs, argv, env: &[], memory_mb: 0, pids: 0 }
}

const fn compile(
    needs: &'static [&'static str],
    argv: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
) -> Step {
    Step { needs, argv, env, memory_mb: 1024, pids: 128 }
}

const fn interpreted(
    name: &'static str,
    aliases: &'static [&'static str],
    file: &'static str,
    needs: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
) -> Language {
    let run = Step { env, ..run(needs, &[PROGRAM, CODE, ARGS]) };
    Language { name, aliases, file, compile: None, run }
}

/// Modules that came as files are found whichever directory the code is in.
pub const LANGUAGES: &[Language] = &[
    interpreted("bash", &["sh", "shell"], "main.sh", &["bash"], &[]),
    Language {
        name: "c",
        aliases: &[],
        file: "main.c",
        compile: Some(compile(
            &["gcc"],
            &[PROGRAM, "-O1", "-Wall", "-I/workspace", "-o", MADE, CODE, "-lm", "-pthread"],
            &[],
        )),
        run: run(&["gcc"], &[MADE, ARGS]),
    },
    Language {
        name: "c++",
        aliases: &["cpp", "cxx"],
        file: "main.cpp",
        compile: Some(compile(&["g++"], &[PROGRAM, "-O1", "-Wall", "-I/workspace", "-o", MADE, CODE, "-pthread"], &[])),
        run: run(&["g++"], &[MADE, ARGS]),
    },
    Language {
        name: "go",
        aliases: &["golang"],
        file: "main.go",
        compile: Some(compile(
            &["go"],
            &[PROGRAM, "build", "-o", MADE, CODE],
            &[
                ("GOCACHE", "/program/.cache"),
                ("GOTMPDIR", "/program"),
                ("GOPATH", "/program/.go"),
                ("GOFLAGS", "-mod=mod"),
                ("GOPROXY", "off"),
                ("GOTOOLCHAIN", "local"),
                ("CGO_ENABLED", "0"),
            ],
        )),
        run: run(&["go"], &[MADE, ARGS]),
    },
    Language {
        name: "java",
        aliases: &[],
        file: "Main.java",
        compile: Some(compile(
            &["javac"],
            &[
                PROGRAM,
                "-J-Xmx{heap}m",
                "-J-XX:+UseSerialGC",
                "-J-XX:TieredStopAtLevel=1",
                "-J-XX:-UsePerfData",
                "-sourcepath",
                "/workspace",
                "-d",
                "/program",
                CODE,
            ],
            &[],
        )),
        run: run(
            &["java"],
            &[
                PROGRAM,
                "-Xmx{heap}m",
                "-XX:+UseSerialGC",
                "-XX:-UsePerfData",
                "-cp",
                "/program:/workspace",
                "Main",
                ARGS,
            ],
        ),
    },
    interpreted("javascript", &["js", "node"], "main.js", &["node"], &[("NODE_PATH", "/workspace")]),
    interpreted("lua", &[], "main.lua", &["lua"], &[("LUA_PATH", "/workspace/?.lua;;")]),
    interpreted("perl", &["pl"], "main.pl", &["perl"], &[("PERL5LIB", "/workspace")]),
    interpreted("php", &[], "main.php", &["php"], &[]),
    interpreted(
        "python",
        &["py", "python3"],
        "main.py",
        &["python"],
        &[("PYTHONPATH", "/workspace"), ("PYTHONDONTWRITEBYTECODE", "1"), ("PYTHONUTF8", "1")],
    ),
    interpreted("r", &["R"], "main.R", &["rscript"], &[]),
    interpreted("ruby", &["rb"], "main.rb", &["ruby"], &[("RUBYLIB", "/workspace")]),
    Language {
        name: "rust",
        aliases: &["rs"],
        file: "main.rs",
        compile: Some(compile(
            &["rustc"],
            &[PROGRAM, "--edition=2021", "-C", "opt-level=1", "-o", MADE, CODE],
            &[("TMPDIR", "/program")],
        )),
        run: run(&["rustc"], &[MADE, ARGS]),
    },
    Language {
        name: "sql",
        aliases: &["sqlite", "sqlite3"],
        file: "main.sql",
        compile: None,
        // The database is the first argument; without one it is in memory.
        run: run(
            &["sqlite"],
            &[
                "/usr/bin/bash",
                "-c",
                "p=$0 c=$1; shift; exec \"$p\" -batch -bail \"${1-:memory:}\" \".read $c\"",
                PROGRAM,
                CODE,
                ARGS,
            ],
        ),
    },
    Language {
        name: "typescript",
        aliases: &["ts"],
        file: "main.ts",
        compile: Some(compile(&["tsc", "node"], &["/usr/bin/bash", "-c", TSC, PROGRAM, CODE], &[])),
        run: Step { env: &[("NODE_PATH", "/workspace")], ..run(&["node"], &["{program}", "/program/main.js", ARGS]) },
    },
];

/// A command as it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The engine's name of what is run.
    pub toolchain: &'static str,
    pub argv: Vec<String>,
    /// Beside those that every command has.
    pub env: Vec<(String, String)>,
    /// Where the code is to be put first; `None` where it is in its place.
    pub put: Option<String>,
}

/// Puts the code into its file, then becomes the command.
const LOADER: &str = "cat <&3 >\"$0\" || exit 70; exec 3<&-; unset OLDPWD SHLVL; exec -- \"$@\"";

impl Language {
    /// By its name or another name for it.
    pub fn named(name: &str) -> Option<&'static Self> {
        LANGUAGES.iter().find(|l| l.name == name || l.aliases.contains(&name))
    }

    /// Every program that it needs, each once.
    pub fn toolchains(&self) -> Vec<&'static Toolchain> {
        let mut found: Vec<&'static Toolchain> = Vec::new();
        for name in self.compile.iter().chain([&self.run]).flat_map(|step| step.needs) {
            found.extend(Toolchain::named(name).filter(|t| !found.contains(t)));
        }
        found
    }
}

impl Step {
    /// With the code at `code`, which is put there first unless it `is_there`.
    pub fn command(&self, code: &str, is_there: bool, args: &[String], memory_bytes: u64) -> Started {
        let toolchain = self.needs.first().copied().unwrap_or_default();
        let program = Toolchain::named(toolchain).map_or("", |t| t.program);
        let mut argv = Vec::new();
        for word in self.argv {
            match *word {
                PROGRAM => argv.push(program.to_owned()),
                CODE => argv.push(code.to_owned()),
                ARGS => argv.extend_from_slice(args),
                word => argv.push(word.replace(HEAP, &(memory_bytes >> 21).to_string())),
            }
        }
        let env = self.env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let put = (!is_there && self.argv.contains(&CODE)).then(|| code.to_owned());
        Started { toolchain, argv, env, put }
    }
}

impl Started {
    /// Each run needs its own: descriptors are used up.
    pub fn invocation(&self, code: &[u8]) -> io::Result<Invocation> {
        let of = |argv, extra| Invocation { runtime: self.toolchain, argv, extra, result: None };
        let Some(put) = &self.put else { return Ok(of(self.argv.clone(), Vec::new())) };
        let mut argv: Vec<String> = ["/usr/bin/bash", "-c", LOADER, put].map(str::to_owned).into();
        argv.extend_from_slice(&self.argv);
        Ok(of(argv, vec![code::sealed(code)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_means_one_language_and_every_program_is_known() {
        let mut names: Vec<&str> = Vec::new();
        for language in LANGUAGES {
            names.extend([language.name].iter().chain(language.aliases));
            for step in language.compile.iter().chain([&language.run]) {
                assert!(step.needs.iter().all(|name| Toolchain::named(name).is_some()), "{}", language.name);
                assert!(step.argv[0] == PROGRAM || step.argv[0].starts_with('/'), "{}", language.name);
            }
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(LANGUAGES.is_sorted_by_key(|l| l.name));
    }

    #[test]
    fn a_command_has_the_code_and_the_arguments_in_their_places() {
        let ruby = Language::named("rb").unwrap();
        let args = ["a b".to_owned(), "-x".to_owned()];
        let started = ruby.run.command("/tmp/main.rb", false, &args, 0);
        assert_eq!(started.argv, ["/usr/bin/ruby", "/tmp/main.rb", "a b", "-x"]);
        assert_eq!(started.put.as_deref(), Some("/tmp/main.rb"));
        assert_eq!(ruby.run.command("/workspace/main.rb", true, &[], 0).put, None);
        let c = Language::named("c").unwrap();
        assert_eq!(c.run.command("/tmp/main.c", false, &args, 0).argv, ["/program/main", "a b", "-x"]);
        assert_eq!(c.run.command("/tmp/main.c", false, &[], 0).put, None, "it is the compiler's");
        let names = |l: &str| Language::named(l).unwrap().toolchains().iter().map(|t| t.name).collect::<Vec<_>>();
        assert_eq!((names("ts"), names("c")), (vec!["tsc", "node"], vec!["gcc"]));
    }
}
