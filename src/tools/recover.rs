//! What an earlier front promised: runs that go on without a caller are taken up again where they are, and those that have
//! ended can still be asked about.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::admission::Permit;
use super::aside::off_thread;
use super::call::CallError;
use super::conclusion::keep;
use super::events::Stream;
use super::execute::Service;
use super::finish::{Execution, SandboxFacts};
use super::kept::KEPT_FOR;
use super::live::{Entry, Following, Listed};
use super::output::Captured;
use super::phases::Around;
use super::replies::{Enter, Reserved};
use super::run::{Adopted, Ran, destroy};
use super::spool::{Found, Line, Spool};
use super::stored::{StoredCall, StoredEnd};
use crate::runtimes::python::RESULT_BYTES_MAX;
use crate::spec::{End, Enforced, Level, Outcome, SandboxId, Usage, capped};
use crate::wire::client::{Client, ClientError, Exited};
use crate::wire::{BuiltWire, EndWire, LifetimeWire, OUTPUTS, Reply, StatWire, Verb, WhyWire};

/// Engine and front may have been restarted together; an engine that is away for longer is told of.
const ENGINE_TELL: Duration = Duration::from_secs(60);
const ENGINE_POLL: Duration = Duration::from_millis(100);
/// A command that was on its way when its front ended has started, or has not, by then: see the engine's own bound.
const START_WAIT: Duration = Duration::from_secs(40);
const START_POLL: Duration = Duration::from_millis(20);

/// How the first attempt goes on that an earlier front began.
pub(super) enum Taken {
    Adopted(Box<Adopted>),
    /// It has ended, and only this much is known.
    Ran(Box<Ran>),
    /// It was the front's own work, and ended with it.
    Lost,
}

/// One that has not ended.
struct Pending {
    listed: Listed,
    spool: Spool,
    call: StoredCall,
    journal: Vec<Line>,
    reserved: Option<Reserved>,
    /// Of the sandbox that it may have.
    permit: Option<Permit>,
}

/// What the engine has of one.
struct Seen {
    stat: StatWire,
    outputs: Vec<OwnedFd>,
    exited: Exited,
}

/// The last sandbox of a run.
struct Building {
    attempt: u32,
    sandbox: SandboxId,
    instance: u64,
    memory_bytes: u64,
}

/// `None` where nothing was asked for, or nothing came of it.
fn building(journal: &[Line]) -> Option<Building> {
    let last = journal.iter().rposition(|line| matches!(line, Line::Building { .. } | Line::Refused { .. }))?;
    match &journal[last] {
        Line::Building { attempt, sandbox, instance, memory_bytes } => Some(Building {
            attempt: *attempt,
            sandbox: sandbox.parse().ok()?,
            instance: *instance,
            memory_bytes: *memory_bytes,
        }),
        _ => None,
    }
}

/// The attempt that comes next where no sandbox is there.
fn next_attempt(journal: &[Line]) -> u32 {
    let of = |line: &Line| match line {
        Line::Refused { attempt } => Some(*attempt),
        _ => None,
    };
    journal.iter().rev().find_map(of).unwrap_or(1)
}

impl Service {
    /// Takes up what earlier fronts promised. Once it returns, all of that can be asked about; it goes on by and by.
    pub async fn recover(self: &Arc<Self>) {
        if self.spools.is_none() {
            return;
        }
        let service = Arc::clone(self);
        let Some(Some(pending)) = off_thread(move || service.found()).await else {
            // Sandboxes of theirs are left alone: another daemon may read what this one can not.
            return tracing::error!("runs of an earlier front can not be read and are not gone on with");
        };
        if !pending.is_empty() {
            tracing::info!(runs = pending.len(), "going on with runs of an earlier front");
        }
        let service = Arc::clone(self);
        tokio::spawn(service.go_on(pending));
    }

    /// Puts everything that is on disk where it can be asked about; returns what has not ended.
    fn found(self: Arc<Self>) -> Option<Vec<Pending>> {
        let find = self.spools.as_ref()?.find::<StoredCall>();
        let mut found = find.inspect_err(|error| tracing::error!(%error, "directory of runs")).ok()?;
        found.sort_by_key(|one| one.call.accepted_at());
        let (mut pending, mut ended) = (Vec::new(), Vec::new());
        for one in found {
            let (spool, is_ended) = (one.spool.clone(), one.ended);
            let taken = if is_ended {
                self.ended(one).map(|one| ended.push(one))
            } else {
                self.under_way(one).map(|one| pending.push(one))
            };
            if taken.is_none() {
                spool.remove();
            }
        }
        ended.sort_by_key(|(at, _)| *at);
        let now = std::time::Instant::now();
        for (at, entry) in ended {
            let age = at.elapsed().unwrap_or_default();
            self.kept.insert_of(entry, now.checked_sub(age).unwrap_or(now));
        }
        Some(pending)
    }

    /// `None`: nobody needs it any more, or it is not what was written.
    fn ended(&self, one: Found<StoredCall>) -> Option<(SystemTime, Arc<Entry>)> {
        let at = one.spool.ended_at().ok()?;
        if at.elapsed().unwrap_or_default() > KEPT_FOR {
            return None;
        }
        let result = one.spool.ended::<StoredEnd>().ok()?.result(&self.registry)?;
        let (entry, once) = (entry(&one)?, one.call.once());
        if let (Ok(reply), Some(once)) = (&result, once)
            && let Ok(Enter::New(reserved)) = self.replies.enter(&entry.owner, &once)
        {
            keep(reserved, reply);
        }
        entry.log.as_ref()?.end(result);
        Some((at, Arc::new(entry)))
    }

    fn under_way(&self, one: Found<StoredCall>) -> Option<Pending> {
        let entry = entry(&one)?;
        let Found { spool, call, journal, .. } = one;
        let reserved = call.once().and_then(|once| match self.replies.enter(&entry.owner, &once) {
            Ok(Enter::New(reserved)) => Some(reserved),
            _ => None,
        });
        let listed = self.live.insert(entry).ok()?;
        if journal.contains(&Line::Cancelled) {
            listed.entry.end(WhyWire::Caller);
        }
        // Before others come: the engine counts it, too.
        let permit = building(&journal).map(|last| self.admission.take_over(&listed.entry.owner, last.memory_bytes));
        Some(Pending { listed, spool, call, journal, reserved, permit })
    }

    async fn go_on(self: Arc<Self>, mut pending: Vec<Pending>) {
        let (client, mut seen) = self.engine(&mut pending).await;
        for mut one in pending {
            // Where there is none after all it makes way for the next.
            drop(one.permit.take());
            let sandbox = building(&one.journal).and_then(|b| seen.remove(b.sandbox.as_str()));
            let (service, client) = (Arc::clone(&self), client.clone());
            tokio::spawn(async move {
                let result = service.resume(&one, client, sandbox).await.map(Arc::new);
                service.conclude(one.listed, result, one.reserved).await;
            });
        }
        // Ends that were kept already when their front went, say. A call that came meanwhile names its sandbox before it has one.
        let all = seen.into_keys().filter_map(|id| id.parse::<SandboxId>().ok());
        for id in all.filter(|id| !self.live.has_sandbox(id)) {
            destroy(client.clone(), id);
        }
    }

    /// An engine, and all detached sandboxes that it has.
    async fn engine(&self, pending: &mut [Pending]) -> (Client, HashMap<String, Seen>) {
        let (since, mut told) = (Instant::now(), false);
        loop {
            let asked = async {
                let client = self.monitor.client().await?;
                let seen = sandboxes(&client, pending).await?;
                Ok::<_, ClientError>((client, seen))
            };
            match asked.await {
                Ok(found) => return found,
                Err(error) if since.elapsed() > ENGINE_TELL && !told => {
                    tracing::error!(%error, "runs of an earlier front wait for the engine");
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(ENGINE_POLL).await;
        }
    }

    async fn resume(
        self: &Arc<Self>,
        one: &Pending,
        client: Client,
        seen: Option<Seen>,
    ) -> Result<Execution, CallError> {
        let last = building(&one.journal);
        let first = match last {
            None if one.journal.contains(&Line::Answering) => (1, Some(Taken::Lost)),
            None => (next_attempt(&one.journal), None),
            Some(last) => (last.attempt, self.take_up(one, &last, client, seen).await?),
        };
        let age = one.call.accepted_at().elapsed().unwrap_or_default();
        let arrived = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        let call = one.call.clone().call().ok_or_else(|| CallError::Internal("a kept call is damaged".into()))?;
        let epoch = self.cache.epoch();
        let unknown = || CallError::UnknownTool(capped(&call.tool, 64));
        let tool = self.registry.get(&call.tool).ok_or_else(unknown)?;
        let (plan, context) = self.planned(call, &tool, &one.call.principal(), epoch).await?;
        self.run(&one.listed, &plan, context, tool, arrived, first).await
    }

    /// What became of the sandbox of `last`; `None`: its command never ran.
    async fn take_up(
        self: &Arc<Self>,
        one: &Pending,
        last: &Building,
        client: Client,
        seen: Option<Seen>,
    ) -> Result<Option<Taken>, CallError> {
        let started = one.journal.iter().rev().find_map(|line| match line {
            Line::Started { attempt, created, landlock } if *attempt == last.attempt => {
                Some(BuiltWire { created: (**created).clone(), started: true, landlock: landlock.clone() })
            }
            _ => None,
        });
        // Whatever becomes of this, the sandbox is not left to itself.
        one.listed.entry.building(&last.sandbox);
        let Some(seen) = seen else {
            let same_engine = client.instance() == last.instance;
            return match started {
                // A command that ran is known to the engine until somebody has taken its end.
                None if same_engine => Ok(None),
                None => Err(CallError::Internal("the engine and the front ended while a command was to start".into())),
                Some(built) => lost(one, last, built).await.map(Some),
            };
        };
        let built = match started {
            Some(built) => built,
            None => match until_started(&client, &last.sandbox).await.map_err(CallError::EngineUnavailable)? {
                Some(built) => {
                    let line = Line::Started {
                        attempt: last.attempt,
                        created: Box::new(built.created.clone()),
                        landlock: built.landlock.clone(),
                    };
                    let spool = one.spool.clone();
                    if let Some(Err(error)) = off_thread(move || spool.note(&line)).await {
                        tracing::warn!(%error, "the start of a run can not be kept over a restart");
                    }
                    if let Some(log) = &one.listed.entry.log {
                        log.started(last.attempt, Some(last.sandbox.clone()));
                    }
                    built
                }
                None => return Ok(None),
            },
        };
        let Seen { stat, outputs, exited } = seen;
        if stat.state == "ended" {
            // Nothing of it is left, and nothing more is told of it.
            client.unwatch(last.sandbox.as_str());
        }
        let end = match stat.end {
            // What was refused does not travel with the list.
            Some(_) => ended(&client, &last.sandbox).await.map_err(CallError::EngineUnavailable)?.or(stat.end),
            None => None,
        };
        let exited = end.map_or(exited, Exited::known);
        let (id, level) = (last.sandbox.clone(), stat.level.into());
        Ok(Some(Taken::Adopted(Box::new(Adopted { client, id, level, built, outputs, exited }))))
    }
}

/// The entry of one, as its front had it.
fn entry(one: &Found<StoredCall>) -> Option<Entry> {
    let call = &one.call;
    let (name, _) = call.tool.split_once('@')?;
    let (level, agent) = (Level::from(call.effective), call.agent_id().map(str::to_owned));
    let mut entry = Entry::new(call.execution_id()?, &call.principal(), name, level, agent, Following::Detached);
    entry.started_at = call.accepted_at();
    entry.spool = Some(one.spool.clone());
    let log = entry.log.as_ref()?;
    for line in &one.journal {
        let Line::Started { attempt, .. } = line else { continue };
        let of = |line: &Line| match line {
            Line::Building { attempt: of, sandbox, .. } if of == attempt => sandbox.parse().ok(),
            _ => None,
        };
        let Some(sandbox) = one.journal.iter().rev().find_map(of) else { continue };
        entry.building(&sandbox);
        entry.started();
        log.started(*attempt, Some(sandbox));
        let denied = |line: &Line| match line {
            Line::Denied { attempt: of, denial } if of == attempt => Some(denial.clone()),
            _ => None,
        };
        one.journal.iter().filter_map(denied).for_each(|denial| log.denied(denial.into()));
        log.output(Stream::Stdout, &one.spool.content(*attempt, "stdout"));
        log.output(Stream::Stderr, &one.spool.content(*attempt, "stderr"));
    }
    Some(entry)
}

/// All detached sandboxes that the engine has, by their ids; those of `pending` are watched.
async fn sandboxes(client: &Client, pending: &mut [Pending]) -> Result<HashMap<String, Seen>, ClientError> {
    // Before the engine is asked: an end is in its answer or comes after it.
    let mut watched = HashMap::new();
    for one in pending {
        let Some(last) = building(&one.journal) else { continue };
        // Held for as long as anything of it is left.
        let exited = client.watch(last.sandbox.as_str(), Box::new(one.permit.take()))?;
        watched.insert(last.sandbox.as_str().to_owned(), exited);
    }
    let mut seen = HashMap::new();
    let mut after = None;
    loop {
        let (reply, fds) = client.send(Verb::List { after }, &[]).await?.reply_with_descriptors().await?;
        let Reply::List { entries, more } = reply else { return Err(ClientError::Unexpected { verb: "List" }) };
        after = entries.last().map(|stat| stat.id.clone());
        let mut fds = fds.into_iter();
        for stat in entries {
            let outputs: Vec<_> = fds.by_ref().take(if stat.outputs { OUTPUTS } else { 0 }).collect();
            if stat.lifetime != LifetimeWire::Detached {
                continue;
            }
            let id = stat.id.clone();
            // Nobody's: it is only seen to be ended.
            let exited = watched.remove(&id).unwrap_or_else(Exited::never);
            seen.insert(id, Seen { stat, outputs, exited });
        }
        if !more || after.is_none() {
            break;
        }
    }
    watched.keys().for_each(|id| client.unwatch(id));
    Ok(seen)
}

/// Waits until the command of `id` runs or ran; `None`: it never did.
async fn until_started(client: &Client, id: &SandboxId) -> Result<Option<BuiltWire>, ClientError> {
    let until = Instant::now() + START_WAIT;
    loop {
        let stat = match client.call(Verb::Stat { id: id.as_str().to_owned() }).await? {
            Reply::Stat(stat) => stat,
            Reply::Refused(_) => return Ok(None),
            _ => return Err(ClientError::Unexpected { verb: "Stat" }),
        };
        match stat.built {
            Some(built) if built.started => return Ok(Some(*built)),
            _ if Instant::now() > until => return Err(ClientError::TimedOut { verb: "Stat" }),
            _ => tokio::time::sleep(START_POLL).await,
        }
    }
}

/// The whole end of one that has ended.
async fn ended(client: &Client, id: &SandboxId) -> Result<Option<EndWire>, ClientError> {
    match client.call(Verb::Stat { id: id.as_str().to_owned() }).await? {
        Reply::Stat(stat) => Ok(stat.end),
        _ => Ok(None),
    }
}

/// The engine ended, and the command with it.
async fn lost(one: &Pending, last: &Building, built: BuiltWire) -> Result<Taken, CallError> {
    let (spool, attempt) = (one.spool.clone(), last.attempt);
    let kept = usize::try_from(built.created.limits.output_bytes).unwrap_or(0);
    let read = move || -> std::io::Result<[Captured; 3]> {
        let stream = |name, most| {
            let (spooled, content) = spool.stream(attempt, name)?;
            Ok::<_, std::io::Error>(Captured::new(most).kept_in(spooled, content))
        };
        Ok([stream("stdout", kept)?, stream("stderr", kept)?, stream("result", RESULT_BYTES_MAX)?])
    };
    let [stdout, stderr, document] = match off_thread(read).await {
        Some(Ok(streams)) => streams,
        Some(Err(error)) => return Err(CallError::Internal(format!("a kept run is damaged: {error}"))),
        None => return Err(CallError::Draining),
    };
    let enforced = Enforced { landlock: built.landlock.map(Into::into), ..built.created.enforced.into() };
    let sandbox = SandboxFacts {
        id: last.sandbox.clone(),
        level: one.call.effective.into(),
        degraded: built.created.degraded,
        enforced,
    };
    let end = End { outcome: Outcome::EngineFault, limits_hit: Vec::new(), usage: Usage::default(), denials: None };
    let result = document.into_document();
    Ok(Taken::Ran(Box::new(Ran { sandbox, end: Ok(end), stdout, stderr, result, around: Around::default() })))
}
