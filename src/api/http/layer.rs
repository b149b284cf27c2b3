//! What holds for every request: an id, a principal, and errors in one form.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use super::router;
use crate::api::identity::Peer;
use crate::spec::RequestId;
use crate::tools::principal::Principal;

const REQUEST_ID: &str = "x-request-id";
pub(super) const METRICS: &str = "/metrics";

/// Whether it matters who calls; what lies elsewhere is told to anybody who reaches a listener.
pub(super) fn is_for_principals(path: &str) -> bool {
    path == METRICS || path.starts_with("/api/")
}

/// Collectors ask for formats of their own, and a file is of any.
pub(super) fn is_for_any_accept(path: &str) -> bool {
    path == METRICS || is_of_content(path)
}

/// Whether this path answers with a file or an archive.
fn is_of_content(path: &str) -> bool {
    let inner = path.strip_prefix("/api/v1/workspaces/").and_then(|rest| rest.split_once('/'));
    inner.is_some_and(|(_, inner)| inner == "archive" || inner.starts_with("files/"))
}

/// Who calls, for handlers behind `/api`.
#[derive(Clone)]
pub(super) struct Caller(pub Arc<Principal>);

/// The request's own id, for handlers whose reply holds a problem of another request.
#[derive(Clone)]
pub(super) struct Id(pub RequestId);

pub(super) async fn edge(State(state): State<router::State>, mut request: Request, next: Next) -> Response {
    let id = request_id();
    request.extensions_mut().insert(Id(id.clone()));
    let response = match admit(&state, request).await {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    finish(&state, &id, response)
}

/// Always our own: one that a caller chose could be made to look like another's in the log.
pub(super) fn request_id() -> RequestId {
    let mut bytes = [0; 16];
    if let Err(error) = getrandom::fill(&mut bytes) {
        // The kernel's generator does not fail once it is seeded; the id only ties log lines together.
        tracing::error!(%error, "no random bytes for a request's id");
    }
    RequestId::from_random(bytes)
}

async fn admit(state: &router::State, mut request: Request) -> Result<Request, Problem> {
    if *state.stopping.borrow() {
        return Err(crate::tools::call::CallError::Draining.into());
    }
    let path = request.uri().path();
    let headers = request.headers();
    let (accepted, detail) = if is_for_any_accept(path) {
        (true, "")
    } else if is_of_events(path) {
        (accepts_events(headers), "replies are text/event-stream, or application/problem+json")
    } else {
        let json = accepts_json(headers) || may_be_events(path) && wants_events(headers);
        (json, "replies are application/json or application/problem+json")
    };
    if !accepted {
        return Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", detail));
    }
    if is_for_principals(request.uri().path()) {
        let peer = request.extensions().get::<Peer>().copied();
        let Some(peer) = peer else {
            return Err(crate::tools::call::CallError::Internal("a request without a peer".into()).into());
        };
        let principal = state.identity.principal(peer, request.uri(), request.headers()).await?;
        request.extensions_mut().insert(Caller(Arc::new(principal)));
    }
    Ok(request)
}

fn finish(state: &router::State, id: &RequestId, mut response: Response) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        refused(state, id, &problem);
        response = problem.render(id, response);
    }
    // Ids are letters, digits and '_'.
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Counts a problem that is told, whether as a whole reply or as a part of one.
pub(super) fn refused(state: &router::State, id: &RequestId, problem: &Problem) {
    state.service.metrics().refused(problem.code());
    if problem.status().is_server_error() {
        tracing::warn!(request = %id, code = problem.code(), "request failed");
    }
}

/// Whether this path answers with events as well as with JSON.
fn may_be_events(path: &str) -> bool {
    path == "/api/v1/tools/execute"
}

/// Whether this path answers with events alone.
fn is_of_events(path: &str) -> bool {
    let id = path.strip_prefix("/api/v1/executions/").and_then(|rest| rest.strip_suffix("/events"));
    id.is_some_and(|id| !id.is_empty() && !id.contains('/'))
}

/// A caller that says nothing takes what comes.
fn accepts_json(headers: &HeaderMap) -> bool {
    accepts(headers, |media| matches!(media, "*/*" | "application/*" | "application/json" | "application/problem+json"))
        .unwrap_or(true)
}

fn accepts_events(headers: &HeaderMap) -> bool {
    accepts(headers, |media| matches!(media, "*/*" | "text/*" | "text/event-stream")).unwrap_or(true)
}

/// A caller that names events by their type wants those.
pub(super) fn wants_events(headers: &HeaderMap) -> bool {
    accepts(headers, |media| media == "text/event-stream").unwrap_or(false)
}

/// Whether Accept names something that is taken; `None` where it names nothing.
fn accepts(headers: &HeaderMap, takes: impl Fn(&str) -> bool) -> Option<bool> {
    let mut said = false;
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            if media.is_empty() {
                continue;
            }
            said = true;
            let refused = parts.any(|p| matches!(p.strip_prefix("q="), Some(q) if q.parse() == Ok(0.0)));
            if takes(&media) && !refused {
                return Some(true);
            }
        }
    }
    said.then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_what_there_is() {
        let accepts = |value: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::ACCEPT, HeaderValue::from_static(value));
            }
            accepts_json(&headers)
        };
        for yes in [None, Some("*/*"), Some("text/html, application/json;q=0.1"), Some(""), Some("Application/JSON")] {
            assert!(accepts(yes), "{yes:?}");
        }
        for no in [Some("text/event-stream"), Some("application/json;q=0"), Some("image/*")] {
            assert!(!accepts(no), "{no:?}");
        }
    }
}
