//! Against numpy and scipy (`tests/golden/statistics.py`), and what those leave open.

use serde_json::{Value, json};

use super::*;

fn input(parameters: Value) -> Input {
    serde_json::from_value(parameters).unwrap()
}

fn result(parameters: Value) -> Value {
    let input = input(parameters);
    assert_eq!(DataAnalyzer.check(&input), []);
    serde_json::to_value(describe_all(&input)).unwrap()
}

fn complaints(parameters: Value) -> Vec<(String, String)> {
    DataAnalyzer.check(&input(parameters)).into_iter().map(|v| (v.pointer, v.message)).collect()
}

/// Everything that `expected` names, to 1e-9.
fn assert_close(found: &Value, expected: &Value, place: &str) {
    match expected {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| assert_close(&found[name], value, &format!("{place}.{name}")));
        }
        Value::Array(items) => {
            assert_eq!(found.as_array().map(Vec::len), Some(items.len()), "{place}");
            for (at, value) in items.iter().enumerate() {
                assert_close(&found[at], value, &format!("{place}[{at}]"));
            }
        }
        Value::Number(_) => {
            let (x, y) = (found.as_f64(), expected.as_f64().unwrap());
            let x = x.unwrap_or_else(|| panic!("{place}: {found}, expected {y}"));
            // What is in proportion to the data's own size already is near 0 by rounding alone.
            let relative = ["skewness", "kurtosis", "correlation"].iter().any(|name| place.contains(name));
            let size = if relative { 1.0 } else { y.abs().max(x.abs()) };
            assert!((x - y).abs() <= 1e-9 * size, "{place}: {x}, expected {y}");
        }
        other => assert_eq!(found, other, "{place}"),
    }
}

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/statistics.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn columns_are_described_as_numpy_and_scipy_do() {
    for column in golden()["columns"].as_array().unwrap() {
        let found = result(json!({ "data": column["data"] }));
        assert_close(&found["columns"]["values"], &column["expected"], column["name"].as_str().unwrap());
    }
}

#[test]
fn columns_correlate_as_numpy_says() {
    let golden = golden();
    let found = result(json!({ "data": golden["correlation"]["data"] }));
    assert_close(&found["correlation"], &golden["correlation"]["expected"], "correlation");
}

#[test]
fn nothing_has_no_statistics() {
    for data in [json!([]), json!([null, "NaN"])] {
        let found = result(json!({ "data": data }));
        let of = &found["columns"]["values"];
        assert_eq!(of["count"], 0);
        for name in ["sum", "mean", "median", "mode", "variance", "quartiles", "skewness", "histogram"] {
            assert_eq!(of[name], Value::Null, "{name}");
        }
        assert_eq!(of["outliers"]["count"], 0);
    }
    assert_eq!(result(json!({ "data": {} }))["columns"], json!({}));
}

#[test]
fn what_a_float_can_not_hold_is_null_and_nothing_else_suffers() {
    let found = result(json!({ "data": [1e308, 1e308, -1e308, 1.7e308] }));
    let of = &found["columns"]["values"];
    assert_eq!(of["variance"], Value::Null);
    assert!((of["mean"].as_f64().unwrap() / 6.75e307 - 1.0).abs() < 1e-12, "{of}");
    assert!(of["standard_deviation"].as_f64().unwrap() > 1e308, "{of}");
    assert_eq!(of["histogram"], Value::Null);
    // Subnormal numbers.
    let found = result(json!({ "data": [5e-324, 1e-323, 1.5e-323] }));
    assert_eq!(found["columns"]["values"]["mean"], 1e-323);
}

#[test]
fn tables_come_in_three_shapes() {
    let expected = result(json!({ "data": { "a": [1, 2, 4], "b": [3, null, 1] } }));
    assert_eq!(expected["columns"]["b"]["missing"], 1);
    assert_eq!(expected["correlation"]["a"]["b"], -1.0);
    let objects = json!([{ "a": 1, "b": 3, "who": "x" }, { "a": 2 }, { "a": 4, "b": 1 }]);
    let found = result(json!({ "data": objects }));
    assert_eq!(found["columns"], expected["columns"]);
    assert_eq!(found["skipped"], json!(["who"]));
    let rows = result(json!({ "data": [[1, 3], [2, null], [4, 1]], "columns": ["a", "b"] }));
    assert_eq!(rows["columns"], expected["columns"]);
    let rows = result(json!({ "data": [[1, 3], [2, null], [4, 1]] }));
    assert_eq!(rows["columns"]["column_2"], expected["columns"]["b"]);
    let one = result(json!({ "data": objects, "columns": ["a"] }));
    assert_eq!(one["columns"].as_object().unwrap().len(), 1);
    let named = result(json!({ "data": [1, 2], "columns": ["height"] }));
    assert_eq!(named["columns"]["height"]["mean"], 1.5);
}

#[test]
fn every_wrong_value_is_named_at_its_place() {
    let wrong = |place: &str| (format!("/parameters/data{place}"), "is neither a number nor null".to_owned());
    assert_eq!(complaints(json!({ "data": [1, "x", true, 2, {}] })).len(), 4, "rows must be objects then");
    assert_eq!(complaints(json!({ "data": [1, "x", true, 2] })), [wrong("/1"), wrong("/2")]);
    assert_eq!(complaints(json!({ "data": { "a/b": ["x"] }, "columns": ["a/b"] })), [wrong("/a~1b/0")]);
    assert_eq!(complaints(json!({ "data": [{ "a": "x" }], "columns": ["a"] })), [wrong("/0/a")]);
    assert_eq!(complaints(json!({ "data": [[1, "x"]] })), [wrong("/0/1")]);
    let found = complaints(json!({ "data": { "a": 1 }, "columns": ["b"] }));
    assert_eq!(found, [("/parameters/data/a".into(), "is not a list".into())]);
    let found = complaints(json!({ "data": [[1], [1, 2]], "columns": ["a", "b"] }));
    assert_eq!(found.len(), 2, "{found:?}");
    let found = complaints(json!({ "data": { "a": [1] }, "columns": ["a", "b"] }));
    assert_eq!(found, [("/parameters/columns/1".into(), "is no column of the data".into())]);
    assert_eq!(complaints(json!({ "data": vec!["x"; 1000] })).len(), VIOLATIONS_MAX + 1);
}
