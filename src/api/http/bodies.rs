//! Request bodies: what they must be, and the memory of those that are being read: bounded in all, and nobody's uploads leave nothing for others.
//!
//! A principal may hold as much as is still free (dynamic thresholds: Choudhury and Hahne, "Dynamic Queue Length Thresholds
//! for Shared-Memory Packet Switches", IEEE/ACM ToN 1998, with their alpha at 1): one alone half of all, two a third each, and
//! whoever comes anew finds as much as each of them has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;

use super::problem::Problem;
use crate::config::Http;
use crate::tools::call::CallError;

/// All together.
const BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bodies under way.
#[derive(Default)]
pub(super) struct Bodies {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: usize,
    by_principal: HashMap<String, usize>,
}

/// What one body holds; given back when dropped.
pub(super) struct Held {
    bodies: Arc<Bodies>,
    principal: String,
    bytes: usize,
}

impl Bodies {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn hold(self: &Arc<Self>, principal: &str) -> Held {
        Held { bodies: Arc::clone(self), principal: principal.to_owned(), bytes: 0 }
    }
}

impl Held {
    /// Room for `bytes` more; `false` where this principal holds too much already.
    pub(super) fn more(&mut self, bytes: usize) -> bool {
        let mut state = self.bodies.lock();
        let own = state.by_principal.get(&self.principal).copied().unwrap_or(0) + bytes;
        let held = state.held + bytes;
        if own > BYTES_MAX.saturating_sub(held) {
            return false;
        }
        state.held = held;
        state.by_principal.insert(self.principal.clone(), own);
        self.bytes += bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.bodies.lock();
        state.held -= self.bytes;
        let left = state.by_principal.get(&self.principal).map_or(0, |own| own - self.bytes);
        if left == 0 {
            state.by_principal.remove(&self.principal);
        } else {
            state.by_principal.insert(self.principal.clone(), left);
        }
    }
}

pub(super) fn json_only(headers: &HeaderMap) -> Result<(), Problem> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    let encoded =
        headers.get(header::CONTENT_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
    if media.eq_ignore_ascii_case("application/json") && !encoded {
        return Ok(());
    }
    let detail = "the body must be application/json without a content encoding";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
}

/// The whole body, within its size, its time and the memory of all bodies together.
pub(super) async fn read(body: Body, http: Http, mut held: Held) -> Result<(Bytes, Held), Problem> {
    // A length that says too much already is not waited for.
    if body.size_hint().lower() > http.body_bytes_max as u64 {
        return Err(Problem::too_large(http.body_bytes_max));
    }
    let mut limited = Limited::new(body, http.body_bytes_max);
    let time = Duration::from_millis(http.body_timeout_ms);
    let whole = async {
        let mut bytes = Vec::new();
        while let Some(frame) = limited.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if !held.more(data.len()) {
                return Ok(None);
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Some(Bytes::from(bytes)))
    };
    match tokio::time::timeout(time, whole).await {
        Ok(Ok(Some(body))) => Ok((body, held)),
        Ok(Ok(None)) => Err(CallError::RateLimited {
            what: "the bodies that this principal sends hold as much memory as they may".into(),
            retry_after: Duration::from_secs(1),
        }
        .into()),
        Ok::<Result<_, BoxError>, _>(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Problem::too_large(http.body_bytes_max))
        }
        Ok(Err(error)) => {
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            let detail = format!("the body could not be read: {cause}");
            Err(Problem::new(StatusCode::BAD_REQUEST, "malformed_request", detail))
        }
        Err(_) => {
            let detail = format!("the body did not come within {} s", time.as_secs_f64());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_leaves_others_nothing() {
        let bodies = Arc::new(Bodies::default());
        let fill = |name: &str| {
            let mut held = bodies.hold(name);
            while held.more(1 << 20) {}
            held
        };
        let (a, b) = (fill("a"), fill("b"));
        assert_eq!((a.bytes >> 20, b.bytes >> 20), (128, 64));
        let mut again = bodies.hold("a");
        assert!(!again.more(1), "a second body of the same principal is the same principal's");
        assert!(bodies.hold("c").more(1 << 20));
        drop((a, b, again));
        let state = bodies.lock();
        assert_eq!((state.held, state.by_principal.len()), (0, 0));
    }
}
