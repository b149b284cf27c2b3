//! Golden files: what the public sees may change only together with its file. `UPDATE_GOLDEN=1` writes them.

use std::path::Path;

use sandkeep::config::{Config, Overrides};
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

#[test]
fn the_readmes_configuration_is_the_built_in_one() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let block = readme.split("```toml\n").nth(1).and_then(|b| b.split("```").next()).unwrap();
    let config = Config::parse(block, Path::new("README.md"), &Overrides::default()).unwrap();
    assert_eq!(config, Config::default());
    // What is commented out is valid, too.
    let principals: String = block
        .lines()
        .filter_map(|l| l.strip_prefix("# "))
        .filter(|l| !l.contains(':'))
        .fold(String::new(), |all, line| all + line + "\n");
    let config = Config::parse(&principals, Path::new("README.md"), &Overrides::default()).unwrap();
    assert_eq!(config.principals.len(), 1, "{principals}");
}

/// What is installed as /etc/sandkeep/sandkeep.toml is the same text, every line of it commented out.
#[test]
fn the_installed_configuration_is_the_readmes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let block = readme.split("```toml\n").nth(1).and_then(|b| b.split("```").next()).unwrap();
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

#[test]
fn doctor_says_how_it_is_used() {
    let mut help = std::process::Command::new(env!("CARGO_BIN_EXE_sandkeep"));
    let help = help.args(["doctor", "--help"]).output().unwrap();
    assert!(help.status.success());
    golden("help-sandkeep-doctor.txt", &String::from_utf8(help.stdout).unwrap());
}
