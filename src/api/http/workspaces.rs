//! /api/v1/workspaces: directories that are kept between calls, and their files. Content is never held: it streams between a
//! caller and the code inside a sandbox that alone touches the files.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::Frame;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::execute::json_response;
use super::layer::Caller;
use super::problem::Problem;
use super::{bodies, json, router};
use crate::spec::{IdError, WorkspaceName, capped};
use crate::tools::call::CallError;
use crate::tools::day::rfc3339;
use crate::tools::files::Listed;
use crate::tools::transfer::{Transfer, TransferError};
use crate::tools::workspaces::Workspace;
use crate::tools::{ToolError, Violation, step};
use crate::wire::files::{Answer, FileRequest, ListRequest, SkipReason, Skipped};

const MIB: u64 = 1024 * 1024;
/// Entries of an archive that are taken.
const ENTRIES_MAX: u64 = 100_000;
const LIST_DEFAULT: u32 = 1000;
const LIST_MAX: u32 = 10_000;
pub(super) const TAR: &str = "application/x-tar";
pub(super) const BYTES: &str = "application/octet-stream";

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Workspace")]
pub(super) struct WorkspaceBody {
    name: String,
    /// What it may hold.
    size_bytes: u64,
    used_bytes: u64,
    /// Files, directories and links.
    files_max: u64,
    files_used: u64,
    /// Sandboxes that have it now.
    in_use: u32,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
}

impl WorkspaceBody {
    fn of(w: &Workspace) -> Self {
        Self {
            name: w.name.to_string(),
            size_bytes: w.size.bytes,
            used_bytes: w.size.bytes_used,
            files_max: w.size.files,
            files_used: w.size.files_used,
            in_use: w.users,
            created_at: rfc3339(UNIX_EPOCH + Duration::from_millis(w.created_ms)),
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "WorkspaceList")]
pub(super) struct ListBody {
    workspaces: Vec<WorkspaceBody>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "FileList")]
pub(super) struct FilesBody {
    entries: Vec<Listed>,
    /// There are more.
    truncated: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "FileWritten")]
pub(super) struct WrittenBody {
    path: String,
    bytes_written: u64,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ArchiveTaken")]
pub(super) struct UnpackedBody {
    /// Of the archive.
    entries: u64,
    bytes_written: u64,
    /// Entries that were left out, the first of them.
    skipped: Vec<SkippedBody>,
    /// How many more were.
    more_skipped: u64,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SkippedEntry")]
struct SkippedBody {
    path: String,
    #[schemars(extend("enum" = ["outside", "link", "kind", "failed"]))]
    reason: &'static str,
}

impl SkippedBody {
    fn of(skipped: &Skipped) -> Self {
        let reason = match skipped.why {
            SkipReason::Outside => "outside",
            SkipReason::Link => "link",
            SkipReason::Kind => "kind",
            SkipReason::Failed => "failed",
        };
        Self { path: capped(&skipped.path, 256), reason }
    }
}

/// The body of POST /api/v1/workspaces.
pub(super) fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "pattern": WorkspaceName::PATTERN },
            "size_mb": {
                "type": ["integer", "null"],
                "minimum": 1,
                "maximum": 1 << 20,
                "description": "What it may hold; the operator's number, which is the most, unless given.",
            },
        },
        "required": ["name"],
        "additionalProperties": false,
    })
}

fn encode<T: Serialize>(status: StatusCode, body: &T) -> Response {
    // Strings and numbers only: this can not fail.
    let mut response = json_response(serde_json::to_vec(body).unwrap_or_default());
    *response.status_mut() = status;
    response
}

fn gone() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn parse(name: &str) -> Result<WorkspaceName, Problem> {
    // What is no name is no workspace's.
    name.parse().map_err(|_: IdError| CallError::UnknownWorkspace.into())
}

type Named = Result<Path<String>, PathRejection>;
type OfFile = Result<Path<(String, String)>, PathRejection>;

fn name_of(path: Named) -> Result<WorkspaceName, Problem> {
    parse(&path.map_or_else(|_| String::new(), |Path(name)| name))
}

fn file_of(path: OfFile) -> Result<(WorkspaceName, String), Problem> {
    let not_text = |_| Problem::malformed_request(vec![Violation::new("/path", "is not UTF-8")]);
    let Path((name, path)) = path.map_err(not_text)?;
    if path.contains('\0') || path.len() > 4095 {
        return Err(Problem::malformed_request(vec![Violation::new(
            "/path",
            "holds a NUL or is longer than 4095 bytes",
        )]));
    }
    // Below the workspace, however many slashes a path begins with.
    Ok((parse(&name)?, format!("./{path}")))
}

/// Parameters of a query, each of which must be known.
struct Wanted(BTreeMap<String, String>, Vec<Violation>);

impl Wanted {
    fn new(query: BTreeMap<String, String>, known: &[&str]) -> Self {
        let unknown = query.keys().filter(|name| !known.contains(&name.as_str())).take(16);
        let faults = unknown.map(|name| Violation::new(step(name), "is not a parameter of this path")).collect();
        Self(query, faults)
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.0.get(name).map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                self.1.push(Violation::new(step(name), "must be true or false"));
                false
            }
        }
    }

    fn number(&mut self, name: &str, default: u32, most: u32) -> u32 {
        let Some(text) = self.0.get(name) else { return default };
        match text.parse() {
            Ok(number) if (1..=most).contains(&number) => number,
            _ => {
                self.1.push(Violation::new(step(name), format!("must be a whole number between 1 and {most}")));
                default
            }
        }
    }

    fn text(&mut self, name: &str, most: usize) -> Option<String> {
        let text = self.0.get(name)?;
        if text.is_empty() || text.len() > most || text.contains('\0') {
            self.1.push(Violation::new(step(name), format!("must be 1 to {most} bytes long without NUL")));
            return None;
        }
        Some(text.clone())
    }

    fn checked<T>(self, value: T) -> Result<T, Problem> {
        if self.1.is_empty() { Ok(value) } else { Err(Problem::malformed_request(self.1)) }
    }
}

pub(super) async fn list(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
) -> Result<Response, Problem> {
    let all = state.service.workspaces(&principal).await?;
    Ok(encode(StatusCode::OK, &ListBody { workspaces: all.iter().map(WorkspaceBody::of).collect() }))
}

pub(super) async fn create(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    bodies::json_only(request.headers())?;
    let held = state.bodies.hold(&principal.name);
    let (body, _held) = bodies::read(request.into_body(), state.service.config().http, held).await?;
    let (name, bytes) = asked(json::parse(&body).map_err(Problem::malformed_json)?)?;
    let (workspace, made) = state.service.make_workspace(&principal, &name, bytes).await?;
    if !made {
        return Err(CallError::Conflict("there is a workspace of this name already").into());
    }
    Ok(made_at(&workspace, StatusCode::CREATED))
}

/// The fields of the body.
fn asked(body: Value) -> Result<(WorkspaceName, Option<u64>), Problem> {
    let mut faults = Vec::new();
    let Value::Object(mut fields) = body else {
        return Err(Problem::malformed_request(vec![Violation::new("", "must be an object")]));
    };
    let name = match fields.remove("name") {
        Some(Value::String(name)) => match name.parse::<WorkspaceName>() {
            Ok(name) => Some(name),
            Err(e) => {
                faults.push(Violation::new("/name", e.to_string()));
                None
            }
        },
        Some(_) => {
            faults.push(Violation::new("/name", "must be a string"));
            None
        }
        None => {
            faults.push(Violation::new("/name", "is required"));
            None
        }
    };
    let bytes = match fields.remove("size_mb") {
        None | Some(Value::Null) => None,
        Some(value) => match value.as_u64().filter(|mb| (1..=1 << 20).contains(mb)) {
            Some(mb) => Some(mb * MIB),
            None => {
                faults.push(Violation::new("/size_mb", "must be a whole number between 1 and 1048576"));
                None
            }
        },
    };
    faults.extend(fields.keys().take(16).map(|name| Violation::new(step(name), "is not a field of this request")));
    match name {
        Some(name) if faults.is_empty() => Ok((name, bytes)),
        _ => Err(Problem::malformed_request(faults)),
    }
}

fn made_at(workspace: &Workspace, status: StatusCode) -> Response {
    let mut response = encode(status, &WorkspaceBody::of(workspace));
    if let Ok(place) = HeaderValue::from_str(&format!("/api/v1/workspaces/{}", workspace.name)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

/// Makes it where it is not there.
pub(super) async fn put(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    name: Named,
) -> Result<Response, Problem> {
    let name = name.map_or_else(|_| String::new(), |Path(name)| name);
    let unfit = |e: IdError| Problem::malformed_request(vec![Violation::new("/name", e.to_string())]);
    let (workspace, made) = state.service.make_workspace(&principal, &name.parse().map_err(unfit)?, None).await?;
    Ok(made_at(&workspace, if made { StatusCode::CREATED } else { StatusCode::OK }))
}

pub(super) async fn one(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    name: Named,
) -> Result<Response, Problem> {
    let workspace = state.service.workspace(&principal, &name_of(name)?).await?;
    Ok(encode(StatusCode::OK, &WorkspaceBody::of(&workspace)))
}

pub(super) async fn remove(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    name: Named,
) -> Result<Response, Problem> {
    state.service.remove_workspace(&principal, &name_of(name)?).await?;
    Ok(gone())
}

pub(super) async fn files(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    name: Named,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let name = name_of(name)?;
    let mut wanted = Wanted::new(query, &["path", "recursive", "pattern", "hidden", "limit"]);
    let request = ListRequest {
        path: wanted.text("path", 4095).unwrap_or_else(|| ".".into()),
        recursive: wanted.flag("recursive"),
        pattern: wanted.text("pattern", 256),
        hidden: wanted.flag("hidden"),
        limit: wanted.number("limit", LIST_DEFAULT, LIST_MAX),
    };
    let request = FileRequest::List(wanted.checked(request)?);
    match state.service.transfer(&principal, &name, &request).await?.answer().await.map_err(problem)? {
        Answer::Listed { entries, truncated } => {
            let entries = entries.into_iter().map(Listed::from).collect();
            Ok(encode(StatusCode::OK, &FilesBody { entries, truncated }))
        }
        _ => Err(unexpected()),
    }
}

pub(super) async fn download(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    path: OfFile,
) -> Result<Response, Problem> {
    let (name, path) = file_of(path)?;
    let request = FileRequest::Read { path, offset: 0, limit: u64::MAX };
    streamed(state.service.transfer(&principal, &name, &request).await?, BYTES).await
}

pub(super) async fn upload(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    path: OfFile,
    request: Request,
) -> Result<Response, Problem> {
    let (name, path) = file_of(path)?;
    plain(request.headers())?;
    let write =
        FileRequest::Write { path: path.clone(), bytes: None, append: false, backup: false, parents: true, mode: None };
    let transfer = state.service.transfer(&principal, &name, &write).await?;
    match send(&state, transfer, request.into_body(), true).await? {
        Answer::Written { bytes, made, .. } => {
            let status = if made { StatusCode::CREATED } else { StatusCode::OK };
            let path = path.trim_start_matches("./").to_owned();
            Ok(encode(status, &WrittenBody { path, bytes_written: bytes }))
        }
        _ => Err(unexpected()),
    }
}

pub(super) async fn remove_file(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    path: OfFile,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let (name, path) = file_of(path)?;
    let mut wanted = Wanted::new(query, &["recursive"]);
    let recursive = wanted.flag("recursive");
    let request = FileRequest::Remove { path, recursive: wanted.checked(recursive)? };
    match state.service.transfer(&principal, &name, &request).await?.answer().await.map_err(problem)? {
        Answer::Removed => Ok(gone()),
        _ => Err(unexpected()),
    }
}

pub(super) async fn pack(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    name: Named,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let name = name_of(name)?;
    let mut wanted = Wanted::new(query, &["path"]);
    let path = wanted.text("path", 4095).unwrap_or_else(|| ".".into());
    let request = FileRequest::Pack { path: wanted.checked(path)? };
    streamed(state.service.transfer(&principal, &name, &request).await?, TAR).await
}

pub(super) async fn unpack(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    name: Named,
    Query(query): Query<BTreeMap<String, String>>,
    request: Request,
) -> Result<Response, Problem> {
    let name = name_of(name)?;
    let mut wanted = Wanted::new(query, &["path"]);
    let path = wanted.text("path", 4095).unwrap_or_else(|| ".".into());
    let unpack = FileRequest::Unpack { path: wanted.checked(path)?, entries_max: ENTRIES_MAX };
    plain(request.headers())?;
    let transfer = state.service.transfer(&principal, &name, &unpack).await?;
    match send(&state, transfer, request.into_body(), false).await? {
        Answer::Unpacked { entries, bytes, skipped, more_skipped } => {
            let skipped = skipped.iter().map(SkippedBody::of).collect();
            Ok(encode(StatusCode::OK, &UnpackedBody { entries, bytes_written: bytes, skipped, more_skipped }))
        }
        _ => Err(unexpected()),
    }
}

/// Content goes into files as it is.
fn plain(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let detail = "the body must come without a content encoding";
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
        }
        _ => Ok(()),
    }
}

/// Passes a body on as it comes. A caller may be as slow as one of JSON between two pieces.
async fn send(state: &router::State, mut transfer: Transfer, mut body: Body, framed: bool) -> Result<Answer, Problem> {
    let patience = Duration::from_millis(state.service.config().http.body_timeout_ms);
    loop {
        match tokio::time::timeout(patience, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data()
                    && !transfer.send(&data, framed).await
                {
                    // It takes no more, and says why.
                    return transfer.answer().await.map_err(problem);
                }
            }
            Ok(Some(Err(error))) => {
                transfer.abandon().await;
                let detail = format!("the body could not be read: {error}");
                return Err(Problem::new(StatusCode::BAD_REQUEST, "malformed_request", detail));
            }
            Err(_) => {
                transfer.abandon().await;
                let detail = format!("nothing of the body came within {} s", patience.as_secs_f64());
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail));
            }
        }
    }
    transfer.sent(framed).await;
    transfer.answer().await.map_err(problem)
}

/// Pieces of a download on their way to a slow reader.
const PIECES: usize = 4;

/// The output, once it is known that there is any. A failure in its middle cuts the connection.
async fn streamed(mut transfer: Transfer, media: &'static str) -> Result<Response, Problem> {
    let first = transfer.next().await.map_err(|e| Problem::from(CallError::Internal(format!("a download: {e}"))))?;
    if first.is_empty() {
        // Nothing to read, or nothing that could be.
        transfer.answer().await.map_err(problem)?;
        return Ok(of_media(Body::empty(), media));
    }
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        let mut piece = first;
        loop {
            if piece.is_empty() {
                let end = transfer.answer().await;
                // Only what is known to be whole ends as such.
                if let Err(error) = end {
                    let _reader_gone = sender.send(Err(std::io::Error::other(error.to_string()))).await;
                }
                return;
            }
            // A reader that is gone ends the operation.
            if sender.send(Ok(Bytes::from(piece))).await.is_err() {
                return;
            }
            piece = match transfer.next().await {
                Ok(piece) => piece,
                Err(error) => {
                    let _reader_gone = sender.send(Err(error)).await;
                    return;
                }
            };
        }
    });
    Ok(of_media(Body::new(Pieces(receiver)), media))
}

fn of_media(body: Body, media: &'static str) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    // Whatever a file is called, no browser shall take it for a page of this origin.
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response.headers_mut().insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    response
}

struct Pieces(mpsc::Receiver<Result<Bytes, std::io::Error>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

fn unexpected() -> Problem {
    CallError::Internal("an operation on files was answered as another one".into()).into()
}

fn problem(error: TransferError) -> Problem {
    match error {
        TransferError::Call(error) => error.into(),
        TransferError::Files(ToolError { code, message, .. }) => {
            let (status, code) = match &*code {
                "not_found" => (StatusCode::NOT_FOUND, "not_found"),
                "not_a_file" | "not_a_directory" | "is_a_directory" | "not_empty" | "too_many_links" => {
                    (StatusCode::CONFLICT, "conflict")
                }
                "permission_denied" => (StatusCode::FORBIDDEN, "forbidden"),
                "no_space" | "too_large" | "too_many_entries" => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
                "outside_workspace" | "bad_name" | "not_an_archive" | "cut_short" => {
                    (StatusCode::BAD_REQUEST, "malformed_request")
                }
                "timed_out" => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
                _ => return CallError::Internal(message).into(),
            };
            Problem::new(status, code, message)
        }
    }
}
