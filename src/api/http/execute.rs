//! POST /api/v1/tools/execute

use std::time::UNIX_EPOCH;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::Value;

use super::layer::{Caller, Id};
use super::peers::Connection;
use super::problem::Problem;
use super::{bodies, envelope, executions, json, layer, reply, router, sse};
use crate::spec::ExecutionId;
use crate::tools::aside::aside;
use crate::tools::call::{Call, CallError, Once};
use crate::tools::execute::{Followed, fingerprint};
use crate::tools::finish::Reply;
use crate::tools::principal::Principal;
use crate::tools::{Deprecated, Violation};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub(super) async fn execute(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    Extension(Id(request_id)): Extension<Id>,
    Extension(connection): Extension<Connection>,
    request: Request,
) -> Result<Response, Problem> {
    let streams = layer::wants_events(request.headers());
    let detached = !streams && prefers_no_answer(request.headers());
    let (call, once) = call(&state, &principal, request).await?;
    if streams {
        let deprecated = deprecation(&state, &call);
        return match state.service.follow(&principal, call, once, false).await? {
            Followed::Stored(reply) => {
                let deprecated = reply.tool.about().deprecated.clone();
                let events = aside(reply.held_bytes(), move || sse::stored(&reply)).await.ok_or_else(cut_short)?;
                Ok(tell_deprecation(events, deprecated.as_ref()))
            }
            Followed::Running(entry) => {
                let events = executions::events_of(&entry, 0, request_id, &connection)?;
                Ok(tell_deprecation(events, deprecated.as_ref()))
            }
        };
    }
    if detached {
        let mut response = executions::accepted(&state, &principal, call, once).await?;
        if response.status() == StatusCode::ACCEPTED {
            response.headers_mut().insert("preference-applied", HeaderValue::from_static(NO_ANSWER));
        }
        return Ok(response);
    }
    let execution = state.service.execute(&principal, call, once).await?;
    envelope_of(execution).await
}

/// The 200 that tells of `execution`.
pub(super) async fn envelope_of(execution: Reply) -> Result<Response, Problem> {
    let deprecated = execution.tool.about().deprecated.clone();
    let bytes = aside(execution.held_bytes(), move || reply::body(&execution)).await.ok_or_else(cut_short)?;
    Ok(tell_deprecation(json_response(bytes), deprecated.as_ref()))
}

/// RFC 7240.
const NO_ANSWER: &str = "respond-async";

fn prefers_no_answer(headers: &HeaderMap) -> bool {
    let said = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    said.flat_map(|value| value.split(','))
        .any(|preference| preference.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(NO_ANSWER))
}

/// The call that `request` carries, and how it is known again.
pub(super) async fn call(
    state: &router::State,
    principal: &Principal,
    request: Request,
) -> Result<(Call, Option<Once>), Problem> {
    bodies::json_only(request.headers())?;
    let key = idempotency_key(request.headers())?;
    let held = state.bodies.hold(&principal.name);
    // A run may take minutes; the text it came from is not needed for it and goes with the end of this function.
    let (body, _held) = bodies::read(request.into_body(), state.service.config().http, held).await?;
    let work = {
        let body = body.clone();
        move || decode(json::parse(&body).map_err(Problem::malformed_json)?, key)
    };
    aside(body.len(), work).await.ok_or_else(cut_short)?
}

/// The call that `body` is, under `key` where the request had one.
pub(super) fn decode(body: Value, key: Option<ExecutionId>) -> Result<(Call, Option<Once>), Problem> {
    let keyed = key.is_some() || body.pointer("/context/execution_id").is_some_and(|id| !id.is_null());
    // Names in another order are another body; spaces between them are not.
    let print = keyed.then(|| fingerprint(body.to_string().as_bytes()));
    let call = envelope::call(body)?;
    let key = match (key, &call.context.execution_id) {
        (Some(key), Some(id)) if key != *id => {
            let fault = Violation::new("/context/execution_id", "is not the Idempotency-Key of the same request");
            return Err(Problem::malformed_request(vec![fault]));
        }
        (key, id) => key.or_else(|| id.clone()),
    };
    let once = key.zip(print).map(|(key, fingerprint)| Once { key: key.as_str().to_owned(), fingerprint });
    Ok((call, once))
}

/// What is told of the tool that `call` means, for a reply that comes before the end of its run. Looked up beside the call's
/// own look-up: one that meets a change of the tools may be told of either.
pub(super) fn deprecation(state: &router::State, call: &Call) -> Option<Deprecated> {
    state.service.registry().get(&call.tool).and_then(|tool| tool.about().deprecated.clone())
}

/// RFC 9745: since when; RFC 8594: from when on it may be gone.
pub(super) fn tell_deprecation(mut response: Response, deprecated: Option<&Deprecated>) -> Response {
    let Some(deprecated) = deprecated else { return response };
    let headers = response.headers_mut();
    let since = deprecated.since.start().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if let Ok(since) = HeaderValue::from_str(&format!("@{since}")) {
        headers.insert(HeaderName::from_static("deprecation"), since);
    }
    if let Some(sunset) = deprecated.sunset
        && let Ok(sunset) = HeaderValue::from_str(&httpdate::fmt_http_date(sunset.start()))
    {
        headers.insert(HeaderName::from_static("sunset"), sunset);
    }
    response
}

pub(super) fn cut_short() -> Problem {
    CallError::Internal("work on a large text was not finished".into()).into()
}

/// `bytes` of JSON as a 200.
pub(super) fn json_response(bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The same form as an execution id, because it lives in the same store.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<ExecutionId>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str().unwrap_or_default().parse() {
        Ok(key) => Ok(Some(key)),
        Err(error) => Err(Problem::malformed_request(vec![Violation::new("", format!("Idempotency-Key {error}"))])),
    }
}
