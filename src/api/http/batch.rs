//! POST /api/v1/tools/batch: many calls in one request, run in parallel, answered in order.

use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use schemars::SchemaGenerator;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::execute::{cut_short, decode};
use super::layer::{self, Caller, Id};
use super::openapi::of;
use super::problem::{Body9457, Problem};
use super::{bodies, json, reply, router, sse};
use crate::spec::RequestId;
use crate::tools::Violation;
use crate::tools::aside::aside;
use crate::tools::call::{Call, CallError, Once};
use crate::tools::principal::Principal;

/// Of one request. More callers at once would not be served sooner.
pub(super) const CALLS_MAX: usize = 64;

pub(super) async fn batch(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    Extension(Id(request_id)): Extension<Id>,
    request: Request,
) -> Result<Response, Problem> {
    bodies::json_only(request.headers())?;
    if request.headers().contains_key("idempotency-key") {
        let message = "Idempotency-Key is for one call: give each its context.execution_id";
        return Err(Problem::malformed_request(vec![Violation::new("", message)]));
    }
    let held = state.bodies.hold(&principal.name);
    let (body, held) = bodies::read(request.into_body(), state.service.config().http, held).await?;
    let work = {
        let body = body.clone();
        move || {
            let calls = calls(json::parse(&body).map_err(Problem::malformed_json)?)?;
            Ok::<_, Problem>(calls.into_iter().map(|call| decode(call, None)).collect::<Vec<_>>())
        }
    };
    let calls = aside(body.len(), work).await.ok_or_else(cut_short)??;
    drop((body, held));
    let mut running = JoinSet::new();
    let count = calls.len();
    for (at, call) in calls.into_iter().enumerate() {
        let (state, principal, id) = (state.clone(), Arc::clone(&principal), request_id.clone());
        running.spawn(async move { (at, one(&state, &principal, call, &id).await) });
    }
    let mut replies = vec![Bytes::new(); count];
    // Dropped, when the caller goes, it ends them all.
    while let Some(ended) = running.join_next().await {
        let (at, reply) = ended.map_err(|_| CallError::Internal("a call of a batch was not finished".into()))?;
        replies[at] = reply;
    }
    // Together they may be large: none is copied.
    let begins = std::iter::once("[").chain(std::iter::repeat(","));
    let pieces = begins.zip(replies).flat_map(|(begin, reply)| [Bytes::from_static(begin.as_bytes()), reply]);
    let all = sse::Pieces(pieces.chain([Bytes::from_static(b"]")]).collect());
    let mut response = Response::new(Body::new(all));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// What is taken.
pub(super) fn schema() -> Value {
    // What is wrong with one call is told in its place and keeps no other from running.
    let call = json!({ "description": "An ExecuteRequest." });
    let calls = json!({ "type": "array", "items": call, "minItems": 1, "maxItems": CALLS_MAX });
    let object = json!({ "type": "object", "properties": { "calls": calls }, "required": ["calls"], "additionalProperties": false });
    json!({ "anyOf": [calls, object] })
}

/// What is answered.
pub(super) fn replies(generator: &mut SchemaGenerator) -> Value {
    let one = [of::<reply::Envelope<'_>>(generator), of::<Body9457<'_>>(generator)];
    json!({ "type": "array", "items": { "anyOf": one } })
}

/// An array of calls, or an object with one.
fn calls(body: Value) -> Result<Vec<Value>, Problem> {
    let fault = |pointer: &str, message: String| Problem::malformed_request(vec![Violation::new(pointer, message)]);
    let (at, list) = match body {
        Value::Array(list) => ("", list),
        Value::Object(mut fields) => match fields.remove("calls") {
            Some(Value::Array(list)) if fields.is_empty() => ("/calls", list),
            Some(Value::Array(_)) => return Err(fault("", "holds more than calls".into())),
            _ => return Err(fault("/calls", "must be an array of calls".into())),
        },
        _ => return Err(fault("", "must be an array of calls".into())),
    };
    if list.is_empty() || list.len() > CALLS_MAX {
        return Err(fault(at, format!("must be 1 to {CALLS_MAX} calls")));
    }
    Ok(list)
}

/// The envelope or the problem of one call, as it would have been alone.
async fn one(
    state: &router::State,
    principal: &Principal,
    call: Result<(Call, Option<Once>), Problem>,
    request: &RequestId,
) -> Bytes {
    let result = async {
        let (call, once) = call?;
        let execution = state.service.execute(principal, call, once).await?;
        aside(execution.held_bytes(), move || reply::body(&execution)).await.ok_or_else(cut_short)
    };
    let bytes = match result.await {
        Ok(envelope) => envelope,
        Err(problem) => {
            layer::refused(state, request, &problem);
            problem.encode(request)
        }
    };
    bytes.into()
}
