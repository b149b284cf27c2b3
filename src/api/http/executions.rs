//! /api/v1/executions: what is under way, runs without a caller, and their events.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

use super::execute::{self, json_response};
use super::layer::{Caller, Id};
use super::peers::Connection;
use super::problem::{Body9457, Problem};
use super::{reply, router, sse};
use crate::spec::{ExecutionId, Level, RequestId};
use crate::tools::call::{Call, Once};
use crate::tools::day::rfc3339;
use crate::tools::events::Reader;
use crate::tools::execute::Followed;
use crate::tools::live::{Entry, Follower};
use crate::tools::principal::Principal;
use crate::tools::{Violation, step};

/// In one reply.
pub(super) const LIST_MAX: usize = 1000;

/// An execution that is under way.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LiveExecution")]
pub(super) struct ExecutionBody<'a> {
    execution_id: &'a str,
    principal: &'a str,
    tool_name: &'a str,
    agent_id: Option<&'a str>,
    #[schemars(extend("enum" = Level::ALL.map(Level::name)))]
    level: &'a str,
    #[schemars(extend("enum" = Entry::STATES))]
    state: &'a str,
    /// UTC.
    #[schemars(extend("format" = "date-time"))]
    started_at: String,
    age_seconds: f64,
    /// Of the current attempt; null while it waits.
    sandbox_id: Option<String>,
    /// Of the running command, as the host counts; shown to admins, of one execution that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    host_pid: Option<i32>,
    /// Shown to whom host_pid is.
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup_path: Option<String>,
    /// Of one that has ended, and of which something ran: the reply that an execute call gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "reply::Envelope<'a>")]
    result: Option<Box<RawValue>>,
    /// Of one that has ended, and of which nothing ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Body9457<'a>")]
    error: Option<Box<RawValue>>,
}

/// Executions of this principal, oldest first; admins see everybody's.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Executions")]
pub(super) struct ListBody<'a> {
    #[schemars(length(max = LIST_MAX))]
    executions: Vec<ExecutionBody<'a>>,
    /// On all pages.
    total: usize,
    /// Where the next page begins; null on the last.
    next_cursor: Option<String>,
}

impl<'a> ExecutionBody<'a> {
    fn of(entry: &'a Entry) -> Self {
        Self {
            execution_id: entry.id.as_str(),
            principal: &entry.owner,
            tool_name: &entry.tool,
            agent_id: entry.agent_id.as_deref(),
            level: entry.level.name(),
            state: entry.state(),
            started_at: rfc3339(entry.started_at),
            age_seconds: entry.started_at.elapsed().unwrap_or_default().as_secs_f64(),
            sandbox_id: entry.sandbox().map(|id| id.as_str().to_owned()),
            host_pid: None,
            cgroup_path: None,
            result: None,
            error: None,
        }
    }
}

fn encode<T: Serialize>(body: &T) -> Response {
    // Strings and numbers only: this can not fail.
    json_response(serde_json::to_vec(body).unwrap_or_default())
}

/// What a listing is asked for.
struct Filter {
    under_way: bool,
    ended: bool,
    state: Option<String>,
    tool: Option<String>,
    agent: Option<String>,
    limit: usize,
    /// The number of the last one that was listed.
    after: u64,
}

impl Filter {
    fn parse(query: &BTreeMap<String, String>) -> Result<Self, Problem> {
        let mut faults = Vec::new();
        let mut filter =
            Self { under_way: true, ended: false, state: None, tool: None, agent: None, limit: LIST_MAX, after: 0 };
        for (name, value) in query {
            let mut fault = |message: String| faults.push(Violation::new(step(name), message));
            match name.as_str() {
                "state" => match value.as_str() {
                    "all" => filter.ended = true,
                    "ended" => (filter.under_way, filter.ended) = (false, true),
                    "queued" | "building" | "running" | "ending" => filter.state = Some(value.clone()),
                    _ => fault("must be queued, building, running, ending, ended or all".into()),
                },
                "tool_name" => filter.tool = Some(value.clone()),
                "agent_id" => filter.agent = Some(value.clone()),
                "limit" => match value.parse() {
                    Ok(limit @ 1..=LIST_MAX) => filter.limit = limit,
                    _ => fault(format!("must be a whole number from 1 to {LIST_MAX}")),
                },
                "cursor" => match value.strip_prefix("c").and_then(|number| number.parse().ok()) {
                    Some(number) => filter.after = number,
                    None => fault("is not one that a listing gave".into()),
                },
                _ => fault("is not a parameter of this path".into()),
            }
        }
        if faults.is_empty() { Ok(filter) } else { Err(Problem::malformed_request(faults)) }
    }

    fn takes(&self, entry: &Entry) -> bool {
        self.state.as_ref().is_none_or(|state| state == entry.state())
            && self.tool.as_ref().is_none_or(|tool| *tool == entry.tool)
            && self.agent.as_ref().is_none_or(|agent| entry.agent_id.as_ref() == Some(agent))
    }
}

/// Oldest first. `total` counts what the filter takes, on all pages; `next_cursor` is there where there are more.
pub(super) async fn list(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let filter = Filter::parse(&query)?;
    let mut entries = state.service.list(&principal, filter.under_way, filter.ended);
    entries.retain(|entry| filter.takes(entry));
    let total = entries.len();
    let from = entries.partition_point(|entry| entry.number <= filter.after);
    let page = &entries[from..entries.len().min(from + filter.limit)];
    let next = page.last().filter(|_| from + page.len() < total).map(|last| format!("c{}", last.number));
    let executions = page.iter().map(|entry| ExecutionBody::of(entry)).collect();
    Ok(encode(&ListBody { executions, total, next_cursor: next }))
}

/// POST /api/v1/executions: the same body as an execute call, which runs on without its caller.
pub(super) async fn create(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (call, once) = execute::call(&state, &principal, request).await?;
    accepted(&state, &principal, call, once).await
}

/// Begins `call` for nobody in particular; one that was answered before is answered again.
pub(super) async fn accepted(
    state: &router::State,
    principal: &Principal,
    call: Call,
    once: Option<Once>,
) -> Result<Response, Problem> {
    let deprecated = execute::deprecation(state, &call);
    let entry = match state.service.follow(principal, call, once, true).await? {
        Followed::Stored(reply) => return execute::envelope_of(reply).await,
        Followed::Running(entry) => entry,
    };
    let mut response = encode(&ExecutionBody::of(&entry));
    *response.status_mut() = StatusCode::ACCEPTED;
    // Ids are letters, digits and three marks.
    if let Ok(place) = HeaderValue::from_str(&format!("/api/v1/executions/{}", entry.id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(execute::tell_deprecation(response, deprecated.as_ref()))
}

/// GET /api/v1/executions/{id}/events: from the beginning, or behind Last-Event-ID.
pub(super) async fn events(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    Extension(Id(request_id)): Extension<Id>,
    Extension(connection): Extension<Connection>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let entry = state.service.get(&principal, &parse(id)?).ok_or_else(Problem::unknown_execution)?;
    let fault = |message| Problem::malformed_request(vec![Violation::new("", message)]);
    let after: u64 = match headers.get("last-event-id") {
        None => 0,
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            let number = text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
            number.ok_or_else(|| fault("Last-Event-ID is not the id of an event"))?
        }
    };
    if let Some(log) = &entry.log {
        let goes_on =
            log.goes_on(after).ok_or_else(|| fault("Last-Event-ID is not the id of an event of this execution"))?;
        // Nothing comes any more: browsers come back to everything else.
        if !goes_on {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
    }
    events_of(&entry, after, request_id, &connection)
}

/// The events of `entry` behind the one with the number `after`.
pub(super) fn events_of(
    entry: &Arc<Entry>,
    after: u64,
    request_id: RequestId,
    connection: &Connection,
) -> Result<Response, Problem> {
    let Some(log) = &entry.log else {
        let detail = "this execution answers its caller alone: it was asked for without events";
        return Err(Problem::new(StatusCode::CONFLICT, "conflict", detail));
    };
    let (reader, follower) = (Reader::new(Arc::clone(log), after), Follower::of(Arc::clone(entry)));
    Ok(sse::follow(reader, follower, request_id, connection.0.stream()))
}

/// A path that is not UTF-8 names nothing, either.
fn parse(id: Result<Path<String>, PathRejection>) -> Result<ExecutionId, Problem> {
    let Ok(Path(id)) = id else { return Err(Problem::unknown_execution()) };
    id.parse().map_err(|_| Problem::unknown_execution())
}

pub(super) async fn one(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    Extension(Id(request_id)): Extension<Id>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let entry = state.service.get(&principal, &parse(id)?).ok_or_else(Problem::unknown_execution)?;
    let mut body = ExecutionBody::of(&entry);
    if let Some(log) = &entry.log {
        if let Some(reply) = log.rendered(sse::body).await {
            return Ok(with_result(&body, Bytes::from_owner(reply)));
        }
        if let Some(Err(error)) = log.result().as_deref() {
            let problem = String::from_utf8(Problem::from(error).encode(&request_id)).ok();
            body.error = problem.and_then(|text| RawValue::from_string(text).ok());
        }
    }
    if principal.is_admin()
        && body.error.is_none()
        && let Some(stat) = state.service.stat(&entry).await?
    {
        body.host_pid = Some(stat.command_pid.unwrap_or(stat.host_pid));
        body.cgroup_path = stat.cgroup_path;
    }
    Ok(encode(&body))
}

/// `body` with the reply that all who ask share.
fn with_result(body: &ExecutionBody<'_>, reply: Bytes) -> Response {
    let mut first = serde_json::to_vec(body).unwrap_or_default();
    // Its closing brace comes last.
    first.pop();
    first.extend_from_slice(b",\"result\":");
    let pieces = [first.into(), reply, Bytes::from_static(b"}")];
    let mut response = Response::new(Body::new(sse::Pieces(pieces.into())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Asks for the end and does not wait for it: the call's own reply tells how it ended. One that has ended is forgotten.
pub(super) async fn end(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let entry = state.service.end(&principal, &parse(id)?).await.ok_or_else(Problem::unknown_execution)?;
    let mut response = encode(&ExecutionBody::of(&entry));
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}
