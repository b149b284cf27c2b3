//! The invariants of ARCHITECTURE.md that can be checked by reading the source.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{dir} has no source");
    found
}

/// Source without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    text.lines().map(|l| l.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn in_module(path: &Path, modules: &[&str]) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let relative = path.strip_prefix(root).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    modules.iter().any(|m| first == *m || first == format!("{m}.rs"))
}

#[test]
fn spec_and_policy_do_no_io_and_hold_no_clock() {
    for (path, text) in sources("src").into_iter().filter(|(p, _)| in_module(p, &["spec", "policy"])) {
        for word in ["std::fs", "std::net", "std::process", "Instant", "SystemTime", "std::env::", "println!"] {
            assert!(!code(&text).contains(word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn only_sys_contains_unsafe() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    assert!(lib.contains("#![deny(unsafe_code)]"));
    for (path, text) in sources("src") {
        let code = code(&text);
        let has = code.contains("unsafe ") || code.contains("unsafe{") || code.contains("allow(unsafe_code)");
        assert!(!has || in_module(&path, &["sys"]), "{}", path.display());
    }
}

#[test]
fn every_unsafe_block_says_why_it_is_safe() {
    for (path, text) in sources("src/sys") {
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            if line.split("//").next().unwrap_or("").contains("unsafe {") {
                let above = lines[n.saturating_sub(6)..n].iter().any(|l| l.contains("SAFETY:"));
                assert!(above, "{}:{}: no SAFETY note", path.display(), n + 1);
            }
        }
    }
}

#[test]
fn services_and_transports_know_the_verbs_and_not_the_engine() {
    let forbidden = ["sys", "launch", "backend", "engine", "host"];
    for (path, text) in sources("src").into_iter().filter(|(p, _)| in_module(p, &["runtimes", "tools", "agent", "api"]))
    {
        for module in forbidden {
            let name = format!("crate::{module}::");
            assert!(!code(&text).contains(&name), "{}: {name}", path.display());
        }
    }
}

#[test]
fn domain_types_are_not_wire_types() {
    for (path, text) in sources("src").into_iter().filter(|(p, _)| in_module(p, &["spec", "policy"])) {
        assert!(!code(&text).contains("Serialize"), "{}", path.display());
    }
}

#[test]
fn the_engine_side_names_no_async_runtime_and_no_http() {
    let engine_side =
        ["sys", "host", "launch", "backend", "engine", "spec", "policy", "config", "telemetry", "supervisor"];
    for (path, text) in sources("src").into_iter().filter(|(p, _)| in_module(p, &engine_side)) {
        for word in ["tokio", "hyper", "axum", "serde_json"] {
            assert!(!code(&text).contains(word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn every_file_begins_with_what_it_is_and_is_one_noun() {
    // Tests beside the code count; a longer file needs a reason in this list.
    let exempt: [(&str, usize); 0] = [];
    for (path, text) in sources("src") {
        assert!(text.starts_with("//!"), "{} has no //! line", path.display());
        let most = exempt.iter().find(|(name, _)| path.ends_with(name)).map_or(620, |(_, most)| *most);
        let lines = text.lines().count();
        assert!(lines <= most, "{}: {lines} lines", path.display());
    }
}

#[test]
fn nothing_is_left_open() {
    for (path, text) in sources("src") {
        for word in ["todo!", "unimplemented!", "FIXME", "XXX", "#[ignore", "allow(dead_code)", "allow(unused"] {
            // A reason makes an exception readable: `allow(unused_mut, reason = "…")`.
            let open = text.lines().any(|l| l.contains(word) && !l.contains("reason ="));
            assert!(!open, "{}: {word}", path.display());
        }
    }
}

/// The fuzzers build the same dependencies as everything else, or what they find (and do not find) is about other code.
/// What only tests and benches are built with is not among them, and cargo does not lock it there.
#[test]
fn the_fuzzers_lock_what_the_project_locks() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap().parse::<toml::Table>().unwrap();
    let named = |p: &toml::Value| (p["name"].as_str().unwrap().to_owned(), p["version"].as_str().unwrap().to_owned());
    let (ours, theirs, manifest) = (read("Cargo.lock"), read("fuzz/Cargo.lock"), read("Cargo.toml"));
    let packages = ours["package"].as_array().unwrap();
    // A dependency is `name`, or `name version` where several versions are locked.
    let needs = |package: &toml::Value| -> Vec<String> {
        let listed = package.get("dependencies").and_then(toml::Value::as_array);
        listed.into_iter().flatten().map(|d| d.as_str().unwrap().to_owned()).collect()
    };
    let built = ["dependencies", "build-dependencies"].map(|table| manifest[table].as_table().unwrap());
    let own = packages.iter().find(|p| named(p).0 == "sandkeep").unwrap();
    let mut open = needs(own);
    open.retain(|d| built.iter().any(|table| table.contains_key(d.split(' ').next().unwrap())));
    let mut reached = std::collections::BTreeSet::from([named(own)]);
    while let Some(dependency) = open.pop() {
        let mut words = dependency.split(' ');
        let (name, version) = (words.next().unwrap(), words.next());
        let is = |p: &&toml::Value| named(p).0 == name && version.is_none_or(|v| named(p).1 == v);
        let package = packages.iter().find(is).unwrap();
        if reached.insert(named(package)) {
            open.extend(needs(package));
        }
    }
    assert!(reached.len() > 100, "the lock file was not understood: {reached:?}");
    // Also where what was added is a dependency of others already: cargo would have to write the lock.
    let direct: std::collections::BTreeSet<String> = built.iter().flat_map(|table| table.keys().cloned()).collect();
    let locked = theirs["package"].as_array().unwrap().iter().find(|p| named(p).0 == "sandkeep").unwrap();
    let locked = needs(locked).into_iter().map(|d| d.split(' ').next().unwrap().to_owned());
    assert_eq!(locked.collect::<std::collections::BTreeSet<_>>(), direct, "fuzz/Cargo.lock");
    let theirs: Vec<_> = theirs["package"].as_array().unwrap().iter().map(named).collect();
    let missing: Vec<_> = reached.into_iter().filter(|p| !theirs.contains(p)).collect();
    assert!(missing.is_empty(), "cp Cargo.lock fuzz/Cargo.lock && (cd fuzz && cargo metadata >/dev/null): {missing:?}");
}
