//! GET /api/v1/executions, GET and DELETE /api/v1/executions/{id}: what is under way.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;

use super::execute::json_response;
use super::layer::Caller;
use super::problem::Problem;
use super::router;
use crate::api::http::executions::time::rfc3339;
use crate::spec::{ExecutionId, Level};
use crate::tools::live::Entry;

/// In one reply.
const LIST_MAX: usize = 1000;

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
}

/// What this principal has under way, oldest first; admins see everybody's.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LiveExecutions")]
pub(super) struct ListBody<'a> {
    #[schemars(length(max = LIST_MAX))]
    executions: Vec<ExecutionBody<'a>>,
    /// Of which at most a thousand are listed.
    total: usize,
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
        }
    }
}

fn encode<T: Serialize>(body: &T) -> Response {
    // Strings and numbers only: this can not fail.
    json_response(serde_json::to_vec(body).unwrap_or_default())
}

pub(super) async fn list(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
) -> Response {
    let entries = state.service.list(&principal);
    let executions = entries.iter().take(LIST_MAX).map(|entry| ExecutionBody::of(entry)).collect();
    encode(&ListBody { executions, total: entries.len() })
}

/// A path that is not UTF-8 names nothing, either.
fn parse(id: Result<Path<String>, PathRejection>) -> Result<ExecutionId, Problem> {
    let Ok(Path(id)) = id else { return Err(Problem::unknown_execution()) };
    id.parse().map_err(|_| Problem::unknown_execution())
}

pub(super) async fn one(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let entry = state.service.get(&principal, &parse(id)?).ok_or_else(Problem::unknown_execution)?;
    let mut body = ExecutionBody::of(&entry);
    if principal.is_admin()
        && let Some(stat) = state.service.stat(&entry).await?
    {
        body.host_pid = Some(stat.command_pid.unwrap_or(stat.host_pid));
        body.cgroup_path = stat.cgroup_path;
    }
    Ok(encode(&body))
}

/// Asks for the end and does not wait for it: the call's own reply tells how it ended.
pub(super) async fn end(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let entry = state.service.end(&principal, &parse(id)?).ok_or_else(Problem::unknown_execution)?;
    let mut response = encode(&ExecutionBody::of(&entry));
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

mod time {
    use std::time::{SystemTime, UNIX_EPOCH};

    /// UTC with milliseconds.
    pub(super) fn rfc3339(at: SystemTime) -> String {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", since.subsec_millis())
    }

    /// Days since 1970 as a Gregorian date: years begin in March, so that the leap day comes last in its year.
    fn civil(days: u64) -> (u64, u64, u64) {
        let days = days + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * march + 2) / 5 + 1;
        let month = if march < 10 { march + 3 } else { march - 9 };
        (era * 400 + year + u64::from(month <= 2), month, day)
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::time::Duration;

        #[test]
        fn known_moments() {
            for (seconds, text) in [
                (0, "1970-01-01T00:00:00.000Z"),
                (951_782_400, "2000-02-29T00:00:00.000Z"),
                (1_767_225_599, "2025-12-31T23:59:59.000Z"),
                (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            ] {
                assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
            }
        }
    }
}
