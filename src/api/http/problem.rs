//! Errors as the contract tells them (RFC 9457), and the one place where they become HTTP.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::codes;
use crate::api::identity::Denied;
use crate::checks::Blocked;
use crate::spec::{RequestId, capped};
use crate::tools::RegisterError;
use crate::tools::Violation;
use crate::tools::call::CallError;
use crate::tools::custom::ChangeError;
use crate::tools::execute::RegisterToolError;
use crate::wire::client::ClientError;

/// `detail` may carry a name that a caller or the engine shaped.
const DETAIL_CHARS_MAX: usize = 1000;

/// A refusal on its way out. As a response it is a body-less carrier, which the outermost layer fills in, because only
/// that one knows the request's id.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    errors: Vec<Violation>,
    hint: Option<Cow<'static, str>>,
    blocked: Option<Box<Blocked>>,
    retry_after: Option<Duration>,
}

/// Nothing ran, and why (RFC 9457).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct Body9457<'a> {
    #[schemars(extend("pattern" = "^/problems/[a-z-]+$"))]
    r#type: String,
    title: String,
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    /// Stable over versions; what programs should look at.
    #[schemars(extend("pattern" = "^[a-z_]+$"))]
    code: &'a str,
    /// For people.
    detail: &'a str,
    /// The same as X-Request-Id.
    request_id: &'a str,
    /// What would be allowed, or would help.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    /// Of `blocked`: the rule that the code meets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^[a-z]+/[a-z-]+$"))]
    rule: Option<&'a str>,
    /// Of `blocked`: where in the code, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    line: Option<u32>,
    /// Of `blocked`: in characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    column: Option<u32>,
    /// Every place of the request that is wrong, where places are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ProblemError")]
struct Fault<'a> {
    /// A JSON pointer (RFC 6901) into the body, or the name of a query parameter after a slash.
    #[schemars(extend("format" = "json-pointer"))]
    pointer: &'a str,
    message: &'a str,
}

impl Problem {
    /// `code` is one of the contract's table, and has the status that it has there.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        debug_assert_eq!(codes::get(code).map(|row| row.status), Some(status.as_u16()), "{code}");
        Self {
            status,
            code,
            detail: capped(&detail.into(), DETAIL_CHARS_MAX),
            errors: Vec::new(),
            hint: None,
            blocked: None,
            retry_after: None,
        }
    }

    pub fn with_errors(mut self, errors: Vec<Violation>) -> Self {
        self.errors = errors;
        self
    }

    pub(super) fn retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }

    /// Fields of the request that can not be accepted.
    pub fn malformed_request(errors: Vec<Violation>) -> Self {
        CallError::Request(errors).into()
    }

    pub fn malformed_json(fault: Violation) -> Self {
        let detail = format!("the body is not acceptable JSON: {}", fault.message);
        Self::new(StatusCode::BAD_REQUEST, "malformed_json", detail).with_errors(vec![fault])
    }

    pub fn too_large(max: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("the body is larger than {max} bytes"))
    }

    pub fn unknown_execution() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_execution", "no execution of this id is under way")
    }

    pub fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The whole reply as HTTP/1.1 sends it, for a connection on which no request could be read.
    pub fn as_http1(&self, request: &RequestId) -> Vec<u8> {
        let body = self.encode(request);
        let reason = self.status.canonical_reason().unwrap_or_default();
        let retry = self.retry_after.map_or_else(String::new, |after| format!("Retry-After: {}\r\n", seconds(after)));
        let head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n\
             X-Request-Id: {request}\r\n{retry}Connection: close\r\n\r\n",
            self.status.as_u16(),
            body.len()
        );
        [head.into_bytes(), body].concat()
    }

    /// The body.
    pub(super) fn encode(&self, request: &RequestId) -> Vec<u8> {
        let words = self.code.replace('_', " ");
        let blocked = self.blocked.as_deref();
        let body = Body9457 {
            r#type: format!("/problems/{}", self.code.replace('_', "-")),
            title: words,
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            request_id: request.as_str(),
            hint: self.hint.as_deref().or(blocked.map(|blocked| blocked.hint.as_str())),
            rule: blocked.map(|blocked| blocked.rule.as_str()),
            line: blocked.map(|blocked| blocked.line),
            column: blocked.map(|blocked| blocked.column),
            errors: self.errors.iter().map(|v| Fault { pointer: &v.pointer, message: &v.message }).collect(),
        };
        // Strings and numbers only: this can not fail.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// The finished reply.
    pub fn render(&self, request: &RequestId, response: Response) -> Response {
        let bytes = self.encode(request);
        let (mut parts, _) = response.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after {
            parts.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(after)));
        }
        Response::from_parts(parts, Body::from(bytes))
    }
}

/// As Retry-After counts them: whole ones, and never none.
fn seconds(after: Duration) -> u64 {
    after.as_millis().div_ceil(1000).max(1) as u64
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110, 11.6.1: a 401 names what would be accepted.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        (&error).into()
    }
}

impl From<&CallError> for Problem {
    fn from(error: &CallError) -> Self {
        use CallError as E;
        let detail = error.to_string();
        let status = match error {
            E::Request(_) | E::WorkspaceTooLarge { .. } => StatusCode::BAD_REQUEST,
            E::UnknownTool(_) | E::UnknownWorkspace => StatusCode::NOT_FOUND,
            E::Parameters(_) | E::MissingToolchain { .. } | E::LevelUnsuitable { .. } | E::NotConfigured { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            E::Forbidden(_) | E::Blocked(_) => StatusCode::FORBIDDEN,
            E::Conflict(_) | E::Ended | E::WorkspaceBusy | E::TooManyWorkspaces { .. } => StatusCode::CONFLICT,
            E::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            E::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            E::LevelUnavailable { .. }
            | E::EngineUnavailable(_)
            | E::SetupFailed { .. }
            | E::AtCapacity { .. }
            | E::Draining => StatusCode::SERVICE_UNAVAILABLE,
        };
        match error {
            E::Request(errors) => Self::new(status, "malformed_request", detail).with_errors(errors.clone()),
            E::Parameters(errors) => Self::new(status, "invalid_parameters", detail).with_errors(errors.clone()),
            E::UnknownTool(_) => Self::new(status, "unknown_tool", detail),
            E::UnknownWorkspace => Self::new(status, "unknown_workspace", detail),
            E::WorkspaceTooLarge { .. } => {
                Self::new(status, "malformed_request", "1 field of the request can not be accepted")
                    .with_errors(vec![Violation::new("/size_mb", detail)])
            }
            E::MissingToolchain { .. } => Self::new(status, "missing_toolchain", detail),
            E::Forbidden(_) => Self::new(status, "forbidden", detail),
            E::Blocked(blocked) => {
                let mut problem = Self::new(status, "blocked", detail);
                problem.blocked = Some(Box::new(blocked.clone()));
                problem
            }
            E::Conflict(_) | E::Ended | E::WorkspaceBusy | E::TooManyWorkspaces { .. } => {
                Self::new(status, "conflict", detail)
            }
            E::LevelUnavailable { .. } => {
                let mut problem = Self::new(status, "level_unavailable", detail);
                problem.hint = Some("the operator's `sandkeep doctor` tells what mends it".into());
                problem
            }
            E::LevelUnsuitable { .. } => Self::new(status, "level_unsuitable", detail),
            E::NotConfigured { hint, .. } => {
                let mut problem = Self::new(status, "not_configured", detail);
                problem.hint = Some(hint.clone().into());
                problem
            }
            E::EngineUnavailable(source) => engine_unavailable(source),
            E::SetupFailed { .. } => Self::new(status, "setup_failed", detail).retry_after(Some(SOON)),
            E::AtCapacity { retry_after, .. } => Self::new(status, "at_capacity", detail).retry_after(*retry_after),
            E::RateLimited { retry_after, .. } => {
                Self::new(status, "rate_limited", detail).retry_after(Some(*retry_after))
            }
            E::Draining => Self::new(status, "draining", detail).retry_after(Some(RESTART)),
            E::Internal(_) => {
                tracing::error!(error = detail, "internal error");
                Self::new(status, "internal", "a bug: the log has the chain under this request's id")
            }
        }
    }
}

/// A failed launch or a lost engine is usually over by then.
const SOON: Duration = Duration::from_secs(1);
/// A daemon that stops may come back.
const RESTART: Duration = Duration::from_secs(5);

/// The log has the whole error; a caller is not told paths of the host.
fn engine_unavailable(source: &ClientError) -> Problem {
    tracing::warn!(error = %source, "the engine can not be used");
    let why = match source {
        ClientError::Connect { .. } => "the engine does not answer",
        ClientError::PeerUid { .. } => "what answers in the engine's place is not the engine",
        ClientError::Version { .. } => "the engine is of another version",
        ClientError::Lost => "the connection to the engine ended",
        ClientError::TimedOut { .. } => "the engine did not answer in time",
        ClientError::Busy => "too many requests to the engine are under way",
        ClientError::Encode { .. } => "the request does not fit into a message to the engine",
        ClientError::Unexpected { .. } => "the engine gave an answer of another kind",
    };
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "engine_unavailable", why).retry_after(Some(SOON))
}

impl From<RegisterToolError> for Problem {
    fn from(error: RegisterToolError) -> Self {
        use RegisterToolError as E;
        let detail = error.to_string();
        match error {
            E::Manifest(errors) => Self::malformed_request(errors),
            E::Interrupted => CallError::Draining.into(),
            E::Change(ChangeError::Unknown(_)) => Self::new(StatusCode::NOT_FOUND, "unknown_tool", detail),
            E::Change(ChangeError::Register(RegisterError::Full)) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "at_capacity", detail)
            }
            // Nothing is wrong with the daemon or the call: an operator makes room.
            E::Change(ChangeError::Kept(error))
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "at_capacity", detail)
            }
            E::Change(ChangeError::Kept(_)) => CallError::Internal(detail).into(),
            E::Change(
                ChangeError::Register(RegisterError::Exists { .. })
                | ChangeError::BuiltIn(_)
                | ChangeError::Operators(_),
            ) => Self::new(StatusCode::CONFLICT, "conflict", detail),
        }
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        engine_unavailable(&error)
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unauthenticated(hint) => {
                let mut problem = Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "no usable credential");
                problem.hint = Some(hint.into());
                problem
            }
            Denied::Forbidden(why) => Self::new(StatusCode::FORBIDDEN, "forbidden", why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_bug_and_what_else_a_disk_says_is_one() {
        let of = |errno| {
            let kept = ChangeError::Kept(io::Error::from_raw_os_error(errno));
            let problem = Problem::from(RegisterToolError::Change(kept));
            (problem.status().as_u16(), problem.code())
        };
        assert_eq!([nix::libc::ENOSPC, nix::libc::EDQUOT].map(of), [(503, "at_capacity"); 2]);
        assert_eq!([nix::libc::EIO, nix::libc::EROFS].map(of), [(500, "internal"); 2]);
    }
}
