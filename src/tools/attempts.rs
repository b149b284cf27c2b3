//! Attempts: a call that was admitted is run until one attempt is good enough, and what came of it is shaped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::aside::aside;
use super::call::{CallError, Context};
use super::conclusion::note;
use super::definition::{FrontTerms, Shaped};
use super::execute::Service;
use super::finish::{Execution, Finished, StreamFacts, ToolError};
use super::live::Listed;
use super::plan::{FrontWork, Job, Plan, Work};
use super::recover::Taken;
use super::registry::Registered;
use super::rooms::Full;
use super::run::{Attempt, Part, Ran, cancelled, ended, random};
use super::spool::Line;
use crate::runtimes::Runtime;
use crate::spec::{LimitHit, LimitKind, Outcome, Usage, capped};
use crate::wire::client::ClientError;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MOST: Duration = Duration::from_secs(5);
/// How long a run without a caller waits for an engine.
const ENGINE_WAIT: Duration = Duration::from_secs(60);
const FRONT_SOON: Duration = Duration::from_secs(1);

impl Service {
    /// Attempts until one runs, as often as the caller asked and the call's time allows. `first`: the number of the first of
    /// them, and the command that it goes on with.
    pub(super) async fn run(
        self: &Arc<Self>,
        listed: &Listed,
        plan: &Plan,
        context: Context,
        tool: Registered,
        arrived: Instant,
        (number, mut adopted): (u32, Option<Taken>),
    ) -> Result<Execution, CallError> {
        let deadline = context.timeout_ms.map(|ms| arrived + Duration::from_millis(ms));
        let job = match &plan.work {
            Work::Command(job) => job,
            Work::Front(work) => {
                let lost = matches!(adopted, Some(Taken::Lost));
                return self.answer(listed, (plan, work, lost), context, tool, arrived, deadline).await;
            }
        };
        if plan.phases.is_some() && matches!(adopted, Some(Taken::Lost)) {
            return Ok(interrupted(listed, context, tool, arrived));
        }
        let written = plan.workspace.as_ref().filter(|used| !used.read_only);
        let _writing = written.map(|used| self.changes.writing(&used.volume));
        let mut attempt = Attempt {
            monitor: &self.monitor,
            admission: &self.admission,
            terms: &plan.terms,
            job,
            deadline,
            entry: &listed.entry,
            number,
            part: if plan.phases.is_some() { Part::Main } else { Part::Whole },
        };
        let mut backoff = BACKOFF_FIRST;
        let mut no_engine_since = None;
        let ran = loop {
            let result = match adopted.take() {
                None => attempt.run_all(plan.phases.as_ref()).await,
                Some(Taken::Adopted(adopted)) => attempt.adopt(*adopted).await,
                Some(Taken::Ran(ran)) => Ok(*ran),
                Some(Taken::Lost) => Err(CallError::Internal("a command was taken for the front's own work".into())),
            };
            let again = match &result {
                Ok(ran) => tool.about().hints.idempotent && failed_by_chance(ran),
                Err(error) => error.is_worth_retrying(),
            };
            let pause = jittered(backoff)?;
            let in_time = attempt.deadline.is_none_or(|deadline| Instant::now() + pause < deadline);
            // A run that was promised to somebody who is gone waits for an engine that restarts.
            let not_begun =
                matches!(result, Err(CallError::EngineUnavailable(ClientError::Connect { .. }) | CallError::Draining));
            if not_begun
                && listed.entry.spool.is_some()
                && !self.admission.is_closed()
                && listed.entry.cancel.borrow().is_none()
                && no_engine_since.get_or_insert_with(Instant::now).elapsed() < ENGINE_WAIT
                && in_time
            {
                let refused = Line::Refused { attempt: attempt.number };
                let _a_later_front_is_told_less = note(&listed.entry, || refused).await;
                tokio::time::sleep(pause).await;
                continue;
            }
            no_engine_since = None;
            if !again || attempt.number > context.retry_count || !in_time || listed.entry.cancel.borrow().is_some() {
                break result?;
            }
            self.let_go(&listed.entry).await;
            tokio::time::sleep(pause).await;
            backoff = (backoff * 2).min(BACKOFF_MOST);
            attempt.number += 1;
        };
        let attempts = attempt.number;
        self.finish(listed, tool, context, ran, (attempts, job), arrived).await
    }

    /// A call that needs no sandbox. `lost`: an earlier front was at it when it ended.
    async fn answer(
        &self,
        listed: &Listed,
        (plan, work, lost): (&Plan, &FrontWork, bool),
        context: Context,
        tool: Registered,
        arrived: Instant,
        deadline: Option<Instant>,
    ) -> Result<Execution, CallError> {
        let entry = &listed.entry;
        entry.started();
        if let Some(log) = &entry.log {
            log.started(1, None);
        }
        let began = Instant::now();
        let own = began + Duration::from_millis(plan.terms.limits.wall_ms);
        let deadline = deadline.map_or(own, |deadline| deadline.min(own));
        let mut cancel = entry.cancel.subscribe();
        let _room = self.front.enter(&entry.owner, work.holds).map_err(|full| no_room(full, &entry.owner))?;
        let network_requests = Arc::<AtomicU64>::default();
        let terms = FrontTerms {
            principal: entry.owner.clone(),
            config: self.config(),
            network_requests_max: context.limits.network_requests,
            network_requests: Arc::clone(&network_requests),
            deadline,
            lookups: Arc::clone(&self.lookups),
        };
        let failed = |code, message: &str| Shaped {
            result: RawValue::NULL.to_owned(),
            error: Some(ToolError::new(code, message)),
        };
        let once = !tool.about().hints.idempotent;
        if once && !lost {
            note(entry, || Line::Answering).await?;
        }
        let shaped = tokio::select! {
            biased;
            () = std::future::ready(()), if lost => {
                failed("interrupted", "the daemon ended while this was under way; whether it was done is not known")
            }
            why = cancelled(&mut cancel) => return Err(ended(why)),
            () = tokio::time::sleep_until(deadline) => {
                failed("timed_out", "the call's time was over before its result was there")
            }
            done = (work.run)(terms) => done?,
        };
        let network_requests = network_requests.load(Ordering::Relaxed);
        Ok(Execution {
            id: entry.id.clone(),
            tool,
            agent_id: context.agent_id,
            metadata: context.metadata,
            result: shaped.result,
            error: shaped.error.map(|e| ToolError { message: capped(&e.message, 2000), ..e }),
            outcome: None,
            limits_hit: Vec::new(),
            time: arrived.elapsed(),
            attempts: 1,
            cached: false,
            usage: Usage { wall_us: began.elapsed().as_micros() as u64, network_requests, ..Usage::default() },
            stdout: StreamFacts::default(),
            stderr: StreamFacts::default(),
            sandbox: None,
            denials: None,
        })
    }

    async fn finish(
        self: &Arc<Self>,
        listed: &Listed,
        tool: Registered,
        context: Context,
        ran: Ran,
        (attempts, job): (u32, &Job),
        arrived: Instant,
    ) -> Result<Execution, CallError> {
        let Ran { sandbox, end, stdout, stderr, result, around } = ran;
        let (outcome, refused, mut limits_hit, usage, denials) = match end {
            Ok(end) => (Some(end.outcome), None, end.limits_hit, end.usage, end.denials),
            Err(refused) => (None, Some(refused), Vec::new(), Default::default(), None),
        };
        let outcome = outcome.map(bounded);
        let bytes = stdout.kept_bytes() + stderr.kept_bytes() + result.as_ref().map_or(0, Vec::len) + around.bytes();
        let shape = {
            let (tool, outcome) = (Arc::clone(&tool), outcome.clone());
            let (own_code, note) = (job.runtime == Runtime::Files, job.note.clone());
            move || {
                let (stdout, raw, stdout_facts) = if own_code {
                    let (bytes, facts) = stdout.into_bytes();
                    (String::new(), Some(bytes), facts)
                } else {
                    let (text, facts) = stdout.into_text();
                    (text, None, facts)
                };
                let (stderr, stderr_facts) = stderr.into_text();
                let finished = Finished { outcome, refused, stdout, raw, stderr, note, result, around };
                (tool.shape(finished), stdout_facts, stderr_facts)
            }
        };
        let (shaped, stdout_facts, stderr_facts) = aside(bytes, shape)
            .await
            .ok_or_else(|| CallError::Internal("the shaping of a result was not finished".into()))?;
        let truncated = u64::from(stdout_facts.truncated) + u64::from(stderr_facts.truncated);
        if truncated > 0 {
            limits_hit.push(LimitHit { kind: LimitKind::Output, count: truncated });
        }
        Ok(Execution {
            id: listed.entry.id.clone(),
            tool,
            agent_id: context.agent_id,
            metadata: context.metadata,
            result: shaped.result,
            error: shaped.error.map(|e| ToolError { message: capped(&e.message, 2000), ..e }),
            outcome,
            limits_hit,
            time: arrived.elapsed(),
            attempts,
            cached: false,
            usage,
            stdout: stdout_facts,
            stderr: stderr_facts,
            sandbox: Some(sandbox),
            denials,
        })
    }
}

/// The end of a call of several commands of which an earlier front was at one when it ended.
fn interrupted(listed: &Listed, context: Context, tool: Registered, arrived: Instant) -> Execution {
    let message = "the daemon ended while this was under way; how far it came is not known";
    Execution {
        id: listed.entry.id.clone(),
        tool,
        agent_id: context.agent_id,
        metadata: context.metadata,
        result: RawValue::NULL.to_owned(),
        error: Some(ToolError::new("interrupted", message)),
        outcome: None,
        limits_hit: Vec::new(),
        time: arrived.elapsed(),
        attempts: 1,
        cached: false,
        usage: Usage::default(),
        stdout: StreamFacts::default(),
        stderr: StreamFacts::default(),
        sandbox: None,
        denials: None,
    }
}

/// Nobody waits for a share of the front: it comes back by itself, and who waited would hold as much meanwhile.
fn no_room(full: Full, principal: &str) -> CallError {
    match full {
        Full::Principal => CallError::RateLimited {
            what: format!("as many calls without a sandbox as {principal} may have, or as large ones, are under way"),
            retry_after: FRONT_SOON,
        },
        Full::All => CallError::AtCapacity {
            what: "calls without a sandbox hold as much memory as they may".into(),
            retry_after: Some(FRONT_SOON),
        },
    }
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
