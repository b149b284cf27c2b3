//! `code_executor` and `python_code_executor` against a whole daemon: every language of this machine, files in and out,
//! and what is left of a call.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/machine.rs"]
mod machine;

use std::time::{Duration, Instant};

use daemon::*;
use sandkeep::runtimes::languages::{LANGUAGES, Language};
use serde_json::{Value, json};

fn call(parameters: Value, context: Value) -> Value {
    json!({ "tool_name": "code_executor", "parameters": parameters, "context": context })
}

#[track_caller]
fn ran(daemon: &Daemon, parameters: Value, context: Value) -> Value {
    let reply = daemon.execute(call(parameters, context));
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body
}

fn strict() -> Value {
    json!({ "security_level": "strict" })
}

/// Whether this machine has all that it needs. What was promised and is not there fails.
fn has(language: &str) -> bool {
    let language = Language::named(language).unwrap();
    let there = language.toolchains().iter().all(|t| std::path::Path::new(t.program).exists());
    assert!(there || !machine::promised("languages"), "{} was promised", language.name);
    there
}

/// What a program in each language does here: greets by its first argument and its input, and exits with 3 where there is no
/// argument.
const PROGRAMS: &[(&str, &str)] = &[
    ("bash", "[ $# -gt 0 ] || exit 3\nread -r line\necho \"hello $1 $line\""),
    (
        "c",
        "#include <stdio.h>\nint main(int n, char **a) { char b[99]; if (n < 2) return 3; fgets(b, 99, stdin); printf(\"hello %s %s\", a[1], b); }",
    ),
    (
        "c++",
        "#include <iostream>\n#include <string>\nint main(int n, char **a) { if (n < 2) return 3; std::string s; std::getline(std::cin, s); std::cout << \"hello \" << a[1] << ' ' << s << std::endl; }",
    ),
    (
        "go",
        "package main\nimport (\"bufio\"; \"fmt\"; \"os\")\nfunc main() { if len(os.Args) < 2 { os.Exit(3) }; s, _ := bufio.NewReader(os.Stdin).ReadString('\\n'); fmt.Print(\"hello \", os.Args[1], \" \", s) }",
    ),
    (
        "java",
        "public class Main { public static void main(String[] a) { if (a.length < 1) System.exit(3); System.out.println(\"hello \" + a[0] + \" \" + new java.util.Scanner(System.in).nextLine()); } }",
    ),
    (
        "javascript",
        "if (process.argv.length < 3) process.exit(3);\nconsole.log(`hello ${process.argv[2]} ${require('fs').readFileSync(0, 'utf8').trim()}`);",
    ),
    ("lua", "if #arg < 1 then os.exit(3) end\nprint('hello ' .. arg[1] .. ' ' .. io.read())"),
    ("perl", "exit 3 unless @ARGV; print \"hello $ARGV[0] \", scalar <STDIN>;"),
    ("php", "<?php if ($argc < 2) exit(3); echo \"hello $argv[1] \", fgets(STDIN);"),
    ("python", "import sys\nif len(sys.argv) < 2: sys.exit(3)\nprint('hello', sys.argv[1], input())"),
    (
        "r",
        "a <- commandArgs(TRUE)\nif (length(a) < 1) quit(status = 3)\ncat('hello', a[1], readLines('stdin', 1))\ncat('\\n')",
    ),
    ("ruby", "exit 3 if ARGV.empty?\nputs \"hello #{ARGV[0]} #{$stdin.gets}\""),
    (
        "rust",
        "fn main() { let a: Vec<String> = std::env::args().collect(); if a.len() < 2 { std::process::exit(3); } let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap(); print!(\"hello {} {}\", a[1], s); }",
    ),
    (
        "typescript",
        "const name: string = process.argv[2];\nif (!name) process.exit(3);\nconsole.log(`hello ${name} ${require('fs').readFileSync(0, 'utf8').trim()}`);",
    ),
];

#[test]
fn every_language_greets_and_fails_at_standard_and_strict() {
    if !machine::expect("root") {
        return;
    }
    let daemon = Daemon::start("", &[]);
    assert_eq!(PROGRAMS.len() + 1, LANGUAGES.len(), "sql has a test of its own");
    let mut tried = 0;
    for (language, code) in PROGRAMS.iter().filter(|(language, _)| has(language)) {
        tried += 1;
        let compiled = Language::named(language).unwrap().compile.is_some();
        for context in [json!({}), strict()] {
            let began = Instant::now();
            let parameters = json!({ "language": language, "code": code, "args": ["Ada L"], "stdin": "in\n" });
            let body = ran(&daemon, parameters, context.clone());
            eprintln!("{language} {context}: {:.2?}", began.elapsed());
            let result = &body["result"];
            assert_eq!(result["stdout"], "hello Ada L in\n", "{language} {context}: {body}");
            assert_eq!((&result["exit_code"], &body["success"]), (&json!(0), &json!(true)), "{language}: {body}");
            assert_eq!(result["compile"].is_object(), compiled, "{language}: {result}");
        }
        let body = ran(&daemon, json!({ "language": language, "code": code }), json!({}));
        assert_eq!(
            (&body["result"]["exit_code"], &body["error"]["code"]),
            (&json!(3), &json!("nonzero_exit")),
            "{body}"
        );
    }
    assert!(tried >= 4, "{tried}");
    assert!(daemon.stop().1);
}
