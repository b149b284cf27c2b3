//! One request at a time over the daemon's Unix socket.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::spec::escape_controls;

/// A call's longest time and its wait for room.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3700);
/// Of all that runs nothing: a daemon that is silent for longer hangs.
const LOOK_TIMEOUT: Duration = Duration::from_secs(15);
/// Two streams of 16 MiB, every byte of which JSON may have to escape.
const REPLY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The command line could not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("no daemon answers at {path}: {source}\n{hint}")]
    Connect { path: String, source: io::Error, hint: &'static str },
    #[error("the daemon's reply did not come: {0}")]
    Http(String),
    #[error("the daemon's reply is not what it should be: {0}")]
    Reply(String),
    /// A problem of the contract, told in its words.
    #[error("{}", problem(.0))]
    Problem(Box<Value>),
    #[error("failed to read standard input: {0}")]
    Input(#[source] io::Error),
    #[error("failed to write: {0}")]
    Output(#[source] io::Error),
    #[error("failed to start: {0}")]
    Runtime(#[source] io::Error),
}

impl CliError {
    /// For a terminal: line by line, whatever a guest put into a message.
    pub(super) fn shown(&self) -> String {
        self.to_string().lines().map(escape_controls).collect::<Vec<_>>().join("\n  ")
    }

    /// For a program: the daemon's problem as it came, or one of the same shape with a code of this program's.
    pub(super) fn json(&self) -> Value {
        let code = match self {
            CliError::Problem(problem) => return Value::clone(problem),
            CliError::Usage(_) => "usage",
            CliError::Connect { .. } => "no_daemon",
            CliError::Http(_) => "no_reply",
            CliError::Reply(_) => "bad_reply",
            CliError::Input(_) => "input",
            CliError::Output(_) => "output",
            CliError::Runtime(_) => "start",
        };
        serde_json::json!({ "code": code, "detail": self.to_string() })
    }
}

pub(super) struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Result<Self, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?;
        Ok(Self { socket, runtime })
    }

    /// The JSON of a successful reply; a problem is an error.
    pub(super) fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CliError> {
        self.runtime.block_on(async {
            let most = if method == Method::POST { REPLY_TIMEOUT } else { LOOK_TIMEOUT };
            tokio::time::timeout(most, self.exchange(method, path, body))
                .await
                .map_err(|_| CliError::Http(format!("nothing came within {} s", most.as_secs())))?
        })
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CliError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.unreachable(source))?;
        let http = |e: hyper::Error| CliError::Http(e.to_string());
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(http)?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        let bytes = body.map(|body| Bytes::from(body.to_string()));
        if bytes.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(bytes.unwrap_or_default())).map_err(|e| CliError::Http(e.to_string()))?;
        let reply = sender.send_request(request).await.map_err(http)?;
        let status = reply.status();
        let bytes = Limited::new(reply.into_body(), REPLY_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| CliError::Http(e.to_string()))?
            .to_bytes();
        connection.abort();
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| CliError::Reply(format!("{status}: {e}")))?;
        if status.is_success() { Ok(value) } else { Err(CliError::Problem(Box::new(value))) }
    }

    fn unreachable(&self, source: io::Error) -> CliError {
        let hint = match source.kind() {
            io::ErrorKind::PermissionDenied => {
                "you may call when you are in group sandkeep: sudo usermod -aG sandkeep \"$USER\", then log in again"
            }
            _ => {
                "start it with: sudo systemctl start sandkeepd, or by hand: sudo sandkeepd (--socket PATH names another socket)"
            }
        };
        CliError::Connect { path: self.socket.display().to_string(), source, hint }
    }
}

/// Code, detail and every named field.
fn problem(value: &Value) -> String {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let mut out = format!("{}: {}", text("code"), text("detail"));
    for error in value["errors"].as_array().into_iter().flatten() {
        let part = |key: &str| error[key].as_str().unwrap_or_default();
        out.push_str(&format!("\n{} {}", part("pointer"), part("message")));
    }
    if let Some(hint) = value["hint"].as_str() {
        out.push_str(&format!("\n{hint}"));
    }
    out
}
