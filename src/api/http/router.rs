//! The service of all paths, and what handlers share.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use tokio::sync::watch;

use super::bodies::Bodies;
use super::layer;
use super::problem::Problem;
use super::routes::{self, Route};
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
    let add = |router: Router<State>, route: Route| router.route(route.path, route.handler);
    routes::all()
        .into_iter()
        .fold(Router::new(), add)
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Allow names the methods of this path")
        })
        .layer(from_fn_with_state(state.clone(), layer::edge))
        .with_state(state)
}
