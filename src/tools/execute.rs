//! The execution service: every call of every transport passes here.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::admission::Admission;
use super::aside::{aside, off_thread};
use super::cache::{Cache, Epoch, Key};
use super::call::{Call, CallError, Context, Once, VALUE_BYTES};
use super::code::versions::Versions;
use super::conclusion::{REPLY_OVERHEAD_BYTES, end_on_disk, promised_bytes};
use super::custom::{Catalogue, ChangeError, Directories, Watch, from_json};
use super::finish::{Execution, Reply};
use super::kept::Kept;
use super::live::{Entry, Following, Live};
use super::plan::{self, Plan};
use super::principal::Principal;
use super::registry::{Registered, Registry};
use super::replies::{Enter, Replies};
use super::rooms::{Bounds, Rooms};
use super::run::random;
use super::schema::Violation;
use super::spool::{Line, Spool, Spools};
use super::stored::StoredCall;
use super::workspaces::Changes;
use crate::config::Config;
use crate::spec::{ExecutionId, capped};
use crate::telemetry::metrics::{Metrics, Now};
use crate::wire::client::{ClientError, Monitor};
use crate::wire::{FactsWire, Reply as Answer, StatWire, Verb, WhyWire};

/// Bytes of memory that calls without a sandbox hold, and how many of them one principal may have under way.
const FRONT: Bounds = Bounds { each: 64, units_each: 192 << 20, units: 512 << 20 };
/// Threads that look names up: a look-up can not be given up, and lasts as long as the resolver's patience.
const LOOKUPS: Bounds = Bounds { each: 16, units_each: 16, units: 64 };
const ENDED_POLL: Duration = Duration::from_millis(20);

/// A tool was not registered, or not removed.
#[derive(Debug, thiserror::Error)]
pub enum RegisterToolError {
    #[error("the tool can not be registered as it is written")]
    Manifest(Vec<Violation>),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error("the daemon is stopping")]
    Interrupted,
}

/// Runs calls. One per daemon.
pub struct Service {
    config: RwLock<Arc<Config>>,
    pub(super) monitor: Arc<Monitor>,
    pub(super) registry: Registry,
    catalogue: Catalogue,
    pub(super) cache: Cache,
    pub(super) admission: Arc<Admission>,
    pub(super) live: Arc<Live>,
    pub(super) kept: Kept,
    pub(super) replies: Arc<Replies>,
    metrics: Metrics,
    /// Memory of calls that need no sandbox, and threads that look names up for them.
    pub(super) front: Arc<Rooms>,
    pub(super) lookups: Arc<Rooms>,
    pub(super) changes: Arc<Changes>,
    pub(super) versions: Versions,
    /// Where runs without a caller are kept.
    pub(super) spools: Option<Spools>,
}

impl Service {
    pub fn new(config: Arc<Config>, monitor: Arc<Monitor>, tools: Directories, spools: Option<Spools>) -> Self {
        let metrics = Metrics::new();
        let registry = Registry::built_in();
        let catalogue = Catalogue::open(tools, &registry);
        Self {
            admission: Arc::new(Admission::new(&config, metrics.admission())),
            config: RwLock::new(config),
            monitor,
            registry,
            catalogue,
            cache: Cache::default(),
            live: Arc::default(),
            kept: Kept::default(),
            replies: Arc::default(),
            metrics,
            front: Rooms::new(FRONT),
            lookups: Rooms::new(LOOKUPS),
            changes: Arc::default(),
            versions: Versions::default(),
            spools,
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

    /// Reads the operator's tools again. Calls that are under way keep the tool that they began with.
    pub async fn reload_tools(self: &Arc<Self>) {
        let service = Arc::clone(self);
        let work = move || service.catalogue.reload(&service.registry, || service.cache.forget());
        if off_thread(work).await.is_none() {
            tracing::error!("the custom tools were not read to the end");
        }
    }

    /// What tells that [`Service::reload_tools`] is due.
    pub fn watch_tools(&self) -> std::io::Result<Option<Watch>> {
        self.catalogue.watch()
    }

    /// Why tools of the operator's are not in force as they are written.
    pub fn tool_complaints(&self) -> Vec<String> {
        self.catalogue.complaints()
    }

    /// Registers the tool that `body` describes, now and after restarts.
    pub async fn register(self: &Arc<Self>, body: Value) -> Result<Registered, RegisterToolError> {
        let service = Arc::clone(self);
        let work = move || {
            let manifest = from_json(body.clone()).map_err(RegisterToolError::Manifest)?;
            let tool = service.catalogue.register(&service.registry, manifest, &body)?;
            service.cache.forget();
            Ok(tool)
        };
        off_thread(work).await.unwrap_or(Err(RegisterToolError::Interrupted))
    }

    /// Removes every version that `name` means, now and after restarts.
    pub async fn remove_tool(self: &Arc<Self>, name: String) -> Result<(), RegisterToolError> {
        let service = Arc::clone(self);
        let work = move || {
            service.catalogue.remove(&service.registry, &name)?;
            service.cache.forget();
            Ok(())
        };
        off_thread(work).await.unwrap_or(Err(RegisterToolError::Interrupted))
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
        self.cache.forget();
    }

    /// Forgets what is too old, also where nobody asks.
    pub fn tidy(&self) {
        self.kept.tidy();
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
        match self.begin(principal, call, once, Following::Plain).await? {
            Begun::Stored(reply) => Ok(reply),
            Begun::Running { entry, reply } => {
                let caller = CallerGone { entry };
                let result = reply.await;
                drop(caller);
                result.unwrap_or_else(|_| Err(CallError::Internal("a run ended without a result".into())))
            }
            Begun::Known(_) => Err(CallError::Internal("a plain call met one that is followed".into())),
        }
    }

    /// Begins to run `call` for whoever follows it: until its end where it is `detached`, else for as long as somebody does.
    /// Must be followed at once where it is not.
    pub async fn follow(
        self: &Arc<Self>,
        principal: &Principal,
        call: Call,
        once: Option<Once>,
        detached: bool,
    ) -> Result<Followed, CallError> {
        let following = if detached { Following::Detached } else { Following::Streaming };
        match self.begin(principal, call, once, following).await? {
            Begun::Stored(reply) => Ok(Followed::Stored(reply)),
            Begun::Running { entry, .. } | Begun::Known(entry) => Ok(Followed::Running(entry)),
        }
    }

    async fn begin(
        self: &Arc<Self>,
        principal: &Principal,
        call: Call,
        once: Option<Once>,
        following: Following,
    ) -> Result<Begun, CallError> {
        let arrived = Instant::now();
        let text = call.text_bytes();
        // Before the tool is looked up: what an old one returns must not be found once there is another in its place.
        let epoch = self.cache.epoch();
        let unknown = || CallError::UnknownTool(capped(&call.tool, 64));
        let tool = self.registry.get(&call.tool).ok_or_else(unknown)?;
        let stored = (following == Following::Detached && self.spools.is_some())
            .then(|| StoredCall::new(&call, tool.about(), principal, once.as_ref()));
        let (plan, context) = self.planned(call, &tool, principal, epoch).await?;
        let planned = Planned { plan, context, tool, once, following, stored, text, arrived };
        if planned.stored.is_none() {
            return self.enter(principal, planned).await;
        }
        // Of a task of its own: a caller who goes just now leaves nothing half begun. It holds no more than a run does.
        let (service, principal) = (Arc::clone(self), principal.clone());
        tokio::spawn(async move { service.enter(&principal, planned).await }).await.map_err(|_| CallError::Draining)?
    }

    /// Everything about `call` that can be known without the engine.
    pub(super) async fn planned(
        &self,
        call: Call,
        tool: &Registered,
        principal: &Principal,
        epoch: Epoch,
    ) -> Result<(Plan, Context), CallError> {
        // A schema's patterns and lengths go over every character, and somebody else's may hold each value against many parts.
        let text = call.text_bytes();
        let work = tool.schema().work(text / VALUE_BYTES + 1);
        // To follow what a script does takes some times as long as to read it.
        let text = if tool.screened().is_some() { text.saturating_mul(4) } else { text };
        let (tool, principal, config) = (Arc::clone(tool), principal.clone(), self.config());
        let planned =
            aside(text.saturating_add(work as usize), move || plan::plan(call, &*tool, &principal, &config, epoch));
        let planned = planned.await;
        let planned = planned.ok_or_else(|| CallError::Internal("the checks of a call were not finished".into()))?;
        planned.inspect_err(|error| {
            if let CallError::Blocked(blocked) = error {
                self.metrics.blocked(&blocked.rule);
            }
        })
    }

    /// The same call's run, or a new one.
    async fn enter(self: &Arc<Self>, principal: &Principal, planned: Planned) -> Result<Begun, CallError> {
        let Planned { plan, context, tool, once, following, stored, text, arrived } = planned;
        // Whoever lost the reply to a request with a key finds the run under it.
        let mut context = context;
        if following != Following::Plain && context.execution_id.is_none() {
            context.execution_id = once.as_ref().and_then(|once| once.key.parse().ok());
        }
        let own = |id: &ExecutionId| {
            let found = self.live.own(&principal.name, id).or_else(|| self.kept.own(&principal.name, id));
            found.filter(|entry| entry.log.is_some())
        };
        let reserved = match once {
            None => None,
            Some(once) => loop {
                let entered = self.replies.enter(&principal.name, &once)?;
                // The same call, which can be followed by more than one.
                if following != Following::Plain
                    && !matches!(entered, Enter::New(_))
                    && let Some(entry) = context.execution_id.as_ref().and_then(own)
                {
                    if following == Following::Detached {
                        entry.detach();
                    }
                    return Ok(Begun::Known(entry));
                }
                match entered {
                    Enter::Stored(reply) => return Ok(Begun::Stored(reply)),
                    Enter::Running(first) => first.wait().await,
                    Enter::New(reserved) => {
                        // One that was cut off, and was not stored: the same call runs again.
                        if let Some(id) = &context.execution_id {
                            self.kept.remove(&principal.name, id);
                        }
                        break Some(reserved);
                    }
                }
            },
        };
        let id = match context.execution_id.clone() {
            Some(id) => id,
            None => ExecutionId::from_random(random()?),
        };
        let cached = plan.cached.and_then(|key| self.key_now(key, &plan));
        if let Some(found) = cached.and_then(|key| self.cache.get(&key)) {
            let reply = Arc::new(again(&found, id, context, arrived));
            if let Some(reserved) = reserved {
                reserved.keep(Arc::clone(&reply), REPLY_OVERHEAD_BYTES + reply.held_bytes());
            }
            self.metrics.cached(&reply.tool.about().name);
            if following == Following::Plain {
                return Ok(Begun::Stored(reply));
            }
            let about = reply.tool.about();
            let mut entry = Entry::new(
                reply.id.clone(),
                principal,
                &about.name,
                plan.terms.level,
                reply.agent_id.clone(),
                following,
            );
            if let Some(log) = &entry.log {
                log.end(Ok(Arc::clone(&reply)));
            }
            if let Some(stored) = stored {
                let spool = self.spool(stored, &entry).await?;
                end_on_disk(&spool, &Ok(Arc::clone(&reply))).await;
                entry.spool = Some(spool);
            }
            let entry = Arc::new(entry);
            self.kept.insert(Arc::clone(&entry));
            return Ok(Begun::Known(entry));
        }
        tool.admit(&principal.name).map_err(|retry_after| CallError::RateLimited {
            what: format!("as many calls of {} as this principal may make", tool.about().name),
            retry_after,
        })?;
        let mut entry =
            Entry::new(id, principal, &tool.about().name, plan.terms.level, context.agent_id.clone(), following);
        let mut share = None;
        if let (Some(spools), Some(stored)) = (&self.spools, stored) {
            share = Some(spools.promise(promised_bytes(&plan, &context, text))?);
            entry.spool = Some(self.spool(stored, &entry).await?);
        }
        let spool = entry.spool.clone();
        let listed = self.live.insert(entry).inspect_err(|_| spool.iter().for_each(Spool::remove))?;
        let entry = Arc::clone(&listed.entry);
        let (sender, reply) = oneshot::channel();
        let service = Arc::clone(self);
        // A task of its own: when the caller goes, its sandbox still has to be ended, reported and accounted for.
        tokio::spawn(async move {
            let result = service.run(&listed, &plan, context, tool, arrived, (1, None)).await.map(Arc::new);
            if let Ok(execution) = &result
                && execution.success()
                && let Some(key) = cached
                // Nobody has written what it read.
                && plan.cached.and_then(|key| service.key_now(key, &plan)) == Some(key)
            {
                service.cache.keep(key, execution);
            }
            if listed.entry.log.is_some() {
                service.conclude(listed, result, reserved).await;
            } else {
                service.count_and_keep(&result, reserved);
                drop(listed);
                let _caller_gone = sender.send(result);
            }
            drop(share);
        });
        Ok(Begun::Running { entry, reply })
    }

    /// `key` as long as the workspace of `plan` is as it is now; none while somebody may be writing it.
    fn key_now(&self, key: Key, plan: &Plan) -> Option<Key> {
        match &plan.workspace {
            None => Some(key),
            Some(used) => self.changes.state(&used.volume).map(|state| key.in_state(state)),
        }
    }

    /// Executions under way that `principal` may see, oldest first; with `ended`, those that can still be asked about, too.
    pub fn list(&self, principal: &Principal, under_way: bool, ended: bool) -> Vec<Arc<Entry>> {
        let mut found = if ended { self.kept.list(principal) } else { Vec::new() };
        if under_way {
            // One that ends just now is in both.
            found.retain(|entry| entry.state() == "ended");
            found.extend(self.live.list(principal).into_iter().filter(|entry| entry.state() != "ended"));
        }
        found.sort_unstable_by_key(|entry| entry.number);
        found
    }

    pub fn get(&self, principal: &Principal, id: &ExecutionId) -> Option<Arc<Entry>> {
        // An admin's own are never shadowed by somebody else's.
        let own = self.live.own(&principal.name, id).or_else(|| self.kept.own(&principal.name, id));
        own.or_else(|| self.live.get(principal, id)).or_else(|| self.kept.get(principal, id))
    }

    /// Ends an execution that `principal` may see, or forgets one that has ended; `None` where there is none.
    pub async fn end(&self, principal: &Principal, id: &ExecutionId) -> Option<Arc<Entry>> {
        let entry = self.get(principal, id)?;
        if entry.state() == "ended" {
            self.kept.remove(&entry.owner, &entry.id);
        } else {
            if let Some(spool) = entry.spool.clone() {
                let noted = off_thread(move || spool.note(&Line::Cancelled)).await;
                if let Some(Err(error)) = noted {
                    tracing::warn!(%error, "that a run is to end can not be kept over a restart");
                }
            }
            entry.end(WhyWire::Caller);
        }
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

    /// Refuses what waits for room, and sends away who follows what the next daemon goes on with.
    pub fn drain(&self) {
        self.admission.close();
        self.live.suspend_all();
    }

    /// Ends everything that ends with the daemon.
    pub fn shut_down(&self) {
        self.live.end_all(WhyWire::Shutdown);
    }

    /// Completes when nothing is under way that ends with the daemon.
    pub async fn idle(&self) {
        while !self.live.is_idle() {
            tokio::time::sleep(ENDED_POLL).await;
        }
    }
}

/// What `found` returned, as the reply to another call: the result and how it came about are the first one's.
fn again(found: &Execution, id: ExecutionId, context: Context, arrived: Instant) -> Execution {
    Execution {
        id,
        agent_id: context.agent_id,
        metadata: context.metadata,
        time: arrived.elapsed(),
        attempts: 0,
        cached: true,
        ..found.clone()
    }
}

/// What came of a call that somebody wants to follow.
pub enum Followed {
    /// It was answered before.
    Stored(Reply),
    /// Its entry has a log.
    Running(Arc<Entry>),
}

/// A call that may run.
struct Planned {
    plan: Plan,
    context: Context,
    tool: Registered,
    once: Option<Once>,
    following: Following,
    /// Where it is to outlive the daemon.
    stored: Option<StoredCall>,
    /// About how much text it is.
    text: usize,
    arrived: Instant,
}

enum Begun {
    Stored(Reply),
    Running {
        entry: Arc<Entry>,
        reply: oneshot::Receiver<Result<Reply, CallError>>,
    },
    /// The same call is under way, or was, and is followed.
    Known(Arc<Entry>),
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

/// The body of a call, for comparing it with a later one under the same id.
pub fn fingerprint(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}
