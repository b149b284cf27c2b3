//! Every case of every rule, and what hostile text costs.

use std::time::{Duration, Instant};

use super::*;
use crate::config::RULES;

fn every() -> Checks {
    Checks { bash: true, python: true, python_modules: Vec::new(), off: Vec::new() }
}

fn tried(code: &str) -> Result<(), Blocked> {
    let script = Script { language: Language::Bash, code, stdin: "", env: &[], cwd: "/workspace" };
    screen(&script, Level::Standard, &every())
}

#[test]
fn every_rule_meets_its_cases_and_passes_the_others() {
    assert_eq!(load(), Ok(()));
}

#[test]
fn a_broken_rule_is_told_with_its_line() {
    let rule = |meets: &str, passes: &str, level: &str| {
        format!(
            "# A comment.\n[[rule]]\nname = 'a'\nlevels = ['{level}']\nabout = 'b'\nhint = 'c'\n\
             test = {{ kind = 'builtins', names = ['eval'] }}\nmeets = [\n  'eval',\n  {meets}]\npasses = [{passes}]\n"
        )
    };
    let read = |text: &str| rules::read("python", text);
    let tried = |text: &str| try_cases(&read(text).unwrap());
    assert_eq!(tried(&rule("", "'x'", "strict")), Ok(()));
    let error = tried(&rule("'evil'", "'x'", "standard")).unwrap_err();
    assert_eq!(error.to_string(), "checks/python.toml:10: python/a should meet \"evil\"");
    let error = tried(&rule("", "'x', 'eval'", "standard")).unwrap_err();
    assert_eq!(error.line, 11);
    assert!(error.reason.starts_with("python/a should pass \"eval\": line 1, column 1: b"), "{}", error.reason);
    assert_eq!(read(&rule("", "", "standard")).unwrap_err(), (3, "python/a: has no cases".to_owned()));
    assert_eq!(read(&rule("", "'x'", "wild")).unwrap_err().0, 4);
    let (line, reason) = read(&rule("", "'x'", "strict").replace("hint", "hnit")).unwrap_err();
    assert_eq!(line, 6);
    assert!(reason.contains("hnit"), "{reason}");
    assert_eq!(read("[[rule]]\nname = 1").unwrap_err().0, 2);
}

#[test]
fn the_settings_know_the_rules() {
    let names: Vec<&str> = rules().iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, RULES);
}

#[test]
fn a_rule_can_be_off_and_applies_at_its_levels() {
    let script = |code| Script { language: Language::Bash, code, stdin: "", env: &[], cwd: "/workspace" };
    let all = every();
    let off = Checks { off: vec!["bash/sudo".into()], ..every() };
    let none = Checks { bash: false, ..every() };
    assert!(screen(&script("sudo id"), Level::Standard, &all).is_err());
    assert!(screen(&script("sudo id"), Level::Standard, &off).is_ok());
    assert_eq!(screen(&script("sudo nc a 1"), Level::Standard, &off).unwrap_err().rule, "bash/netcat");
    assert!(screen(&script("sudo id; rm -rf /"), Level::Standard, &none).is_ok());
    assert!(screen(&script("curl http://a"), Level::Standard, &all).is_err());
    assert!(screen(&script("curl http://a"), Level::Minimal, &all).is_ok());
}

#[test]
fn a_refusal_names_line_and_column() {
    let blocked = tried("echo é\n\n  ls; x=1 sudo id\n").unwrap_err();
    assert_eq!((blocked.line, blocked.column), (3, 11));
    let blocked = tried("echo ü; bash -c 'ls\nsudo id'").unwrap_err();
    assert_eq!((blocked.line, blocked.column), (1, 9));
}

#[test]
fn what_a_call_brings_along_is_known() {
    let env = [("X".to_owned(), "rm -rf /".to_owned())];
    let script = |code, stdin, cwd| Script { language: Language::Bash, code, stdin, env: &env, cwd };
    let rule = |script| screen(&script, Level::Standard, &every()).unwrap_err().rule;
    assert_eq!(rule(script("$X", "", "/workspace")), "bash/rm-outside-workspace");
    assert_eq!(rule(script("eval \"$X\"", "", "/workspace")), "bash/rm-outside-workspace");
    assert_eq!(rule(script("bash", "sudo id", "/workspace")), "bash/sudo");
    assert_eq!(rule(script("rm -rf x", "", "/usr")), "bash/rm-outside-workspace");
}

/// On a thread with a small stack: what does not fit is an abort, not a failure.
#[test]
fn hostile_text_is_bounded() {
    const BYTES: usize = 64 * 1024;
    let repeated = [
        "$(",
        "\"$(",
        "`",
        "\\`",
        "(",
        "((",
        "$((",
        "{ ",
        "if ",
        "while ",
        "case x in a) ",
        "f() { ",
        "${x:-",
        "${",
        "\"",
        "'",
        "<(",
        "cat <<A\n",
        "cat <<A ",
        "x=$x$x;",
        "x=aaaaaaaaaa;y=$x$x;x=$y$y;",
        "eval '",
        "bash -c \"",
        "[[ ",
        "{a,b}",
        "{a,",
        "$'\\x",
        "[",
        "x[",
        "a=(",
        "! ",
        "|",
        "&",
        ";;",
        "\n",
        "é",
        "\\é",
        "for i in 1 2 3 4 5 6 7 8; do ",
        "f(){ f|f& };f;",
        "echo a|",
        "@(",
        "$[",
        "rm -rf /tmp/x;",
        "a() { a; a; }; a;",
        "trap '",
        "find -exec ",
        "xargs ",
        "sudo_ ",
        "1>",
        "{x}>",
        "((a) ",
        "echo *[a-z]*[a-z]*",
        "/*/?[",
        "((\"",
        "x=(\"",
    ];
    let run = move || {
        for unit in repeated {
            let text = unit.repeat(BYTES / unit.len());
            let begun = Instant::now();
            let _either = tried(&text);
            let took = begun.elapsed();
            // Unoptimised, beside other tests.
            assert!(took < Duration::from_secs(20), "{unit:?} took {took:?}");
            println!("{unit:?} {took:?}");
        }
    };
    std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(run).unwrap().join().unwrap();
}
