//! GET /healthz, GET /readyz

use axum::extract::State;
use axum::response::Response;

use super::execute::json_response;
use super::problem::Problem;
use super::router;

/// The front serves.
pub(super) async fn alive() -> Response {
    json_response(br#"{"status":"ok"}"#.to_vec())
}

/// A call could be run now.
pub(super) async fn ready(State(state): State<router::State>) -> Result<Response, Problem> {
    state.service.ready().await?;
    Ok(json_response(br#"{"status":"ready"}"#.to_vec()))
}
