//! The execution service: every call of every transport passes here.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::admission::Admission;
use super::aside::aside;
use super::call::{Call, CallError, Context, Once};
use super::finish::{Execution, Finished, Reply, ToolError};
use super::live::{Entry, Listed, Live};
use super::plan::{self, Plan};
use super::principal::Principal;
use super::registry::Registry;
use super::replies::{Enter, Replies};
use super::run::{Attempt, Ran, random};
use crate::config::Config;
use crate::spec::{ExecutionId, KilledBy, LimitHit, LimitKind, Outcome, capped};
use crate::telemetry::metrics::{Metrics, Now};
use crate::wire::client::{ClientError, Monitor};
use crate::wire::{FactsWire, Reply as Answer, StatWire, Verb, WhyWire};

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MOST: Duration = Duration::from_secs(5);
const ENDED_POLL: Duration = Duration::from_millis(20);

/// Runs calls. One per daemon.
pub struct Service {
    config: RwLock<Arc<Config>>,
    monitor: Arc<Monitor>,
    registry: Registry,
    admission: Arc<Admission>,
    live: Arc<Live>,
    replies: Arc<Replies>,
    metrics: Metrics,
}

impl Service {
    pub fn new(config: Arc<Config>, monitor: Arc<Monitor>) -> Self {
        let metrics = Metrics::new();
        Self {
            admission: Arc::new(Admission::new(&config, metrics.admission())),
            config: RwLock::new(config),
            monitor,
            registry: Registry::built_in(),
            live: Arc::default(),
            replies: Arc::default(),
            metrics,
        }
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What [`Metrics`] does not count itself.
    pub fn now(&self) -> Now {
        let (waiting, waiting_principals) = self.admission.waiting();
        Now { live: self.live.len(), waiting, waiting_principals, engine_connected: self.monitor.is_connected() }
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Calls that are under way keep what they were planned with.
    pub fn reload(&self, config: Arc<Config>) {
        self.monitor.hold_ahead();
        let (monitor, prepared) = (Arc::clone(&self.monitor), super::prepared(&config));
        tokio::spawn(async move {
            // An engine that can not be reached is told when it can.
            if let Err(error) = monitor.prepare(prepared).await {
                tracing::info!(%error, "the engine was not told what to start ahead");
            }
        });
        *self.config.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = config;
    }

    /// One line for the service manager.
    pub fn status(&self) -> String {
        let now = self.now();
        let engine = if now.engine_connected { "connected" } else { "not reachable" };
        format!("{} calls, {} of them waiting for room; engine {engine}", now.live, now.waiting)
    }

    /// Runs `call` for `principal`. Dropping the future ends the run at once; with `once`, the same call again gets the
    /// reply of the first.
    pub async fn execute(
        self: &Arc<Self>,
        principal: &Principal,
        call: Call,
        once: Option<Once>,
    ) -> Result<Reply, CallError> {
        let arrived = Instant::now();
        // A schema's patterns and lengths go over every character.
        let (plan, context, tool) = aside(call.text_bytes(), {
            let (service, principal) = (Arc::clone(self), principal.clone());
            move || {
                let planned = plan::plan(call, &principal, &service.registry, &service.config());
                planned.map(|(plan, context, tool)| (plan, context, tool.spec().name))
            }
        })
        .await
        .ok_or_else(|| CallError::Internal("the checks of a call were not finished".into()))??;
        let reserved = match once {
            None => None,
            Some(once) => loop {
                match self.replies.enter(&principal.name, &once)? {
                    Enter::Stored(reply) => return Ok(reply),
                    Enter::Running(first) => first.wait().await,
                    Enter::New(reserved) => break Some(reserved),
                }
            },
        };
        let id = match context.execution_id.clone() {
            Some(id) => id,
            None => ExecutionId::from_random(random()?),
        };
        let entry = Entry::new(id, principal, tool, plan.level, context.agent_id.clone());
        let listed = self.live.insert(entry)?;
        let caller = CallerGone { entry: Arc::clone(&listed.entry) };
        let (sender, reply) = oneshot::channel();
        let service = Arc::clone(self);
        // A task of its own: when the caller goes, its sandbox still has to be ended, reported and accounted for.
        tokio::spawn(async move {
            let result = service.run(&listed, &plan, context, tool, arrived).await.map(Arc::new);
            if let Ok(execution) = &result {
                service.count(execution);
            }
            if let (Ok(reply), Some(reserved)) = (&result, reserved)
                && !is_cut_off(reply)
            {
                reserved.keep(Arc::clone(reply), REPLY_OVERHEAD_BYTES + reply.held_bytes());
            }
            drop(listed);
            let _caller_gone = sender.send(result);
        });
        let result = reply.await.unwrap_or_else(|_| Err(CallError::Internal("a run ended without a result".into())));
        drop(caller);
        result
    }

    /// Attempts until one runs, as often as the caller asked and the call's time allows.
    async fn run(
        self: &Arc<Self>,
        listed: &Listed,
        plan: &Plan,
        context: Context,
        tool: &'static str,
        arrived: Instant,
    ) -> Result<Execution, CallError> {
        let Some(tool) = self.registry.get(tool) else {
            return Err(CallError::Internal("a tool left the registry during its call".into()));
        };
        let attempt = Attempt {
            monitor: &self.monitor,
            admission: &self.admission,
            plan,
            workspace: context.workspace.as_ref(),
            deadline: context.timeout_ms.map(|ms| arrived + Duration::from_millis(ms)),
            entry: &listed.entry,
        };
        let mut attempts = 1;
        let mut backoff = BACKOFF_FIRST;
        let ran = loop {
            let result = attempt.run().await;
            let again = match &result {
                Ok(ran) => tool.spec().idempotent && failed_by_chance(ran),
                Err(error) => error.is_worth_retrying(),
            };
            let pause = jittered(backoff)?;
            let in_time = attempt.deadline.is_none_or(|deadline| Instant::now() + pause < deadline);
            if !again || attempts > context.retry_count || !in_time || listed.entry.cancel.borrow().is_some() {
                break result?;
            }
            tokio::time::sleep(pause).await;
            backoff = (backoff * 2).min(BACKOFF_MOST);
            attempts += 1;
        };
        self.finish(listed, tool, context, ran, attempts, arrived).await
    }

    async fn finish(
        self: &Arc<Self>,
        listed: &Listed,
        tool: &dyn super::Tool,
        context: Context,
        ran: Ran,
        attempts: u32,
        arrived: Instant,
    ) -> Result<Execution, CallError> {
        let Ran { sandbox, end, stdout, stderr, result } = ran;
        let (outcome, refused, mut limits_hit, usage) = match end {
            Ok(end) => (Some(end.outcome), None, end.limits_hit, end.usage),
            Err(refused) => (None, Some(refused), Vec::new(), Default::default()),
        };
        let outcome = outcome.map(bounded);
        let bytes = stdout.kept_bytes() + stderr.kept_bytes() + result.as_ref().map_or(0, Vec::len);
        let shape = {
            let (service, name, outcome) = (Arc::clone(self), tool.spec().name, outcome.clone());
            move || {
                let (stdout, stdout_facts) = stdout.into_text();
                let (stderr, stderr_facts) = stderr.into_text();
                let finished = Finished { outcome, refused, stdout, stderr, result };
                Some((service.registry.get(name)?.shape(finished), stdout_facts, stderr_facts))
            }
        };
        let (shaped, stdout_facts, stderr_facts) = aside(bytes, shape)
            .await
            .flatten()
            .ok_or_else(|| CallError::Internal("the shaping of a result was not finished".into()))?;
        let truncated = u64::from(stdout_facts.truncated) + u64::from(stderr_facts.truncated);
        if truncated > 0 {
            limits_hit.push(LimitHit { kind: LimitKind::Output, count: truncated });
        }
        Ok(Execution {
            id: listed.entry.id.clone(),
            tool: tool.spec().name,
            tool_version: tool.spec().version,
            agent_id: context.agent_id,
            metadata: context.metadata,
            result: shaped.result,
            success: shaped.success,
            error: shaped.error.map(|e| ToolError { message: capped(&e.message, 2000), ..e }),
            outcome,
            limits_hit,
            time: arrived.elapsed(),
            attempts,
            usage,
            stdout: stdout_facts,
            stderr: stderr_facts,
            sandbox,
        })
    }

    fn count(&self, execution: &Execution) {
        let outcome = execution.outcome.as_ref().map_or("setup_failed", Outcome::kind);
        let (level, cpu) = (execution.sandbox.level.name(), execution.usage.cpu_us as f64 / 1e6);
        self.metrics.ran(execution.tool, level, outcome, execution.time.as_secs_f64(), cpu);
        execution.limits_hit.iter().for_each(|hit| self.metrics.limit_hit(hit.kind.name()));
    }

    /// Executions under way that `principal` may see, oldest first.
    pub fn list(&self, principal: &Principal) -> Vec<Arc<Entry>> {
        self.live.list(principal)
    }

    pub fn get(&self, principal: &Principal, id: &ExecutionId) -> Option<Arc<Entry>> {
        self.live.get(principal, id)
    }

    /// Ends an execution that `principal` may see; `None` where there is none.
    pub fn end(&self, principal: &Principal, id: &ExecutionId) -> Option<Arc<Entry>> {
        let entry = self.live.get(principal, id)?;
        entry.end(WhyWire::Caller);
        Some(entry)
    }

    /// What the engine knows of the sandbox of `entry`; `None` where it has none (any more).
    pub async fn stat(&self, entry: &Entry) -> Result<Option<StatWire>, ClientError> {
        let Some(sandbox) = entry.sandbox() else { return Ok(None) };
        let verb = Verb::Stat { id: sandbox.as_str().to_owned() };
        match self.monitor.client().await?.call(verb).await? {
            Answer::Stat(stat) => Ok(Some(stat)),
            Answer::Refused(_) => Ok(None),
            _ => Err(ClientError::Unexpected { verb: "Stat" }),
        }
    }

    /// What this host has and which levels it can give.
    pub async fn facts(&self) -> Result<FactsWire, ClientError> {
        match self.monitor.client().await?.call(Verb::Probe).await? {
            Answer::Facts(facts) => Ok(*facts),
            _ => Err(ClientError::Unexpected { verb: "Probe" }),
        }
    }

    /// Whether a call could be run now.
    pub async fn ready(&self) -> Result<(), ClientError> {
        self.monitor.client().await.map(drop)
    }

    /// Refuses what waits for room.
    pub fn drain(&self) {
        self.admission.close();
    }

    /// Ends everything that is under way.
    pub fn shut_down(&self) {
        self.live.end_all(WhyWire::Shutdown);
    }

    /// Completes when nothing is under way.
    pub async fn idle(&self) {
        while !self.live.is_empty() {
            tokio::time::sleep(ENDED_POLL).await;
        }
    }
}

/// Held by the caller's future; the reply makes it harmless, because then the entry has left the table.
struct CallerGone {
    entry: Arc<Entry>,
}

impl Drop for CallerGone {
    fn drop(&mut self) {
        self.entry.end(WhyWire::Disconnect);
    }
}

/// Of a kept reply beside its result.
const REPLY_OVERHEAD_BYTES: usize = 4096;

/// The body of a call, for comparing it with a later one under the same id.
pub fn fingerprint(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

fn failed_by_chance(ran: &Ran) -> bool {
    ran.end.as_ref().is_ok_and(|end| matches!(end.outcome, Outcome::EngineFault | Outcome::TimedOut { .. }))
}

/// Between half of `backoff` and the whole, so that callers who failed together do not come back together.
fn jittered(backoff: Duration) -> Result<Duration, CallError> {
    let [byte] = random::<1>()?;
    Ok(backoff.mul_f64(0.5 + f64::from(byte) / 510.0))
}

fn bounded(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Denied { rule } => Outcome::Denied { rule: capped(&rule, 200) },
        other => other,
    }
}

/// Ended because its caller or the daemon went away: the same call sent again must run, that is what its id is for.
fn is_cut_off(reply: &Execution) -> bool {
    let outcome = reply.outcome.as_ref();
    matches!(outcome, Some(Outcome::Killed { by: KilledBy::Disconnect | KilledBy::Shutdown | KilledBy::FrontGone }))
}
