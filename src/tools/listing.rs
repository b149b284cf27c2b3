//! Tools as models and other programs want them listed.

use serde_json::{Map, Value, json};

use super::definition::{AnyTool, Deprecated};
use super::registry::Table;

/// A shape that a listing can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Everything, in this daemon's own words.
    Plain,
    /// `tools` of OpenAI's chat completions.
    OpenAi,
    /// The same for models that must fill every parameter (`strict`): as far as a schema can be said so.
    OpenAiStrict,
    /// `tools` of Anthropic's messages.
    Anthropic,
    /// The result of the Model Context Protocol's tools/list.
    Mcp,
}

impl Format {
    pub const ALL: [Format; 5] = [Format::Plain, Format::OpenAi, Format::OpenAiStrict, Format::Anthropic, Format::Mcp];

    /// The newest version of every tool, as JSON text.
    pub fn listing(self, table: &Table) -> std::sync::Arc<[u8]> {
        table.listing(self as usize, |table| {
            let tools: Vec<Value> = table.newest().map(|tool| self.one(table, &**tool)).collect();
            json!({ "tools": tools }).to_string().into_bytes()
        })
    }

    /// `tool` of `table`.
    pub fn one(self, table: &Table, tool: &dyn AnyTool) -> Value {
        let (about, schema) = (tool.about(), tool.schema().value());
        match self {
            Format::Plain => plain(table, tool),
            Format::OpenAi => openai(tool, schema.clone(), false),
            Format::OpenAiStrict => match strict(schema) {
                Some(schema) => openai(tool, schema, true),
                None => openai(tool, schema.clone(), false),
            },
            Format::Anthropic => json!({
                "name": about.name, "description": described(tool), "input_schema": schema,
            }),
            Format::Mcp => mcp(tool, schema),
        }
    }
}

fn plain(table: &Table, tool: &dyn AnyTool) -> Value {
    let about = tool.about();
    let versions = table.versions(&about.name).iter().map(|tool| tool.about().version.to_string());
    let mut body = json!({
        "name": about.name,
        "description": about.description,
        "version": about.version.to_string(),
        "versions": versions.collect::<Vec<_>>(),
        "read_only": about.hints.read_only,
        "idempotent": about.hints.idempotent,
        "open_world": about.hints.open_world,
        "level": about.level.map(|level| level.name()),
        "deprecated": about.deprecated.is_some(),
        "examples": about.examples,
        "parameters": tool.schema().value(),
        "result": tool.result_schema(),
    });
    if let (Some(deprecated), Value::Object(body)) = (&about.deprecated, &mut body) {
        body.insert("deprecation".into(), deprecation(deprecated));
    }
    body
}

/// When and why callers should leave a version.
pub fn deprecation(deprecated: &Deprecated) -> Value {
    json!({
        "since": deprecated.since.to_string(),
        "sunset": deprecated.sunset.map(|day| day.to_string()),
        "message": deprecated.message,
    })
}

/// The description as a model reads it, which sees nothing else.
fn described(tool: &dyn AnyTool) -> String {
    let about = tool.about();
    match &about.deprecated {
        Some(Deprecated { message: Some(message), .. }) => format!("{} (Deprecated: {message})", about.description),
        Some(_) => format!("{} (Deprecated.)", about.description),
        None => about.description.clone(),
    }
}

fn openai(tool: &dyn AnyTool, parameters: Value, strict: bool) -> Value {
    let function = json!({
        "name": tool.about().name, "description": described(tool), "parameters": parameters, "strict": strict,
    });
    json!({ "type": "function", "function": function })
}

fn mcp(tool: &dyn AnyTool, schema: &Value) -> Value {
    let about = tool.about();
    let mut body = json!({
        "name": about.name,
        "description": described(tool),
        "inputSchema": schema,
        "annotations": {
            "readOnlyHint": about.hints.read_only,
            // What is not only read is taken for the worst: nothing here knows better.
            "destructiveHint": !about.hints.read_only,
            "idempotentHint": about.hints.idempotent,
            "openWorldHint": about.hints.open_world,
        },
    });
    if let (Some(result), Value::Object(body)) = (tool.result_schema(), &mut body)
        && result["type"] == "object"
    {
        body.insert("outputSchema".into(), result.clone());
    }
    body
}

/// What a strict schema may say beside types: "Supported schemas" of OpenAI's guide to structured outputs.
const STRICT_KEYWORDS: [&str; 15] = [
    "const",
    "description",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maximum",
    "minItems",
    "minimum",
    "multipleOf",
    "pattern",
    "title",
    "type",
];
const STRICT_FORMATS: [&str; 9] =
    ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uuid"];

/// `schema` for a model that must give every name: what is optional may be null, which is read as not given. What can not be
/// said is left out where the parameter is optional; `None` where it is not. Bounds that strict schemas do not know are
/// left out, since every call is checked against the whole schema anyway.
pub fn strict(schema: &Value) -> Option<Value> {
    let Value::Object(schema) = schema else { return None };
    let mut out = Map::new();
    for (keyword, value) in schema.iter().filter(|(keyword, _)| STRICT_KEYWORDS.contains(&keyword.as_str())) {
        let value = match keyword.as_str() {
            "items" => strict(value)?,
            "format" if !STRICT_FORMATS.contains(&value.as_str().unwrap_or_default()) => continue,
            _ => value.clone(),
        };
        out.insert(keyword.clone(), value);
    }
    // Any value at all, a choice between schemas, a reference: nothing of that has a type of its own.
    let kind = schema.get("type")?;
    if kind == "array" && !out.contains_key("items") {
        return None;
    }
    if kind != "object" {
        return Some(out.into());
    }
    if schema.get("additionalProperties") != Some(&Value::Bool(false)) && !schema.contains_key("properties") {
        // A map of names that nobody knows before.
        return None;
    }
    let required = |name: &str| {
        schema.get("required").and_then(Value::as_array).is_some_and(|list| list.iter().any(|r| r == name))
    };
    let mut properties = Map::new();
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        match strict(property) {
            Some(said) if required(name) => properties.insert(name.clone(), said),
            Some(said) => properties.insert(name.clone(), or_null(said)),
            None if required(name) => return None,
            None => continue,
        };
    }
    let names: Vec<&String> = properties.keys().collect();
    out.insert("required".into(), json!(names));
    out.insert("properties".into(), properties.into());
    out.insert("additionalProperties".into(), false.into());
    Some(out.into())
}

fn or_null(mut schema: Value) -> Value {
    let Value::Object(fields) = &mut schema else { return schema };
    if let Some(kind) = fields.get_mut("type") {
        let mut kinds = match kind.take() {
            Value::Array(kinds) => kinds,
            one => vec![one],
        };
        if !kinds.iter().any(|k| k == "null") {
            kinds.push("null".into());
        }
        *kind = kinds.into();
    }
    if let Some(Value::Array(values)) = fields.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_schema_names_everything_and_lets_what_is_optional_be_null() {
        let schema = json!({
            "type": "object",
            "properties": {
                "a": { "type": "string", "minLength": 1, "pattern": "^x", "format": "file-path" },
                "b": { "type": "string", "enum": ["u", "v"] },
                "c": { "type": "object", "additionalProperties": { "type": "string" } },
                "d": { "type": "array", "items": { "type": "object", "properties": { "e": { "type": "number" } } } },
            },
            "required": ["a"],
        });
        assert_eq!(
            strict(&schema).unwrap(),
            json!({
                "type": "object",
                "properties": {
                    "a": { "type": "string", "pattern": "^x" },
                    "b": { "type": ["string", "null"], "enum": ["u", "v", null] },
                    "d": {
                        "type": ["array", "null"],
                        "items": {
                            "type": "object", "properties": { "e": { "type": ["number", "null"] } },
                            "required": ["e"], "additionalProperties": false,
                        },
                    },
                },
                "required": ["a", "b", "d"],
                "additionalProperties": false,
            })
        );
    }

    #[test]
    fn what_must_be_given_and_can_not_be_said_is_not_listed_as_strict() {
        let schema = |property: Value| json!({ "type": "object", "properties": { "a": property }, "required": ["a"] });
        assert!(strict(&schema(json!({ "type": "string" }))).is_some());
        for property in
            [json!({}), json!(true), json!({ "oneOf": [] }), json!({ "type": "object" }), json!({ "type": "array" })]
        {
            assert_eq!(strict(&schema(property.clone())), None, "{property}");
        }
    }
}
