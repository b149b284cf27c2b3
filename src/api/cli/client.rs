//! One request at a time over the daemon's Unix socket.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::{Method, Request, Response, StatusCode, header};
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
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| CliError::Reply(format!("{status}: {e}")))?;
        if status.is_success() { Ok(value) } else { Err(CliError::Problem(Box::new(value))) }
    }

    /// The content at `path`, as it comes.
    pub(super) fn download(&self, path: &str, to: &mut dyn Write) -> Result<(), CliError> {
        self.runtime.block_on(async {
            let reply = self.begin(Method::GET, path, Full::new(Bytes::new())).await?;
            let status = reply.status();
            let mut body = reply.into_body();
            if !status.is_success() {
                return Err(refusal(status, body).await);
            }
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|e| CliError::Http(e.to_string()))?;
                if let Ok(data) = frame.into_data() {
                    to.write_all(&data).map_err(CliError::Output)?;
                }
            }
            to.flush().map_err(CliError::Output)
        })
    }

    /// Sends what `from` holds, as it comes. A failure to read it ends the request half-way, so that nothing of it is kept.
    pub(super) fn upload(&self, path: &str, mut from: Box<dyn Read + Send>) -> Result<Value, CliError> {
        let (sender, pieces) = tokio::sync::mpsc::channel(2);
        // A thread of its own: reading from a terminal or a pipe can not be waited for otherwise.
        let reader = std::thread::spawn(move || {
            loop {
                let mut piece = vec![0; 64 * 1024];
                let read = from.read(&mut piece);
                let last = !matches!(read, Ok(1..));
                let sent = match read {
                    Ok(0) => return,
                    Ok(n) => {
                        piece.truncate(n);
                        sender.blocking_send(Ok(Bytes::from(piece)))
                    }
                    Err(e) => sender.blocking_send(Err(e)),
                };
                if last || sent.is_err() {
                    return;
                }
            }
        });
        let done = self.runtime.block_on(async {
            let reply = self.begin(Method::PUT, path, Upload(pieces)).await?;
            let status = reply.status();
            if !status.is_success() {
                return Err(refusal(status, reply.into_body()).await);
            }
            let bytes = reply.into_body().collect().await.map_err(|e| CliError::Http(e.to_string()))?.to_bytes();
            serde_json::from_slice(&bytes).map_err(|e| CliError::Reply(format!("{status}: {e}")))
        });
        // It ends with the request, unless it waits for a terminal.
        drop(reader);
        done
    }

    async fn begin<B>(&self, method: Method, path: &str, body: B) -> Result<Response<Incoming>, CliError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync,
    {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.unreachable(source))?;
        let http = |e: hyper::Error| CliError::Http(e.to_string());
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(http)?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost").body(body);
        sender.send_request(request.map_err(|e| CliError::Http(e.to_string()))?).await.map_err(http)
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

/// What a reply that is no success says.
async fn refusal(status: StatusCode, body: Incoming) -> CliError {
    match Limited::new(body, REPLY_BYTES_MAX).collect().await {
        Ok(bytes) => match serde_json::from_slice(&bytes.to_bytes()) {
            Ok(problem) => CliError::Problem(Box::new(problem)),
            Err(e) => CliError::Reply(format!("{status}: {e}")),
        },
        Err(e) => CliError::Http(e.to_string()),
    }
}

/// Pieces of an upload.
struct Upload(tokio::sync::mpsc::Receiver<io::Result<Bytes>>);

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
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
