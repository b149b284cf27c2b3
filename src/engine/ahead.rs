//! Sandboxes built ahead of calls, and how one becomes a call's.
//!
//! What waits is complete: every fence is up and read back, and where a command is up in it, Landlock too. What depends on
//! the call is given at hand-over and read back; a call that needs anything else gets a sandbox of its own. Each is used
//! by one call and destroyed after it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::stat::stat;

use super::monitor::Monitor;
use super::pool::{AGE_MAX, Kind, Prepared};
use super::sandbox::{ConnectionKey, Run, Sandbox, WaitingExec};
use super::states::State;
use super::verbs::BUILD_WAIT;
use crate::backend::process::Watched;
use crate::config::Config;
use crate::policy::RUNTIMES;
use crate::policy::plan::{Ask, Plan, plan};
use crate::spec::{Command, Enforced, KilledBy, Level, LimitRequest, Outcome, SandboxId};
use crate::wire::{
    CreatedWire, Event, FromMonitor, LandlockWire, LifetimeWire, PREPARED_MAX, Prepare, PreparedWire, Refusal, Reply,
    Take, code,
};

/// How long nothing must have been asked for before a sandbox is built ahead, unless few are left: what is built for later
/// shall not hold up what is wanted now.
const QUIET: Duration = Duration::from_millis(2);

/// Memory that must be left beside everything promised before one more is built: more than any of them takes.
const MARGIN_BYTES: u64 = 16 * 1024 * 1024;

/// What is known of a sandbox that no call has yet.
#[derive(Debug)]
pub(super) struct Ahead {
    kind: Kind,
    /// Of the rules and files that it was built from; see [`Monitor::generation`].
    generation: u64,
    /// The front's ends of a command that is up: the order of `Reply::Taken`.
    ends: Vec<OwnedFd>,
    landlock: Option<LandlockWire>,
    /// It is complete, and was counted as such.
    came: bool,
    /// The command, where one is up: its number inside, and what tells whether it still waits.
    command: Option<(i32, Watched)>,
}

/// Device, inode, size, and time of change in seconds and nanoseconds.
type Identity = (u64, u64, i64, i64, i64);

/// Identity of the files that a sandbox's programs come from, as far as a look can tell: the programs themselves, the
/// package manager's own record, and the operator's directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<Identity>>);

/// Written at each installation and removal of Debian's packages.
const PACKAGES: &str = "/var/lib/dpkg/status";

impl Stamp {
    pub fn now(config: &Config) -> Self {
        let programs = RUNTIMES.iter().map(|(_, program)| std::path::Path::new(program));
        let directories = config.host.runtime_directories.iter().map(|d| d.as_path());
        let of = |path: &std::path::Path| {
            // A file that is not there is a fact as well.
            stat(path).ok().map(|s| (s.st_dev, s.st_ino, s.st_size, s.st_ctime, s.st_ctime_nsec))
        };
        Self(programs.chain(directories).chain([PACKAGES.as_ref()]).map(of).collect())
    }
}

/// What is to be done when nothing else is.
pub(super) enum Idle {
    Now,
    At(Instant),
    Nothing,
}

impl Monitor {
    pub(super) fn prepare(&mut self, from: ConnectionKey, seq: u32, prepare: Prepare) {
        let parse = |p: PreparedWire| {
            // The gate and the code, and what comes back.
            let command = Command::new(p.argv, p.env, p.cwd, 2 + usize::from(p.result)).map_err(|e| e.to_string())?;
            Ok::<_, String>(Prepared { runtime: p.runtime, command, result: p.result })
        };
        let known = |p: &PreparedWire| RUNTIMES.iter().any(|(name, _)| *name == p.runtime);
        let twice = |at: usize| prepare.commands[..at].iter().any(|p| p.runtime == prepare.commands[at].runtime);
        if prepare.commands.len() > PREPARED_MAX
            || !prepare.commands.iter().all(known)
            || (0..prepare.commands.len()).any(twice)
        {
            return self.violation(from, seq, "commands that can not be prepared");
        }
        let prepared = match prepare.commands.into_iter().map(parse).collect::<Result<Vec<_>, _>>() {
            Ok(prepared) => prepared,
            Err(e) => return self.violation(from, seq, &e),
        };
        let (changed, stale) = self.pool.prepare(prepared, Instant::now());
        if changed {
            self.generation += 1;
        }
        stale.into_iter().for_each(|key| self.retire(key));
        let ahead = self.pool.is_enabled();
        self.reply(from, seq, Reply::Prepared { ahead }, Vec::new());
    }

    /// Builds everything that waits anew: settings or files changed.
    pub(super) fn renew_pool(&mut self) {
        self.generation += 1;
        self.stamp = Stamp::now(&self.settings.config);
        let before = self.pool.is_enabled();
        let keys = self.pool.renew(self.settings.config.pool);
        keys.into_iter().for_each(|key| self.retire(key));
        let ahead = self.pool.is_enabled();
        if ahead != before {
            let news = FromMonitor::Event(Event::Ahead { ahead });
            self.greeted().into_iter().for_each(|front| self.send(front, &news, Vec::new()));
        }
    }

    /// Sandboxes that belong to a call, or are on their way to one.
    pub(super) fn in_use(&self) -> usize {
        self.sandboxes.len() - self.ahead
    }

    fn retire(&mut self, key: u64) {
        self.pool.lost(key);
        self.kill(key, Outcome::Killed { by: KilledBy::Shutdown });
    }

    /// What the loop may do for later.
    pub(super) fn idle(&self, now: Instant) -> Idle {
        if !self.graves.is_empty() {
            return Idle::Now;
        }
        if self.stopping.is_some() {
            return Idle::Nothing;
        }
        let wanted = self.has_room_ahead() && self.pool.wanted(now).is_some();
        match (wanted, self.asked_last + QUIET) {
            (true, quiet) if quiet <= now || self.pool.is_low(now) => Idle::Now,
            (true, quiet) => Idle::At(quiet),
            (false, _) => self.pool.next_time(now).map_or(Idle::Nothing, Idle::At),
        }
    }

    /// A uid must be left for each sandbox that may still be asked for, and memory for all that was promised.
    fn has_room_ahead(&self) -> bool {
        let most = self.settings.capacity.sandboxes_max as usize;
        self.leases.available() > most.saturating_sub(self.in_use()) && !self.is_crowded(MARGIN_BYTES)
    }

    fn is_crowded(&self, margin: u64) -> bool {
        self.memory_promised + self.pool.bytes() + margin > self.settings.capacity.memory_bytes_max
    }

    /// What waits gives way to what was promised to calls: both are charged to one cgroup.
    pub(super) fn give_way(&mut self) {
        while self.is_crowded(0)
            && let Some(key) = self.pool.spare()
        {
            self.retire(key);
        }
    }

    /// One step of what [`Monitor::idle`] is about.
    pub(super) fn work_ahead(&mut self) {
        if self.bury_one() || self.stopping.is_some() {
            return;
        }
        let now = Instant::now();
        if self.tend_pool(now) {
            return;
        }
        if self.has_room_ahead()
            && let Some(kind) = self.pool.wanted(now)
        {
            self.build_ahead(kind);
        }
    }

    /// Adapts how many wait; replaces what is too old.
    fn tend_pool(&mut self, now: Instant) -> bool {
        let Some(surplus) = self.pool.look(now) else { return false };
        surplus.into_iter().for_each(|key| self.retire(key));
        let old = |s: &Sandbox| s.state == State::Waiting && now.duration_since(s.born) > AGE_MAX;
        // One at a time, oldest first: those of one burst shall not all be gone at once.
        let oldest = self.sandboxes.iter().filter(|(_, s)| old(s)).min_by_key(|(_, s)| s.born).map(|(key, _)| *key);
        oldest.into_iter().for_each(|key| self.retire(key));
        for (kind, key) in self.pool.samples() {
            if let Some(bytes) = self.sandboxes.get(&key).and_then(|s| s.live.memory_now()) {
                self.pool.measured(&kind, bytes);
            }
        }
        if self.stamp != Stamp::now(&self.settings.config) {
            self.renew_pool();
        }
        true
    }

    fn build_ahead(&mut self, kind: Kind) {
        self.pool.begun(&kind);
        if let Err(why) = self.begin_ahead(&kind) {
            tracing::warn!(level = kind.level.name(), runtime = kind.runtime, why, "not built ahead");
            self.pool.failed(&kind, Instant::now());
        }
    }

    fn begin_ahead(&mut self, kind: &Kind) -> Result<(), String> {
        let ask = Ask { level: kind.level, limits: LimitRequest::default() };
        let plan = plan(&ask, &self.settings.rules, &self.settings.facts).map_err(|e| format!("{e:?}"))?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|e| e.to_string())?;
        let id = SandboxId::from_random(random);
        let ahead = Ahead {
            kind: kind.clone(),
            generation: self.generation,
            ends: Vec::new(),
            landlock: None,
            came: false,
            command: None,
        };
        let live = self.build(&id, &plan).map_err(|refusal| format!("{refusal:?}"))?;
        let key = self.insert(Sandbox::new(id, plan, LifetimeWire::Call, None, live, Some(ahead)));
        self.wake(key, Instant::now() + BUILD_WAIT);
        Ok(())
    }

    /// Pid 1 of one that is built ahead is ready.
    pub(super) fn ahead_is_ready(&mut self, key: u64) {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        let Some(ahead) = &mut sandbox.ahead else { return };
        if ahead.generation != self.generation {
            return self.kill(key, Outcome::Killed { by: KilledBy::Shutdown });
        }
        let Some(runtime) = &ahead.kind.runtime else {
            ahead.came = true;
            sandbox.state = State::Waiting;
            return self.pool.came(&ahead.kind, key);
        };
        let Some(prepared) = self.pool.prepared(runtime) else {
            return self.kill(key, Outcome::Killed { by: KilledBy::Shutdown });
        };
        match descriptors(prepared.result) {
            Ok((theirs, ends)) => {
                let command = prepared.command.clone();
                sandbox.waiting = Some(WaitingExec { sender: None, command, wall: BUILD_WAIT, fds: theirs });
                if let Some(ahead) = &mut sandbox.ahead {
                    ahead.ends = ends;
                }
                self.start_command(key);
            }
            Err(e) => {
                tracing::warn!(sandbox = %sandbox.id, error = %e, "no descriptors for a command ahead");
                self.kill(key, Outcome::EngineFault);
            }
        }
    }

    /// Its command runs, and will wait at its gate.
    pub(super) fn ahead_is_up(&mut self, key: u64, pid: i32, landlock: Option<LandlockWire>) {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        let Some(ahead) = &mut sandbox.ahead else { return };
        match sandbox.live.watched() {
            Ok(watched) => ahead.command = Some((pid, watched)),
            Err(e) => {
                tracing::warn!(sandbox = %sandbox.id, error = %e, "a command that was started ahead is gone");
                return self.kill(key, Outcome::EngineFault);
            }
        }
        ahead.landlock = landlock;
        if ahead.generation != self.generation {
            return self.kill(key, Outcome::Killed { by: KilledBy::Shutdown });
        }
        ahead.came = true;
        sandbox.run = None;
        sandbox.state = State::Waiting;
        self.pool.came(&ahead.kind, key);
    }

    /// One that was built ahead is gone without having been used.
    pub(super) fn ahead_is_gone(&mut self, key: u64, ahead: &Ahead, cause: Option<&Outcome>) {
        self.pool.lost(key);
        if !ahead.came && ahead.generation == self.generation {
            self.pool.failed(&ahead.kind, Instant::now());
        }
        if cause.is_none_or(|cause| *cause == Outcome::EngineFault) {
            let Kind { level, runtime } = &ahead.kind;
            tracing::warn!(level = level.name(), runtime, "a sandbox that was built ahead ended by itself");
        }
    }

    /// A sandbox that waits and can be `plan`'s: looked at, with the call's limits set and read back.
    pub(super) fn take_waiting(&mut self, level: Level, runtime: Option<String>, plan: &Plan) -> Option<u64> {
        let kind = Kind { level, runtime };
        if self.stamp != Stamp::now(&self.settings.config) {
            tracing::info!("programs changed; what was built ahead is built anew");
            self.renew_pool();
        }
        let warm = kind.runtime.is_some();
        while let Some(key) = self.pool.take(&kind, |key| {
            self.sandboxes.get(&key).is_some_and(|s| s.state == State::Waiting && s.plan.can_become(plan, warm))
        }) {
            let Some(sandbox) = self.sandboxes.get_mut(&key) else { continue };
            let command = sandbox.ahead.as_ref().and_then(|a| a.command.as_ref());
            let set = if sandbox.live.is_idle() && command.is_none_or(|(_, command)| command.is_there()) {
                self.backend.relimit(&mut sandbox.live, &sandbox.plan.limits, &plan.limits).map_err(|e| e.to_string())
            } else {
                Err("it is not as it was left".into())
            };
            match set {
                Ok(()) => return Some(key),
                Err(why) => {
                    tracing::error!(sandbox = %sandbox.id, why, "a sandbox that waited is not handed out");
                    self.retire(key);
                }
            }
        }
        None
    }

    /// Makes it the call's. What was read back when it was built still holds; the cgroup's part was read again.
    pub(super) fn assign(
        &mut self,
        key: u64,
        id: &SandboxId,
        owner: ConnectionKey,
        lifetime: LifetimeWire,
        plan: Plan,
    ) {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        if sandbox.ahead.take().is_some() {
            self.ahead -= 1;
        }
        self.memory_promised += plan.limits.memory_bytes;
        sandbox.id = id.clone();
        sandbox.owner = Some(owner);
        sandbox.lifetime = lifetime;
        sandbox.plan = plan;
        sandbox.born = Instant::now();
        sandbox.state = State::Ready;
        self.by_id.insert(id.clone(), key);
        self.give_way();
    }

    pub(super) fn take(&mut self, from: ConnectionKey, seq: u32, take: Take) {
        let Ok(id) = take.id.parse::<SandboxId>() else {
            return self.violation(from, seq, "a sandbox id that is none");
        };
        if self.by_id.contains_key(&id) {
            return self.violation(from, seq, "a sandbox id that is in use");
        }
        // Only what was prepared can ever wait; another name is no demand.
        if self.pool.prepared(&take.runtime).is_none() {
            return self.refuse(from, seq, Refusal::NoneWaiting);
        }
        let plan = match self.admissible(take.level.into(), take.limits) {
            Ok(plan) => plan,
            Err(refusal) => return self.refuse(from, seq, refusal),
        };
        let Some(key) = self.take_waiting(plan.level, Some(take.runtime), &plan) else {
            return self.refuse(from, seq, Refusal::NoneWaiting);
        };
        let wall = Duration::from_millis(take.wall_ms.clamp(1, plan.limits.wall_ms));
        let ahead = self.sandboxes.get_mut(&key).and_then(|s| s.ahead.take());
        let Some(Ahead { ends, landlock, command, .. }) = ahead else {
            return self.refuse(from, seq, Refusal::NoneWaiting);
        };
        self.ahead -= 1;
        self.assign(key, &id, from, LifetimeWire::Call, plan);
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        let began = Instant::now();
        sandbox.state = State::Running;
        sandbox.run = Some(Run {
            sender: None,
            began,
            wall,
            cpu_us_before: sandbox.live.counters().cpu_us.unwrap_or(0),
            started: true,
            pid: command.map(|(pid, _)| pid),
            end: None,
        });
        let Some(created) = created(sandbox) else { return self.kill(key, Outcome::EngineFault) };
        // Before the reply, which may find its front gone and end the sandbox.
        self.wake(key, began + wall.min(super::lifecycle::TICK));
        self.reply(from, seq, Reply::Taken { created, landlock }, ends);
        // As of one that was started for its call.
        self.tell_earlier_denials(key);
    }
}

/// What `sandbox` is, for the reply to who asked for it; `None` before it is ready.
pub(super) fn created(sandbox: &Sandbox) -> Option<Box<CreatedWire>> {
    let enforced = sandbox.enforced.clone()?;
    // The limits may have been set anew since.
    let enforced = Enforced { cgroup: sandbox.live.cgroup().clone(), ..enforced };
    Some(Box::new(CreatedWire {
        enforced: enforced.into(),
        degraded: sandbox.plan.degraded.clone(),
        limits: sandbox.plan.limits.into(),
    }))
}

/// The command's descriptors, and the front's ends of them.
fn descriptors(result: bool) -> io::Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from);
    let ((stdin_read, stdin_write), (stdout_read, stdout_write), (stderr_read, stderr_write), (gate_read, gate_write)) =
        (pipe()?, pipe()?, pipe()?, pipe()?);
    let code = code::empty()?;
    let mut theirs = vec![stdin_read, stdout_write, stderr_write, gate_read, code.try_clone()?];
    let mut ends = vec![stdin_write, stdout_read, stderr_read, gate_write, code];
    if result {
        let (read, write) = pipe()?;
        theirs.push(write);
        ends.push(read);
    }
    Ok((theirs, ends))
}
