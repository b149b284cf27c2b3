//! Manifests, and the tools that they become.

use super::*;
use crate::tools::version::Version;
use serde_json::json;

/// The seed's calculator.
pub(super) const CALCULATOR: &str = r#"
name = "calculator"
version = "1.0.0"
description = "Perform basic arithmetic operations"
read_only = true
idempotent = true
level = "strict"
examples = [{ operation = "divide", a = 1, b = 4 }]

[parameters]
type = "object"
required = ["operation", "a", "b"]

[parameters.properties]
operation = { type = "string", enum = ["add", "subtract", "multiply", "divide"], description = "Arithmetic operation" }
a = { type = "number", description = "First number" }
b = { type = "number", description = "Second number" }

[run]
language = "python"
timeout = 10
code = '''
import json, sys
call = json.load(sys.stdin)
'''

[limits]
max_memory_mb = 64

[cache]
ttl = 60

[rate]
calls = 2
per = 3600
"#;

fn faults(text: &str) -> Vec<(Option<usize>, String)> {
    match read(text) {
        Ok(_) => Vec::new(),
        Err(found) => found.into_iter().map(|m| (m.line, m.message)).collect(),
    }
}

#[test]
fn the_calculator_is_read_whole() {
    let manifest = read(CALCULATOR).unwrap_or_else(|found| panic!("{found:?}"));
    assert_eq!((manifest.about.name.as_str(), manifest.about.version), ("calculator", Version(1, 0, 0)));
    assert_eq!(manifest.limits.memory_bytes, Some(64 << 20));
    assert_eq!((manifest.timeout_ms, manifest.ttl), (Some(10_000), Duration::from_secs(60)));
    let accept = |value: Value| {
        let Value::Object(parameters) = value else { panic!() };
        manifest.schema.accept(parameters).map_err(|found| found.into_iter().map(|v| v.pointer).collect::<Vec<_>>())
    };
    assert!(accept(json!({ "operation": "add", "a": 1, "b": 2.5 })).is_ok());
    let mut found = accept(json!({ "operation": "power", "a": "1", "c": 1 })).unwrap_err();
    found.sort();
    assert_eq!(found, ["/parameters/a", "/parameters/b", "/parameters/c", "/parameters/operation"]);
}

#[test]
fn every_complaint_has_its_line() {
    let with = |from: &str, to: &str| faults(&CALCULATOR.replacen(from, to, 1));
    for (from, to, line, word) in [
        ("name = \"calculator\"", "name = \"a b\"", 2, "name: "),
        ("name = \"calculator\"", "nam = \"calculator\"", 2, "nam"),
        ("version = \"1.0.0\"", "version = \"1\"", 3, "version: must be three numbers"),
        ("level = \"strict\"", "level = \"harsh\"", 7, "level: "),
        ("operation = \"divide\", a = 1", "operation = \"power\", a = 1", 8, "examples.0.operation"),
        ("a = { type = \"number\"", "a = { type = \"nmber\"", 16, "nmber"),
        ("a = { type = \"number\"", "a = { typ = \"number\"", 16, "no keyword"),
        ("a = { type = \"number\"", "a = { type = \"number\", default = \"x\"", 16, "parameters.properties.a.default"),
        ("language = \"python\"", "language = \"cobol\"", 20, "run.language: must be one of bash, python"),
        ("timeout = 10", "timeout = 301", 21, "run.timeout"),
        ("timeout = 10", "timeout = \"10\"", 21, "invalid type"),
        ("timeout = 10", "command = [\"jq\"]", 19, "run: must have either"),
        ("max_memory_mb = 64", "max_memory = 64", 28, "limits.max_memory: is no limit"),
        ("max_memory_mb = 64", "max_memory_mb = -1", 28, "above 0"),
        ("ttl = 60", "ttl = 0", 31, "cache.ttl"),
        ("calls = 2", "calls = 0", 34, "rate.calls"),
        ("[limits]", "egress = [\"a\"]\n[limits]", 27, "egress"),
    ] {
        let found = with(from, to);
        assert!(found.iter().any(|(at, message)| *at == Some(line) && message.contains(word)), "{to}: {found:?}");
    }
    // Everything at once.
    let several = CALCULATOR.replace("version = \"1.0.0\"", "version = \"1\"").replace("ttl = 60", "ttl = 0");
    assert_eq!(faults(&several).len(), 2);
    assert_eq!(with("idempotent = true", "idempotent = false")[0].1, "cache: is for tools that are idempotent");
}

#[test]
fn a_command_is_quoted_whatever_it_holds() {
    let text = "name = 'c'\nversion = '1.0.0'\ndescription = 'd'\n[run]\ncommand = ['a b', \"it's\", '$(x)', '']\n";
    let manifest = read(text).unwrap_or_else(|found| panic!("{found:?}"));
    assert_eq!(manifest.code, r"exec -- 'a b' 'it'\''s' '$(x)' ''");
    // No parameters are none, not any.
    assert!(manifest.schema.accept(Map::from_iter([("a".into(), json!(1))])).is_err());
    for bad in ["[]", "['']", "['a\\u0000']", "[1]", "'a'"] {
        let bad = bad.replace('\'', "\"");
        assert!(
            read(&format!("name='c'\nversion='1.0.0'\ndescription='d'\n[run]\ncommand = {bad}\n")).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn as_json_faults_are_told_by_pointer() {
    let body =
        json!({ "name": "x", "version": "1.0.0", "description": "d", "run": { "language": "python", "code": 1 } });
    assert_eq!(from_json(body).err().unwrap()[0].pointer, "/run/code");
    let body = json!({ "name": "x", "version": "1.0.0", "description": "d", "run": { "language": "python" },
                       "parameters": { "type": "object", "properties": { "a": { "$ref": "https://example.org/s" } } } });
    let found: Vec<String> = from_json(body).err().unwrap().into_iter().map(|v| v.pointer).collect();
    assert!(
        found.contains(&"/run".to_owned()) && found.contains(&"/parameters/properties/a/$ref".to_owned()),
        "{found:?}"
    );
}

fn shaped(code: i32, stdout: &str, stderr: &str) -> Shaped {
    let custom = Custom::new(read(CALCULATOR).unwrap_or_else(|found| panic!("{found:?}")));
    custom.shape(Finished {
        around: Default::default(),
        raw: None,
        note: Value::Null,
        outcome: Some(Outcome::Exited { code }),
        refused: None,
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
        result: None,
    })
}

#[test]
fn what_was_printed_is_the_result_and_what_was_said_last_the_reason() {
    for (stdout, result) in [
        ("{\"result\": 0.25}\n", "{\"result\":0.25}"),
        ("{\"a\":1,\"a\":2}", "{\"a\":2}"),
        ("1e999", "\"1e999\""),
        ("\"\\ud800\"", "\"\\\"\\\\ud800\\\"\""),
        (" [1,2] ", "[1,2]"),
        ("4\n", "4"),
        ("", "null"),
        ("four\n", "\"four\\n\""),
        ("{} {}", "\"{} {}\""),
        ("NaN", "\"NaN\""),
    ] {
        let shaped = shaped(0, stdout, "warning\n");
        assert_eq!((shaped.result.get(), shaped.error), (result, None), "{stdout:?}");
    }
    for levels in [65, 100_000] {
        let deep = "[".repeat(levels) + &"]".repeat(levels);
        assert!(shaped(0, &deep, "").result.get().starts_with("\"[["));
    }
    let failed = shaped(1, "", "Traceback\n  x\nDivision by zero\n\n");
    assert_eq!(failed.error, Some(ToolError::new("tool_error", "Division by zero")));
    assert_eq!(shaped(3, "", "").error.unwrap().message, "the tool exited with code 3");
    assert!(shaped(1, "", &"x".repeat(100_000)).error.unwrap().message.len() < 1100);
}

#[test]
fn each_principal_has_a_rate_of_its_own() {
    let custom = Custom::new(read(CALCULATOR).unwrap_or_else(|found| panic!("{found:?}")));
    assert!(custom.admit("a").is_ok() && custom.admit("a").is_ok());
    let wait = custom.admit("a").unwrap_err();
    assert!(wait > Duration::from_secs(1000) && wait <= Duration::from_secs(1800), "{wait:?}");
    assert!(custom.admit("b").is_ok());
}
