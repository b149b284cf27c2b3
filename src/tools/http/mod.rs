//! `http_request`: one request to the network, made by the front under the operator's rules of egress.

pub(super) mod client;
pub(super) mod journey;
pub(super) mod url;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::client::{Asked, Failure, NamedBy, Response};
use self::journey::Journey;
use self::url::Url;
use super::call::{CallError, weight};
use super::definition::{About, FrontTerms, FrontTool, Hints, Shaped};
use super::finish::ToolError;
use super::plan::{STDIN_BYTES_MAX, bytes_at_most, milliseconds};
use super::schema::{Violation, step};
use super::version::Version;
use crate::spec::capped;

const URL_BYTES_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 16 * 1024;
const BODY_BYTES: u64 = 1024 * 1024;
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Buffers of one, TLS with them.
const CONNECTION_BYTES: usize = 256 * 1024;

/// What says where a message ends or whom it is for is this side's business.
const OWN_HEADERS: [&str; 10] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "proxy-connection",
    "expect",
];

pub(super) struct HttpRequest;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Verb {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl Verb {
    fn method(self) -> Method {
        match self {
            Self::Get => Method::GET,
            Self::Head => Method::HEAD,
            Self::Post => Method::POST,
            Self::Put => Method::PUT,
            Self::Patch => Method::PATCH,
            Self::Delete => Method::DELETE,
            Self::Options => Method::OPTIONS,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// http or https, without user and password.
    #[schemars(length(min = 1, max = URL_BYTES_MAX))]
    url: String,
    /// GET unless given.
    #[serde(default)]
    method: Verb,
    /// At most 64. Of a redirect to another place Authorization and Cookie are left out.
    #[serde(default)]
    #[schemars(extend("maxProperties" = HEADERS_MAX))]
    headers: BTreeMap<String, String>,
    /// Sent as it is, at most 4 MiB.
    #[serde(default)]
    #[schemars(length(max = STDIN_BYTES_MAX))]
    body: Option<String>,
    /// Sent as JSON; not beside `body`.
    #[serde(default)]
    json: Option<Value>,
    /// Seconds that all of it may take, redirects included; 30 unless given.
    #[serde(default)]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 300))]
    timeout: Option<f64>,
    /// Whether to go where a reply says that the answer is, up to ten times; true unless given.
    #[serde(default)]
    follow_redirects: Option<bool>,
    /// Bytes of the body that are kept, 1 MiB unless given.
    #[serde(default)]
    #[schemars(range(min = 0, max = BODY_BYTES_MAX))]
    max_bytes: Option<u64>,
}

#[derive(Default, Serialize, JsonSchema)]
pub(super) struct Output {
    /// Null where no reply came, as is all else about it.
    status: Option<u16>,
    /// In lower case; a list where one came several times.
    headers: Map<String, Value>,
    /// Of a body that is text in UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// Of every other body.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    /// Only the first bytes of the body were kept.
    truncated: bool,
    /// What was asked last.
    url: String,
    /// What was asked before that.
    redirects: Vec<String>,
    elapsed_ms: f64,
    /// Whether a reply came with a status below 400.
    success: bool,
}

impl Input {
    fn header_map(&self) -> (HeaderMap, Vec<Violation>) {
        let (mut map, mut found) = (HeaderMap::new(), Vec::new());
        let mut bytes = 0;
        for (name, value) in &self.headers {
            bytes += name.len() + value.len();
            let mut wrong = |message: &str| {
                found.push(Violation::new(format!("/parameters/headers{}", step(name)), message));
            };
            match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
                (Err(_), _) => wrong("is no name of a header"),
                (Ok(name), _) if OWN_HEADERS.contains(&name.as_str()) => wrong("is set by the tool itself"),
                (Ok(_), Err(_)) => wrong("holds characters that a header can not have"),
                (Ok(name), Ok(value)) => {
                    if map.insert(name, value).is_some() {
                        wrong("is there twice, in capitals and not");
                    }
                }
            }
        }
        if bytes > HEADER_BYTES_MAX {
            let message = format!("are larger than {HEADER_BYTES_MAX} bytes");
            found.push(Violation::new("/parameters/headers", message));
        }
        (map, found)
    }

    /// Where to begin, and what to ask there.
    fn asked(&self) -> Result<(Url, Asked), Failure> {
        // Checked before.
        let url = Url::parse(&self.url).map_err(Failure::url)?;
        let (mut headers, _) = self.header_map();
        let body = match (&self.body, &self.json) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (None, Some(value)) => {
                headers.entry("content-type").or_insert(HeaderValue::from_static("application/json"));
                Some(value.to_string().into_bytes())
            }
            (None, None) => None,
        };
        let most = self.max_bytes.unwrap_or(BODY_BYTES) as usize;
        Ok((url, Asked { method: self.method.method(), headers, body, most }))
    }
}

impl FrontTool for HttpRequest {
    type Input = Input;
    type Output = Output;

    fn about(&self) -> About {
        About {
            examples: vec![
                json!({ "url": "https://example.com/" }),
                json!({ "url": "https://example.com/items", "method": "POST", "json": { "name": "a" }, "timeout": 10 }),
            ],
            hints: Hints { read_only: false, idempotent: false, open_world: true },
            needs_network: true,
            ..About::new(
                "http_request",
                "Makes one HTTP request and returns status, headers and body. Only public addresses can be reached, and what the \
                 operator allows.",
                Version(1, 0, 0),
            )
        }
    }

    fn check(&self, input: &Input) -> Vec<Violation> {
        let (_, mut found) = input.header_map();
        if let Err(message) = Url::parse(&input.url) {
            found.push(Violation::new("/parameters/url", message));
        }
        bytes_at_most("url", &input.url, URL_BYTES_MAX, &mut found);
        bytes_at_most("body", input.body.as_deref().unwrap_or_default(), STDIN_BYTES_MAX, &mut found);
        if input.body.is_some() && input.json.is_some() {
            found.push(Violation::new("/parameters/json", "can not be given beside body"));
        }
        let sends = input.body.is_some() || input.json.is_some();
        if sends && matches!(input.method, Verb::Get | Verb::Head) {
            let name = if input.body.is_some() { "body" } else { "json" };
            found.push(Violation::new(format!("/parameters/{name}"), "is nothing that GET and HEAD send"));
        }
        found
    }

    fn timeout_ms(&self, input: &Input) -> Option<u64> {
        Some(input.timeout.map_or(TIMEOUT.as_millis() as u64, milliseconds))
    }

    fn holds(&self, input: &Input) -> usize {
        let sent = input.body.as_ref().map_or(0, String::len) + input.json.as_ref().map_or(0, weight);
        // Each hop has a copy of what is sent; a body in base64 is told a third larger.
        2 * sent + 2 * input.max_bytes.unwrap_or(BODY_BYTES) as usize + CONNECTION_BYTES
    }

    async fn run(self: Arc<Self>, input: Arc<Input>, terms: FrontTerms) -> Result<Shaped<Output>, CallError> {
        let began = Instant::now();
        let mut journey = Journey::new(&input.url);
        let came = match input.asked() {
            Ok((url, asked)) => {
                let follow = input.follow_redirects.unwrap_or(true);
                journey.go(&terms, url, NamedBy::Caller, asked, follow).await
            }
            Err(failure) => Err(failure),
        };
        let elapsed_ms = began.elapsed().as_micros() as f64 / 1000.0;
        let Journey { redirects, at } = journey;
        let mut result = Output { url: at, redirects, elapsed_ms, ..Output::default() };
        let error = match came {
            Ok(response) => result.take(response),
            Err(failure) => Some(failure.into()),
        };
        result.success = error.is_none();
        Ok(Shaped { result, error })
    }
}

impl Output {
    /// The error of a reply that tells of one.
    fn take(&mut self, response: Response) -> Option<ToolError> {
        let Response { status, headers, mut body, truncated } = response;
        self.status = Some(status.as_u16());
        self.truncated = truncated;
        for (name, value) in &headers {
            let text = Value::String(String::from_utf8_lossy(value.as_bytes()).into_owned());
            match self.headers.get_mut(name.as_str()) {
                None => drop(self.headers.insert(name.to_string(), text)),
                Some(Value::Array(all)) => all.push(text),
                Some(first) => *first = Value::Array(vec![first.take(), text]),
            }
        }
        if truncated {
            // Half a character at the end does not make the rest binary.
            body.truncate(body.len() - super::output::incomplete_tail(&body));
        }
        match String::from_utf8(body) {
            Ok(text) => self.body = Some(text),
            Err(error) => self.body_base64 = Some(BASE64.encode(error.as_bytes())),
        }
        let failed = status.is_client_error() || status.is_server_error();
        failed.then(|| ToolError::new("http_error", capped(&format!("the server answered {status}"), 100)))
    }
}
