//! Accepting and serving connections, each within bounds.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::layer::request_id;
use super::peers::{Connection, Peers, STREAMING_MAX, Seat};
use super::problem::Problem;
use crate::api::identity::Peer;
use crate::config::Http;
use crate::telemetry::admission::{ConnectionMetrics, Crowded};
use crate::tools::events::PING;

/// Between requests, and for a reply that nobody reads.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(75);
// Whoever reads the events of a run that says nothing is told so before it counts as idle.
const _: () = assert!(PING.as_millis() < STREAMING_MAX.as_millis() && STREAMING_MAX.as_millis() < IDLE_MAX.as_millis());
/// How often a connection is looked at.
const TICK: Duration = Duration::from_secs(1);
/// When accepting fails (no descriptors, no memory), others need a moment to give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const HEADERS_MAX: usize = 100;
const HEADER_BYTES_MAX: usize = 64 * 1024;
const STREAMS_MAX: u32 = 128;
/// Who is not served is told so, and may read it for so long; what it sends meanwhile is thrown away, because closing before
/// it has been read would take the answer back (TCP resets).
const REFUSAL_MAX: Duration = Duration::from_secs(1);
const REFUSAL_BYTES_MAX: u64 = 64 * 1024;
/// So many at once; more are closed without a word.
const REFUSALS_MAX: usize = 64;
/// Connections come free when a call ends or a client goes, which nobody can tell ahead.
const REFUSAL_RETRY: Duration = Duration::from_secs(1);

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

/// A second descriptor of a connection, for what hyper has no words for.
enum Twin {
    Unix(UnixStream),
    Tcp(OwnedFd),
}

impl Twin {
    fn of_unix(stream: &UnixStream) -> io::Result<Self> {
        let own = std::os::unix::net::UnixStream::from(stream.as_fd().try_clone_to_owned()?);
        UnixStream::from_std(own).map(Twin::Unix)
    }

    fn unix(&self) -> Option<&UnixStream> {
        match self {
            Twin::Unix(stream) => Some(stream),
            Twin::Tcp(_) => None,
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Twin::Unix(stream) => stream.as_fd(),
            Twin::Tcp(own) => own.as_fd(),
        }
    }
}

/// What every listener needs.
#[derive(Clone)]
pub(super) struct Front {
    router: Router,
    http: Http,
    idle_max: Duration,
    metrics: ConnectionMetrics,
    stopping: watch::Receiver<bool>,
    plain: Arc<auto::Builder<TokioExecutor>>,
    half_close: Arc<auto::Builder<TokioExecutor>>,
    refusals: Arc<Semaphore>,
}

/// `half_close`: whoever has sent all that it wants to send and shuts down that direction is still answered.
fn builder(http: Http, half_close: bool) -> Arc<auto::Builder<TokioExecutor>> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(http.header_timeout_ms))
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .half_close(half_close);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX as u32);
    Arc::new(builder)
}

impl Front {
    pub(super) fn new(
        router: Router,
        http: Http,
        idle_max: Duration,
        metrics: ConnectionMetrics,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let (plain, half_close) = (builder(http, false), builder(http, true));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        Self { router, http, idle_max, metrics, stopping, plain, half_close, refusals }
    }

    /// A budget of connections.
    pub(super) fn budget(&self) -> Arc<Peers> {
        Peers::new(self.http.connections_max, self.http.connections_per_peer_max, self.metrics.clone())
    }

    /// Until the daemon stops; returns when the last connection has ended.
    pub(super) async fn accept(self, listener: Listener, budget: Arc<Peers>) {
        let mut connections = JoinSet::new();
        let mut stopping = self.stopping.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                accepted = listener.next() => accepted,
            };
            match accepted {
                Ok(Accepted::Unix(stream, peer)) => match budget.enter(peer) {
                    Ok(seat) => {
                        let twin = Twin::of_unix(&stream).ok();
                        connections.spawn(self.clone().connection(stream, twin, peer, seat));
                    }
                    Err(why) => self.refuse(&mut connections, stream, why),
                },
                Ok(Accepted::Tcp(stream, peer)) => match budget.enter(peer) {
                    Ok(seat) => {
                        let twin = stream.as_fd().try_clone_to_owned().map(Twin::Tcp).ok();
                        connections.spawn(self.clone().connection(stream, twin, peer, seat));
                    }
                    Err(why) => self.refuse(&mut connections, stream, why),
                },
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    /// At once and in words, without a request having been read.
    fn refuse<S>(&self, connections: &mut JoinSet<()>, mut stream: S, why: Crowded)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        let (status, code, detail) = match why {
            Crowded::Peer => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "this peer has as many connections as one may have")
            }
            Crowded::All => {
                (StatusCode::SERVICE_UNAVAILABLE, "at_capacity", "there are as many connections as there may be")
            }
        };
        let problem = Problem::new(status, code, detail).retry_after(Some(REFUSAL_RETRY));
        connections.spawn(async move {
            let told = async {
                stream.write_all(&problem.as_http1(&request_id())).await?;
                stream.shutdown().await?;
                tokio::io::copy(&mut stream.take(REFUSAL_BYTES_MAX), &mut tokio::io::sink()).await
            };
            // A peer that does not listen is its own business.
            let _gone = tokio::time::timeout(REFUSAL_MAX, told).await;
            drop(permit);
        });
    }

    async fn connection<S>(self, stream: S, twin: Option<Twin>, peer: Peer, seat: Seat)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // A TCP peer that shut down its sending half and one that is gone look the same, so there both count as gone.
        let watched = twin.as_ref().and_then(Twin::unix);
        let builder = if watched.is_some() { self.half_close } else { self.plain };
        let mut gone = std::pin::pin!(gone(watched));
        let activity = Arc::clone(&seat.activity);
        let router = TowerToHyperService::new(self.router);
        let service = service_fn({
            let activity = Arc::clone(&activity);
            move |mut request: hyper::Request<Incoming>| {
                request.extensions_mut().insert(peer);
                request.extensions_mut().insert(Connection(Arc::clone(&activity)));
                let busy = activity.begin();
                let answered = router.call(request);
                async move {
                    let answered = answered.await;
                    drop(busy);
                    answered
                }
            }
        });
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let first_max = Duration::from_millis(self.http.header_timeout_ms);
        let mut stopping = self.stopping;
        let mut told = false;
        let mut tick = tokio::time::interval(TICK.min(first_max));
        loop {
            tokio::select! {
                biased;
                // Errors are the peer's: cut connections, bad framing. The replies have said what there was to say.
                ended = connection.as_mut() => {
                    // Between requests, where hyper's clock runs as well, a word would be taken for the next one's answer.
                    if let (Err(error), Some(twin)) = (ended, twin.as_ref())
                        && !activity.has_served()
                        && error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout)
                    {
                        too_slow(twin.as_fd(), first_max);
                    }
                    return;
                }
                // Its calls end with their futures.
                () = gone.as_mut() => return,
                () = activity.evicted.notified() => {
                    if activity.idle_since().is_some() {
                        return;
                    }
                    // A request came just now.
                    connection.as_mut().graceful_shutdown();
                }
                _ = stopping.wait_for(|stop| *stop), if !told => {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = tick.tick() => {
                    if activity.is_over(first_max, self.idle_max) {
                        return;
                    }
                }
            }
        }
    }
}

/// hyper closes without a word when a request's head does not come in time; the contract has one.
fn too_slow(connection: BorrowedFd<'_>, max: Duration) {
    let detail = format!("the request's head did not come within {} s", max.as_secs_f64());
    let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail);
    // The socket does not block, and who reads as slowly as it writes gets less: it is closed in any case.
    let _ = nix::unistd::write(connection, &problem.as_http1(&request_id()));
}

/// Completes when the peer of a Unix socket has closed it. `None`: never.
///
/// The kernel tells the two apart: a peer that shut down its sending half leaves this end writable (EPOLLRDHUP alone), one
/// that closed both, or is dead, hangs it up (EPOLLHUP), at once.
async fn gone(socket: Option<&UnixStream>) {
    if let Some(socket) = socket {
        while let Ok(ready) = socket.ready(Interest::WRITABLE).await {
            if ready.is_write_closed() {
                return;
            }
            // Writable is no news; this makes the next change one.
            let _cleared = socket.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }
    std::future::pending().await
}
