//! What the document says of one operation, as the table of routes gives it.

use axum::http::Method;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::super::{codes, layer};

/// The schema of a type, by reference; what it refers to is left with the generator.
pub(in crate::api::http) type SchemaOf = fn(&mut SchemaGenerator) -> Value;

/// What serde writes for `T`.
pub(in crate::api::http) fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// Text without a form of its own.
pub(in crate::api::http) fn text(_: &mut SchemaGenerator) -> Value {
    json!({ "type": "string" })
}

/// Bytes without a form of their own.
pub(in crate::api::http) fn binary() -> Value {
    json!({ "type": "string", "format": "binary" })
}

/// Every status but those of success follows from `codes`.
#[derive(Default)]
pub(in crate::api::http) struct Operation {
    pub id: &'static str,
    pub tag: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
    pub parameters: Vec<Value>,
    pub body: Option<Body>,
    /// Media types of a body that is bytes, and may be none.
    pub bytes: &'static [&'static str],
    pub replies: Vec<Success>,
    /// Of problems, beside those that every operation of its kind can have.
    pub codes: &'static [&'static str],
}

/// A JSON body that must be given.
pub(in crate::api::http) struct Body {
    /// Of the component.
    pub name: &'static str,
    pub schema: fn() -> Value,
    /// Name and value.
    pub examples: Vec<(String, Value)>,
}

pub(in crate::api::http) struct Success {
    pub status: u16,
    pub description: &'static str,
    /// By media type; none without a body.
    pub content: Vec<(&'static str, SchemaOf)>,
    /// Names of the document's own headers.
    pub headers: &'static [&'static str],
}

pub(in crate::api::http) const JSON: &str = "application/json";

impl Success {
    /// A 200 in JSON.
    pub(in crate::api::http) fn ok(description: &'static str, schema: SchemaOf) -> Self {
        Self { status: 200, description, content: vec![(JSON, schema)], headers: &[] }
    }
}

/// A part of the path.
pub(in crate::api::http) fn in_path(name: &str, schema: Value, description: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema })
}

pub(in crate::api::http) fn in_query(name: &str, schema: Value, description: &str) -> Value {
    json!({ "name": name, "in": "query", "required": false, "description": description, "schema": schema })
}

pub(in crate::api::http) fn in_header(name: &str, schema: Value, description: &str) -> Value {
    json!({ "name": name, "in": "header", "required": false, "description": description, "schema": schema })
}

/// Whatever is asked for, and before it is known what that is.
const ALWAYS: &[&str] = &["request_timeout", "rate_limited", "internal", "at_capacity", "draining"];
const OF_PRINCIPALS: &[&str] = &["unauthenticated", "forbidden"];
const OF_BODIES: &[&str] = &["malformed_json", "malformed_request", "too_large", "unsupported_media_type"];

impl Operation {
    /// The codes of all problems that it can answer with, in the order of their table.
    fn all_codes(&self, path: &str) -> Vec<&'static codes::Code> {
        let of_principals = if layer::is_for_principals(path) { OF_PRINCIPALS } else { &[] };
        let of_bodies = if self.body.is_some() { OF_BODIES } else { &[] };
        let accept: &[&str] = if layer::is_for_any_accept(path) { &[] } else { &["not_acceptable"] };
        let named: Vec<&str> = [self.codes, ALWAYS, of_principals, of_bodies, accept].concat();
        for name in &named {
            debug_assert!(codes::get(name).is_some(), "{name} is no code");
        }
        codes::ALL.iter().filter(|code| named.contains(&code.name)).collect()
    }

    /// The operation object; what several share is left in `parts`.
    pub(super) fn render(&self, method: &Method, path: &str, parts: &mut Parts) -> Value {
        let mut out = Map::new();
        out.insert("operationId".into(), self.id.into());
        out.insert("tags".into(), json!([self.tag]));
        out.insert("summary".into(), self.summary.into());
        if !self.description.is_empty() {
            out.insert("description".into(), self.description.into());
        }
        if layer::is_for_principals(path) {
            out.insert("security".into(), json!([{ "bearer": [] }]));
        }
        if !self.parameters.is_empty() {
            out.insert("parameters".into(), self.parameters.clone().into());
        }
        if let Some(body) = &self.body {
            debug_assert!(method == Method::POST && self.bytes.is_empty(), "{path}: a body");
            let examples: Map<String, Value> =
                body.examples.iter().map(|(name, value)| (name.clone(), json!({ "value": value }))).collect();
            let mut media = Map::new();
            media.insert("schema".into(), json!({ "$ref": format!("#/components/schemas/{}", body.name) }));
            if !examples.is_empty() {
                media.insert("examples".into(), examples.into());
            }
            out.insert("requestBody".into(), json!({ "required": true, "content": { JSON: media } }));
        }
        if !self.bytes.is_empty() {
            let media = |media: &&str| ((*media).to_owned(), json!({ "schema": binary() }));
            let content: Map<String, Value> = self.bytes.iter().map(media).collect();
            out.insert("requestBody".into(), json!({ "required": false, "content": content }));
        }
        out.insert("responses".into(), self.responses(path, parts).into());
        out.into()
    }

    fn responses(&self, path: &str, parts: &mut Parts) -> Map<String, Value> {
        let mut out = Map::new();
        for reply in &self.replies {
            let content: Map<String, Value> = reply
                .content
                .iter()
                .map(|(media, schema)| ((*media).to_owned(), json!({ "schema": schema(&mut parts.generator) })))
                .collect();
            let mut response = json!({ "description": reply.description, "headers": headers(reply.headers) });
            if !content.is_empty() {
                response["content"] = content.into();
            }
            out.insert(reply.status.to_string(), response);
        }
        let codes = self.all_codes(path);
        for of_status in codes.chunk_by(|a, b| a.status == b.status) {
            let names: Vec<&str> = of_status.iter().map(|code| code.name).collect();
            let name = names.join(".");
            out.insert(of_status[0].status.to_string(), json!({ "$ref": format!("#/components/responses/{name}") }));
            parts.responses.entry(name).or_insert_with(|| problem(of_status, &names));
        }
        out
    }
}

/// What operations refer to.
pub(super) struct Parts {
    pub generator: SchemaGenerator,
    /// Problems, by their codes.
    pub responses: Map<String, Value>,
}

/// One status with the codes that it has somewhere.
fn problem(codes: &[&codes::Code], names: &[&str]) -> Value {
    let status = codes[0].status;
    let described: Vec<String> = codes.iter().map(|code| format!("`{}`: {}", code.name, code.when)).collect();
    let own: &[&str] = match status {
        401 => &["WWW-Authenticate"],
        429 | 503 => &["Retry-After"],
        _ => &[],
    };
    let schema = json!({
        "$ref": "#/components/schemas/Problem",
        "properties": { "status": { "const": status }, "code": { "enum": names } },
    });
    json!({
        "description": described.join("; "),
        "headers": headers(own),
        "content": { "application/problem+json": { "schema": schema } },
    })
}

/// References to `names`, and to what every reply has.
fn headers(names: &[&str]) -> Value {
    let names = ["X-Request-Id"].iter().chain(names);
    names
        .map(|name| ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{name}") })))
        .collect::<Map<_, _>>()
        .into()
}
