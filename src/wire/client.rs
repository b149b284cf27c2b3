//! The front's end of the seam: one connection ([`Client`]), and a handle that heals ([`Monitor`]).
//!
//! Requests may be pipelined: [`Client::send`] keeps the order of one task's messages, and the reply is awaited apart.
//! A sandbox is watched before its Create is sent, so that no event can come too early. When the connection ends, every
//! pending call and every watcher ends with [`ClientError::Lost`].

use std::any::Any;
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, sendmsg, socket,
    sockopt,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    CapacityWire, DenialWire, EncodeError, EndWire, Event, FDS_MAX, FromMonitor, LIST_PAGE, OUTPUTS, PACKET_BYTES_MAX,
    PROTOCOL, Prepare, Reply, Request, Verb, decode, encode,
};

use crate::spec::{DENIALS_MAX, Denial};

/// Most that comes beside a reply: the read ends of each entry of a List.
const REPLY_FDS_MAX: usize = OUTPUTS * LIST_PAGE;
/// Requests of one connection whose reply has not come yet.
const PENDING_MAX: usize = 16_384;
/// Sandboxes of one connection that are not reaped yet.
const WATCHERS_MAX: usize = 65_536;
/// Building a sandbox takes milliseconds, and a monitor answers within 30 s what it could not build; one that is silent
/// for this long hangs.
const REPLY_TIMEOUT: Duration = Duration::from_secs(40);
/// Connecting and Hello together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// An engine that is away for longer is told of.
const TELL_AFTER: Duration = Duration::from_secs(1);
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MOST: Duration = Duration::from_secs(2);

/// The monitor can not be asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the engine does not answer at {path}: {source}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("the process at {path} runs as uid {uid}, expected {expected}")]
    PeerUid { path: PathBuf, uid: u32, expected: u32 },
    #[error("the engine speaks protocol {theirs}, this front {PROTOCOL}")]
    Version { theirs: u32 },
    #[error("the connection to the engine ended")]
    Lost,
    #[error("the engine did not answer {verb} in time")]
    TimedOut { verb: &'static str },
    #[error("too many requests or sandboxes on one connection to the engine")]
    Busy,
    #[error("{verb}: {source}")]
    Encode { verb: &'static str, source: EncodeError },
    #[error("the engine answered {verb} with a reply of another kind")]
    Unexpected { verb: &'static str },
}

/// Kept for a sandbox until the monitor says that nothing of it is left; dropped then (a share of capacity, say).
pub type Hold = Box<dyn Any + Send>;

struct Watcher {
    exited: Option<oneshot::Sender<EndWire>>,
    denied: mpsc::Sender<DenialWire>,
    _hold: Hold,
}

#[derive(Default)]
struct Table {
    seq: u32,
    pending: HashMap<u32, oneshot::Sender<(Reply, Vec<OwnedFd>)>>,
    watchers: HashMap<String, Watcher>,
}

/// One live connection. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    /// A SOCK_SEQPACKET socket: only its readiness is used here, its bytes pass through sendmsg and recvmsg.
    socket: UnixStream,
    table: Mutex<Table>,
    /// Turns true once, when the connection has ended.
    ended: watch::Sender<bool>,
    capacity: CapacityWire,
    version: String,
    instance: u64,
    /// What the last Prepare was answered with.
    ahead: AtomicBool,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // The lock is held for map operations only, none of which can panic half-way.
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn end(&self) {
        // New entries are refused before the old ones are dropped, so none can slip in between and wait for ever.
        let table = {
            let mut table = self.table();
            self.ended.send_replace(true);
            std::mem::take(&mut *table)
        };
        drop(table);
    }

    fn dispatch(&self, message: FromMonitor, fds: Vec<OwnedFd>) {
        match message {
            FromMonitor::Reply { seq, reply } => {
                let sender = self.table().pending.remove(&seq);
                // Nobody waits any more where the caller gave up; the reply says nothing that its guard did not undo.
                if let Some(sender) = sender {
                    let _gone = sender.send((reply, fds));
                }
            }
            FromMonitor::Event(Event::Exited { id, end }) => {
                let sender = self.table().watchers.get_mut(&id).and_then(|w| w.exited.take());
                if let Some(sender) = sender {
                    let _gone = sender.send(end);
                }
            }
            FromMonitor::Event(Event::Denied { id, denial }) => {
                let table = self.table();
                // Where there is no room the end tells of it all the same.
                let _told = table.watchers.get(&id).map(|watcher| watcher.denied.try_send(denial));
            }
            FromMonitor::Event(Event::Ahead { ahead }) => self.ahead.store(ahead, Ordering::Relaxed),
            FromMonitor::Event(Event::Reaped { id }) => {
                // Dropped outside of the lock: a hold may wake others.
                let watcher = self.table().watchers.remove(&id);
                drop(watcher);
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.ended.send_replace(true);
    }
}

/// A request that was sent and whose reply may be awaited. Dropping it forgets the reply.
pub struct Pending {
    verb: &'static str,
    seq: u32,
    reply: oneshot::Receiver<(Reply, Vec<OwnedFd>)>,
    shared: Weak<Shared>,
}

impl Pending {
    /// The reply, within a stated time.
    pub async fn reply(self) -> Result<Reply, ClientError> {
        self.reply_with_descriptors().await.map(|(reply, _)| reply)
    }

    /// The reply and what came beside it.
    pub async fn reply_with_descriptors(mut self) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        match tokio::time::timeout(REPLY_TIMEOUT, &mut self.reply).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(ClientError::Lost),
            Err(_) => Err(ClientError::TimedOut { verb: self.verb }),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let _sender = shared.table().pending.remove(&self.seq);
        }
    }
}

/// Of one sandbox's command.
pub enum News {
    Denied(Denial),
    /// Nothing comes after it.
    Ended(Box<EndWire>),
}

/// Waits for the end of one sandbox's command.
pub struct Exited {
    end: oneshot::Receiver<EndWire>,
    denied: mpsc::Receiver<DenialWire>,
}

impl Exited {
    /// Of one whose end is known already.
    pub fn known(end: EndWire) -> Self {
        let (sender, receiver) = oneshot::channel();
        let _received = sender.send(end);
        Self { end: receiver, denied: mpsc::channel(1).1 }
    }

    /// Of one that nobody waits for.
    pub fn never() -> Self {
        Self { end: oneshot::channel().1, denied: mpsc::channel(1).1 }
    }

    /// Cancel safe: may be polled again after it lost a race.
    pub async fn next(&mut self) -> Result<News, ClientError> {
        let Self { end, denied } = self;
        tokio::select! {
            biased;
            // What came before the end is told before it.
            Some(denial) = denied.recv() => Ok(News::Denied(denial.into())),
            end = end => end.map(|end| News::Ended(Box::new(end))).map_err(|_| ClientError::Lost),
        }
    }
}

impl Client {
    /// Connects, checks that the peer runs as `uid`, and says Hello.
    pub async fn connect(path: &Path, uid: u32) -> Result<Self, ClientError> {
        let failed = |source: io::Error| ClientError::Connect { path: path.to_owned(), source };
        let late = || failed(io::Error::from(io::ErrorKind::TimedOut));
        tokio::time::timeout(CONNECT_TIMEOUT, async {
            let socket = dial(path).await.map_err(failed)?;
            let peer = getsockopt(&socket, sockopt::PeerCredentials).map_err(|e| failed(e.into()))?;
            if peer.uid() != uid {
                return Err(ClientError::PeerUid { path: path.to_owned(), uid: peer.uid(), expected: uid });
            }
            let socket = UnixStream::from_std(socket.into()).map_err(failed)?;
            let (capacity, version, instance) = hello(&socket, failed).await?;
            let shared = Arc::new(Shared {
                socket,
                table: Mutex::default(),
                ended: watch::Sender::new(false),
                capacity,
                version,
                instance,
                ahead: AtomicBool::new(false),
            });
            tokio::spawn(read(Arc::clone(&shared)));
            Ok(Self { shared })
        })
        .await
        .map_err(|_| late())?
    }

    /// What all sandboxes together may hold, as the monitor said in its Hello.
    pub fn capacity(&self) -> CapacityWire {
        self.shared.capacity
    }

    /// The monitor's own version.
    pub fn version(&self) -> &str {
        &self.shared.version
    }

    /// Which start of the monitor this connection is to.
    pub fn instance(&self) -> u64 {
        self.shared.instance
    }

    /// Whether the monitor builds sandboxes ahead of calls.
    pub fn builds_ahead(&self) -> bool {
        self.shared.ahead.load(Ordering::Relaxed)
    }

    /// Tells the monitor what it may start ahead.
    pub async fn prepare(&self, prepare: Prepare) -> Result<(), ClientError> {
        match self.call(Verb::Prepare(prepare)).await? {
            Reply::Prepared { ahead } => {
                self.shared.ahead.store(ahead, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(ClientError::Unexpected { verb: "Prepare" }),
        }
    }

    pub fn is_alive(&self) -> bool {
        !*self.shared.ended.borrow()
    }

    /// Completes when the connection has ended.
    pub async fn ended(&self) {
        // The sender lives in `shared`, which `self` holds.
        let mut ended = self.shared.ended.subscribe();
        let _always = ended.wait_for(|ended| *ended).await;
    }

    /// Registers `id`, whose events will come here; `hold` is dropped when the sandbox is reaped or the connection ends.
    pub fn watch(&self, id: &str, hold: Hold) -> Result<Exited, ClientError> {
        let (sender, end) = oneshot::channel();
        let (denied, denials) = mpsc::channel(DENIALS_MAX);
        let mut table = self.shared.table();
        if *self.shared.ended.borrow() {
            return Err(ClientError::Lost);
        }
        if table.watchers.len() >= WATCHERS_MAX {
            return Err(ClientError::Busy);
        }
        table.watchers.insert(id.to_owned(), Watcher { exited: Some(sender), denied, _hold: hold });
        Ok(Exited { end, denied: denials })
    }

    /// Forgets `id`, which the monitor does not know (any more).
    pub fn unwatch(&self, id: &str) {
        let watcher = self.shared.table().watchers.remove(id);
        drop(watcher);
    }

    /// Sends one request with `fds` beside it. Of one task, requests arrive in the order of their `send`s.
    pub async fn send(&self, verb: Verb, fds: &[BorrowedFd<'_>]) -> Result<Pending, ClientError> {
        let name = verb.name();
        let (sender, reply) = oneshot::channel();
        let seq = {
            let mut table = self.shared.table();
            if *self.shared.ended.borrow() {
                return Err(ClientError::Lost);
            }
            if table.pending.len() >= PENDING_MAX {
                return Err(ClientError::Busy);
            }
            loop {
                table.seq = table.seq.wrapping_add(1);
                if !table.pending.contains_key(&table.seq) {
                    break;
                }
            }
            let seq = table.seq;
            table.pending.insert(seq, sender);
            seq
        };
        // From here on the entry is removed when `pending` is dropped, on every path.
        let pending = Pending { verb: name, seq, reply, shared: Arc::downgrade(&self.shared) };
        let packet = encode(&Request { seq, verb }).map_err(|source| ClientError::Encode { verb: name, source })?;
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        debug_assert!(raw.len() <= FDS_MAX);
        match tokio::time::timeout(REPLY_TIMEOUT, write(&self.shared.socket, &packet, &raw)).await {
            Ok(Ok(())) => Ok(pending),
            Ok(Err(_)) => Err(ClientError::Lost),
            Err(_) => Err(ClientError::TimedOut { verb: name }),
        }
    }

    /// Sends one request without descriptors and awaits its reply.
    pub async fn call(&self, verb: Verb) -> Result<Reply, ClientError> {
        self.send(verb, &[]).await?.reply().await
    }
}

async fn dial(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let address = UnixAddr::new(path)?;
    loop {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => return Ok(socket),
            // The monitor's backlog is full; it is one thread and will get there. CONNECT_TIMEOUT bounds this loop.
            Err(Errno::EAGAIN) => tokio::time::sleep(BACKOFF_FIRST).await,
            Err(e) => return Err(e.into()),
        }
    }
}

async fn hello(
    socket: &UnixStream,
    failed: impl Fn(io::Error) -> ClientError,
) -> Result<(CapacityWire, String, u64), ClientError> {
    let verb = Verb::Hello { protocol: PROTOCOL };
    let packet = encode(&Request { seq: 0, verb }).map_err(|source| ClientError::Encode { verb: "Hello", source })?;
    write(socket, &packet, &[]).await.map_err(&failed)?;
    let mut buffer = vec![0; PACKET_BYTES_MAX + 1];
    match receive(socket, &mut buffer).await.map_err(&failed)? {
        Some((
            FromMonitor::Reply { seq: 0, reply: Reply::Hello { protocol: PROTOCOL, version, capacity, instance } },
            _,
        )) => Ok((capacity, crate::spec::capped(&version, 64), instance)),
        Some((FromMonitor::Reply { seq: 0, reply: Reply::Hello { protocol, .. } }, _)) => {
            Err(ClientError::Version { theirs: protocol })
        }
        Some(_) => Err(ClientError::Unexpected { verb: "Hello" }),
        None => Err(ClientError::Lost),
    }
}

async fn write(socket: &UnixStream, packet: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let send = || {
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(packet)], control, MsgFlags::MSG_NOSIGNAL, None)
            .map(drop)
            .map_err(io::Error::from)
    };
    socket.async_io(Interest::WRITABLE, send).await
}

/// The next message and the descriptors beside it; `None` where the monitor closed the connection.
async fn receive(socket: &UnixStream, buffer: &mut [u8]) -> io::Result<Option<(FromMonitor, Vec<OwnedFd>)>> {
    let receive = || crate::sys::packet::receive_anyway(socket.as_fd(), buffer, REPLY_FDS_MAX);
    match socket.async_io(Interest::READABLE, receive).await? {
        None => Ok(None),
        Some((n, fds)) => {
            let message = decode(&buffer[..n]).map_err(io::Error::other)?;
            Ok(Some((message, fds)))
        }
    }
}

async fn read(shared: Arc<Shared>) {
    let mut buffer = vec![0; PACKET_BYTES_MAX + 1];
    loop {
        match receive(&shared.socket, &mut buffer).await {
            Ok(Some((message, fds))) => shared.dispatch(message, fds),
            Ok(None) => break,
            Err(error) => {
                tracing::error!(%error, "connection to the engine failed");
                break;
            }
        }
    }
    shared.end();
}

/// Where a monitor is reached; connects when needed and again after a loss.
pub struct Monitor {
    path: PathBuf,
    uid: u32,
    prepare: Mutex<Prepare>,
    /// Held over the connecting, so that many callers at once make one connection.
    link: tokio::sync::Mutex<Option<Client>>,
}

impl Monitor {
    /// `uid`: who the monitor must run as (0 for the engine); `prepare`: what every new connection is told first.
    pub fn new(path: PathBuf, uid: u32, prepare: Prepare) -> Self {
        Self { path, uid, prepare: Mutex::new(prepare), link: tokio::sync::Mutex::new(None) }
    }

    /// Until [`Monitor::prepare`] is answered nothing that was started ahead is asked for: it was started under other settings.
    pub fn hold_ahead(&self) {
        // A connection that is being made is told the new ones, or is told them next.
        if let Ok(link) = self.link.try_lock()
            && let Some(client) = link.as_ref()
        {
            client.shared.ahead.store(false, Ordering::Relaxed);
        }
    }

    /// Tells the monitor anew, now and on every later connection.
    pub async fn prepare(&self, prepare: Prepare) -> Result<(), ClientError> {
        *self.prepare.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = prepare.clone();
        self.client().await?.prepare(prepare).await
    }

    /// Whether there is a live connection. One that is being made counts as none.
    pub fn is_connected(&self) -> bool {
        self.link.try_lock().is_ok_and(|link| link.as_ref().is_some_and(Client::is_alive))
    }

    /// The live connection, or a new one at once.
    pub async fn client(&self) -> Result<Client, ClientError> {
        let mut link = self.link.lock().await;
        if let Some(client) = link.as_ref().filter(|c| c.is_alive()) {
            return Ok(client.clone());
        }
        *link = None;
        let client = Client::connect(&self.path, self.uid).await?;
        let prepare = self.prepare.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        client.prepare(prepare).await?;
        tracing::info!(engine = client.version(), "connected to the engine");
        Ok(link.insert(client).clone())
    }

    /// Keeps a connection open for as long as the future is polled, so that a restarted monitor is found without a call.
    pub async fn keep(&self) {
        let mut wait = BACKOFF_FIRST;
        let mut told = false;
        let mut since = Instant::now();
        loop {
            match self.client().await {
                Ok(client) => {
                    client.ended().await;
                    (wait, told, since) = (BACKOFF_FIRST, false, Instant::now());
                }
                Err(error) => {
                    // At a start both begin together, and an engine that restarts is back at once.
                    if !told && since.elapsed() > TELL_AFTER {
                        tracing::warn!(%error, "the engine can not be reached, trying on");
                        told = true;
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(BACKOFF_MOST);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, bind, listen};

    fn listener(dir: &tempfile::TempDir) -> (PathBuf, OwnedFd) {
        let path = dir.path().join("engine.sock");
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&socket, Backlog::new(1).unwrap()).unwrap();
        (path, socket)
    }

    #[tokio::test]
    async fn whoever_answers_must_be_the_expected_user() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _listener) = listener(&dir);
        let own = nix::unistd::getuid().as_raw();
        let refused = Client::connect(&path, own + 1).await;
        assert!(matches!(refused.err(), Some(ClientError::PeerUid { uid, .. }) if uid == own));
    }

    #[tokio::test]
    async fn silence_and_absence_are_told_apart_from_waiting_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let (path, listener) = listener(&dir);
        let own = nix::unistd::getuid().as_raw();
        let silent = Client::connect(&path, own).await;
        assert!(
            matches!(silent.err(), Some(ClientError::Connect { source, .. }) if source.kind() == io::ErrorKind::TimedOut)
        );
        drop(listener);
        let monitor = Monitor::new(path, own, Prepare { commands: Vec::new() });
        let absent = monitor.client().await;
        assert!(matches!(absent.err(), Some(ClientError::Connect { .. })));
    }
}
