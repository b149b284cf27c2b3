//! bash: the script is read from descriptor 4 and evaluated, so that it behaves as with `bash -c`.

/// Waits at the gate (which, closed without its line, lets nothing run), reads the whole script (which holds no NUL), closes both descriptors and evaluates it on line 1, so that
/// messages carry the script's own line numbers. SECONDS begins with the script, not with the wait. `wait -p` is the one builtin that unsets a variable and leaves its last argument,
/// expanded before, in `$_`: so neither a variable nor a positional parameter of the loader is left for the script.
const LOADER: &str = r#"read -r -u 3 || exit 70; read -r -d '' -u 4; exec 3<&- 4<&-; SECONDS=0; wait -n -p REPLY -- "$REPLY" 2>/dev/null; [[ 1 ]]; eval -- "$_""#;

pub(super) fn argv() -> Vec<String> {
    ["/usr/bin/bash", "-c", LOADER, "bash"].map(str::to_owned).into()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// Runs `script` as a sandbox would, natively: gate and sealed file become descriptors 3 and 4 by way of a small outer shell.
    fn run(script: &str, stdin: &str) -> (String, String, Option<i32>) {
        use std::os::fd::AsRawFd;
        let invocation = super::super::Runtime::Bash.invocation(script.as_bytes()).unwrap();
        let at = |fd: usize| format!("/proc/{}/fd/{}", std::process::id(), invocation.extra[fd].as_raw_fd());
        let mut child = Command::new("bash")
            .args(["-c", "exec 3<\"$GATE\" 4<\"$CODE\"; unset GATE CODE; exec \"$@\"", "outer"])
            .args(&invocation.argv)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("GATE", at(0))
            .env("CODE", at(1))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A script that reads no input closes the pipe early.
        let _broken_pipe = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let out = child.wait_with_output().unwrap();
        (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap(), out.status.code())
    }

    #[test]
    fn scripts_behave_as_with_dash_c() {
        for (script, stdout, stderr, code) in [
            ("", "", "", 0),
            ("exit 3", "", "", 3),
            ("exit", "", "", 0),
            ("echo $?", "0\n", "", 0),
            ("--help", "", "bash: line 1: --help: command not found\n", 127),
            ("set -e\nfalse\necho no", "", "", 1),
            ("exec echo a", "a\n", "", 0),
            ("trap 'echo bye' EXIT\nexit 4", "bye\n", "", 4),
            ("cat <<E\nhello $0\nE", "hello bash\n", "", 0),
            ("echo $0 $# ${REPLY-unset} ${MAPFILE-unset}", "bash 0 unset unset\n", "", 0),
            ("set -u; echo \"$LINENO\"\necho $LINENO", "1\n2\n", "", 0),
            ("foo", "", "bash: line 1: foo: command not found\n", 127),
            ("true\n\nfoo -x", "", "bash: line 3: foo: command not found\n", 127),
            ("-n", "", "bash: line 1: -n: command not found\n", 127),
            ("%1", "", "bash: line 1: fg: no job control\n", 1),
            ("echo a \\\n  b", "a b\n", "", 0),
            ("printf 'x'; echo -n y", "xy", "", 0),
            ("echo 'trailing'   \n\n", "trailing\n", "", 0),
            ("[ -e /proc/$$/fd/3 ] || [ -e /proc/$$/fd/4 ] || echo closed", "closed\n", "", 0),
            ("f() { return 7; }; f", "", "", 7),
            ("(exit 9); echo $?", "9\n", "", 0),
        ] {
            assert_eq!(run(script, ""), (stdout.into(), stderr.into(), Some(code)), "{script:?}");
        }
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let (stdout, stderr, code) = run("echo a\nfor(", "");
        assert_eq!((stdout.as_str(), code), ("a\n", Some(2)));
        assert!(stderr.contains("line 2: syntax error"), "{stderr}");
    }

    #[test]
    fn standard_input_belongs_to_the_script() {
        assert_eq!(run("read a; echo got $a; cat", "1\n2\n3\n").0, "got 1\n2\n3\n");
    }

    /// Its front went away, or could not put the code in its place.
    #[test]
    fn a_gate_that_closes_without_its_line_lets_nothing_run() {
        let run = |line: &str| {
            let script = format!("exec 3< <(printf '%s' '{line}') 4<<<'echo ran'; exec \"$@\"");
            let mut command = Command::new("bash");
            command.args(["-c", &script, "outer"]).args(super::argv()).stdin(Stdio::null());
            let out = command.output().unwrap();
            (String::from_utf8(out.stdout).unwrap(), out.status.code())
        };
        assert_eq!(run(""), (String::new(), Some(70)));
        assert_eq!(run("half a line"), (String::new(), Some(70)));
        // Control.
        assert_eq!(run("\n"), ("ran\n".into(), Some(0)));
    }

    #[test]
    fn a_script_of_a_mebibyte_runs() {
        let script = format!("{}\necho big; exit 7", "#".repeat(1024 * 1024 - 32));
        assert_eq!(run(&script, ""), ("big\n".into(), String::new(), Some(7)));
    }
}
