//! README's examples, run as they stand there.

#[path = "support/server.rs"]
mod server;
#[path = "support/daemon.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use server::{Answer, Server};
use support::*;

/// As a SearXNG answers.
const FOUND: &str = r#"{"query": "linux namespaces", "number_of_results": 0, "results": [
    {"url": "https://man7.org/linux/man-pages/man7/namespaces.7.html", "title": "namespaces(7) - Linux manual page",
     "content": "A namespace wraps a global system resource in an abstraction", "engine": "a", "score": 1.0},
    {"url": "https://lwn.net/Articles/531114/", "title": "Namespaces in operation, part 1", "content": "", "engine": "a"},
    {"url": "http://lwn.net/Articles/531114/#Comments", "title": "The same", "content": "", "engine": "b"}],
    "answers": [], "corrections": [], "infoboxes": [], "suggestions": [], "unresponsive_engines": []}"#;

/// Fenced blocks of the sections from `from` up to `to`: language and text.
fn blocks(readme: &str, from: &str, to: &str) -> Vec<(String, String)> {
    let part = readme.split(from).nth(1).and_then(|rest| rest.split(to).next()).unwrap();
    let mut found = Vec::new();
    let mut inside: Option<(String, String)> = None;
    for line in part.lines() {
        match (line.strip_prefix("```"), inside.take()) {
            (Some(language), None) => inside = Some((language.to_owned(), String::new())),
            (Some(_), Some(block)) => found.push(block),
            (None, Some((language, text))) => inside = Some((language, text + line + "\n")),
            (None, None) => {}
        }
    }
    found
}

#[test]
fn every_example_prints_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let blocks = blocks(&readme, "\n## Examples\n", "\n## Command line\n");
    let manifest = blocks.iter().find(|(language, _)| language == "toml").unwrap();
    assert_eq!(manifest.1, std::fs::read_to_string(root.join("examples/tools/calculator.toml")).unwrap());

    let tools = tempfile::tempdir().unwrap();
    let searxng = Server::answering(|_, _| Some(Answer::Reply("HTTP/1.1 200 OK\r\n".into(), FOUND.into())));
    let config = format!(
        "tools_dir = {:?}\n[levels]\nminimal = true\n[search.searxng]\nurl = {:?}\n",
        tools.path(),
        searxng.url("")
    );
    let daemon = Daemon::start(&config, &[]);
    let mut examples = blocks.iter().filter(|(language, _)| language != "toml");
    let mut first = None;
    let mut count = 0;
    while let Some((language, script)) = examples.next() {
        assert_eq!(language, "sh", "{script}");
        let (language, expected) = examples.next().unwrap();
        assert_eq!(language, "text", "{script} is not followed by what it prints");
        // The function that the first one defines is there for all.
        let function = *first.get_or_insert(script.lines().next().unwrap());
        let out = Command::new("bash")
            .args(["-euc", &format!("{function}\n{script}")])
            .current_dir(root)
            .env("SOCKET", daemon.socket())
            .env("TOOLS_DIR", tools.path())
            .output()
            .unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert_eq!(stdout, *expected, "{script}\n{stderr}\n{}", daemon.log());
        count += 1;
    }
    assert_eq!(count, 19);
}
