//! Schemas that others wrote: what they may hold, so that no document costs more than its size to check.
//!
//! References stay inside the document and never lead back to where they came from, so a schema is a finite tree once they
//! are followed, and that tree is bounded. Patterns run on the linear-time engine. What this version would ignore is refused.

use std::collections::{HashMap, HashSet};
use std::io;

use serde_json::{Map, Value};

use super::{Violation, step};
use crate::spec::capped;

/// The dialect that is read; a schema need not name it.
pub const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// As JSON text.
const BYTES_MAX: usize = 64 * 1024;
const DEPTH_MAX: usize = 32;
/// Subschemas, each counted as often as references lead to it.
const NODES_MAX: u64 = 2_000;
const FAULTS_MAX: usize = 16;

/// Keywords whose value is one schema.
const ONE: [&str; 11] = [
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords whose value is a list of schemas.
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords whose value is schemas by name.
const NAMED: [&str; 4] = ["$defs", "dependentSchemas", "patternProperties", "properties"];
/// The rest of the dialect's vocabularies. Left out on purpose: `$id`, `$anchor`, `$dynamicAnchor`, `$dynamicRef` and
/// `$vocabulary`, which give a part of the document another name or another meaning.
const OTHER: [&str; 33] = [
    "$comment",
    "$ref",
    "$schema",
    "const",
    "contentEncoding",
    "contentMediaType",
    "default",
    "dependentRequired",
    "deprecated",
    "description",
    "enum",
    "examples",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "maxContains",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minContains",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "readOnly",
    "required",
    "title",
    "type",
    "uniqueItems",
    "writeOnly",
];

fn is_known(keyword: &str) -> bool {
    keyword.starts_with("x-") || [&ONE[..], &LIST, &NAMED, &OTHER].iter().any(|known| known.contains(&keyword))
}

/// How many parts `schema` has once its references are followed, or what is wrong with it; it lies at `at` of whatever it
/// came in.
pub(super) fn parts(schema: &Value, at: &str) -> Result<u64, Vec<Violation>> {
    if !fits(schema, BYTES_MAX) {
        return Err(vec![Violation::new(at, format!("is larger than {BYTES_MAX} bytes"))]);
    }
    let Value::Object(top) = schema else { return Err(vec![Violation::new(at, "must be an object")]) };
    let mut walk = Walk {
        root: schema,
        at,
        faults: Vec::new(),
        known: HashMap::new(),
        seen: HashSet::new(),
        references: Vec::new(),
    };
    if top.get("type") != Some(&Value::from("object")) {
        walk.fault("/type", "must be \"object\": parameters have names");
    }
    match top.get("$schema") {
        None => {}
        Some(Value::String(dialect)) if dialect.trim_end_matches('#') == DIALECT => {}
        Some(_) => walk.fault("/$schema", format!("must be {DIALECT:?}, or not given")),
    }
    walk.shape(schema, &mut String::new(), 0);
    // Only where a schema was seen: what else the document holds was never looked at.
    for (place, target) in std::mem::take(&mut walk.references) {
        if !walk.seen.contains(&target) {
            walk.fault(&place, "leads to no schema of this document");
        }
    }
    let parts = if walk.faults.is_empty() { walk.size("", &mut Vec::new()) } else { 0 };
    if walk.faults.is_empty() { Ok(parts) } else { Err(walk.faults) }
}

/// Whether `value` takes at most `most` bytes as JSON text; more are not even written.
pub fn fits(value: &Value, most: usize) -> bool {
    struct Room(usize);
    impl io::Write for Room {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(text.len()).ok_or(io::ErrorKind::FileTooLarge)?;
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    serde_json::to_writer(Room(most), value).is_ok()
}

struct Walk<'s> {
    root: &'s Value,
    at: &'s str,
    faults: Vec<Violation>,
    /// Size of the tree below each place that a reference leads to, or that was looked at.
    known: HashMap<String, u64>,
    /// Places of schemas.
    seen: HashSet<String>,
    /// Place and target of each reference.
    references: Vec<(String, String)>,
}

impl Walk<'_> {
    fn fault(&mut self, place: &str, message: impl Into<String>) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Violation::new(format!("{}{place}", self.at), message));
        }
    }

    /// Every place once, as it is written.
    fn shape(&mut self, schema: &Value, place: &mut String, depth: usize) {
        if depth > DEPTH_MAX {
            self.fault(place, format!("is nested deeper than {DEPTH_MAX}"));
            return;
        }
        self.seen.insert(place.clone());
        let keywords = match schema {
            Value::Bool(_) => return,
            Value::Object(keywords) => keywords,
            _ => return self.fault(place, "must be a schema: an object, true or false"),
        };
        // A slip of the pen (`minlength`) would fence nothing.
        for keyword in keywords.keys().filter(|keyword| !is_known(keyword)) {
            self.fault(
                &format!("{place}{}", step(keyword)),
                "is no keyword that is known here; own ones begin with x-",
            );
        }
        if depth > 0 && keywords.contains_key("$schema") {
            self.fault(&format!("{place}/$schema"), "belongs to the top of a schema");
        }
        match keywords.get("$ref") {
            None => {}
            // The validator decodes percents and checks what it finds then.
            Some(Value::String(target)) if target.contains('%') => {
                self.fault(&format!("{place}/$ref"), "must be written without percent signs");
            }
            Some(Value::String(target)) if target == "#" || target.starts_with("#/") => {
                self.references.push((format!("{place}/$ref"), target[1..].to_owned()));
            }
            Some(Value::String(target)) if target.starts_with('#') => {
                self.fault(&format!("{place}/$ref"), "leads nowhere in this schema");
            }
            Some(_) => self.fault(&format!("{place}/$ref"), "must begin with \"#/\": nothing else is ever read"),
        }
        if let Some(Value::String(pattern)) = keywords.get("pattern") {
            self.pattern(pattern, &format!("{place}/pattern"));
        }
        if let Some(Value::Object(patterns)) = keywords.get("patternProperties") {
            for pattern in patterns.keys() {
                self.pattern(pattern, &format!("{place}/patternProperties{}", step(pattern)));
            }
        }
        children(keywords, |child, steps| {
            let before = place.len();
            place.push_str(&steps);
            self.shape(child, place, depth + 1);
            place.truncate(before);
        });
    }

    fn pattern(&mut self, pattern: &str, place: &str) {
        // As the validator will compile it, with bounds that it can not be given for the check alone.
        if let Err(error) = super::pattern(pattern) {
            self.fault(place, capped(&error, 200));
        }
    }

    /// Subschemas below `place` once references are followed; ends early where there are too many.
    fn size(&mut self, place: &str, above: &mut Vec<String>) -> u64 {
        if let Some(known) = self.known.get(place) {
            return *known;
        }
        if above.iter().any(|p| p == place) {
            self.fault(place, "refers to itself: parameters must have an end");
            return NODES_MAX + 1;
        }
        let Some(Value::Object(keywords)) = self.root.pointer(place) else { return 1 };
        above.push(place.to_owned());
        let mut targets = Vec::new();
        if let Some(Value::String(target)) = keywords.get("$ref") {
            targets.extend(target.strip_prefix('#').map(str::to_owned));
        }
        children(keywords, |_, steps| {
            // What is only defined costs nothing until it is referred to.
            if !steps.starts_with("/$defs/") {
                targets.push(format!("{place}{steps}"));
            }
        });
        let mut size: u64 = 1;
        for target in targets {
            size = size.saturating_add(self.size(&target, above));
            if size > NODES_MAX {
                if self.faults.is_empty() {
                    let message = format!("has more than {NODES_MAX} parts once its references are followed");
                    self.fault(place, message);
                }
                break;
            }
        }
        above.pop();
        self.known.insert(place.to_owned(), size);
        size
    }
}

/// Every direct subschema with its way from `keywords`, as a JSON pointer.
fn children(keywords: &Map<String, Value>, mut each: impl FnMut(&Value, String)) {
    for (keyword, value) in keywords {
        match value {
            _ if ONE.contains(&keyword.as_str()) => each(value, format!("/{keyword}")),
            Value::Array(list) if LIST.contains(&keyword.as_str()) => {
                list.iter().enumerate().for_each(|(i, child)| each(child, format!("/{keyword}/{i}")));
            }
            Value::Object(named) if NAMED.contains(&keyword.as_str()) => {
                for (name, child) in named {
                    each(child, format!("/{keyword}/{}", name.replace('~', "~0").replace('/', "~1")));
                }
            }
            _ => {}
        }
    }
}
