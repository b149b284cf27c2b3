//! The one loop: fronts, sandboxes, deadlines. Single-threaded, no lock, no wait but epoll's.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::ahead::{Idle, Stamp};
use super::connection::{Connection, Incoming};
use super::journal::Journal;
use super::leases::Leases;
use super::pool::Pool;
use super::sandbox::{ConnectionKey, Sandbox};
use super::volumes::Table;
use crate::backend::process::ProcessBackend;
use crate::backend::volume::Job;
use crate::config::{Config, Source};
use crate::policy::plan::Rules;
use crate::spec::{HostChecks, HostFacts, KilledBy, Outcome, SandboxId};
use crate::sys::packet;
use crate::telemetry::manager;
use crate::wire::{CapacityWire, EndWire, FromMonitor, OUTPUTS, PACKET_BYTES_MAX, Refusal, Reply, StatWire};

/// Fronts at once: one, its successor, and room for a look from outside.
const CONNECTIONS_MAX: usize = 8;
/// Packets taken from one connection before others get their turn.
const BURST: usize = 32;
/// How long a stop waits for sandboxes to be gone.
const STOP_WAIT: Duration = Duration::from_secs(3);
/// Ends of detached sandboxes that nobody took; the oldest goes first.
pub(super) const ENDED_MAX: usize = 1024;

/// What an epoll event is about. The number is a connection's or a sandbox's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener,
    Signals,
    Connection(u64),
    Channel(u64),
    Death(u64),
    /// Of a process for a volume.
    Job(u64),
}

const KIND_SHIFT: u32 = 56;

impl Token {
    fn pack(self) -> u64 {
        let (kind, key) = match self {
            Token::Listener => (0u64, 0),
            Token::Signals => (1, 0),
            Token::Connection(key) => (2, key),
            Token::Channel(key) => (3, key),
            Token::Death(key) => (4, key),
            Token::Job(key) => (5, key),
        };
        kind << KIND_SHIFT | key
    }

    fn unpack(data: u64) -> Option<Self> {
        let key = data & ((1 << KIND_SHIFT) - 1);
        match data >> KIND_SHIFT {
            0 => Some(Token::Listener),
            1 => Some(Token::Signals),
            2 => Some(Token::Connection(key)),
            3 => Some(Token::Channel(key)),
            4 => Some(Token::Death(key)),
            5 => Some(Token::Job(key)),
            _ => None,
        }
    }
}

/// A detached sandbox that is gone, and what it leaves.
#[derive(Debug)]
pub(super) struct Ended {
    pub stat: StatWire,
    pub outputs: Vec<OwnedFd>,
}

/// What was settled at the start. A reload changes the configuration and what follows from it, nothing else.
#[derive(Debug)]
pub struct Settings {
    /// Where `config` came from, for SIGHUP.
    pub source: Source,
    pub config: Config,
    /// Why the file as it is now is not in force.
    pub complaint: Option<String>,
    pub rules: Rules,
    /// What follows from `checks`.
    pub facts: HostFacts,
    pub checks: HostChecks,
    pub capacity: CapacityWire,
    pub minimal_enabled: bool,
    /// Uids that may connect, beside root.
    pub front_uid: u32,
    /// Another one with every start.
    pub instance: u64,
    /// Ended detached sandboxes whose output is kept; of older ones only the end is.
    pub outputs_kept_max: usize,
}

pub struct Monitor {
    pub(super) settings: Settings,
    pub(super) backend: ProcessBackend,
    pub(super) leases: Leases,
    pub(super) journal: Journal,
    epoll: Epoll,
    listener: OwnedFd,
    signals: SignalFd,
    connections: HashMap<ConnectionKey, Connection>,
    pub(super) sandboxes: HashMap<u64, Sandbox>,
    pub(super) by_id: BTreeMap<SandboxId, u64>,
    pub(super) ended: VecDeque<Ended>,
    /// Sum of the memory limits of all that live.
    pub(super) memory_promised: u64,
    /// Asked for once: the answer is looked up in the cgroup tree.
    pub(super) cores: u32,
    pub(super) pool: Pool,
    pub(super) volumes: Table,
    /// How many of `sandboxes` are no call's yet.
    pub(super) ahead: usize,
    /// What was built ahead under another number is not used: settings or programs changed.
    pub(super) generation: u64,
    pub(super) stamp: Stamp,
    /// When a front last said something.
    pub(super) asked_last: Instant,
    /// Dead, and not yet removed.
    pub(super) graves: VecDeque<Sandbox>,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    next_key: u64,
    pub(super) stopping: Option<Instant>,
    /// When the service manager is told next that the loop turns.
    tick: Option<Instant>,
    pub(super) status_told: String,
    buffer: Vec<u8>,
}

/// What the loop takes as a descriptor. Blocked from the very start, so that none of them ends a half-made engine.
pub(super) fn signal_mask() -> SigSet {
    let mut mask = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|s| mask.add(s));
    mask
}

impl Monitor {
    pub fn new(
        settings: Settings,
        backend: ProcessBackend,
        leases: Leases,
        journal: Journal,
        volumes: Table,
        listener: OwnedFd,
    ) -> io::Result<Self> {
        let mask = signal_mask();
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(listener.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, Token::Listener.pack()))?;
        epoll.add(signals.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, Token::Signals.pack()))?;
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from) as u32,
            pool: Pool::new(settings.config.pool),
            volumes,
            ahead: 0,
            generation: 0,
            stamp: Stamp::now(&settings.config),
            asked_last: Instant::now(),
            graves: VecDeque::new(),
            settings,
            backend,
            leases,
            journal,
            epoll,
            listener,
            signals,
            connections: HashMap::new(),
            sandboxes: HashMap::new(),
            by_id: BTreeMap::new(),
            ended: VecDeque::new(),
            memory_promised: 0,
            timers: BinaryHeap::new(),
            next_key: 1,
            stopping: None,
            tick: manager::tick().map(|_| Instant::now()),
            status_told: String::new(),
            buffer: vec![0; PACKET_BYTES_MAX],
        })
    }

    /// Runs until SIGTERM and until every sandbox is gone, then removes what the engine made.
    pub fn run(mut self) -> io::Result<()> {
        manager::ready(&self.status());
        let mut events = [EpollEvent::empty(); 128];
        loop {
            let idle = self.idle(Instant::now());
            let ready = match self.epoll.wait(&mut events, self.timeout(&idle)) {
                Err(nix::errno::Errno::EINTR) => 0,
                result => result?,
            };
            // What is for later waits until nobody wants anything now.
            if ready == 0 && matches!(idle, Idle::Now | Idle::At(_)) {
                self.work_ahead();
            }
            // News before deadlines: a command that ended in time is not called late because its news waited.
            for event in &events[..ready] {
                if let Some(token) = Token::unpack(event.data()) {
                    self.handle(token, event.events())?;
                }
            }
            self.fire_timers();
            self.tend_volumes(Instant::now());
            self.tell_manager();
            if let Some(since) = self.stopping
                && (self.sandboxes.is_empty() || since.elapsed() > STOP_WAIT)
            {
                while self.bury_one() {}
                break;
            }
        }
        let Self { backend, journal, sandboxes, volumes, .. } = self;
        if !sandboxes.is_empty() {
            tracing::error!(count = sandboxes.len(), "sandboxes did not end in time; the next start removes them");
            return Ok(());
        }
        volumes.close();
        backend.close().map_err(io::Error::other)?;
        journal.remove()
    }

    fn handle(&mut self, token: Token, flags: EpollFlags) -> io::Result<()> {
        match token {
            Token::Listener => {
                self.accept();
                Ok(())
            }
            Token::Signals => {
                let (mut stop, mut reload) = (false, false);
                while let Some(signal) = self.signals.read_signal()? {
                    let hangup = signal.ssi_signo == Signal::SIGHUP as u32;
                    reload |= hangup;
                    stop |= !hangup;
                }
                if stop {
                    self.stop();
                } else if reload && self.stopping.is_none() {
                    self.reload();
                }
                Ok(())
            }
            Token::Connection(key) => {
                self.asked_last = Instant::now();
                if flags.contains(EpollFlags::EPOLLOUT) {
                    self.flush(key);
                }
                self.read_connection(key);
                Ok(())
            }
            Token::Channel(key) => {
                self.read_channel(key);
                Ok(())
            }
            Token::Death(key) => {
                self.died(key);
                Ok(())
            }
            Token::Job(key) => {
                self.job_ended(key);
                Ok(())
            }
        }
    }

    fn timeout(&self, idle: &Idle) -> EpollTimeout {
        let later = match idle {
            Idle::Now => return EpollTimeout::ZERO,
            Idle::At(at) => Some(*at),
            Idle::Nothing => None,
        };
        let next = self.timers.peek().map(|Reverse((at, _))| *at);
        let stop = self.stopping.map(|since| since + STOP_WAIT);
        let volumes = self.volumes.next_time();
        match next.into_iter().chain(stop).chain(self.tick).chain(later).chain(volumes).min() {
            None => EpollTimeout::NONE,
            Some(at) => {
                // Rounded up: waking before the deadline would only mean waiting again.
                let ms = at.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
                EpollTimeout::try_from(ms.min(60_000) as u32).unwrap_or(EpollTimeout::ZERO)
            }
        }
    }

    fn tell_manager(&mut self) {
        if self.tick.is_none_or(|at| at > Instant::now()) {
            return;
        }
        manager::alive();
        let status = self.status();
        if status != self.status_told && self.stopping.is_none() {
            manager::status(&status);
            self.status_told = status;
        }
        self.tick = manager::tick().map(|every| Instant::now() + every);
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((at, key))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            // A later call of `wake` replaced this one.
            if self.sandboxes.get(&key).is_none_or(|s| s.next_check != Some(at)) {
                continue;
            }
            if let Some(next) = self.check(key, now) {
                self.wake(key, next);
            }
        }
    }

    /// Looks at sandbox `key` again at `at`, and not before.
    pub(super) fn wake(&mut self, key: u64, at: Instant) {
        if let Some(sandbox) = self.sandboxes.get_mut(&key) {
            sandbox.next_check = Some(at);
            self.timers.push(Reverse((at, key)));
        }
    }

    pub(super) fn stop(&mut self) {
        if self.stopping.is_none() {
            tracing::info!(sandboxes = self.in_use(), "stopping");
            manager::stopping();
            self.stopping = Some(Instant::now());
            let keys: Vec<u64> = self.sandboxes.keys().copied().collect();
            for key in keys {
                self.kill(key, Outcome::Killed { by: KilledBy::Shutdown });
            }
        }
    }

    fn accept(&mut self) {
        loop {
            let fd = match packet::accept(self.listener.as_fd()) {
                Ok(fd) => fd,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The peer went away meanwhile, or descriptors ran out: neither is the end of the engine.
                Err(e) => {
                    tracing::warn!(error = %e, "a connection was not accepted");
                    return;
                }
            };
            let uid = match packet::peer_uid(fd.as_fd()) {
                Ok(uid) => uid,
                Err(e) => {
                    tracing::warn!(error = %e, "a connection without credentials was refused");
                    continue;
                }
            };
            if uid != self.settings.front_uid && uid != 0 {
                tracing::warn!(uid, "a connection of a foreign uid was refused");
                continue;
            }
            if self.connections.len() >= CONNECTIONS_MAX {
                tracing::warn!("a connection was refused: {CONNECTIONS_MAX} are open");
                continue;
            }
            let key = self.key();
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Connection(key).pack());
            match self.epoll.add(fd.as_fd(), event) {
                Ok(()) => drop(self.connections.insert(key, Connection::new(fd))),
                Err(e) => tracing::warn!(error = %e, "a connection can not be watched and is refused"),
            }
        }
    }

    pub(super) fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// Registers a new sandbox's descriptors.
    pub(super) fn watch(&self, key: u64, sandbox: &Sandbox) -> io::Result<()> {
        let channel = EpollEvent::new(EpollFlags::EPOLLIN, Token::Channel(key).pack());
        self.epoll.add(sandbox.live.channel(), channel)?;
        self.epoll.add(sandbox.live.pidfd(), EpollEvent::new(EpollFlags::EPOLLIN, Token::Death(key).pack()))?;
        Ok(())
    }

    /// It is dead, which its descriptors would go on to report until they are closed.
    pub(super) fn unwatch(&self, sandbox: &Sandbox) {
        for fd in [sandbox.live.channel(), sandbox.live.pidfd()] {
            if let Err(e) = self.epoll.delete(fd) {
                // ENOENT: it was taken out before.
                tracing::debug!(error = %e, "unwatch");
            }
        }
    }

    /// The other end is gone; without this its end of file would be reported without end.
    pub(super) fn unwatch_channel(&self, key: u64) {
        if let Some(sandbox) = self.sandboxes.get(&key)
            && let Err(e) = self.epoll.delete(sandbox.live.channel())
        {
            // ENOENT: it was taken out before.
            tracing::debug!(error = %e, "channel");
        }
    }

    pub(super) fn watch_job(&self, key: u64, job: &Job) -> io::Result<()> {
        Ok(self.epoll.add(job.pipe(), EpollEvent::new(EpollFlags::EPOLLIN, Token::Job(key).pack()))?)
    }

    pub(super) fn unwatch_job(&self, job: &Job) {
        if let Err(e) = self.epoll.delete(job.pipe()) {
            tracing::debug!(error = %e, "unwatch");
        }
    }

    fn read_connection(&mut self, key: ConnectionKey) {
        for _ in 0..BURST {
            let Some(connection) = self.connections.get(&key) else { return };
            match connection.receive(&mut self.buffer) {
                Incoming::Nothing => return,
                Incoming::Closed => return self.drop_connection(key),
                Incoming::Malformed(what) => return self.violation(key, 0, &what),
                Incoming::Request(request, fds) => self.request(key, request, fds),
            }
        }
    }

    /// Refuses, logs and drops the connection. Detached sandboxes go on.
    pub(super) fn violation(&mut self, key: ConnectionKey, seq: u32, what: &str) {
        let what = crate::spec::capped(what, 200);
        tracing::error!(connection = key, what, "the front broke the protocol; its connection is dropped");
        self.reply(key, seq, Reply::Refused(Refusal::Protocol { what }), Vec::new());
        self.drop_connection(key);
    }

    fn drop_connection(&mut self, key: ConnectionKey) {
        if self.connections.remove(&key).is_none() {
            return;
        }
        let owned: Vec<u64> =
            self.sandboxes.iter().filter(|(_, s)| s.owner == Some(key)).map(|(&key, _)| key).collect();
        for sandbox in owned {
            self.orphan(sandbox);
        }
        self.orphan_volumes(key);
    }

    pub(super) fn connection(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        self.connections.get_mut(&key)
    }

    pub(super) fn reply(&mut self, key: ConnectionKey, seq: u32, reply: Reply, fds: Vec<OwnedFd>) {
        self.send(key, &FromMonitor::Reply { seq, reply }, fds);
    }

    /// Every front that has said Hello.
    pub(super) fn greeted(&self) -> Vec<ConnectionKey> {
        self.connections.iter().filter(|(_, c)| c.greeted).map(|(&key, _)| key).collect()
    }

    pub(super) fn send(&mut self, key: ConnectionKey, message: &FromMonitor, fds: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let waited = connection.waits();
        if let Err(e) = connection.send(message, fds) {
            tracing::warn!(connection = key, error = %e, "a front went away");
            return self.drop_connection(key);
        }
        if !waited && connection.waits() {
            self.watch_connection(key, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT);
        }
    }

    fn flush(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if connection.flush().is_err() {
            return self.drop_connection(key);
        }
        if !connection.waits() {
            self.watch_connection(key, EpollFlags::EPOLLIN);
        }
    }

    fn watch_connection(&mut self, key: ConnectionKey, flags: EpollFlags) {
        let Some(connection) = self.connections.get(&key) else { return };
        let mut event = EpollEvent::new(flags, Token::Connection(key).pack());
        if self.epoll.modify(connection.fd(), &mut event).is_err() {
            self.drop_connection(key);
        }
    }

    /// Keeps the end of a detached sandbox until somebody takes it.
    pub(super) fn keep_end(&mut self, mut stat: StatWire, end: EndWire, outputs: Vec<OwnedFd>) {
        if self.ended.len() >= ENDED_MAX {
            self.ended.pop_front();
        }
        let with_outputs = self.ended.iter().filter(|e| !e.outputs.is_empty()).count();
        if with_outputs >= self.settings.outputs_kept_max
            && let Some(oldest) = self.ended.iter_mut().find(|e| !e.outputs.is_empty())
        {
            oldest.outputs.clear();
            oldest.stat.outputs = false;
        }
        stat.outputs = outputs.len() == OUTPUTS;
        stat.end = Some(end);
        self.ended.push_back(Ended { stat, outputs });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        for token in [
            Token::Listener,
            Token::Signals,
            Token::Connection(7),
            Token::Channel(1 << 40),
            Token::Death(0),
            Token::Job(1),
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(9 << KIND_SHIFT), None);
    }
}
