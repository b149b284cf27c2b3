//! Golden files: what the public sees may change only together with its file. `UPDATE_GOLDEN=1` writes them.

#[path = "support/machine.rs"]
mod machine;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use sandkeep::config::{Config, EngineName, Overrides};
use sandkeep::policy::explain;
use sandkeep::spec::Level;

fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{name} differs; UPDATE_GOLDEN=1 writes what is now:\n{actual}");
}

#[test]
fn explain_says_what_each_level_means() {
    for level in Level::ALL {
        golden(&format!("explain-{level}.txt"), &explain(level));
    }
}

/// README's block of settings: the first one that is about them.
fn settings(readme: &str) -> &str {
    let blocks = readme.split("```toml\n").skip(1).filter_map(|block| block.split("```").next());
    blocks.into_iter().find(|block| block.contains("state_dir")).unwrap()
}

#[test]
fn the_readmes_configuration_is_the_built_in_one() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let block = settings(&readme);
    let config = Config::parse(block, Path::new("README.md"), &Overrides::default()).unwrap();
    assert_eq!(config, Config::default());
    // What is commented out is valid, too.
    let tables: String = block
        .lines()
        .filter_map(|l| l.strip_prefix("# "))
        .skip_while(|l| !l.starts_with('['))
        .fold(String::new(), |all, line| all + line + "\n");
    let config = Config::parse(&tables, Path::new("README.md"), &Overrides::default()).unwrap();
    assert_eq!(config.principals.len(), 1, "{tables}");
    // The others' keys are read at start.
    assert_eq!(config.search.ready(), [EngineName::Searxng, EngineName::Duckduckgo], "{tables}");
}

/// What is installed as /etc/sandkeep/sandkeep.toml is the same text, every line of it commented out.
#[test]
fn the_installed_configuration_is_the_readmes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let block = settings(&readme);
    let commented =
        |line: &str| if line.is_empty() || line.starts_with('#') { line.into() } else { format!("# {line}") };
    let expected: Vec<String> = block.lines().map(commented).collect();
    let file = std::fs::read_to_string(root.join("systemd/sandkeep.toml")).unwrap();
    let (_, body) = file.split_once("\n\n").unwrap();
    assert_eq!(body.lines().collect::<Vec<_>>(), expected);
    assert_eq!(Config::parse(&file, Path::new("file"), &Overrides::default()).unwrap(), Config::default());
}

#[test]
fn the_programs_say_how_they_are_used() {
    for (name, program) in [
        ("sandkeep", env!("CARGO_BIN_EXE_sandkeep")),
        ("sandkeepd", env!("CARGO_BIN_EXE_sandkeepd")),
        ("sandkeep-engine", env!("CARGO_BIN_EXE_sandkeep-engine")),
    ] {
        let help = std::process::Command::new(program).arg("--help").output().unwrap();
        assert!(help.status.success());
        golden(&format!("help-{name}.txt"), &String::from_utf8(help.stdout).unwrap());
    }
}

fn run_with(stdin: &[u8], program: &str, arguments: &[&str]) -> (bool, String) {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    let out = child.wait_with_output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let out = Command::new(env!("CARGO_BIN_EXE_sandkeep")).args(["completions", shell]).output().unwrap();
        assert!(out.status.success(), "{shell}");
        let text = String::from_utf8(out.stdout).unwrap();
        for word in ["exec", "explain", "capabilities", "completions"] {
            assert!(text.contains(word), "{shell}: {word}");
        }
        if machine::expect(shell) {
            assert_eq!(run_with(text.as_bytes(), shell, &["-n"]), (true, String::new()), "{shell}");
        }
    }
    // Control: the check sees what is wrong.
    assert!(!run_with(b"if", "bash", &["-n"]).0);
}

#[test]
fn manual_pages_are_well_formed() {
    let dir = tempfile::tempdir().unwrap();
    let written = Command::new(env!("CARGO_BIN_EXE_sandkeep")).arg("man").arg(dir.path()).status().unwrap();
    assert!(written.success());
    let man = |path: &Path| {
        let out = Command::new("man").args(["--warnings", "-l"]).arg(path).env("LC_ALL", "C.UTF-8").output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let check = machine::expect("man");
    for (folder, page) in [("man1", "sandkeep.1"), ("man1", "sandkeep-exec.1"), ("man5", "sandkeep.toml.5")] {
        assert!(dir.path().join(folder).join(page).exists(), "{page}");
    }
    for entry in ["man1", "man5", "man8"].iter().flat_map(|d| std::fs::read_dir(dir.path().join(d)).unwrap()) {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH \"SEE ALSO\""] {
            assert!(text.contains(section), "{}: {section}", path.display());
        }
        if check {
            assert_eq!(man(&path), (true, String::new()), "{}", path.display());
        }
    }
    if check {
        // Control: the check sees what is wrong.
        let broken = dir.path().join("broken.1");
        std::fs::write(&broken, ".TH a 1\n.SH NAME\n.nosuchmacro\n").unwrap();
        assert_ne!(man(&broken).1, "");
    }
}

#[test]
fn doctor_says_how_it_is_used() {
    let mut help = std::process::Command::new(env!("CARGO_BIN_EXE_sandkeep"));
    let help = help.args(["doctor", "--help"]).output().unwrap();
    assert!(help.status.success());
    golden("help-sandkeep-doctor.txt", &String::from_utf8(help.stdout).unwrap());
}
