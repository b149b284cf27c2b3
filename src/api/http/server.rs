//! Accepting and serving connections, each within bounds.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::layer::request_id;
use super::problem::Problem;
use crate::api::identity::Peer;
use crate::config::Http;

/// Between requests, and for a reply that nobody reads.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// How often a connection is looked at.
const TICK: Duration = Duration::from_secs(1);
/// When accepting fails (no descriptors, no memory), others need a moment to give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const HEADERS_MAX: usize = 100;
const HEADER_BYTES_MAX: usize = 64 * 1024;
const STREAMS_MAX: u32 = 128;

pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

enum Accepted {
    Unix(UnixStream, Peer),
    Tcp(TcpStream, Peer),
}

impl Listener {
    async fn next(&self) -> io::Result<Accepted> {
        match self {
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred()?;
                Ok(Accepted::Unix(stream, Peer::Unix { uid: peer.uid(), gid: peer.gid() }))
            }
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream, Peer::Tcp(address)))
            }
        }
    }
}

/// What every listener needs.
#[derive(Clone)]
pub(super) struct Front {
    router: Router,
    http: Http,
    stopping: watch::Receiver<bool>,
    builder: Arc<auto::Builder<TokioExecutor>>,
}

impl Front {
    pub(super) fn new(router: Router, http: Http, stopping: watch::Receiver<bool>) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(http.header_timeout_ms))
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEADER_BYTES_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADER_BYTES_MAX as u32);
        Self { router, http, stopping, builder: Arc::new(builder) }
    }

    /// A budget of connections.
    pub(super) fn budget(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(self.http.connections_max))
    }

    /// Until the daemon stops; returns when the last connection has ended.
    pub(super) async fn accept(self, listener: Listener, budget: Arc<Semaphore>) {
        let mut connections = JoinSet::new();
        let mut stopping = self.stopping.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                accepted = async {
                    // Without a permit nobody is accepted: the backlog is the kernel's, and bounded.
                    let permit = Arc::clone(&budget).acquire_owned().await.map_err(io::Error::other)?;
                    Ok::<_, io::Error>((permit, listener.next().await?))
                } => accepted,
            };
            match accepted {
                Ok((permit, Accepted::Unix(stream, peer))) => {
                    let own = stream.as_fd().try_clone_to_owned().ok();
                    connections.spawn(self.clone().connection(stream, own, peer, permit));
                }
                Ok((permit, Accepted::Tcp(stream, peer))) => {
                    let own = stream.as_fd().try_clone_to_owned().ok();
                    connections.spawn(self.clone().connection(stream, own, peer, permit));
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    /// `own` is a second descriptor of `stream`, for what hyper has no words for.
    async fn connection<S>(self, stream: S, own: Option<OwnedFd>, peer: Peer, _permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::new(Activity::new());
        let router = TowerToHyperService::new(self.router);
        let service = service_fn({
            let activity = Arc::clone(&activity);
            move |mut request: hyper::Request<Incoming>| {
                request.extensions_mut().insert(peer);
                let busy = activity.begin();
                let answered = router.call(request);
                async move {
                    let answered = answered.await;
                    drop(busy);
                    answered
                }
            }
        });
        let mut connection = std::pin::pin!(self.builder.serve_connection(TokioIo::new(stream), service));
        let first_max = Duration::from_millis(self.http.header_timeout_ms);
        let mut stopping = self.stopping;
        let mut told = false;
        let mut tick = tokio::time::interval(TICK.min(first_max));
        loop {
            tokio::select! {
                biased;
                // Errors are the peer's: cut connections, bad framing. The replies have said what there was to say.
                ended = connection.as_mut() => {
                    if let (Err(error), Some(own)) = (ended, own)
                        && error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout)
                    {
                        too_slow(&own, first_max);
                    }
                    return;
                }
                _ = stopping.wait_for(|stop| *stop), if !told => {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = tick.tick() => {
                    if activity.is_over(first_max) {
                        return;
                    }
                }
            }
        }
    }
}

/// hyper closes without a word when a request's head does not come in time; the contract has one.
fn too_slow(connection: &OwnedFd, max: Duration) {
    let detail = format!("the request's head did not come within {} s", max.as_secs_f64());
    let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail);
    // The socket does not block, and who reads as slowly as it writes gets less: it is closed in any case.
    let _ = nix::unistd::write(connection, &problem.as_http1(&request_id()));
}

/// Whether a connection does anything.
struct Activity {
    state: Mutex<State>,
}

struct State {
    running: usize,
    ever: bool,
    since: Instant,
}

struct Busy(Arc<Activity>);

impl Activity {
    fn new() -> Self {
        Self { state: Mutex::new(State { running: 0, ever: false, since: Instant::now() }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn begin(self: &Arc<Self>) -> Busy {
        let mut state = self.lock();
        state.running += 1;
        state.ever = true;
        Busy(Arc::clone(self))
    }

    /// hyper's own header timeout begins once it knows the protocol; before that, and between requests of HTTP/2, nobody
    /// else looks at the clock.
    fn is_over(&self, first_max: Duration) -> bool {
        let state = self.lock();
        let max = if state.ever { IDLE_MAX } else { first_max };
        state.running == 0 && state.since.elapsed() > max
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running -= 1;
        state.since = Instant::now();
    }
}
