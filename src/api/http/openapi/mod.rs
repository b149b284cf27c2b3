//! The OpenAPI 3.1 document, made of the table of routes and of the types that replies are written from.

mod operation;

use std::sync::OnceLock;

use axum::response::Response;
use serde_json::{Map, Value, json};

use operation::Parts;
pub(super) use operation::{Body, JSON, Operation, Success, binary, in_header, in_path, in_query, of, text};

use super::execute::json_response;
use super::problem::Body9457;
use super::routes;
use crate::tools::{Registry, replies_generator};

const DESCRIPTION: &str = "\
Runs tools for callers, each call in a fresh sandbox of its own.\n\n\
**Who calls.** Over TCP a caller shows an API key (`Authorization: Bearer KEY`); where the operator allows it \
(`tcp_anonymous = \"loopback\"`), callers on the same host need none if they name a loopback Host and no Origin. On the Unix \
socket the kernel says who calls, and no header is asked for: uid 0 is admin, members of the socket's group are users.\n\n\
**Answers.** Where something ran, the answer is 200 and tells what happened, failed or not. Where nothing ran, it is a problem \
(RFC 9457). A method that a path does not have answers 405 with Allow. Every GET can be asked as HEAD. What is no HTTP at all \
is answered 400, 414 or 431 without a body. New fields may be added to answers; unknown fields of requests are refused.\n\n\
**Null** in a request is a field that is not given, but where a field is required.";

/// The text, made when first asked for.
pub(super) async fn document() -> Response {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    json_response(TEXT.get_or_init(|| build().to_string().into_bytes()).clone())
}

/// The whole document.
fn build() -> Value {
    let mut parts = Parts { generator: replies_generator("/components/schemas"), responses: Map::new() };
    let mut paths: Map<String, Value> = Map::new();
    let mut components: Map<String, Value> = Map::new();
    for route in routes::all() {
        // The rest of a path is one parameter; the document has no word for that it may hold slashes.
        let path = route.path.replace("{*", "{");
        let operation = route.operation.render(&route.method, &path, &mut parts);
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[route.method.as_str().to_ascii_lowercase()] = operation;
        if let Some(body) = &route.operation.body {
            components.insert(body.name.into(), (body.schema)());
        }
    }
    let table = Registry::built_in().table();
    for tool in table.newest() {
        let name = &tool.about().name;
        components.insert(format!("{name}.parameters"), tool.schema().value().clone());
        if let Some(result) = tool.result_schema() {
            components.insert(format!("{name}.result"), result.clone());
        }
    }
    // Every response's schema refers to it, with its own codes beside.
    parts.generator.subschema_for::<Body9457<'_>>();
    components.extend(parts.generator.take_definitions(true));
    components.sort_keys();
    parts.responses.sort_keys();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sandkeep",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "servers": [{ "url": "/", "description": "where this document was read" }],
        "tags": routes::TAGS.map(|(name, description)| json!({ "name": name, "description": description })),
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": parts.responses,
            "headers": headers(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key (`sandkeep key new`). Not asked for on the Unix socket.",
                },
            },
        },
    })
}

fn headers() -> Value {
    json!({
        "X-Request-Id": {
            "description": "Ties the reply to the daemon's log.",
            "required": true,
            "schema": { "type": "string", "pattern": "^req_[0-9a-z]+$" },
        },
        "Retry-After": {
            "description": "Seconds after which the same request may succeed; absent where waiting does not help.",
            "schema": { "type": "integer", "minimum": 1 },
        },
        "WWW-Authenticate": {
            "description": "What would be accepted.",
            "required": true,
            "schema": { "const": "Bearer" },
        },
        "Location": { "description": "Where it can be read.", "required": true, "schema": { "type": "string" } },
        "Deprecation": {
            "description": "RFC 9745: since when this version of the tool should not be used; absent where it may be.",
            "schema": { "type": "string", "pattern": "^@[0-9]+$" },
        },
        "Sunset": {
            "description": "RFC 8594: from when on this version of the tool may be gone.",
            "schema": { "type": "string" },
        },
    })
}
