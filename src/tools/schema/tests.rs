//! Schemas against callers and against their authors.

use std::time::{Duration, Instant};

use super::*;
use serde_json::json;

fn foreign(value: Value) -> Result<Schema, Vec<(String, String)>> {
    Schema::foreign(value, "").map_err(|found| found.into_iter().map(|v| (v.pointer, v.message)).collect())
}

fn object(properties: Value) -> Value {
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn found(schema: &Schema, parameters: Value) -> Vec<String> {
    let Value::Object(parameters) = parameters else { panic!() };
    let mut pointers: Vec<String> =
        schema.accept(parameters).err().unwrap_or_default().into_iter().map(|v| v.pointer).collect();
    pointers.sort();
    pointers
}

#[test]
fn every_kind_of_parameter_is_held_and_all_that_is_wrong_is_told_at_once() {
    let schema = foreign(json!({
        "type": "object",
        "required": ["string", "email"],
        "properties": {
            "string": { "type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$" },
            "number": { "type": "number", "minimum": 0, "exclusiveMaximum": 10 },
            "integer": { "type": "integer", "multipleOf": 5 },
            "boolean": { "type": "boolean" },
            "array": { "type": "array", "items": { "type": "integer" }, "maxItems": 3, "uniqueItems": true },
            "object": { "type": "object", "required": ["x"], "properties": { "x": { "const": 1 } } },
            "email": { "type": "string", "format": "email", "pattern": "^[^@]+@[^@]+\\.[^@]+$" },
            "url": { "type": "string", "format": "uri" },
            "when": { "type": "string", "format": "date-time" },
            "id": { "type": "string", "format": "uuid" },
            "file": { "type": "string", "format": "file-path" },
            "choice": { "enum": ["a", "b"], "default": "a", "examples": ["b"] },
        },
        "additionalProperties": false,
    }))
    .unwrap_or_else(|found| panic!("{found:?}"));
    let good = json!({
        "string": "abc", "number": 9.5, "integer": 10, "boolean": false, "array": [1, 2, 3], "object": { "x": 1 },
        "email": "user@example.com", "url": "https://example.com/a?b", "when": "2026-11-21T22:00:00Z",
        "id": "123e4567-e89b-12d3-a456-426614174000", "file": "notes/a.txt",
    });
    assert!(found(&schema, good.clone()).is_empty());
    let Value::Object(given) = good else { panic!() };
    assert_eq!(schema.accept(given).unwrap()["choice"], "a");
    let bad = json!({
        "string": "A", "number": 10, "integer": 7, "boolean": "true", "array": [1, 1, 2, "x"], "object": { "x": 2 },
        "email": "user@example", "url": "//nowhere", "when": "yesterday", "id": "123", "file": "a\u{0}b", "choice": "c",
        "other": 1,
    });
    let places: std::collections::BTreeSet<String> = found(&schema, bad).into_iter().collect();
    let all = [
        "string", "number", "integer", "boolean", "array", "array/3", "object/x", "email", "url", "when", "id", "file",
        "choice", "other",
    ];
    assert_eq!(places, all.iter().map(|name| format!("/parameters/{name}")).collect());
    assert_eq!(found(&schema, json!({})), ["/parameters/email", "/parameters/string"]);
}

#[test]
fn no_schema_is_made_that_would_read_or_never_end() {
    for (schema, pointer, word) in [
        (json!(true), "", "must be an object"),
        (json!({ "type": "string" }), "/type", "object"),
        (json!({ "type": "object", "$schema": "http://json-schema.org/draft-07/schema#" }), "/$schema", "must be"),
        (object(json!({ "a": { "$ref": "https://example.org/s.json" } })), "/properties/a/$ref", "nothing else"),
        (object(json!({ "a": { "$ref": "file:///etc/passwd" } })), "/properties/a/$ref", "nothing else"),
        (object(json!({ "a": { "$ref": "#/$defs/none" } })), "/properties/a/$ref", "no schema"),
        (object(json!({ "a": { "$ref": "#" } })), "", "refers to itself"),
        (object(json!({ "a": { "$ref": "#/x-e" } })), "/properties/a/$ref", "no schema"),
        (
            json!({ "type": "object", "properties": { "a": { "$ref": "#/x-e" } }, "x-e": { "$ref": "" } }),
            "/properties/a/$ref",
            "no schema",
        ),
        (
            json!({ "type": "object", "properties": { "a": { "$ref": "#/x-e" } }, "x-e": { "$ref": "é" } }),
            "/properties/a/$ref",
            "no schema",
        ),
        (
            json!({ "type": "object", "properties": { "a": { "$ref": "#/properties/b/const" }, "b": { "const": { "$ref": "é" } } } }),
            "/properties/a/$ref",
            "no schema",
        ),
        (object(json!({ "a": { "$ref": "é" } })), "/properties/a/$ref", "nothing else"),
        (
            json!({ "type": "object", "properties": { "a": { "$ref": "#/$defs/b%20c" } }, "$defs": { "b c": {}, "b%20c": {} } }),
            "/properties/a/$ref",
            "percent",
        ),
        (object(json!({ "a": { "$id": "http://x/", "type": "string" } })), "/properties/a/$id", "no keyword"),
        (object(json!({ "a": { "$dynamicRef": "#x" } })), "/properties/a/$dynamicRef", "no keyword"),
        (object(json!({ "a": { "minlength": 1 } })), "/properties/a/minlength", "no keyword"),
        (object(json!({ "a": { "type": "string", "format": "e-mail" } })), "", ""),
        (object(json!({ "a": { "pattern": "(" } })), "/properties/a/pattern", "pattern"),
        (object(json!({ "a": { "pattern": "(?=a)b" } })), "/properties/a/pattern", "look-around"),
        (object(json!({ "a": { "pattern": "((a{1,100}){1,100}){1,100}" } })), "/properties/a/pattern", "too large"),
        (
            object(json!({ "a": { "patternProperties": { "(a)\\1": {} } } })),
            "/properties/a/patternProperties/(a)\\1",
            "",
        ),
        (object(json!({ "a": 1 })), "/properties/a", "must be a schema"),
        (object(json!({ "a": { "type": "strin" } })), "", ""),
    ] {
        let faults = foreign(schema.clone()).err().unwrap_or_else(|| panic!("accepted: {schema}"));
        assert!(
            faults.iter().any(|(at, message)| at.starts_with(pointer) && message.contains(word)),
            "{schema}: {faults:?}"
        );
    }
    let mutual = json!({ "type": "object", "properties": { "a": { "$ref": "#/$defs/a" } },
        "$defs": { "a": { "allOf": [{ "$ref": "#/$defs/b" }] }, "b": { "anyOf": [{ "$ref": "#/$defs/a" }] } } });
    assert!(foreign(mutual).err().unwrap()[0].1.contains("refers to itself"));
}

#[test]
fn a_schema_that_grows_when_it_is_followed_is_refused_in_no_time() {
    let began = Instant::now();
    // Each definition refers to the next twice: 2^60 parts.
    let mut defs = Map::new();
    for n in 0..60 {
        let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
        defs.insert(format!("d{n}"), json!({ "allOf": [next.clone(), next] }));
    }
    defs.insert("d60".into(), json!({ "type": "string" }));
    let schema = json!({ "type": "object", "properties": { "a": { "$ref": "#/$defs/d0" } }, "$defs": defs });
    assert!(foreign(schema).err().unwrap()[0].1.contains("more than 2000 parts"));
    let mut deep = json!({ "type": "string" });
    for _ in 0..100 {
        deep = json!({ "not": deep });
    }
    assert!(foreign(object(json!({ "a": deep }))).err().unwrap()[0].1.contains("nested deeper"));
    let large = object(json!({ "a": { "enum": ["x".repeat(16 << 20)] } }));
    assert!(foreign(large).err().unwrap()[0].1.contains("larger than"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn many_values_against_many_parts_take_bounded_time_and_memory() {
    let choices: Vec<Value> = (0..1500).map(|n| json!({ "const": n })).collect();
    let schema = foreign(object(json!({ "x": { "type": "array", "items": { "anyOf": choices } } })));
    let schema = schema.unwrap_or_else(|found| panic!("{found:?}"));
    let began = Instant::now();
    assert!(found(&schema, json!({ "x": vec![1499; 2000] })).is_empty());
    // Where there would be three million errors, the first is told.
    assert_eq!(found(&schema, json!({ "x": vec![-1; 2000] })), ["/parameters/x/0"]);
    assert_eq!(found(&schema, json!({ "x": vec![-1; 90_000] })), ["/parameters"]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_pattern_takes_time_in_proportion_to_the_text() {
    let schema =
        foreign(object(json!({ "a": { "type": "string", "pattern": "^(a+)+$" } }))).unwrap_or_else(|_| panic!());
    let began = Instant::now();
    assert_eq!(found(&schema, json!({ "a": "a".repeat(1 << 20) + "!" })), ["/parameters/a"]);
    assert!(found(&schema, json!({ "a": "a".repeat(1 << 20) })).is_empty());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_null_is_not_given_where_nothing_has_to_be() {
    let schema = foreign(json!({ "type": "object", "required": ["a"],
        "properties": { "a": { "type": "string" }, "b": { "type": "string" } } }))
    .unwrap_or_else(|_| panic!());
    assert!(found(&schema, json!({ "a": "x", "b": null })).is_empty());
    assert_eq!(found(&schema, json!({ "a": null, "b": null })), ["/parameters/a"]);
    let below = foreign(object(json!({
        "o": object(json!({ "e": { "type": "number" }, "n": { "type": ["number", "null"] } })),
        "l": { "type": "array", "items": object(json!({ "e": { "type": "number" } })) },
    })))
    .unwrap_or_else(|_| panic!());
    assert!(found(&below, json!({ "o": { "e": null, "n": null }, "l": [{ "e": null }] })).is_empty());
}
