//! JSON as a request body: strict, bounded in depth, and every complaint with its place.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::spec::capped;
use crate::tools::Violation;

/// Of one message; a parser's message may repeat a piece of the body.
const MESSAGE_CHARS_MAX: usize = 200;
/// Of a pointer: a caller may have sent names of megabytes.
const POINTER_CHARS_MAX: usize = 512;
/// Values in one body: a decoded value takes some forty times the two bytes that it can be written with.
const VALUES_MAX: usize = 100_000;

/// `body` as JSON. Refused are names given twice and more than 128 levels (serde_json's own bound, kept here on purpose);
/// `Err` tells where.
pub fn parse(body: &[u8]) -> Result<Value, Violation> {
    let (path, values) = (RefCell::new(String::new()), Cell::new(0));
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = Strict { path: &path, values: &values }.deserialize(&mut deserializer).and_then(|value| {
        deserializer.end()?;
        Ok(value)
    });
    // The path is left as it stood at the failure.
    parsed.map_err(|error: serde_json::Error| {
        Violation::new(capped(&path.borrow(), POINTER_CHARS_MAX), capped(&error.to_string(), MESSAGE_CHARS_MAX))
    })
}

#[derive(Clone, Copy)]
struct Strict<'p> {
    path: &'p RefCell<String>,
    values: &'p Cell<usize>,
}

impl Strict<'_> {
    fn enter(self, step: &str) -> usize {
        let mut path = self.path.borrow_mut();
        let before = path.len();
        path.push('/');
        if step.contains(['~', '/']) {
            path.push_str(&step.replace('~', "~0").replace('/', "~1"));
        } else {
            path.push_str(step);
        }
        before
    }

    fn leave(self, before: usize) {
        self.path.borrow_mut().truncate(before);
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.values.set(self.values.get() + 1);
        if self.values.get() > VALUES_MAX {
            return Err(D::Error::custom(format_args!("more than {VALUES_MAX} values")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("number is not finite"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let before = self.enter(&items.len().to_string());
            let Some(item) = seq.next_element_seed(self)? else {
                self.leave(before);
                return Ok(Value::Array(items));
            };
            self.leave(before);
            items.push(item);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let before = self.enter(&name);
            if fields.contains_key(&name) {
                return Err(A::Error::custom("the name is given twice"));
            }
            let value = map.next_value_seed(self)?;
            self.leave(before);
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fault(body: &str) -> (String, String) {
        let fault = parse(body.as_bytes()).unwrap_err();
        (fault.pointer, fault.message)
    }

    #[test]
    fn good_json_comes_through_whole() {
        let text = r#"{"a":[1,-2,3.5,true,null,"é"],"b":{"c":18446744073709551615}}"#;
        assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(parse(b"18446744073709551616").unwrap(), json!(18446744073709551616.0));
    }

    #[test]
    fn every_complaint_has_its_place() {
        assert_eq!(fault(r#"{"a":{"b":1,"b":2}}"#).0, "/a/b");
        assert!(fault(r#"{"a":{"b":1,"b":2}}"#).1.contains("twice"));
        assert_eq!(fault(r#"{"a":[0,{"x/y":1e999}]}"#).0, "/a/1/x~1y");
        assert_eq!(fault(r#"{"a":NaN}"#).0, "/a");
        assert_eq!(fault(r#"{"a":-Infinity}"#).0, "/a");
        assert_eq!(fault("{} x").0, "");
        assert_eq!(fault("").0, "");
        assert!(fault(&"[".repeat(100_000)).1.contains("recursion"));
        assert!(fault(&r#"{"a":"#.repeat(100_000)).0.len() < 2000);
        assert!(fault("\"\u{1}\"").1.contains("control"));
        assert!(parse(b"\"\xff\"").is_err());
        assert!(fault(&format!("[{}0]", "0,".repeat(VALUES_MAX))).1.contains("100000 values"));
    }
}
