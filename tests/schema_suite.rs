//! The JSON-Schema-Test-Suite against the validator as it is used here. `scripts/fetch-schema-suite` brings the suite.

#[path = "support/machine.rs"]
mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jsonschema::{Draft, PatternOptions, Retrieve, Uri, ValidationOptions};
use sandkeep::tools::Schema;
use serde_json::{Map, Value, json};

const REMOTES: &str = "http://localhost:1234/";

fn suite() -> PathBuf {
    machine::schema_suite()
}

/// Every file below `dir`, by its path from there.
fn files(dir: &Path) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "json") {
                let name = path.strip_prefix(dir).unwrap().with_extension("").to_string_lossy().into_owned();
                found.insert(name, serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap());
            }
        }
    }
    found
}

/// What the suite's schemas refer to by address, and nothing else.
struct Remotes(BTreeMap<String, Value>);

impl Retrieve for Remotes {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        let name = uri.as_str().strip_prefix(REMOTES).map(|name| name.trim_end_matches(".json"));
        let found = name.and_then(|name| self.0.get(name));
        found.cloned().ok_or_else(|| format!("{uri} is not one of the suite's remotes").into())
    }
}

/// As `sandkeep::tools::Schema` compiles, but for formats and remotes.
fn options(formats: bool) -> ValidationOptions<'static> {
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .should_validate_formats(formats)
        .with_pattern_options(PatternOptions::regex().size_limit(256 * 1024).dfa_size_limit(2 * 1024 * 1024))
        .with_retriever(Remotes(files(&suite().join("remotes"))))
}

/// One test of the suite, by the name that the list of failures has.
struct Case {
    name: String,
    schema: Value,
    data: Value,
    valid: bool,
}

fn cases(below: &str, wanted: impl Fn(&str) -> bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for (file, groups) in files(&suite().join("tests/draft2020-12").join(below)) {
        if !wanted(&file) {
            continue;
        }
        for group in groups.as_array().unwrap() {
            for test in group["tests"].as_array().unwrap() {
                let words = |v: &Value| v["description"].as_str().unwrap().to_owned();
                cases.push(Case {
                    name: format!("{} / {} / {}", Path::new(below).join(&file).display(), words(group), words(test)),
                    schema: group["schema"].clone(),
                    data: test["data"].clone(),
                    valid: test["valid"].as_bool().unwrap(),
                });
            }
        }
    }
    cases
}

/// `part: name: reason`, one a line.
fn listed(part: &str) -> BTreeSet<String> {
    let text = include_str!("schema_suite_failures.txt");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut names = BTreeSet::new();
    for line in lines {
        let (name, reason) = line.split_once(" # ").unwrap_or_else(|| panic!("no reason: {line}"));
        assert!(!reason.trim().is_empty(), "no reason: {line}");
        if let Some(name) = name.strip_prefix(part).and_then(|rest| rest.strip_prefix(": ")) {
            assert!(names.insert(name.to_owned()), "twice: {line}");
        }
    }
    names
}

fn compare(part: &str, failed: &BTreeSet<String>) {
    let listed = listed(part);
    let unlisted: Vec<String> = failed.difference(&listed).map(|name| format!("{part}: {name}")).collect();
    let passing: Vec<&String> = listed.difference(failed).collect();
    assert!(unlisted.is_empty(), "{} fail and are not listed:\n{}", unlisted.len(), unlisted.join("\n"));
    assert!(passing.is_empty(), "listed as failing, and they pass or are gone: {passing:#?}");
}

fn failing(cases: &[Case], options: &ValidationOptions<'static>) -> BTreeSet<String> {
    let failed = |case: &&Case| !options.build(&case.schema).is_ok_and(|v| v.is_valid(&case.data) == case.valid);
    cases.iter().filter(failed).map(|case| case.name.clone()).collect()
}

#[test]
fn the_required_tests_of_the_dialect() {
    if !machine::expect("schema-suite") {
        return;
    }
    let cases = cases("", |file| !file.starts_with("optional/"));
    assert!(cases.len() > 1000, "{} tests: is that the suite?", cases.len());
    compare("required", &failing(&cases, &options(false)));
}

#[test]
fn formats_where_they_are_asserted() {
    if !machine::expect("schema-suite") {
        return;
    }
    let cases = cases("optional/format", |_| true);
    assert!(cases.len() > 400, "{} tests: is that the suite?", cases.len());
    compare("format", &failing(&cases, &options(true)));
    // What is not checked is not taken for checked, either.
    for format in ["idn-hostname", "idn-email"] {
        let of_format = |format: &str| json!({ "type": "object", "properties": { "a": { "format": format } } });
        assert!(Schema::foreign(of_format(format), "").is_err(), "{format}");
        assert!(Schema::foreign(of_format("hostname"), "").is_ok());
    }
}

/// Schemas that callers may register give the same verdicts through our own door. It takes objects alone and fences more, so
/// what it refuses is not run; each of the others is asked as the one property of an object.
#[test]
fn what_our_own_door_takes_it_judges_as_the_suite_does() {
    if !machine::expect("schema-suite") {
        return;
    }
    let mut failed = BTreeSet::new();
    let mut taken = 0;
    for case in cases("", |file| !file.starts_with("optional/") && file != "format") {
        let mut inner = case.schema.clone();
        if let Value::Object(keywords) = &mut inner {
            keywords.remove("$schema");
            // A reference to a place of the whole schema would lead elsewhere here.
            if case.schema.to_string().contains("\"$ref\"") {
                continue;
            }
        }
        let schema = json!({ "type": "object", "properties": { "value": inner }, "required": ["value"] });
        let Ok(schema) = Schema::foreign(schema, "") else { continue };
        taken += 1;
        let found = schema.violations(&Value::Object(Map::from_iter([("value".into(), case.data)])));
        if found.is_empty() != case.valid {
            failed.insert(case.name);
        }
    }
    assert!(taken > 700, "{taken} were taken");
    compare("own", &failed);
}
