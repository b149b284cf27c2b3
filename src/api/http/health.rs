//! GET /healthz, GET /readyz, GET /metrics

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::execute::json_response;
use super::problem::Problem;
use super::router;
use crate::telemetry::metrics::CONTENT_TYPE;
use crate::tools::call::CallError;

/// `{"status":"ok"}` where the front serves, `{"status":"ready"}` where a call could be run now.
pub(super) fn status_schema(_: &mut SchemaGenerator) -> Value {
    json!({
        "type": "object",
        "properties": { "status": { "type": "string", "enum": ["ok", "ready"] } },
        "required": ["status"],
    })
}

/// The front serves.
pub(super) async fn alive() -> Response {
    json_response(br#"{"status":"ok"}"#.to_vec())
}

/// A call could be run now.
pub(super) async fn ready(State(state): State<router::State>) -> Result<Response, Problem> {
    state.service.ready().await?;
    Ok(json_response(br#"{"status":"ready"}"#.to_vec()))
}

/// Counters of this front since its start, for any principal.
pub(super) async fn metrics(State(state): State<router::State>) -> Result<Response, Problem> {
    let text = state.service.metrics().encode(state.service.now());
    let text = text.map_err(|e| CallError::Internal(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}
