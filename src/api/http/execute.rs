//! POST /api/v1/tools/execute

use std::time::UNIX_EPOCH;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;

use super::layer::Caller;
use super::problem::Problem;
use super::{bodies, envelope, json, reply, router};
use crate::spec::ExecutionId;
use crate::tools::aside::aside;
use crate::tools::call::{Call, CallError, Once};
use crate::tools::execute::fingerprint;
use crate::tools::{Deprecated, Violation};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub(super) async fn execute(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    bodies::json_only(request.headers())?;
    let key = idempotency_key(request.headers())?;
    let held = state.bodies.hold(&principal.name);
    let (body, held) = bodies::read(request.into_body(), state.service.config().http, held).await?;
    let (call, print) = aside(body.len(), {
        let (body, keyed) = (body.clone(), key.is_some());
        move || {
            let call = decode(&body)?;
            let keyed = keyed || call.context.execution_id.is_some();
            Ok::<_, Problem>((call, keyed.then(|| fingerprint(&body))))
        }
    })
    .await
    .ok_or_else(cut_short)??;
    let key = match (key, &call.context.execution_id) {
        (Some(key), Some(id)) if key != *id => {
            let fault = Violation::new("/context/execution_id", "is not the Idempotency-Key of the same request");
            return Err(Problem::malformed_request(vec![fault]));
        }
        (key, id) => key.or_else(|| id.clone()),
    };
    let once = key.zip(print).map(|(key, fingerprint)| Once { key: key.as_str().to_owned(), fingerprint });
    // A run may take minutes; the text it came from is not needed for it.
    drop((body, held));
    let execution = state.service.execute(&principal, call, once).await?;
    let deprecated = execution.tool.about().deprecated.clone();
    let bytes = aside(execution.held_bytes(), move || reply::body(&execution)).await.ok_or_else(cut_short)?;
    let mut response = json_response(bytes);
    if let Some(deprecated) = deprecated {
        tell_deprecation(response.headers_mut(), &deprecated);
    }
    Ok(response)
}

/// RFC 9745: since when; RFC 8594: from when on it may be gone.
fn tell_deprecation(headers: &mut HeaderMap, deprecated: &Deprecated) {
    let since = deprecated.since.start().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if let Ok(since) = HeaderValue::from_str(&format!("@{since}")) {
        headers.insert(HeaderName::from_static("deprecation"), since);
    }
    if let Some(sunset) = deprecated.sunset
        && let Ok(sunset) = HeaderValue::from_str(&httpdate::fmt_http_date(sunset.start()))
    {
        headers.insert(HeaderName::from_static("sunset"), sunset);
    }
}

fn decode(body: &[u8]) -> Result<Call, Problem> {
    envelope::call(json::parse(body).map_err(Problem::malformed_json)?)
}

fn cut_short() -> Problem {
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
