//! `code_executor` and `python_code_executor` against a whole daemon: every language of this machine, files in and out,
//! and what is left of a call.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/machine.rs"]
mod machine;

use std::sync::atomic::{AtomicUsize, Ordering};
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

/// Whether this machine has what it needs.
fn has(language: &str) -> bool {
    let language = Language::named(language).unwrap();
    let there = language.toolchains().iter().all(|t| std::path::Path::new(t.program).exists());
    assert!(there || !machine::promised("languages"), "the machine promises {} and does not have it", language.name);
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
    let there: Vec<_> = PROGRAMS.iter().filter(|(language, _)| has(language)).collect();
    assert!(there.len() >= 4, "{there:?}");
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some((language, code)) = there.get(next.fetch_add(1, Ordering::Relaxed)) {
                    greets(&daemon, language, code);
                }
            });
        }
    });
    assert!(daemon.stop().1);
}

#[track_caller]
fn greets(daemon: &Daemon, language: &str, code: &str) {
    let compiled = Language::named(language).unwrap().compile.is_some();
    for context in [json!({}), strict()] {
        let parameters = json!({ "language": language, "code": code, "args": ["Ada L"], "stdin": "in\n" });
        let body = ran(daemon, parameters, context.clone());
        let result = &body["result"];
        assert_eq!(result["stdout"], "hello Ada L in\n", "{language} {context}: {body}");
        assert_eq!((&result["exit_code"], &body["success"]), (&json!(0), &json!(true)), "{language}: {body}");
        assert_eq!(result["compile"].is_object(), compiled, "{language}: {result}");
    }
    let body = ran(daemon, json!({ "language": language, "code": code }), json!({}));
    assert_eq!((&body["result"]["exit_code"], &body["error"]["code"]), (&json!(3), &json!("nonzero_exit")), "{body}");
}

/// Scratch volumes that the engine has.
fn volumes(daemon: &Daemon) -> usize {
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", daemon.child_named("sandkeep-engine"))).unwrap();
    mounts.lines().filter(|line| line.contains("/volumes/")).count()
}

/// Nothing of a call is left: no execution, no volume.
#[track_caller]
fn nothing_is_left(daemon: &Daemon) {
    let deadline = Instant::now() + machine::soon(5);
    loop {
        let live = daemon.request("GET", "/api/v1/executions", None).body["total"].clone();
        let left = volumes(daemon);
        if live == 0 && left == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{live} executions and {left} volumes are left:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Keeps a compiler busy for a minute.
const SLOW: &str = "constexpr int f(int n) { int s = n; for (int i = 0; i < 200000; i++) for (int j = 0; j < 30; j++) s ^= i + j; return s; }
template <int N> struct A { static constexpr int v = f(N) + A<N - 1>::v; };
template <> struct A<0> { static constexpr int v = 0; };
int main() { return A<100>::v; }";

#[test]
fn what_a_compiler_says_and_how_long_it_may_take() {
    if !machine::expect_all(&["root", "gcc"]) {
        return;
    }
    let daemon = Daemon::start("", &[]);
    for context in [json!({}), strict()] {
        let body = ran(&daemon, json!({ "language": "c", "code": "int main(void) {\n  return x;\n}" }), context);
        let (result, compile) = (&body["result"], &body["result"]["compile"]);
        assert_eq!((&body["success"], &body["error"]["code"]), (&json!(false), &json!("compile_error")), "{body}");
        assert_eq!((&result["exit_code"], &result["stdout"]), (&Value::Null, &json!("")), "{body}");
        assert!(compile["stderr"].as_str().unwrap().contains("main.c:2:10: error: ‘x’ undeclared"), "{compile}");
        assert_eq!((&compile["exit_code"], &compile["success"]), (&json!(1), &json!(false)));
        assert_eq!(body["sandbox"]["enforced"]["volumes"][0]["path"], "/program");
    }
    // Warnings are told where it goes on, and what comes out can not be written by what runs.
    let code = "#include <fcntl.h>\n#include <errno.h>\nint main(void) { int unused; return open(\"/program/x\", O_WRONLY | O_CREAT, 0600) == -1 && (errno == EROFS || errno == EACCES) ? 7 : 8; }";
    let body = ran(&daemon, json!({ "language": "c", "code": code }), strict());
    assert_eq!(body["result"]["exit_code"], 7, "{body}");
    assert!(body["result"]["compile"]["stderr"].as_str().unwrap().contains("unused variable"), "{body}");
    let volume = &body["sandbox"]["enforced"]["volumes"][0];
    assert_eq!(
        (&volume["path"], &volume["read_only"], &volume["no_exec"]),
        (&json!("/program"), &json!(true), &json!(false))
    );

    if has("c++") {
        let began = Instant::now();
        let body = ran(&daemon, json!({ "language": "c++", "code": SLOW, "compile_timeout": 0.7 }), json!({}));
        assert!(began.elapsed() < machine::soon(5), "{:?}", began.elapsed());
        assert_eq!(
            (&body["error"]["code"], &body["outcome"]["kind"]),
            (&json!("timed_out"), &json!("timed_out")),
            "{body}"
        );
        assert_eq!(
            (&body["result"]["compile"]["exit_code"], &body["result"]["exit_code"]),
            (&Value::Null, &Value::Null)
        );
        assert!(body["error"]["message"].as_str().unwrap().starts_with("the compiler was killed"), "{body}");
        // The whole call's time holds the compiler, too.
        let began = Instant::now();
        let body = ran(&daemon, json!({ "language": "c++", "code": SLOW }), json!({ "timeout": 0.7 }));
        assert!(began.elapsed() < machine::soon(5), "{:?}", began.elapsed());
        assert_eq!(body["error"]["code"], "timed_out", "{body}");
    }
    let body =
        ran(&daemon, json!({ "language": "c", "code": "int main(void) { for (;;); }", "timeout": 0.4 }), json!({}));
    assert_eq!(
        (&body["error"]["code"], &body["result"]["compile"]["success"]),
        (&json!("timed_out"), &json!(true)),
        "{body}"
    );
    let code = "#include <stdio.h>\nint main(void) { for (int i = 0; i < 3000000; i++) putchar('x'); }";
    let body = ran(&daemon, json!({ "language": "c", "code": code }), json!({}));
    assert_eq!(
        (&body["output"]["stdout_truncated"], &body["output"]["stdout_bytes"]),
        (&json!(true), &json!(3_000_000))
    );
    assert_eq!(body["result"]["stdout"].as_str().map(str::len), Some(1024 * 1024));
    nothing_is_left(&daemon);
    assert!(daemon.stop().1);
}

#[test]
fn interpreters_end_as_commands_do() {
    if !machine::expect_all(&["root", "node", "perl"]) {
        return;
    }
    let daemon = Daemon::start("", &[]);
    for (language, endless, much, wrong, said) in [
        ("javascript", "for (;;);", "process.stdout.write('x'.repeat(3e6))", "let a = ;", "SyntaxError"),
        ("perl", "1 while 1", "print 'x' x 3_000_000", "if (", "syntax error"),
        ("python", "while True: pass", "print('x' * 3_000_000, end='')", "if", "SyntaxError"),
        ("bash", "while :; do :; done", "head -c 3000000 /dev/zero | tr '\\0' x", "for(", "syntax error"),
    ] {
        let body = ran(&daemon, json!({ "language": language, "code": endless, "timeout": 0.4 }), json!({}));
        assert_eq!(
            (&body["outcome"]["kind"], &body["result"]["exit_code"]),
            (&json!("timed_out"), &Value::Null),
            "{body}"
        );
        let body = ran(&daemon, json!({ "language": language, "code": much }), json!({}));
        assert_eq!(body["output"]["stdout_bytes"], 3_000_000, "{language}: {}", body["error"]);
        let body = ran(&daemon, json!({ "language": language, "code": wrong }), json!({}));
        assert!(body["result"]["stderr"].as_str().unwrap().contains(said), "{body}");
        assert_eq!((&body["error"]["code"], &body["result"]["compile"]), (&json!("nonzero_exit"), &Value::Null));
    }
    // Nothing of how the code came there is left to be seen, and one sandbox was enough.
    let code = "[ -e /proc/$$/fd/3 ] || [ -e /proc/$$/fd/4 ] || echo \"$# $0\"; pwd; ls -A; env | cut -d= -f1 | sort | tr '\\n' ' '";
    let body = ran(&daemon, json!({ "language": "bash", "code": code }), json!({}));
    let said = body["result"]["stdout"].as_str().unwrap();
    assert_eq!(said, "0 /tmp/main.sh\n/workspace\nHOME LANG PATH PWD SHLVL TMPDIR _ ", "{body}");
    assert_eq!(body["sandbox"]["enforced"]["volumes"], json!([]));
    if has("sql") {
        let code = "create table t(a); insert into t values (1), (2); select sum(a) from t;";
        assert_eq!(ran(&daemon, json!({ "language": "sql", "code": code }), strict())["result"]["stdout"], "3\n");
        let body = ran(&daemon, json!({ "language": "sql", "code": "select 1;\nselect * from nonesuch;" }), json!({}));
        assert_eq!(
            (&body["error"]["code"], &body["result"]["stdout"]),
            (&json!("nonzero_exit"), &json!("1\n")),
            "{body}"
        );
        let parameters = json!({ "language": "sql", "args": ["my.db"], "code": "create table t(a); insert into t values ('kept');",
            "collect": ["*.db"] });
        let body = ran(&daemon, parameters, json!({}));
        let file = &body["result"]["files"][0];
        assert!(
            file["content"].as_str().is_some_and(|text| text.contains("kept")) || file["content_base64"].is_string(),
            "{body}"
        );
    }
    nothing_is_left(&daemon);
    assert!(daemon.stop().1);
}

#[test]
fn files_go_in_and_come_back() {
    if !machine::expect("root") {
        return;
    }
    let daemon = Daemon::start("", &[]);
    let files = json!([
        { "path": "helper.py", "content": "def double(n): return 2 * n" },
        { "path": "in/data.bin", "content_base64": "AP8=" },
        { "path": "tool.sh", "content": "#!/bin/sh\necho from a tool", "executable": true },
    ]);
    let code = "import helper, subprocess, os
print(helper.double(21), open('in/data.bin', 'rb').read(), os.getcwd(), __file__)
print(subprocess.run(['./tool.sh'], capture_output=True, text=True).stdout, end='')
os.makedirs('out')
open('out/text', 'w').write('Grüße')
open('out/bytes', 'wb').write(b'\\xff\\x00')
os.symlink('/etc/passwd', 'out/link')
os.chmod('out/text', 0o755)";
    let parameters = json!({ "code": code, "files": files, "collect": ["out/*", "*.py"], "stdin": "" });
    let reply = daemon.execute(json!({ "tool_name": "python_code_executor", "parameters": parameters }));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let result = &reply.body["result"];
    assert_eq!(result["stdout"], "42 b'\\x00\\xff' /workspace /workspace/main.py\nfrom a tool\n", "{}", reply.body);
    let mut back = result["files"].as_array().unwrap().clone();
    back.sort_by_key(|file| file["path"].to_string());
    let expected = json!([
        { "path": "helper.py", "content": "def double(n): return 2 * n", "size_bytes": 27, "executable": false },
        { "path": "out/bytes", "content_base64": "/wA=", "size_bytes": 2, "executable": false },
        { "path": "out/text", "content": "Grüße", "size_bytes": 7, "executable": true },
    ]);
    assert_eq!(Value::Array(back), expected);
    assert_eq!(
        (&result["files_truncated"], &result["exit_code"], &result["success"]),
        (&json!(false), &json!(0), &json!(true))
    );

    // What a failed or killed program left comes back as well, and no more than is told.
    let code = "open('a', 'w').write('x'); open('big', 'w').write('y' * 5_000_000); import time; time.sleep(9)";
    let parameters = json!({ "language": "python", "code": code, "collect": ["a", "big"], "timeout": 0.8 });
    let body = ran(&daemon, parameters, json!({}));
    assert_eq!(
        (&body["error"]["code"], &body["result"]["files_truncated"]),
        (&json!("timed_out"), &json!(true)),
        "{body}"
    );

    // A named workspace: files stay there, the code does not, and what it holds is found.
    assert_eq!(daemon.request("PUT", "/api/v1/workspaces/proj", None).status, 201);
    let named = json!({ "workspace": "proj" });
    let files = json!([{ "path": "lib.js", "content": "module.exports = 'of the workspace'" }]);
    let code = "console.log(require('lib')); require('fs').writeFileSync('made', 'x')";
    let body = ran(&daemon, json!({ "language": "js", "code": code, "files": files }), named.clone());
    assert_eq!(body["result"]["stdout"], "of the workspace\n", "{body}");
    let body = ran(&daemon, json!({ "language": "bash", "code": "ls" }), named.clone());
    assert_eq!(body["result"]["stdout"], "lib.js\nmade\n");
    if machine::expect("gcc") {
        let files = json!([{ "path": "n.h", "content": "#define N 6" }, { "path": "data", "content": "7" }]);
        let code = "#include <stdio.h>\n#include \"n.h\"\nint main(void) { int n; fscanf(fopen(\"data\", \"r\"), \"%d\", &n); printf(\"%d\", N * n); }";
        for context in [json!({}), strict(), named.clone()] {
            let body = ran(&daemon, json!({ "language": "c", "code": code, "files": files }), context);
            assert_eq!(body["result"]["stdout"], "42", "{body}");
            if body["sandbox"]["level"] == "strict" {
                assert_eq!(body["sandbox"]["enforced"]["volumes"][0]["read_only"], true);
            }
        }
    }
    // What strict can not give.
    for (parameters, context) in [
        (json!({ "language": "bash", "code": ":", "collect": ["*"] }), strict()),
        (
            json!({ "language": "bash", "code": ":", "files": [{ "path": "a", "content": "" }] }),
            json!({ "security_level": "strict", "workspace": "proj" }),
        ),
    ] {
        let reply = daemon.execute(call(parameters, context));
        assert_eq!((reply.status, &reply.body["code"]), (422, &json!("level_unsuitable")), "{}", reply.body);
    }
    // A place that is none.
    let parameters =
        json!({ "language": "bash", "code": "echo ran", "files": [{ "path": "../../etc/x", "content": "" }] });
    let body = ran(&daemon, parameters, json!({}));
    assert_eq!((&body["success"], &body["error"]["code"]), (&json!(false), &json!("outside_workspace")), "{body}");
    assert_eq!(body["result"]["stdout"], "");
    assert_eq!(daemon.request("DELETE", "/api/v1/workspaces/proj", None).status, 204);
    nothing_is_left(&daemon);
    assert!(daemon.stop().1);
}

#[test]
fn calls_beside_each_other_and_callers_that_leave_the_compiler() {
    if !machine::expect_all(&["root", "gcc"]) || !has("c++") {
        return;
    }
    let daemon = Daemon::start("", &[]);
    std::thread::scope(|scope| {
        for n in 0..6 {
            let daemon = &daemon;
            scope.spawn(move || {
                let code = format!("#include <stdio.h>\nint main(void) {{ FILE *f = fopen(\"n\", \"w\"); fprintf(f, \"{n}\"); printf(\"{n}\"); }}");
                let body = ran(daemon, json!({ "language": "c", "code": code, "collect": ["*"] }), json!({}));
                let result = &body["result"];
                assert_eq!((&result["stdout"], &result["files"][0]["content"]), (&json!(n.to_string()), &json!(n.to_string())), "{body}");
            });
        }
    });
    nothing_is_left(&daemon);

    let body = call(json!({ "language": "c++", "code": SLOW, "files": [{ "path": "a", "content": "" }] }), json!({}))
        .to_string();
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    let head = "POST /api/v1/tools/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    std::io::Write::write_all(&mut stream, format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
        .unwrap();
    let deadline = Instant::now() + machine::soon(5);
    let compiles = || {
        std::fs::read_dir("/proc").unwrap().flatten().any(|p| {
            let line = std::fs::read(p.path().join("cmdline")).unwrap_or_default();
            line.windows(8).any(|w| w == b"cc1plus\0") && line.windows(18).any(|w| w == b"/workspace/main.cp")
        })
    };
    while !compiles() {
        assert!(Instant::now() < deadline, "no compiler:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(volumes(&daemon), 2, "that of the files and that of the program");
    drop(stream);
    nothing_is_left(&daemon);
    assert!(!compiles());
    assert!(daemon.stop().1);
}

#[test]
fn a_program_that_is_not_there_is_named_before_anything_runs() {
    if !machine::expect("root") || !has("perl") {
        return;
    }
    let hide = "mount --bind /dev/null /usr/bin/perl && exec \"$@\"";
    let daemon = Daemon::start_under(&["unshare", "--mount", "sh", "-c", hide, "outer"], "");
    let parameters = json!({ "language": "perl", "code": "print 1", "files": [{ "path": "a", "content": "" }] });
    let reply = daemon.execute(call(parameters, json!({})));
    assert_eq!((reply.status, &reply.body["code"]), (422, &json!("missing_toolchain")), "{}", reply.body);
    let detail = reply.body["detail"].as_str().unwrap();
    assert!(detail.contains("/usr/bin/perl") && detail.contains("the package perl"), "{detail}");
    assert_eq!(ran(&daemon, json!({ "language": "bash", "code": "echo on" }), json!({}))["result"]["stdout"], "on\n");
    nothing_is_left(&daemon);
    assert!(daemon.stop().1);
}

#[test]
fn capabilities_name_languages_with_versions() {
    if !machine::expect("root") || !has("perl") {
        return;
    }
    let daemon = Daemon::start("", &[]);
    let body = daemon.request("GET", "/api/v1/capabilities", None).body;
    let languages = body["languages"].as_array().unwrap();
    assert_eq!(languages.len(), LANGUAGES.len());
    for language in languages {
        let name = language["name"].as_str().unwrap();
        assert_eq!(language["available"], has(name), "{language}");
        for program in language["programs"].as_array().unwrap() {
            assert_eq!(program["version"].is_string(), program["available"] == true, "{program}");
        }
    }
    let perl = languages.iter().find(|l| l["name"] == "perl").unwrap();
    assert!(perl["programs"][0]["version"].as_str().unwrap().starts_with("This is perl 5"), "{perl}");
    let quick = daemon.request("GET", "/api/v1/capabilities?versions=false", None).body;
    assert!(quick["languages"].as_array().unwrap().iter().all(|l| l["programs"][0]["version"].is_null()));
    assert_eq!(daemon.request("GET", "/api/v1/capabilities?versions=no", None).status, 400);
    // Asked once.
    let began = Instant::now();
    assert_eq!(daemon.request("GET", "/api/v1/capabilities", None).body["languages"], body["languages"]);
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert!(daemon.stop().1);
}

#[test]
fn runs_without_a_caller_come_to_their_end_or_say_that_they_did_not() {
    if !machine::expect_all(&["root", "gcc"]) || !has("c++") {
        return;
    }
    let daemon = Daemon::start("[levels]\nminimal = true\n", &[]);
    let begin = |id: &str, parameters: Value, level: &str| {
        let body = call(parameters, json!({ "execution_id": id, "security_level": level }));
        assert_eq!(daemon.request("POST", "/api/v1/executions", Some(&body)).status, 202);
    };
    let end = |id: &str| {
        let deadline = Instant::now() + machine::soon(20);
        loop {
            // A front that was killed is not there at once.
            let told = daemon.try_request("GET", &format!("/api/v1/executions/{id}"), None);
            match told.map(|reply| reply.body) {
                Some(body) if body["state"] == "ended" => return body,
                other => assert!(Instant::now() < deadline, "{other:?}\n{}", daemon.log()),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let code = "#include <stdio.h>\nint main(void) { fputs(\"x\", fopen(\"left\", \"w\")); puts(\"ran\"); }";
    for level in ["minimal", "standard"] {
        begin(level, json!({ "language": "c", "code": code, "collect": ["*"] }), level);
        let result = &end(level)["result"]["result"];
        assert_eq!(
            (&result["stdout"], &result["files"][0]["path"]),
            (&json!("ran\n"), &json!("left")),
            "{level} {result}"
        );
    }
    let events = daemon.try_request("GET", "/api/v1/executions/standard/events", None).unwrap();
    assert_eq!(events.status, 200);

    // What is counted from here on is the next one's.
    nothing_is_left(&daemon);
    begin("long", json!({ "language": "c++", "code": SLOW }), "standard");
    let deadline = Instant::now() + machine::soon(10);
    while volumes(&daemon) == 0 {
        assert!(Instant::now() < deadline, "no compiler:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let front = daemon.children().into_iter().find(|(name, _)| name != "sandkeep-engine").unwrap().1;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(front), nix::sys::signal::Signal::SIGKILL).unwrap();
    let told = end("long");
    assert_eq!(told["result"]["error"]["code"], "interrupted", "{told}");
    daemon.wait_ready();
    nothing_is_left(&daemon);
    assert!(daemon.stop().1);
}
