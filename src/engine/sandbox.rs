//! One row of the monitor's table.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::ahead::Ahead;
use super::denials::Record;
use super::states::State;
use super::volumes::Held;
use crate::backend::process::Live;
use crate::launch::channel::CommandEnd;
use crate::policy::plan::Plan;
use crate::spec::{Command, End, Enforced, Outcome, SandboxId, Usage};
use crate::wire::{EndWire, LandlockWire, LifetimeWire};

/// A connection's number; never used twice.
pub type ConnectionKey = u64;

#[derive(Debug)]
pub struct Sandbox {
    pub id: SandboxId,
    /// The id under which it was built, which its cgroup and the journal's line carry. Another one where it was built ahead.
    pub born_as: SandboxId,
    pub plan: Plan,
    pub lifetime: LifetimeWire,
    /// The connection that created it, while it lasts.
    pub owner: Option<ConnectionKey>,
    pub live: Live,
    pub state: State,
    pub born: Instant,
    /// `seq` of the Create that has not been answered.
    pub create_seq: Option<u32>,
    /// An Exec that came before Ready.
    pub waiting: Option<WaitingExec>,
    pub run: Option<Run>,
    /// Why the monitor killed it: whoever is first stays.
    pub cause: Option<Outcome>,
    /// Duplicates of the read ends of a detached sandbox's output.
    pub outputs: Vec<OwnedFd>,
    /// Scratch mounts found full before a kill.
    pub full_mounts: u32,
    /// Largest resident set seen before a kill, where no controller counts memory.
    pub resident_bytes: u64,
    pub destroy: bool,
    /// Read back when it was ready, and found to be what the plan says.
    pub enforced: Option<Enforced>,
    /// What was refused in it, where pid 1 counts that.
    pub denials: Option<Record>,
    /// What the command of a detached one put on itself, once it was started.
    pub landlock: Option<LandlockWire>,
    /// The command's end, once it was told.
    pub end: Option<EndWire>,
    /// Set until it is a call's, where it was built ahead.
    pub ahead: Option<Ahead>,
    /// When the monitor looks at it again by itself.
    pub next_check: Option<Instant>,
    pub(super) volumes: Vec<Held>,
    /// Its command is the project's own operations on files.
    pub own_code: bool,
}

/// Who is to be answered: not always the owner, since a new front may use what an earlier one created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    pub connection: ConnectionKey,
    pub seq: u32,
}

#[derive(Debug)]
pub struct WaitingExec {
    /// `None`: the monitor's own, ahead of a call.
    pub sender: Option<Sender>,
    pub command: Command,
    pub wall: Duration,
    pub fds: Vec<OwnedFd>,
}

/// One command on its way or running.
#[derive(Debug)]
pub struct Run {
    /// Of the Exec, until it has been answered.
    pub sender: Option<Sender>,
    pub began: Instant,
    pub wall: Duration,
    /// Of the cgroup when the command began: set-up is not the caller's.
    pub cpu_us_before: u64,
    pub started: bool,
    /// As seen inside.
    pub pid: Option<i32>,
    /// The command's own end and when it came.
    pub end: Option<(CommandEnd, Instant)>,
}

impl Sandbox {
    /// One whose pid 1 is on its way. `create`: who is to be answered once it is ready.
    pub fn new(
        id: SandboxId,
        plan: Plan,
        lifetime: LifetimeWire,
        create: Option<Sender>,
        live: Live,
        ahead: Option<Ahead>,
    ) -> Self {
        Self {
            born_as: id.clone(),
            id,
            plan,
            lifetime,
            owner: create.map(|sender| sender.connection),
            live,
            state: State::Building,
            born: Instant::now(),
            create_seq: create.map(|sender| sender.seq),
            waiting: None,
            run: None,
            cause: None,
            outputs: Vec::new(),
            full_mounts: 0,
            resident_bytes: 0,
            destroy: false,
            enforced: None,
            denials: None,
            landlock: None,
            end: None,
            ahead,
            next_check: None,
            volumes: Vec::new(),
            own_code: false,
        }
    }

    /// What a later front may ask for; of a call's own sandbox nobody does.
    pub fn remember(&mut self, landlock: Option<&LandlockWire>) {
        if self.lifetime == LifetimeWire::Detached {
            self.landlock = landlock.cloned();
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.run.as_ref().filter(|run| run.end.is_none()).map(|run| run.began + run.wall)
    }

    /// What the command has used so far.
    pub fn usage(&self) -> Usage {
        let Some(run) = &self.run else { return Usage::default() };
        let until = run.end.map_or_else(Instant::now, |(_, at)| at);
        let reaped = run.end.map(|(end, _)| end);
        let cpu_us = match self.live.counters().cpu_us {
            Some(now) => now.saturating_sub(run.cpu_us_before),
            None => reaped.map_or(0, |end| end.cpu_us),
        };
        Usage {
            wall_us: until.duration_since(run.began).as_micros() as u64,
            cpu_us,
            memory_peak_bytes: self
                .live
                .memory_peak()
                .or(reaped.map(|end| end.max_rss_bytes))
                .unwrap_or(self.resident_bytes),
            network_requests: 0,
        }
    }

    /// The end of the command, once every process is dead: the monitor's own kill, then the OOM killer by the cgroup's
    /// counter, then what pid 1 saw.
    pub fn true_end(&self, profile: &str) -> End {
        let own = self.run.as_ref().and_then(|run| run.end).map(|(end, _)| end);
        let full = self.full_mounts.max(own.map_or(0, |end| end.full_mounts));
        let (oom, limits_hit) = self.live.verdict(full);
        let outcome = match (&self.cause, oom, own) {
            (Some(cause), _, _) => cause.clone(),
            (None, true, _) => Outcome::OutOfMemory,
            (None, false, Some(end)) => crate::backend::process::own_end(&end, profile),
            (None, false, None) => Outcome::EngineFault,
        };
        let denials = self.denials.as_ref().map(|record| record.all(&self.plan));
        End { outcome, limits_hit, usage: self.usage(), denials }
    }
}
