//! Executions as server-sent events (the "server-sent events" part of the HTML standard): what is read by whoever follows is
//! made when they read it, so a slow reader holds nothing but its place.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use data_encoding::BASE64;
use hyper::body::{Frame, SizeHint};
use serde_json::json;

use super::peers::Streaming;
use super::problem::Problem;
use super::reply::{self, DenialBody};
use crate::spec::RequestId;
use crate::tools::events::{Event, Reader, Stream, What};
use crate::tools::finish::{Execution, Reply};
use crate::tools::live::Follower;

/// The events of a log, as the body of a reply to `request`.
pub(super) fn follow(reader: Reader, follower: Follower, request: RequestId, streaming: Streaming) -> Response {
    let frames = VecDeque::new();
    response(Body::new(Events { next: next(reader, request), frames, streaming, _follower: follower }))
}

/// The one event of a call that was answered before.
pub(super) fn stored(execution: &Reply) -> Response {
    let mut text = head(1, "result");
    text.extend_from_slice(&body(execution));
    text.extend_from_slice(END);
    response(Body::from(text))
}

/// The envelope on one line: a tool's own JSON may have line ends between its values, where they mean nothing.
pub(super) fn body(execution: &Execution) -> Vec<u8> {
    let mut text = reply::body(execution);
    text.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    text
}

fn response(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

type Next = Pin<Box<dyn Future<Output = (Reader, RequestId, Vec<Bytes>)> + Send>>;

/// The next frames; none after the last. A reply is written once for all who follow, and not on the thread that serves them.
fn next(mut reader: Reader, request: RequestId) -> Next {
    Box::pin(async move {
        let events = reader.next().await;
        let mut frames = Vec::new();
        let mut text = Vec::new();
        for event in &events {
            match &event.what {
                What::End(result) if result.is_ok() => {
                    text.extend_from_slice(&head(event.id, "result"));
                    frames.push(std::mem::take(&mut text).into());
                    frames.extend(reader.log().rendered(body).await.map(Bytes::from_owner));
                    frames.push(Bytes::from_static(END));
                }
                _ => write(event, &request, &mut text),
            }
        }
        if !text.is_empty() {
            frames.push(text.into());
        }
        (reader, request, frames)
    })
}

struct Events {
    next: Next,
    frames: VecDeque<Bytes>,
    streaming: Streaming,
    _follower: Follower,
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.streaming.read();
        if self.frames.is_empty() {
            let (reader, request, frames) = ready!(self.next.as_mut().poll(cx));
            self.next = next(reader, request);
            self.frames = frames.into();
        }
        Poll::Ready(self.frames.pop_front().map(|frame| Ok(Frame::data(frame))))
    }
}

/// Everything before an event's data, which is on one line.
fn head(id: u64, kind: &str) -> Vec<u8> {
    format!("id: {id}\nevent: {kind}\ndata: ").into_bytes()
}

const END: &[u8] = b"\n\n";

fn write(event: &Event, request: &RequestId, out: &mut Vec<u8>) {
    let (kind, data) = match &event.what {
        What::Started { attempt, sandbox } => (
            "started",
            json!({ "attempt": attempt, "sandbox_id": sandbox.as_ref().map(|id| id.as_str()) })
                .to_string()
                .into_bytes(),
        ),
        What::Output { stream, offset, bytes } => {
            let kind = match stream {
                Stream::Stdout => "stdout",
                Stream::Stderr => "stderr",
            };
            let data = match std::str::from_utf8(bytes) {
                Ok(text) => json!({ "offset": offset, "data": text }),
                Err(_) => json!({ "offset": offset, "data_base64": BASE64.encode(bytes) }),
            };
            (kind, data.to_string().into_bytes())
        }
        What::Denied(denial) => ("denial", serde_json::to_vec(&DenialBody::of(denial)).unwrap_or_default()),
        What::Ping => ("ping", b"{}".to_vec()),
        What::End(result) => match &**result {
            // Written by whoever has it once for all.
            Ok(_) => return,
            Err(error) => ("error", Problem::from(error).encode(request)),
        },
    };
    out.extend_from_slice(&head(event.id, kind));
    out.extend_from_slice(&data);
    out.extend_from_slice(END);
}

/// A JSON reply of a few pieces, of which one may be large and others' too.
pub(super) struct Pieces(pub VecDeque<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}
