//! Accepting and serving connections, each within bounds.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use axum::Router;
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
                    connections.spawn(self.clone().connection(stream, peer, permit));
                }
                Ok((permit, Accepted::Tcp(stream, peer))) => {
                    connections.spawn(self.clone().connection(stream, peer, permit));
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

    async fn connection<S>(self, stream: S, peer: Peer, _permit: OwnedSemaphorePermit)
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
                _ended = connection.as_mut() => return,
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
