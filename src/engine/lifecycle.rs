//! What happens to a sandbox between its verbs: news from its pid 1, its deadlines, its end.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, fchown};

use super::ahead::created;
use super::monitor::Monitor;
use super::passed::is_pipe;
use super::sandbox::{ConnectionKey, Run, Sandbox, Sender, WaitingExec};
use super::states::State;
use super::verbs::{built, stat_of};
use crate::launch::channel::{FromInit, ToInit, numbers, receive, send};
use crate::spec::{Clock, KilledBy, Outcome, SandboxId};
use crate::wire::{EndWire, Event, FromMonitor, LifetimeWire, Refusal, Reply, StatWire};

/// Refused forks after which a sandbox is ended (the contract's number).
const REFUSED_FORKS_MAX: u64 = 1000;
/// How often the cgroup's counters of a running sandbox are read, unless a limit is nearer.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// The nearest that two looks may come.
const TICK_LEAST: Duration = Duration::from_millis(10);
/// A killed sandbox that is still there after this is killed again and reported.
const DEATH_WAIT: Duration = Duration::from_secs(2);
/// Dead sandboxes that wait to be removed; with one more the oldest is not put off any longer.
const GRAVES_MAX: usize = 64;

impl Monitor {
    /// Everything that pid 1 has said.
    pub(super) fn read_channel(&mut self, key: u64) {
        while let Some(sandbox) = self.sandboxes.get(&key) {
            match receive::<FromInit>(sandbox.live.channel()) {
                Ok(Some((message, _))) => self.news(key, message),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // It ended with our last message unread; the kernel tells that once, before what it said itself.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
                Ok(None) => return self.unwatch_channel(key),
                Err(e) => {
                    tracing::error!(sandbox = %sandbox.id, error = %e, "pid 1 does not speak the protocol");
                    self.unwatch_channel(key);
                    return self.kill(key, Outcome::EngineFault);
                }
            }
        }
    }

    fn news(&mut self, key: u64, message: FromInit) {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        match (message, sandbox.state) {
            (FromInit::Ready(report), State::Building) => {
                match self.backend.enforced(&sandbox.live, &sandbox.plan, &report) {
                    Ok(enforced) => {
                        sandbox.state = State::Ready;
                        sandbox.denials = enforced.seccomp.denials_recorded.then(Default::default);
                        sandbox.enforced = Some(enforced);
                        if sandbox.ahead.is_some() {
                            return self.ahead_is_ready(key);
                        }
                        if let Err(refusal) = self.give_volumes(key) {
                            self.answer_create(key, Reply::Refused(refusal));
                            return self.kill(key, Outcome::EngineFault);
                        }
                        if let Some(created) = self.sandboxes.get(&key).and_then(created) {
                            self.answer_create(key, Reply::Created(created));
                        }
                        self.start_command(key);
                    }
                    Err(e) => {
                        let refusal = Refusal::SetupFailed { errno: e.errno(), step: e.step.into(), target: e.target };
                        self.answer_create(key, Reply::Refused(refusal));
                        self.kill(key, Outcome::EngineFault);
                    }
                }
            }
            (FromInit::Failed { step, target, errno }, State::Building) => {
                tracing::error!(sandbox = %sandbox.id, step, target, errno, "set-up failed");
                self.answer_create(key, Reply::Refused(Refusal::SetupFailed { step, target, errno }));
                self.kill(key, Outcome::EngineFault);
            }
            (FromInit::Started { pid, landlock }, State::Starting) if sandbox.ahead.is_some() => {
                self.ahead_is_up(key, pid, landlock);
            }
            (FromInit::Started { pid, landlock }, State::Starting) => {
                sandbox.state = State::Running;
                sandbox.remember(landlock.as_ref());
                if let Some(run) = &mut sandbox.run {
                    run.started = true;
                    run.pid = Some(pid);
                }
                self.answer_exec(key, Reply::Started { landlock });
            }
            (FromInit::NotStarted { step, target, errno }, State::Starting) => {
                let refusal = if step == "chdir" || step == "exec" {
                    Refusal::CommandFailed { step, target, errno }
                } else {
                    tracing::error!(sandbox = %sandbox.id, step, target, errno, "a command could not be set up");
                    Refusal::SetupFailed { step, target, errno }
                };
                self.answer_exec(key, Reply::Refused(refusal));
                self.kill(key, Outcome::EngineFault);
            }
            // Calls of its command: none is made before that has been started.
            (FromInit::Denied(told), State::Running | State::Waiting | State::Ending) => self.denied(key, &told),
            (FromInit::Ended(end), State::Running) => {
                // Its clocks stop here: what it left is killed and reaped on nobody's time.
                if let Some(run) = &mut sandbox.run {
                    run.end = Some((end, Instant::now()));
                }
                self.wake(key, Instant::now() + DEATH_WAIT);
            }
            (FromInit::Alone, State::Running) => {
                // Pid 1 has killed and reaped orphans, sessions of their own and children that hold stdout; the kernel is asked
                // whether that is so. Then the end can be told while what is left of the sandbox is still taken down.
                if sandbox.live.is_alone() == Some(true) {
                    sandbox.state = State::Ending;
                    self.tell_end(key);
                    return self.wake(key, Instant::now() + DEATH_WAIT);
                }
                self.end_processes(key);
            }
            // The monitor's kill and its news crossed: the kill is the outcome.
            (
                message @ (FromInit::Started { .. } | FromInit::Ended(_) | FromInit::NotStarted { .. }),
                State::Ending,
            ) => self.late_news(key, message),
            (FromInit::Ready(_) | FromInit::Failed { .. } | FromInit::Alone, State::Ending) => {}
            (message, state) => {
                tracing::error!(sandbox = %sandbox.id, ?message, state = state.name(), "pid 1 spoke out of turn");
                self.kill(key, Outcome::EngineFault);
            }
        }
    }

    /// A command that was killed while it started still counts as one that ran, if it did.
    fn late_news(&mut self, key: u64, message: FromInit) {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        let Some(run) = sandbox.run.as_mut() else { return };
        match message {
            FromInit::Started { pid, landlock } => {
                run.started = true;
                run.pid = Some(pid);
                sandbox.remember(landlock.as_ref());
                self.answer_exec(key, Reply::Started { landlock });
            }
            FromInit::Ended(end) if run.end.is_none() => run.end = Some((end, Instant::now())),
            _ => {}
        }
    }

    fn answer_create(&mut self, key: u64, reply: Reply) {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        if let (Some(seq), Some(owner)) = (sandbox.create_seq.take(), sandbox.owner) {
            self.reply(owner, seq, reply, Vec::new());
        }
    }

    fn answer_exec(&mut self, key: u64, reply: Reply) {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        let sender = match (&mut sandbox.run, &mut sandbox.waiting) {
            (Some(run), _) => run.sender.take(),
            (None, waiting) => waiting.take().and_then(|w| w.sender),
        };
        if let Some(Sender { connection, seq }) = sender {
            self.reply(connection, seq, reply, Vec::new());
        }
    }

    /// Hands the command that waits, if one does, to a sandbox that is ready.
    pub(super) fn start_command(&mut self, key: u64) {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        if sandbox.state != State::Ready {
            return;
        }
        let Some(WaitingExec { sender, command, wall, fds }) = sandbox.waiting.take() else { return };
        let uid = sandbox.live.lease();
        let argv = command.argv().to_vec();
        let rlimits = sandbox.plan.rlimits.into();
        let message = ToInit::Exec {
            argv,
            env: command.env().to_vec(),
            cwd: command.cwd().to_owned(),
            rlimits,
            rules: sandbox.volumes.iter().filter_map(|held| held.plan.rule.clone()).map(Into::into).collect(),
            own_code: sandbox.own_code,
        };
        let began = Instant::now();
        sandbox.state = State::Starting;
        sandbox.run = Some(Run {
            sender,
            began,
            wall,
            cpu_us_before: sandbox.live.counters().cpu_us.unwrap_or(0),
            started: false,
            pid: None,
            end: None,
        });
        // Opening /dev/stdout again inside needs an owner that is the sandbox.
        let owned = fds
            .iter()
            .filter(|fd| is_pipe(fd.as_fd()))
            .try_for_each(|fd| fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid))).map_err(io::Error::from));
        let sent = owned.and_then(|()| send(sandbox.live.channel(), &message, &numbers(&fds)));
        if let Err(e) = sent {
            tracing::error!(sandbox = %sandbox.id, error = %e, "a command could not be handed over");
            let errno = e.raw_os_error().unwrap_or(libc::EIO);
            let refusal = Refusal::SetupFailed { step: "hand over".into(), target: String::new(), errno };
            self.answer_exec(key, Reply::Refused(refusal));
            return self.kill(key, Outcome::EngineFault);
        }
        self.wake(key, began + wall.min(TICK));
    }

    /// Ends a sandbox for a reason of the monitor's. The first reason stays; a command that has ended by itself keeps
    /// its own end.
    pub(super) fn kill(&mut self, key: u64, outcome: Outcome) {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        if sandbox.state == State::Ending {
            return;
        }
        if sandbox.ahead.is_some() {
            self.pool.lost(key);
        }
        let ended = sandbox.run.as_ref().is_some_and(|run| run.end.is_some());
        if sandbox.cause.is_none() && !ended {
            // Only now can its scratch and its processes still be looked at.
            if sandbox.run.is_some() {
                sandbox.full_mounts = sandbox.live.full_mounts(&sandbox.plan);
                sandbox.resident_bytes = sandbox.live.largest_resident_set().unwrap_or(0);
            }
            sandbox.cause = Some(outcome);
        }
        self.end_processes(key);
    }

    fn end_processes(&mut self, key: u64) {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        sandbox.state = State::Ending;
        if let Err(e) = sandbox.live.kill() {
            tracing::error!(sandbox = %sandbox.id, error = %e, "a kill failed; it is tried again");
        }
        self.wake(key, Instant::now() + DEATH_WAIT);
    }

    /// The connection that owned it is gone.
    pub(super) fn orphan(&mut self, key: u64) {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        sandbox.owner = None;
        // A detached one without a command has nothing to go on with, and nobody knows of it any more.
        let unused = sandbox.run.is_none() && sandbox.waiting.is_none();
        if sandbox.lifetime == LifetimeWire::Call || unused {
            self.kill(key, Outcome::Killed { by: KilledBy::FrontGone });
        }
    }

    /// A timer of sandbox `key` fired. Returns when to look again.
    pub(super) fn check(&mut self, key: u64, now: Instant) -> Option<Instant> {
        let sandbox = self.sandboxes.get(&key)?;
        match sandbox.state {
            State::Building | State::Ready if sandbox.create_seq.is_some() || sandbox.ahead.is_some() => {
                if now.duration_since(sandbox.born) < super::verbs::BUILD_WAIT {
                    return Some(sandbox.born + super::verbs::BUILD_WAIT);
                }
                let refusal =
                    Refusal::SetupFailed { step: "ready".into(), target: "pid 1".into(), errno: libc::ETIMEDOUT };
                self.answer_create(key, Reply::Refused(refusal));
                self.kill(key, Outcome::EngineFault);
                None
            }
            State::Building | State::Ready | State::Waiting => None,
            State::Running if sandbox.run.as_ref().is_some_and(|run| run.end.is_some()) => {
                // Pid 1 did not get done with what the command left.
                self.end_processes(key);
                None
            }
            State::Starting | State::Running => self.check_limits(key, now),
            State::Ending => {
                tracing::error!(sandbox = %sandbox.id, pid = sandbox.live.pid(), "a killed sandbox is still there");
                if let Err(e) = sandbox.live.kill() {
                    tracing::error!(sandbox = %sandbox.id, error = %e, "a kill failed");
                }
                Some(now + DEATH_WAIT)
            }
        }
    }

    fn check_limits(&mut self, key: u64, now: Instant) -> Option<Instant> {
        let sandbox = self.sandboxes.get(&key)?;
        let deadline = sandbox.deadline()?;
        if now >= deadline {
            self.kill(key, Outcome::TimedOut { clock: Clock::Wall });
            return None;
        }
        let run = sandbox.run.as_ref()?;
        let counters = sandbox.live.counters();
        let mut next = now + TICK;
        if let Some(cpu_us) = counters.cpu_us {
            let used = Duration::from_micros(cpu_us.saturating_sub(run.cpu_us_before));
            let most = Duration::from_millis(sandbox.plan.limits.cpu_time_ms);
            if used >= most {
                self.kill(key, Outcome::TimedOut { clock: Clock::Cpu });
                return None;
            }
            // With every core busy the limit can not be reached sooner.
            next = now + ((most - used) / self.cores).clamp(TICK_LEAST, TICK);
        }
        if counters.refused_forks.is_some_and(|refused| refused >= REFUSED_FORKS_MAX) {
            self.kill(key, Outcome::PidsLimit);
            return None;
        }
        Some(next.min(deadline))
    }

    /// Pid 1 is dead, and the kernel has killed and reaped every other process of its namespace before.
    pub(super) fn died(&mut self, key: u64) {
        // What it said last may still be in the channel.
        self.read_channel(key);
        let Some(sandbox) = self.sandboxes.get(&key) else { return };
        // Why it was ended is the truth; that pid 1 was gone is only how it showed.
        let cause = sandbox.cause.clone().filter(|cause| *cause != Outcome::EngineFault);
        let early = |step: &str| {
            Reply::Refused(match &cause {
                Some(outcome) => Refusal::Ended { outcome: outcome.clone().into() },
                None => Refusal::SetupFailed { step: step.into(), target: "pid 1".into(), errno: libc::ECHILD },
            })
        };
        self.answer_create(key, early("init"));
        self.answer_exec(key, early("start"));
        self.tell_end(key);
        self.remove(key);
    }

    /// Tells that its command has ended, once: no other process of it is alive.
    fn tell_end(&mut self, key: u64) {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        if sandbox.end.is_some() || !sandbox.run.as_ref().is_some_and(|run| run.started) {
            return;
        }
        let end: EndWire = sandbox.true_end(sandbox.plan.level.name()).into();
        sandbox.end = Some(end.clone());
        let (owner, lifetime) = (sandbox.owner, sandbox.lifetime);
        let exited = FromMonitor::Event(Event::Exited { id: sandbox.id.to_string(), end });
        self.tell(owner, lifetime, &exited);
    }

    /// Sends an event to whom it concerns.
    pub(super) fn tell(&mut self, owner: Option<ConnectionKey>, lifetime: LifetimeWire, event: &FromMonitor) {
        match (lifetime, owner) {
            (LifetimeWire::Call, Some(owner)) => self.send(owner, event, Vec::new()),
            (LifetimeWire::Call, None) => {}
            (LifetimeWire::Detached, _) => {
                self.greeted().into_iter().for_each(|front| self.send(front, event, Vec::new()));
            }
        }
    }

    /// Takes it out of the table. What it held is given back when there is time.
    fn remove(&mut self, key: u64) {
        let Some(mut sandbox) = self.sandboxes.remove(&key) else { return };
        if let Some(ahead) = sandbox.ahead.take() {
            self.ahead -= 1;
            self.ahead_is_gone(key, &ahead, sandbox.cause.as_ref());
        } else {
            self.by_id.remove(&sandbox.id);
            self.memory_promised -= sandbox.plan.limits.memory_bytes;
        }
        if sandbox.lifetime == LifetimeWire::Detached
            && !sandbox.destroy
            && let Some(end) = sandbox.end.take()
        {
            let outputs = std::mem::take(&mut sandbox.outputs);
            let mut stat = StatWire { built: built(&sandbox), ..stat_of(&sandbox) };
            stat.state = "ended".into();
            self.keep_end(stat, end, outputs);
        }
        self.unwatch(&sandbox);
        self.graves.push_back(sandbox);
        if self.graves.len() > GRAVES_MAX {
            self.bury_one();
        }
    }

    /// Reaps one that is dead, removes its cgroup, gives back its uid, and tells that nothing is left of it.
    pub(super) fn bury_one(&mut self) -> bool {
        let Some(sandbox) = self.graves.pop_front() else { return false };
        let Sandbox { id, born_as, owner, lifetime, live, volumes, .. } = sandbox;
        let uid = live.lease();
        match live.finish() {
            Ok(()) => self.leases.give_back(uid),
            // A lease that something may still carry is not leased again.
            Err(e) => tracing::error!(sandbox = %id, error = %e, uid, "a sandbox left something behind"),
        }
        self.release_volumes(&volumes);
        self.note_gone(&born_as);
        let reaped = FromMonitor::Event(Event::Reaped { id: id.to_string() });
        self.tell(owner, lifetime, &reaped);
        true
    }

    pub(super) fn note_gone(&mut self, id: &SandboxId) {
        let alive = self.sandboxes.values().chain(&self.graves).map(|s| (&s.born_as, s.live.lease()));
        if let Err(e) = self.journal.gone(id, alive, self.leases.next()) {
            tracing::warn!(sandbox = %id, error = %e, "the journal could not be written");
        }
    }
}
