//! What is kept of a run: for whoever was promised that it goes on, for the same call sent again, for the metrics.

use std::io;
use std::sync::Arc;

use super::aside::off_thread;
use super::call::{CallError, Context};
use super::execute::Service;
use super::finish::{Execution, Reply};
use super::live::{Entry, Listed};
use super::plan::Plan;
use super::replies::Reserved;
use super::run::{destroy, random};
use super::spool::{Line, Spool};
use super::stored::{StoredCall, StoredEnd, StoredError};
use crate::runtimes::python::RESULT_BYTES_MAX;
use crate::spec::{KilledBy, Outcome};

/// Of a kept reply beside its result.
pub(super) const REPLY_OVERHEAD_BYTES: usize = 4096;

impl Service {
    /// The directory of a run that outlives the daemon.
    pub(super) async fn spool(self: &Arc<Self>, stored: StoredCall, entry: &Entry) -> Result<Spool, CallError> {
        let (service, name) = (Arc::clone(self), random()?);
        let stored = stored.accepted(&entry.id, entry.level);
        let work = move || -> io::Result<Option<Spool>> {
            let Some(spools) = &service.spools else { return Ok(None) };
            spools.create(&name, &serde_json::to_vec(&stored)?).map(Some)
        };
        match off_thread(work).await {
            Some(Ok(Some(spool))) => Ok(spool),
            Some(Err(error)) => Err(not_kept(&error)),
            _ => Err(CallError::Draining),
        }
    }

    /// `result` is that of a run that is followed. What was promised about it is kept before anybody hears of it.
    pub(super) async fn conclude(
        self: &Arc<Self>,
        listed: Listed,
        result: Result<Reply, CallError>,
        reserved: Option<Reserved>,
    ) {
        let entry = &listed.entry;
        if let Some(spool) = &entry.spool {
            // It has not ended: the next daemon goes on with it.
            if self.admission.is_closed() && matches!(result, Err(CallError::Draining)) {
                // Until this one is gone it can be asked about, and the same call is not taken for another.
                return std::future::pending().await;
            }
            end_on_disk(spool, &result).await;
        }
        self.count_and_keep(&result, reserved);
        if let Some(log) = &entry.log {
            log.end(result);
        }
        // Before it leaves the table: nobody who asks finds it nowhere.
        self.kept.insert(Arc::clone(entry));
        self.let_go(entry).await;
    }

    /// Of a detached sandbox the engine keeps end and output until it is told that nobody needs them.
    pub(super) async fn let_go(&self, entry: &Entry) {
        if entry.spool.is_some()
            && let Some(sandbox) = entry.sandbox()
            && let Ok(client) = self.monitor.client().await
        {
            destroy(client, sandbox);
        }
    }

    pub(super) fn count_and_keep(&self, result: &Result<Reply, CallError>, reserved: Option<Reserved>) {
        let Ok(reply) = result else { return };
        self.count(reply);
        if let Some(reserved) = reserved {
            keep(reserved, reply);
        }
    }

    fn count(&self, execution: &Execution) {
        let (level, no_outcome) = match &execution.sandbox {
            Some(sandbox) => (sandbox.level.name(), "setup_failed"),
            None => ("none", if execution.success() { "answered" } else { "failed" }),
        };
        let outcome = execution.outcome.as_ref().map_or(no_outcome, Outcome::kind);
        let cpu = execution.usage.cpu_us as f64 / 1e6;
        self.metrics().ran(&execution.tool.about().name, level, outcome, execution.time.as_secs_f64(), cpu);
        execution.limits_hit.iter().for_each(|hit| self.metrics().limit_hit(hit.kind.name()));
    }
}

/// Adds to the journal of a run that outlives the daemon.
pub(super) async fn note(entry: &Entry, line: impl FnOnce() -> Line) -> Result<(), CallError> {
    let Some(spool) = entry.spool.clone() else { return Ok(()) };
    let line = line();
    match off_thread(move || spool.note(&line)).await {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(not_kept(&error)),
        None => Err(CallError::Draining),
    }
}

/// The disk does not take what is to be kept of a run.
fn not_kept(error: &io::Error) -> CallError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => CallError::AtCapacity {
            what: "there is no space left to keep a run without a caller".into(),
            retry_after: None,
        },
        _ => CallError::Internal(format!("a run can not be kept: {error}")),
    }
}

/// Keeps how a run ended.
pub(super) async fn end_on_disk(spool: &Spool, result: &Result<Reply, CallError>) {
    let unkept = spool;
    let (spool, result) = (spool.clone(), result.as_ref().map(Arc::clone).map_err(StoredError::from));
    let kept = off_thread(move || spool.end(&serde_json::to_vec(&StoredEnd::new(result))?)).await;
    if let Some(Err(error)) = kept {
        tracing::warn!(%error, "the end of a run can not be kept over a restart");
        // Else the next daemon would tell another end, or run it again.
        unkept.remove();
    }
}

/// Keeps `reply` for the same call, unless that should run again.
pub(super) fn keep(reserved: Reserved, reply: &Reply) {
    if !is_cut_off(reply) {
        reserved.keep(Arc::clone(reply), REPLY_OVERHEAD_BYTES + reply.held_bytes());
    }
}

/// What a run that outlives the daemon may come to on disk.
pub(super) fn promised_bytes(plan: &Plan, context: &Context, text: usize) -> u64 {
    let attempts = u64::from(context.retry_count) + 1;
    attempts * (2 * plan.terms.limits.output_bytes + RESULT_BYTES_MAX as u64) + 2 * text as u64
}

/// Ended because its caller or the daemon went away: the same call sent again must run, that is what its id is for.
fn is_cut_off(reply: &Execution) -> bool {
    let outcome = reply.outcome.as_ref();
    matches!(outcome, Some(Outcome::Killed { by: KilledBy::Disconnect | KilledBy::Shutdown | KilledBy::FrontGone }))
}
