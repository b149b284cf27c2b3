//! GET /api/v1/tools, GET /api/v1/tools/{name}

use std::collections::BTreeMap;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::execute::json_response;
use super::problem::Problem;
use super::router;
use crate::spec::capped;
use crate::tools::{Tool, Violation};

/// A tool as it is told to callers.
pub fn body(tool: &dyn Tool) -> Value {
    let spec = tool.spec();
    json!({
        "name": spec.name,
        "description": spec.description,
        "version": spec.version,
        "idempotent": spec.idempotent,
        "level": spec.level.map(|level| level.name()),
        "deprecated": false,
        "parameters": spec.schema.value(),
    })
}

/// Other formats are not written yet; saying nothing would hand out the wrong one.
fn plain_only(query: &BTreeMap<String, String>) -> Result<(), Problem> {
    match query.get("format") {
        None => Ok(()),
        Some(format) => Err(Problem::malformed_request(vec![Violation::new(
            "/format",
            format!("format {:?} is not available", capped(format, 32)),
        )])),
    }
}

pub(super) async fn list(
    State(state): State<router::State>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    plain_only(&query)?;
    let tools: Vec<Value> = state.service.registry().iter().map(body).collect();
    Ok(json_response(json!({ "tools": tools }).to_string().into_bytes()))
}

pub(super) async fn one(
    State(state): State<router::State>,
    name: Result<Path<String>, PathRejection>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    plain_only(&query)?;
    // A path that is not UTF-8 names nothing, either.
    let name = name.map_or_else(|_| String::from("\u{fffd}"), |Path(name)| name);
    match state.service.registry().get(&name) {
        Some(tool) => Ok(json_response(body(tool).to_string().into_bytes())),
        None => {
            let detail = format!("there is no tool {:?}", capped(&name, 64));
            Err(Problem::new(StatusCode::NOT_FOUND, "unknown_tool", detail))
        }
    }
}
