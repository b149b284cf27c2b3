//! The table of executions that wait or run.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::call::CallError;
use super::events::Log;
use super::principal::Principal;
use super::spool::Spool;
use crate::spec::{ExecutionId, Level, SandboxId};
use crate::wire::WhyWire;

/// Calls that are under way at once, waiting ones included.
const LIVE_MAX: usize = 16_384;

/// Who may have ended a call from outside.
pub(super) type Cancel = watch::Sender<Option<WhyWire>>;

/// One call under way.
pub struct Entry {
    pub id: ExecutionId,
    /// The principal's name.
    pub owner: String,
    /// Its name.
    pub tool: String,
    pub level: Level,
    pub agent_id: Option<String>,
    pub started_at: SystemTime,
    pub(super) cancel: Cancel,
    /// Rising with every call of this daemon.
    pub number: u64,
    /// What happens in it, where somebody follows or may come to follow.
    pub log: Option<Arc<Log>>,
    /// What is kept of it on disk, where it outlives the daemon.
    pub(super) spool: Option<Spool>,
    /// Whether it ends by itself.
    detached: AtomicBool,
    followers: AtomicUsize,
    /// How often somebody came to follow.
    arrivals: AtomicU64,
    sandbox: Mutex<Option<SandboxId>>,
    /// Set once, when a command runs for the first time.
    running: OnceLock<()>,
}

impl Entry {
    pub(super) fn new(
        id: ExecutionId,
        owner: &Principal,
        tool: &str,
        level: Level,
        agent_id: Option<String>,
        following: Following,
    ) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            log: (following != Following::Plain).then(Arc::default),
            spool: None,
            detached: AtomicBool::new(following != Following::Streaming),
            followers: AtomicUsize::new(0),
            arrivals: AtomicU64::new(0),
            id,
            owner: owner.name.clone(),
            tool: tool.to_owned(),
            level,
            agent_id,
            started_at: SystemTime::now(),
            cancel: watch::Sender::new(None),
            sandbox: Mutex::new(None),
            running: OnceLock::new(),
        }
    }

    /// The sandbox of the current attempt.
    pub fn sandbox(&self) -> Option<SandboxId> {
        self.sandbox.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    pub(super) fn building(&self, id: &SandboxId) {
        *self.sandbox.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(id.clone());
    }

    pub(super) fn started(&self) {
        let _again = self.running.set(());
    }

    /// Every state's name, in the order in which a call goes through them.
    pub const STATES: [&str; 5] = ["queued", "building", "running", "ending", "ended"];

    /// The name of the state in which it is.
    pub fn state(&self) -> &'static str {
        let at = if self.log.as_ref().is_some_and(|log| log.result().is_some()) {
            4
        } else if self.cancel.borrow().is_some() {
            3
        } else if self.running.get().is_some() {
            2
        } else if self.sandbox().is_some() {
            1
        } else {
            0
        };
        Self::STATES[at]
    }

    /// It goes on when nobody follows any more: somebody was promised that.
    pub(super) fn detach(&self) {
        self.detached.store(true, Ordering::Relaxed);
    }

    /// Ends the call; the first reason given stands.
    pub(super) fn end(&self, why: WhyWire) {
        self.cancel.send_if_modified(|reason| {
            let first = reason.is_none();
            if first {
                *reason = Some(why);
            }
            first
        });
    }
}

/// Who wants to know how an execution goes on, and what becomes of it when nobody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Following {
    /// One caller, with whom it ends.
    Plain,
    /// A caller who may come back within [`COMES_BACK`].
    Streaming,
    /// It ends by itself.
    Detached,
}

/// How long a streaming run goes on without its caller.
const COMES_BACK: Duration = Duration::from_secs(10);

/// One who follows an execution; dropped when that ends.
pub struct Follower(Arc<Entry>);

impl Follower {
    pub fn of(entry: Arc<Entry>) -> Self {
        entry.followers.fetch_add(1, Ordering::Relaxed);
        entry.arrivals.fetch_add(1, Ordering::Relaxed);
        Self(entry)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let entry = Arc::clone(&self.0);
        let left = entry.followers.fetch_sub(1, Ordering::Relaxed) - 1;
        if left > 0 || entry.detached.load(Ordering::Relaxed) || entry.state() == "ended" {
            return;
        }
        // Outside a runtime everything is about to end anyway.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let arrivals = entry.arrivals.load(Ordering::Relaxed);
            runtime.spawn(async move {
                tokio::time::sleep(COMES_BACK).await;
                // Whoever came and left meanwhile has a time of their own.
                let left_for_good = entry.arrivals.load(Ordering::Relaxed) == arrivals;
                if left_for_good && !entry.detached.load(Ordering::Relaxed) {
                    entry.end(WhyWire::Disconnect);
                }
            });
        }
    }
}

/// Keyed by principal and id: one principal's ids say nothing about another's.
#[derive(Default)]
pub(super) struct Live {
    entries: Mutex<HashMap<(String, ExecutionId), Arc<Entry>>>,
}

/// Takes its entry out of the table when dropped.
pub(super) struct Listed {
    live: Arc<Live>,
    pub entry: Arc<Entry>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let key = (self.entry.owner.clone(), self.entry.id.clone());
        let mut entries = self.live.lock();
        if entries.get(&key).is_some_and(|entry| Arc::ptr_eq(entry, &self.entry)) {
            entries.remove(&key);
        }
    }
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, ExecutionId), Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Refused where the table is full, or where an execution of this principal that has the id is under way.
    pub(super) fn insert(self: &Arc<Self>, entry: Entry) -> Result<Listed, CallError> {
        let entry = Arc::new(entry);
        let mut entries = self.lock();
        if entries.len() >= LIVE_MAX {
            return Err(CallError::AtCapacity {
                what: "as many executions are under way as may be".into(),
                retry_after: Some(Duration::from_secs(1)),
            });
        }
        if entries.contains_key(&(entry.owner.clone(), entry.id.clone())) {
            return Err(CallError::Conflict("an execution with this execution_id is under way"));
        }
        entries.insert((entry.owner.clone(), entry.id.clone()), Arc::clone(&entry));
        Ok(Listed { live: Arc::clone(self), entry })
    }

    /// Those that `principal` may see, oldest first.
    pub(super) fn list(&self, principal: &Principal) -> Vec<Arc<Entry>> {
        let sees = |e: &&Arc<Entry>| principal.is_admin() || e.owner == principal.name;
        let mut found: Vec<_> = self.lock().values().filter(sees).cloned().collect();
        found.sort_unstable_by_key(|entry| entry.number);
        found
    }

    pub(super) fn own(&self, owner: &str, id: &ExecutionId) -> Option<Arc<Entry>> {
        self.lock().get(&(owner.to_owned(), id.clone())).cloned()
    }

    /// Own ones first: an admin's own id is never shadowed by somebody else's.
    pub(super) fn get(&self, principal: &Principal, id: &ExecutionId) -> Option<Arc<Entry>> {
        let own = self.lock().get(&(principal.name.clone(), id.clone())).cloned();
        own.or_else(|| self.list(principal).into_iter().find(|e| e.id == *id))
    }

    /// Ends all that do not outlive the daemon.
    pub(super) fn end_all(&self, why: WhyWire) {
        let all: Vec<_> = self.lock().values().filter(|entry| entry.spool.is_none()).cloned().collect();
        all.iter().for_each(|entry| entry.end(why));
    }

    /// Sends away those who follow what outlives the daemon.
    pub(super) fn suspend_all(&self) {
        let all: Vec<_> = self.lock().values().filter(|entry| entry.spool.is_some()).cloned().collect();
        all.iter().filter_map(|entry| entry.log.as_ref()).for_each(|log| log.suspend());
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether it is the current sandbox of one.
    pub(super) fn has_sandbox(&self, id: &SandboxId) -> bool {
        self.lock().values().any(|entry| entry.sandbox().as_ref() == Some(id))
    }

    /// Whether nothing is under way that ends with the daemon.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().values().all(|entry| entry.spool.is_some())
    }
}
