//! Executions as server-sent events (the "server-sent events" part of the HTML standard): what is read by whoever follows is
//! made when they read it, so a slow reader holds nothing but its place.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use data_encoding::BASE64;
use hyper::body::Frame;
use serde_json::json;

use super::problem::Problem;
use super::reply;
use crate::spec::RequestId;
use crate::tools::events::{Event, Reader, Stream, What};
use crate::tools::finish::Reply;
use crate::tools::live::Follower;

/// The events of a log, as the body of a reply to `request`.
pub(super) fn follow(reader: Reader, follower: Follower, request: RequestId) -> Response {
    response(Body::new(Events { next: next(reader), request, _follower: follower }))
}

/// The one event of a call that was answered before.
pub(super) fn stored(execution: &Reply, request: &RequestId) -> Response {
    let mut text = Vec::new();
    let end = Event { id: 1, what: What::End(Arc::new(Ok(Arc::clone(execution)))) };
    write(&end, request, &mut text);
    response(Body::from(text))
}

fn response(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

type Next = Pin<Box<dyn Future<Output = (Reader, Vec<Event>)> + Send>>;

fn next(mut reader: Reader) -> Next {
    Box::pin(async move {
        let events = reader.next().await;
        (reader, events)
    })
}

struct Events {
    next: Next,
    request: RequestId,
    _follower: Follower,
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let (reader, events) = ready!(self.next.as_mut().poll(cx));
        if events.is_empty() {
            // Asked again it would say the same.
            self.next = next(reader);
            return Poll::Ready(None);
        }
        self.next = next(reader);
        let mut text = Vec::new();
        events.iter().for_each(|event| write(event, &self.request, &mut text));
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}

fn write(event: &Event, request: &RequestId, out: &mut Vec<u8>) {
    let (kind, data) = match &event.what {
        What::Started { attempt, sandbox } => {
            ("started", json!({ "attempt": attempt, "sandbox_id": sandbox.as_str() }).to_string().into_bytes())
        }
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
        What::Ping => ("ping", b"{}".to_vec()),
        What::End(result) => match &**result {
            Ok(execution) => ("result", reply::body(execution)),
            Err(error) => ("error", Problem::from(error).encode(request)),
        },
    };
    out.extend_from_slice(format!("id: {}\nevent: {kind}\n", event.id).as_bytes());
    // A tool's own JSON may have line ends between its values, where they mean nothing.
    for line in data.split(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}
