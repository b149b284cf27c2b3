//! POST /api/v1/tools/execute

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::{BoxError, Extension};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;

use super::bodies::Held;
use super::layer::Caller;
use super::problem::Problem;
use super::{envelope, json, reply, router};
use crate::config::Http;
use crate::spec::ExecutionId;
use crate::tools::Violation;
use crate::tools::aside::aside;
use crate::tools::call::{Call, CallError, Once};
use crate::tools::execute::fingerprint;

const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub(super) async fn execute(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    json_only(request.headers())?;
    let key = idempotency_key(request.headers())?;
    let held = state.bodies.hold(&principal.name);
    let (body, held) = read(request.into_body(), state.service.config().http, held).await?;
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
    let bytes = aside(execution.held_bytes(), move || reply::body(&execution)).await.ok_or_else(cut_short)?;
    Ok(json_response(bytes))
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

fn json_only(headers: &HeaderMap) -> Result<(), Problem> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    let encoded =
        headers.get(header::CONTENT_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
    if media.eq_ignore_ascii_case("application/json") && !encoded {
        return Ok(());
    }
    let detail = "the body must be application/json without a content encoding";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
}

/// The same form as an execution id, because it lives in the same store.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<ExecutionId>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str().unwrap_or_default().parse() {
        Ok(key) => Ok(Some(key)),
        Err(error) => Err(Problem::malformed_request(vec![Violation::new("", format!("Idempotency-Key {error}"))])),
    }
}

/// The whole body, within its size, its time and the memory of all bodies together.
async fn read(body: Body, http: Http, mut held: Held) -> Result<(Bytes, Held), Problem> {
    // A length that says too much already is not waited for.
    if body.size_hint().lower() > http.body_bytes_max as u64 {
        return Err(Problem::too_large(http.body_bytes_max));
    }
    let mut limited = Limited::new(body, http.body_bytes_max);
    let time = Duration::from_millis(http.body_timeout_ms);
    let whole = async {
        let mut bytes = Vec::new();
        while let Some(frame) = limited.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if !held.more(data.len()) {
                return Ok(None);
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Some(Bytes::from(bytes)))
    };
    match tokio::time::timeout(time, whole).await {
        Ok(Ok(Some(body))) => Ok((body, held)),
        Ok(Ok(None)) => Err(CallError::RateLimited {
            what: "the bodies that this principal sends hold as much memory as they may".into(),
            retry_after: Duration::from_secs(1),
        }
        .into()),
        Ok::<Result<_, BoxError>, _>(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Problem::too_large(http.body_bytes_max))
        }
        Ok(Err(error)) => {
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            let detail = format!("the body could not be read: {cause}");
            Err(Problem::new(StatusCode::BAD_REQUEST, "malformed_request", detail))
        }
        Err(_) => {
            let detail = format!("the body did not come within {} s", time.as_secs_f64());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail))
        }
    }
}
