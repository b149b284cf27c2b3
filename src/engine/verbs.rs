//! The handlers of the verbs. Each checks anew whatever the front may have checked before.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::ahead::created;
use super::monitor::Monitor;
use super::passed::may_be_passed;
use super::sandbox::{ConnectionKey, Sandbox, Sender, WaitingExec};
use super::states::{Permit, State, Use, permit};
use super::survey;
use super::volumes::Held;
use crate::backend::process::Live;
use crate::policy::plan::{self, Ask, Plan, plan};
use crate::policy::{FILES, is_runtime};
use crate::spec::{KilledBy, Level, Outcome, SandboxId};
use crate::wire::{
    BuiltWire, Create, Exec, FactsWire, LIST_PAGE, LifetimeWire, LimitsWire, OUTPUTS, PROTOCOL, Refusal, Reply,
    Request, StatWire, Verb, WhyWire,
};

/// How long pid 1 may take to be ready, counted from its request: on a slow host with many at once it waits its turn for
/// a processor. Less than the front waits for the reply.
pub(super) const BUILD_WAIT: Duration = Duration::from_secs(30);

impl Monitor {
    pub(super) fn request(&mut self, from: ConnectionKey, request: Request, fds: Vec<OwnedFd>) {
        let Request { seq, verb } = request;
        let greeted = self.connection(from).is_some_and(|c| c.greeted);
        if greeted == matches!(verb, Verb::Hello { .. }) {
            return self.violation(from, seq, &format!("{} out of turn", verb.name()));
        }
        if !fds.is_empty() && !matches!(verb, Verb::Exec(_)) {
            return self.violation(from, seq, &format!("descriptors beside {}", verb.name()));
        }
        match verb {
            Verb::Hello { protocol } => self.hello(from, seq, protocol),
            Verb::Probe => {
                let facts = Reply::Facts(Box::new(self.facts()));
                self.reply(from, seq, facts, Vec::new());
            }
            Verb::Create(create) => self.create(from, seq, create),
            Verb::Exec(exec) => self.exec(from, seq, exec, fds),
            Verb::Prepare(prepare) => self.prepare(from, seq, prepare),
            Verb::Take(take) => self.take(from, seq, take),
            Verb::Signal { id, why } => self.signal(from, seq, &id, why),
            Verb::Stat { id } => self.stat(from, seq, &id),
            Verb::List { after } => self.list(from, seq, after),
            Verb::Destroy { id } => self.destroy(from, seq, &id),
            Verb::Open(open) => self.open_volume(from, seq, open),
            Verb::Close { volume } => self.close_volume(from, seq, volume),
            Verb::Remove { volume } => self.remove_volume(from, seq, volume),
            Verb::Workspaces { owner, after } => self.list_workspaces(from, seq, &owner, after),
        }
    }

    pub(super) fn refuse(&mut self, to: ConnectionKey, seq: u32, refusal: Refusal) {
        self.reply(to, seq, Reply::Refused(refusal), Vec::new());
    }

    fn hello(&mut self, from: ConnectionKey, seq: u32, protocol: u32) {
        if protocol != PROTOCOL {
            return self.violation(from, seq, &format!("protocol {protocol}, this engine speaks {PROTOCOL}"));
        }
        if let Some(connection) = self.connection(from) {
            connection.greeted = true;
        }
        let capacity = self.settings.capacity;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let hello = Reply::Hello { protocol: PROTOCOL, version, capacity, instance: self.settings.instance };
        self.reply(from, seq, hello, Vec::new());
    }

    /// Levels that a call could be given now.
    pub(super) fn levels_available(&self) -> Vec<Level> {
        let s = &self.settings;
        let given = |level: &Level| plan::availability(*level, &s.facts, s.rules.allow_degraded).is_ok();
        Level::ALL.into_iter().filter(given).filter(|l| *l != Level::Minimal || s.minimal_enabled).collect()
    }

    fn facts(&self) -> FactsWire {
        let s = &self.settings;
        let mut checks = s.checks.clone();
        crate::host::refresh(&mut checks);
        survey::told(checks, &s.facts, s.rules.allow_degraded, s.minimal_enabled)
    }

    fn create(&mut self, from: ConnectionKey, seq: u32, create: Create) {
        let Ok(id) = create.id.parse::<SandboxId>() else {
            return self.violation(from, seq, "a sandbox id that is none");
        };
        if self.by_id.contains_key(&id) {
            return self.violation(from, seq, "a sandbox id that is in use");
        }
        match self.admit(&id, Sender { connection: from, seq }, &create) {
            Ok(key) => self.wake(key, Instant::now() + BUILD_WAIT),
            Err(Refusal::Protocol { what }) => self.violation(from, seq, &what),
            Err(refusal) => {
                tracing::warn!(sandbox = %id, refusal = ?refusal, "not created");
                self.refuse(from, seq, refusal);
            }
        }
    }

    /// What would be built now for these limits, if it may be.
    pub(super) fn admissible(&self, level: Level, limits: LimitsWire) -> Result<Plan, Refusal> {
        if self.stopping.is_some() {
            return Err(Refusal::Draining);
        }
        if level == Level::Minimal && !self.settings.minimal_enabled {
            return Err(Refusal::LevelUnavailable {
                missing: vec!["the operator's consent: levels.minimal is off in the configuration".into()],
            });
        }
        let ask = Ask { level, limits: limits.into() };
        let plan = plan(&ask, &self.settings.rules, &self.settings.facts).map_err(|refusal| match refusal {
            plan::Refusal::Unavailable { missing } => Refusal::LevelUnavailable { missing },
            plan::Refusal::Limits(limits) => match limits.first() {
                Some(first) => Refusal::LimitRefused { field: first.field.name().into(), most: first.most },
                None => Refusal::Protocol { what: "limits".into() },
            },
        })?;
        let capacity = self.settings.capacity;
        if self.in_use() >= capacity.sandboxes_max as usize {
            return Err(Refusal::AtCapacity { what: format!("{} sandboxes", capacity.sandboxes_max) });
        }
        if self.memory_promised + plan.limits.memory_bytes > capacity.memory_bytes_max {
            return Err(Refusal::AtCapacity {
                what: format!("{} bytes of memory promised", capacity.memory_bytes_max),
            });
        }
        Ok(plan)
    }

    /// One that waits and fits, or one that is built. On a refusal nothing is left of it.
    fn admit(&mut self, id: &SandboxId, sender: Sender, create: &Create) -> Result<u64, Refusal> {
        if !is_runtime(&create.runtime) {
            return Err(Refusal::UnknownRuntime);
        }
        let plan = self.admissible(create.level.into(), create.limits)?;
        let held = self.hold_volumes(create, &plan)?;
        let admitted = self.admit_with(id, sender, create, plan, held.clone());
        if admitted.is_err() && !self.by_id.contains_key(id) {
            self.release_volumes(&held);
        }
        admitted
    }

    /// With its volumes, which from now on are the sandbox's if there is one.
    fn admit_with(
        &mut self,
        id: &SandboxId,
        sender: Sender,
        create: &Create,
        plan: Plan,
        held: Vec<Held>,
    ) -> Result<u64, Refusal> {
        if let Some(key) = self.take_waiting(plan.level, None, &plan) {
            self.assign(key, id, sender.connection, create.lifetime, plan);
            if let Some(sandbox) = self.sandboxes.get_mut(&key) {
                sandbox.volumes = held;
                sandbox.own_code = create.runtime == FILES;
            }
            if let Err(refusal) = self.give_volumes(key) {
                self.kill(key, Outcome::EngineFault);
                return Err(refusal);
            }
            if let Some(created) = self.sandboxes.get(&key).and_then(created) {
                self.reply(sender.connection, sender.seq, Reply::Created(created), Vec::new());
                return Ok(key);
            }
            self.kill(key, Outcome::EngineFault);
            return Err(Refusal::SetupFailed { step: "hand over".into(), target: String::new(), errno: libc::EIO });
        }
        let live = self.build(id, &plan)?;
        self.memory_promised += plan.limits.memory_bytes;
        let mut sandbox = Sandbox::new(id.clone(), plan, create.lifetime, Some(sender), live, None);
        sandbox.volumes = held;
        sandbox.own_code = create.runtime == FILES;
        let key = self.insert(sandbox);
        self.by_id.insert(id.clone(), key);
        self.give_way();
        Ok(key)
    }

    /// Leases, journals, builds. On a refusal nothing is left of it.
    pub(super) fn build(&mut self, id: &SandboxId, plan: &Plan) -> Result<Live, Refusal> {
        if self.leases.available() == 0 {
            // What is dead already may hold some.
            while self.bury_one() {}
        }
        let Some(uid) = self.leases.take() else {
            return Err(Refusal::AtCapacity { what: "every uid of the lease range is in use".into() });
        };
        let uid =
            if crate::launch::fault::dropped(crate::launch::fault::Fence::Lease) { self.leases.first() } else { uid };
        let built = self
            .journal
            .born(id, uid)
            .map_err(|source| crate::launch::LaunchError { step: "journal", target: id.to_string(), source })
            .and_then(|()| self.backend.build(id, plan, uid));
        built.map_err(|e| {
            self.leases.give_back(uid);
            self.note_gone(id);
            if self.backend.is_lost() {
                tracing::error!("the cgroup subtree was removed; the engine ends, so that a new one makes another");
                self.stop();
            }
            Refusal::SetupFailed { errno: e.errno(), step: e.step.into(), target: e.target }
        })
    }

    /// Puts it into the table, which watches it from now on.
    pub(super) fn insert(&mut self, sandbox: Sandbox) -> u64 {
        let key = self.key();
        let watched = self.watch(key, &sandbox);
        self.ahead += usize::from(sandbox.ahead.is_some());
        let id = sandbox.id.clone();
        self.sandboxes.insert(key, sandbox);
        if let Err(e) = watched {
            // It is in the table, so its end is looked after like any other; it only can not be waited for by epoll.
            tracing::error!(sandbox = %id, error = %e, "a sandbox can not be watched");
            self.kill(key, Outcome::EngineFault);
        }
        key
    }

    /// The sandbox `id`, if `verb` may be used on it now. Answers otherwise.
    fn find(&mut self, from: ConnectionKey, seq: u32, id: &str, verb: Use) -> Option<u64> {
        let key = id.parse::<SandboxId>().ok().and_then(|id| self.by_id.get(&id).copied());
        let Some((key, state)) = key.and_then(|key| Some((key, self.sandboxes.get(&key)?.state))) else {
            self.refuse(from, seq, Refusal::UnknownSandbox);
            return None;
        };
        match permit(verb, state) {
            Permit::Handle => Some(key),
            Permit::TooLate => {
                self.refuse(from, seq, Refusal::WrongState { state: state.name().into() });
                None
            }
            Permit::Violation => {
                self.violation(from, seq, &format!("{verb:?} on a sandbox that is {}", state.name()));
                None
            }
        }
    }

    fn exec(&mut self, from: ConnectionKey, seq: u32, exec: Exec, mut fds: Vec<OwnedFd>) {
        let Some(key) = self.find(from, seq, &exec.id, Use::Exec) else { return };
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        let command = match exec.command(fds.len(), sandbox.lifetime) {
            Ok(command) => command,
            Err(e) => return self.violation(from, seq, &e.to_string()),
        };
        if !fds.iter().all(|fd| may_be_passed(fd.as_fd())) {
            return self.violation(from, seq, "a descriptor that is neither a pipe nor a sealed memfd");
        }
        if sandbox.waiting.is_some() {
            return self.violation(from, seq, "a second Exec for one sandbox");
        }
        if sandbox.lifetime == LifetimeWire::Detached {
            sandbox.outputs = fds.split_off(fds.len() - OUTPUTS);
        }
        // The sandbox's own limit is the most; a front that asks for more gets no more.
        let wall = Duration::from_millis(exec.wall_ms.clamp(1, sandbox.plan.limits.wall_ms));
        let sender = Some(Sender { connection: from, seq });
        let waiting = WaitingExec { sender, command, wall, fds };
        sandbox.waiting = Some(waiting);
        if sandbox.state == State::Ready {
            self.start_command(key);
        }
    }

    fn signal(&mut self, from: ConnectionKey, seq: u32, id: &str, why: WhyWire) {
        let Some(key) = self.find(from, seq, id, Use::Signal) else { return };
        let outcome = match why {
            WhyWire::Caller => Outcome::Killed { by: KilledBy::Caller },
            WhyWire::Disconnect => Outcome::Killed { by: KilledBy::Disconnect },
            WhyWire::Shutdown => Outcome::Killed { by: KilledBy::Shutdown },
            WhyWire::OutputLimit => Outcome::OutputLimit,
        };
        self.kill(key, outcome);
        self.reply(from, seq, Reply::Done, Vec::new());
    }

    fn destroy(&mut self, from: ConnectionKey, seq: u32, id: &str) {
        if let Some(at) = self.ended.iter().position(|e| e.stat.id == id) {
            self.ended.remove(at);
            return self.reply(from, seq, Reply::Done, Vec::new());
        }
        let Some(key) = self.find(from, seq, id, Use::Destroy) else { return };
        if let Some(sandbox) = self.sandboxes.get_mut(&key) {
            sandbox.destroy = true;
        }
        self.kill(key, Outcome::Killed { by: KilledBy::Caller });
        self.reply(from, seq, Reply::Done, Vec::new());
    }

    fn stat(&mut self, from: ConnectionKey, seq: u32, id: &str) {
        if let Some(ended) = self.ended.iter().find(|e| e.stat.id == id) {
            let stat = Reply::Stat(StatWire { outputs: false, ..ended.stat.clone() });
            return self.reply(from, seq, stat, Vec::new());
        }
        let Some(key) = self.find(from, seq, id, Use::Stat) else { return };
        if let Some(sandbox) = self.sandboxes.get(&key) {
            let inner = sandbox.run.as_ref().and_then(|run| run.pid);
            let command_pid = inner.and_then(|pid| sandbox.live.host_pid(pid));
            let stat = StatWire { command_pid, built: built(sandbox), ..stat_of(sandbox) };
            self.reply(from, seq, Reply::Stat(stat), Vec::new());
        }
    }

    fn list(&mut self, from: ConnectionKey, seq: u32, after: Option<String>) {
        let mut all: Vec<(StatWire, &[OwnedFd])> =
            self.ended.iter().map(|e| (StatWire { built: None, ..e.stat.clone() }, &e.outputs[..])).collect();
        all.extend(self.by_id.values().filter_map(|key| self.sandboxes.get(key)).map(|s| (stat_of(s), &s.outputs[..])));
        all.sort_by(|a, b| a.0.id.cmp(&b.0.id));
        let mut page: Vec<_> = all.into_iter().filter(|(s, _)| after.as_ref().is_none_or(|a| s.id > *a)).collect();
        let more = page.len() > LIST_PAGE;
        page.truncate(LIST_PAGE);
        let mut fds = Vec::new();
        let mut entries = Vec::new();
        for (mut stat, outputs) in page {
            // Those of a whole page would not fit.
            if let Some(end) = &mut stat.end {
                end.denials = None;
            }
            let copies: Result<Vec<OwnedFd>, _> = outputs.iter().map(|fd| fd.as_fd().try_clone_to_owned()).collect();
            match copies {
                Ok(copies) => {
                    stat.outputs = copies.len() == OUTPUTS;
                    fds.extend(copies);
                }
                Err(e) => {
                    tracing::warn!(error = %e, "output can not be handed out now");
                    stat.outputs = false;
                }
            }
            entries.push(stat);
        }
        self.reply(from, seq, Reply::List { entries, more }, fds);
    }
}

/// Of a detached sandbox that is complete.
pub(super) fn built(sandbox: &Sandbox) -> Option<Box<BuiltWire>> {
    let created = created(sandbox).filter(|_| sandbox.lifetime == LifetimeWire::Detached)?;
    let started = sandbox.run.as_ref().is_some_and(|run| run.started);
    Some(Box::new(BuiltWire { created: *created, started, landlock: sandbox.landlock.clone() }))
}

pub(super) fn stat_of(sandbox: &Sandbox) -> StatWire {
    StatWire {
        id: sandbox.id.to_string(),
        level: sandbox.plan.level.into(),
        state: sandbox.state.name().into(),
        lifetime: sandbox.lifetime,
        host_pid: sandbox.live.pid(),
        command_pid: None,
        cgroup_path: sandbox.live.cgroup_path().map(|p| p.display().to_string()),
        age_ms: sandbox.born.elapsed().as_millis() as u64,
        usage: sandbox.usage().into(),
        outputs: false,
        end: sandbox.end.clone().filter(|_| sandbox.lifetime == LifetimeWire::Detached),
        built: None,
    }
}
