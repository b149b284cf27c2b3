//! Tools as models and other programs want them listed.

use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::definition::{AnyTool, Deprecated};
use super::registry::Table;
use super::version::{NAME, VERSION};

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
    /// Those that callers ask for by name.
    pub const NAMED: [(&str, Format); 3] =
        [("openai", Format::OpenAi), ("anthropic", Format::Anthropic), ("mcp", Format::Mcp)];

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
        let schema = tool.schema().value();
        let one = match self {
            Format::Plain => serde_json::to_value(plain(table, tool)),
            Format::OpenAi => serde_json::to_value(openai(tool, schema.clone(), false)),
            Format::OpenAiStrict => serde_json::to_value(match strict(schema) {
                Some(schema) => openai(tool, schema, true),
                None => openai(tool, plain_object(schema), false),
            }),
            Format::Anthropic => serde_json::to_value(Anthropic {
                name: &tool.about().name,
                description: described(tool),
                input_schema: schema,
            }),
            Format::Mcp => serde_json::to_value(mcp(tool)),
        };
        // Strings, booleans and JSON values only: this can not fail.
        one.unwrap_or_default()
    }
}

/// A tool in this daemon's own words.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Tool")]
pub struct Plain<'t> {
    #[schemars(extend("pattern" = NAME))]
    name: &'t str,
    description: &'t str,
    #[schemars(extend("pattern" = VERSION))]
    version: String,
    /// Every version that there is, newest first.
    versions: Vec<String>,
    /// It changes nothing that outlives the call.
    read_only: bool,
    /// Run twice with the same parameters it leaves, and returns, the same as run once.
    idempotent: bool,
    /// It reaches beyond this host.
    open_world: bool,
    /// The weakest level at which it may run.
    #[schemars(extend("enum" = LEVEL_OR_NULL))]
    level: Option<&'static str>,
    deprecated: bool,
    /// Parameters of calls that work.
    examples: &'t [Value],
    /// JSON Schema, draft 2020-12.
    #[schemars(with = "Map<String, Value>")]
    parameters: &'t Value,
    /// JSON Schema of `result`; null where it is not known.
    #[schemars(with = "Option<Map<String, Value>>")]
    result: Option<&'t Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deprecation: Option<Deprecation>,
}

/// The levels' names, and null.
const LEVEL_OR_NULL: [Option<&str>; 5] = [Some("minimal"), Some("standard"), Some("strict"), Some("maximum"), None];

fn plain<'t>(table: &Table, tool: &'t dyn AnyTool) -> Plain<'t> {
    let about = tool.about();
    let versions = table.versions(&about.name).iter().map(|tool| tool.about().version.to_string());
    Plain {
        name: &about.name,
        description: &about.description,
        version: about.version.to_string(),
        versions: versions.collect(),
        read_only: about.hints.read_only,
        idempotent: about.hints.idempotent,
        open_world: about.hints.open_world,
        level: about.level.map(|level| level.name()),
        deprecated: about.deprecated.is_some(),
        examples: &about.examples,
        parameters: tool.schema().value(),
        result: tool.result_schema(),
        deprecation: about.deprecated.as_ref().map(Deprecation::of),
    }
}

/// When and why callers should leave a version.
#[derive(Serialize, JsonSchema)]
pub struct Deprecation {
    #[schemars(extend("format" = "date"))]
    since: String,
    /// From when on it may be gone.
    #[schemars(extend("format" = "date"))]
    sunset: Option<String>,
    /// What to use instead, say.
    message: Option<String>,
}

impl Deprecation {
    pub fn of(deprecated: &Deprecated) -> Self {
        Self {
            since: deprecated.since.to_string(),
            sunset: deprecated.sunset.map(|day| day.to_string()),
            message: deprecated.message.clone(),
        }
    }
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

/// A function of OpenAI's chat completions.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiTool")]
struct OpenAi<'t> {
    #[schemars(extend("const" = "function"))]
    r#type: &'static str,
    function: Function<'t>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiFunction")]
struct Function<'t> {
    name: &'t str,
    description: String,
    #[schemars(with = "Map<String, Value>")]
    parameters: Value,
    strict: bool,
}

fn openai(tool: &dyn AnyTool, parameters: Value, strict: bool) -> OpenAi<'_> {
    let function = Function { name: &tool.about().name, description: described(tool), parameters, strict };
    OpenAi { r#type: "function", function }
}

/// A tool of Anthropic's messages.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AnthropicTool")]
struct Anthropic<'t> {
    name: &'t str,
    description: String,
    #[schemars(with = "Map<String, Value>")]
    input_schema: &'t Value,
}

/// A tool of the Model Context Protocol.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "McpTool")]
#[serde(rename_all = "camelCase")]
struct Mcp<'t> {
    name: &'t str,
    description: String,
    #[schemars(with = "Map<String, Value>")]
    input_schema: &'t Value,
    annotations: Annotations,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Map<String, Value>>")]
    output_schema: Option<&'t Value>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "McpAnnotations")]
#[serde(rename_all = "camelCase")]
struct Annotations {
    read_only_hint: bool,
    destructive_hint: bool,
    idempotent_hint: bool,
    open_world_hint: bool,
}

fn mcp(tool: &dyn AnyTool) -> Mcp<'_> {
    let about = tool.about();
    Mcp {
        name: &about.name,
        description: described(tool),
        input_schema: tool.schema().value(),
        annotations: Annotations {
            read_only_hint: about.hints.read_only,
            // What is not only read is taken for the worst: nothing here knows better.
            destructive_hint: !about.hints.read_only,
            idempotent_hint: about.hints.idempotent,
            open_world_hint: about.hints.open_world,
        },
        output_schema: tool.result_schema().filter(|result| result["type"] == "object"),
    }
}

/// Of one tool, in any format.
pub fn schema_of_one(generator: &mut SchemaGenerator) -> Value {
    json!({ "anyOf": [
        generator.subschema_for::<Plain<'_>>(),
        generator.subschema_for::<OpenAi<'_>>(),
        generator.subschema_for::<Anthropic<'_>>(),
        generator.subschema_for::<Mcp<'_>>(),
    ] })
}

/// Of a listing, in any format.
pub fn schema_of_all(generator: &mut SchemaGenerator) -> Value {
    json!({
        "type": "object",
        "properties": { "tools": { "type": "array", "items": schema_of_one(generator) } },
        "required": ["tools"],
    })
}

/// `schema` without what providers refuse at the top, with every tool of the list: every call is checked against the whole.
fn plain_object(schema: &Value) -> Value {
    const REFUSED: [&str; 8] = ["allOf", "anyOf", "else", "enum", "if", "not", "oneOf", "then"];
    let mut schema = schema.clone();
    if let Value::Object(top) = &mut schema {
        top.retain(|keyword, _| !REFUSED.contains(&keyword.as_str()));
    }
    schema
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
    let may_be =
        |name: &str| kind == name || kind.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == name));
    if may_be("array") && !out.contains_key("items") {
        return None;
    }
    if !may_be("object") {
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
    if let Some(only) = fields.remove("const") {
        fields.insert("enum".into(), json!([only]));
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
