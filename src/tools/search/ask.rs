//! One engine asked once, within its time, and its failure in words that tell callers nothing of the operator's network.

use schemars::JsonSchema;
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

use super::engine::{Engine, Found, Query, Request, engine};
use crate::config::{EngineName, SearchEngine};
use crate::spec::capped;
use crate::tools::aside::aside;
use crate::tools::definition::FrontTerms;
use crate::tools::http::client::{Asked, Failure, NamedBy, Response};
use crate::tools::http::journey::Journey;
use crate::tools::http::url::Url;

/// Of one engine; the pages and lists of today are a quarter of it.
pub(super) const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// Buffers of one, TLS with them.
pub(super) const CONNECTION_BYTES: usize = 256 * 1024;
/// Of the call's time, for what comes after the engines.
const REST: Duration = Duration::from_millis(100);

/// Why one engine is of no use to this call.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(super) struct EngineError {
    /// timed_out, egress_denied, resolve_failed, connect_failed, tls_failed, http_error, rate_limited, bad_response,
    /// bad_url, bad_redirect, too_many_redirects, unsupported or not_configured.
    #[schemars(extend("pattern" = "^[a-z_]+$"))]
    pub code: &'static str,
    message: String,
    /// Of egress, where one refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
}

impl EngineError {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: capped(&message.into(), 300), rule: None }
    }
}

pub(super) async fn ask(name: EngineName, query: &Query, terms: &FrontTerms) -> Result<Vec<Found>, EngineError> {
    let Some(settings) = terms.config.search.engine(name) else {
        return Err(EngineError::new(
            "not_configured",
            format!("[{}] lacks its key: a restart reads it", name.table()),
        ));
    };
    let engine = engine(name);
    let request = engine.request(query, settings).map_err(|why| EngineError::new("unsupported", why))?;
    let own = Instant::now() + Duration::from_millis(settings.timeout_ms);
    let end = terms.deadline.checked_sub(REST).map_or(own, |end| end.min(own));
    let late = |_| EngineError::new("timed_out", "it did not answer in time");
    timeout_at(end, answered(engine, request, settings, terms)).await.map_err(late)?
}

async fn answered(
    engine: &'static dyn Engine,
    request: Request,
    settings: &SearchEngine,
    terms: &FrontTerms,
) -> Result<Vec<Found>, EngineError> {
    let Request { method, url, headers, body } = request;
    let url = Url::parse(&url).map_err(|why| EngineError::new("unsupported", format!("its URL {why}")))?;
    let mut journey = Journey::new(&settings.url);
    let asked = Asked { method, headers, body, most: REPLY_BYTES_MAX };
    let came = journey.go(terms, url, NamedBy::Operator, asked, true).await;
    let Response { status, body, truncated, .. } =
        came.map_err(|failure| told(&failure, !journey.redirects.is_empty()))?;
    match status.as_u16() {
        200..=299 => {}
        429 => return Err(EngineError::new("rate_limited", "it takes no more requests for now")),
        status => {
            let message = engine.refusal(status).map_or_else(|| format!("it answered {status}"), str::to_owned);
            return Err(EngineError::new("http_error", message));
        }
    }
    if truncated {
        return Err(EngineError::new("bad_response", format!("its reply is larger than {REPLY_BYTES_MAX} bytes")));
    }
    let read = aside(body.len(), move || engine.read(&body)).await;
    read.unwrap_or_else(|| Err("its reply was not read".into())).map_err(|why| EngineError::new("bad_response", why))
}

/// A failure's own message may hold names and addresses of the operator's network.
fn told(failure: &Failure, redirected: bool) -> EngineError {
    let message = match failure.code() {
        "egress_denied" if failure.rule() == Some("egress/requests") => failure.message(),
        "egress_denied" if redirected => "it redirects to a place that may not be reached",
        "egress_denied" => "its place may not be reached",
        "resolve_failed" => "its name was not found",
        "connect_failed" => "it can not be connected to",
        "tls_failed" => "no secure connection to it came about",
        "bad_url" => "its URL can not be asked for",
        "bad_redirect" => "it redirects to what can not be asked",
        "too_many_redirects" => "it redirects without end",
        _ => "its reply is not HTTP that can be read",
    };
    EngineError { rule: failure.rule().map(str::to_owned), ..EngineError::new(failure.code(), message) }
}
