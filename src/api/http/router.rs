//! Which path is whose.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::sync::watch;

use super::bodies::Bodies;
use super::problem::Problem;
use super::{batch, capabilities, execute, executions, health, layer, tools};
use crate::api::identity::Identity;
use crate::tools::execute::Service;

/// What handlers share.
#[derive(Clone)]
pub(super) struct State {
    pub service: Arc<Service>,
    pub identity: Arc<Identity>,
    pub bodies: Arc<Bodies>,
    pub stopping: watch::Receiver<bool>,
}

pub(super) fn router(state: State) -> Router {
    let api = Router::new()
        .route("/tools/execute", post(execute::execute))
        .route("/tools/batch", post(batch::batch))
        .route("/tools", get(tools::list).post(tools::register))
        .route("/tools/{name}", get(tools::one).delete(tools::remove))
        .route("/capabilities", get(capabilities::capabilities))
        .route("/executions", get(executions::list).post(executions::create))
        .route("/executions/{id}/events", get(executions::events))
        .route("/executions/{id}", get(executions::one).delete(executions::end));
    Router::new()
        .nest("/api/v1", api)
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route(layer::METRICS, get(health::metrics))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Allow names the methods of this path")
        })
        .layer(from_fn_with_state(state.clone(), layer::edge))
        .with_state(state)
}
