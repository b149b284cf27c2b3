//! HTTP/1.1 and HTTP/2 over a Unix socket and, when configured, TCP.

mod batch;
mod bodies;
mod capabilities;
mod codes;
mod envelope;
mod execute;
mod executions;
mod health;
mod json;
mod layer;
mod openapi;
mod peers;
mod problem;
mod reply;
mod router;
mod routes;
mod server;
mod sse;
mod tools;
mod workspaces;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::Backlog;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::api::identity::Identity;
use crate::config::keys::ApiKey;
use crate::config::{Config, Source};
use crate::telemetry::manager;
use crate::tools::custom::{Directories, Watch};
use crate::tools::execute::Service;
use crate::tools::spool::Spools;
use crate::wire::client::Monitor;

/// From the signal on: running calls may end by themselves for so long.
const DRAIN_MAX: Duration = Duration::from_secs(3);
/// Then they are killed, and may tell their callers for so long. Together below five seconds.
const KILL_MAX: Duration = Duration::from_millis(1200);
/// Look-ups in the group database that still run are left behind.
const RUNTIME_END_MAX: Duration = Duration::from_millis(200);

/// What the front serves, and where. The listeners are bound by whoever may bind them.
pub struct FrontOptions {
    pub config: Config,
    /// For SIGHUP; `None` where the configuration came from nowhere (tests).
    pub source: Option<Source>,
    pub keys: Vec<ApiKey>,
    /// As this process reaches it.
    pub engine_socket: PathBuf,
    pub unix: Option<std::os::unix::net::UnixListener>,
    pub tcp: Vec<std::net::TcpListener>,
    /// Where custom tools lie.
    pub tools: Directories,
    /// Where runs without a caller are kept over restarts; `None`: they are not.
    pub executions: Option<File>,
    /// Told by one byte, and closed, once connections are accepted and the engine has been looked for once.
    pub ready: Option<OwnedFd>,
    /// Who the engine must run as: 0, but for tests without privilege.
    pub engine_uid: u32,
    /// Between requests, and for a reply that nobody reads; shorter where a test waits for it.
    pub idle_max: Duration,
}

impl FrontOptions {
    /// No listener yet; the engine runs as root.
    pub fn new(config: Config) -> Self {
        let engine_socket = config.engine_socket();
        Self {
            engine_socket,
            config,
            source: None,
            keys: Vec::new(),
            unix: None,
            tcp: Vec::new(),
            tools: Directories::default(),
            executions: None,
            ready: None,
            engine_uid: 0,
            idle_max: server::IDLE_MAX,
        }
    }
}

/// The front could not start.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    #[error("failed to start the runtime: {0}")]
    Runtime(#[source] io::Error),
    #[error("failed to take over a listening socket: {0}")]
    Listener(#[source] io::Error),
    #[error("failed to install signal handlers: {0}")]
    Signals(#[source] io::Error),
}

/// Serves until SIGTERM or SIGINT, then ends within five seconds.
///
/// One thread does everything: a call is mostly waiting, bytes are moved once, and what a second thread would gain on two
/// cores is what the sandboxes would lose.
pub fn run(options: FrontOptions) -> Result<(), FrontError> {
    raise_descriptor_limit(&options.config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(FrontError::Runtime)?;
    let result = runtime.block_on(serve(options));
    runtime.shutdown_timeout(RUNTIME_END_MAX);
    result
}

async fn serve(options: FrontOptions) -> Result<(), FrontError> {
    let FrontOptions { config, source, keys, engine_socket, unix, tcp, tools, executions, ready, engine_uid, idle_max } =
        options;
    let mut terminate = signal(SignalKind::terminate()).map_err(FrontError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(FrontError::Signals)?;
    let hangup = signal(SignalKind::hangup()).map_err(FrontError::Signals)?;
    let config = Arc::new(config);
    let monitor = Arc::new(Monitor::new(engine_socket, engine_uid, crate::tools::prepared(&config)));
    let service = Arc::new(Service::new(Arc::clone(&config), Arc::clone(&monitor), tools, executions.map(Spools::new)));
    let watch = service.watch_tools().unwrap_or_else(|error| {
        tracing::warn!(%error, "changes of custom tools are not noticed: SIGHUP reads them again");
        None
    });
    if watch.is_some() {
        // What changed between the first look and the beginning of the watch.
        service.reload_tools().await;
    }
    // Before the first caller: the same call sent again finds its run.
    service.recover().await;
    let identity = Arc::new(Identity::new(&config, keys));
    let (stop, stopping) = watch::channel(false);
    let state = router::State {
        service: Arc::clone(&service),
        identity: Arc::clone(&identity),
        bodies: Arc::default(),
        stopping: stopping.clone(),
    };
    let connections = service.metrics().connections();
    let front = server::Front::new(router::router(state), config.http, idle_max, connections, stopping);
    let mut accepting = tokio::task::JoinSet::new();
    if let Some(unix) = unix {
        unix.set_nonblocking(true).map_err(FrontError::Listener)?;
        let listener = tokio::net::UnixListener::from_std(unix).map_err(FrontError::Listener)?;
        accepting.spawn(front.clone().accept(server::Listener::Unix(listener), front.budget()));
    }
    // Connections over TCP share one budget of their own: however many there are, the Unix socket stays open.
    let budget = front.budget();
    for tcp in tcp {
        tcp.set_nonblocking(true).map_err(FrontError::Listener)?;
        // The standard library asks for 128 waiting ones; SYNs beyond that are dropped and come again after a second.
        nix::sys::socket::listen(&tcp, Backlog::MAXCONN).map_err(|e| FrontError::Listener(e.into()))?;
        let listener = tokio::net::TcpListener::from_std(tcp).map_err(FrontError::Listener)?;
        accepting.spawn(front.clone().accept(server::Listener::Tcp(listener), Arc::clone(&budget)));
    }
    let keep = tokio::spawn(async move { monitor.keep().await });
    // Not being able to run calls yet is told by each reply: it is no reason not to be up.
    let _later = service.ready().await;
    if let Some(ready) = ready {
        // Whoever gave the descriptor may have stopped waiting.
        let _gone = File::from(ready).write_all(b"\n");
    }
    let reloader = Arc::new(Reloader { source, service: Arc::clone(&service), identity, complaint: Mutex::default() });
    manager::ready(&reloader.status());
    let reloading = tokio::spawn(Arc::clone(&reloader).run(hangup, watch));
    let mut tick = tokio::time::interval(manager::tick().unwrap_or(Duration::from_secs(60)));
    let mut told = String::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = tick.tick() => {
                manager::alive();
                service.tidy();
                let status = reloader.status();
                if status != told {
                    manager::status(&status);
                    told = status;
                }
            }
        }
    }
    tracing::info!("stopping");
    reloading.abort();
    manager::stopping();
    service.drain();
    stop.send_replace(true);
    let ended = async {
        service.idle().await;
        while accepting.join_next().await.is_some() {}
    };
    let mut ended = std::pin::pin!(ended);
    if tokio::time::timeout(DRAIN_MAX, &mut ended).await.is_err() {
        service.shut_down();
        if tokio::time::timeout(KILL_MAX, &mut ended).await.is_err() {
            tracing::warn!("calls were still under way at the end");
        }
    }
    keep.abort();
    Ok(())
}

async fn tools_changed(watch: &mut Option<Watch>) -> io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Takes over what operators changed: all of it at SIGHUP, their tools as they change.
struct Reloader {
    source: Option<Source>,
    service: Arc<Service>,
    identity: Arc<Identity>,
    /// Why the file as it is now is not in force.
    complaint: Mutex<Option<String>>,
}

impl Reloader {
    /// One after the other, and beside everything else: files may be slow to read.
    async fn run(self: Arc<Self>, mut hangup: Signal, mut watch: Option<Watch>) {
        loop {
            tokio::select! {
                _ = hangup.recv() => self.reload().await,
                result = tools_changed(&mut watch) => match result {
                    Ok(()) => self.service.reload_tools().await,
                    Err(error) => {
                        tracing::warn!(%error, "changes of custom tools are not noticed any more: SIGHUP reads them again");
                        watch = None;
                    }
                },
            }
        }
    }

    fn complaint(&self) -> MutexGuard<'_, Option<String>> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the file as it is now, or keeps what is in force and says why.
    async fn reload(&self) {
        manager::reloading();
        self.service.reload_tools().await;
        let Some(source) = &self.source else { return manager::ready(&self.status()) };
        let complaint = match source.read_as_roots() {
            Ok(next) => {
                let (config, differs) = self.service.config().adopt(next);
                self.identity.reload(&config);
                self.service.reload(Arc::new(config));
                if differs.is_empty() {
                    tracing::info!("configuration reloaded");
                } else {
                    tracing::warn!(keys = ?differs, "configuration reloaded; these keys need a restart of the front");
                }
                None
            }
            Err(error) => {
                tracing::error!(%error, "configuration not reloaded, the old one stays in force");
                Some(format!("Old configuration in force: {error}"))
            }
        };
        *self.complaint() = complaint;
        manager::ready(&self.status());
    }

    fn status(&self) -> String {
        let mut status = self.service.status();
        if let [first, rest @ ..] = &self.service.tool_complaints()[..] {
            let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
            status = format!("Custom tool not in force: {first}{more}; {status}");
        }
        match &*self.complaint() {
            Some(complaint) => format!("{complaint}; {status}"),
            None => status,
        }
    }
}

/// Every connection and every running command takes descriptors; the hard limit is the operator's word on them.
fn raise_descriptor_limit(config: &Config) {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(hard) if hard < descriptors_needed(config) => {
            let needed = descriptors_needed(config);
            tracing::warn!(
                hard,
                needed,
                "the limit of open files is below what all connections and sandboxes may take"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

/// Two for each connection (see `server`'s twins), twelve for a call while its command is started (four pipes, its code, and
/// where nobody waits for it a second read end of three); calls that wait hold none beside their connection's.
fn descriptors_needed(config: &Config) -> u64 {
    let kinds = if config.listen.tcp.is_empty() { 1 } else { 2 };
    let connections = 2 * kinds * config.http.connections_max as u64;
    64 + connections + 12 * u64::from(config.capacity.sandboxes)
}

/// Runs the decoders that meet what a caller (or a guest) sends, for the fuzzer; nothing is started.
#[cfg(fuzzing)]
pub fn decode_for_fuzzing(body: &[u8]) {
    // A guest's result document goes through a reader of its own.
    let _ = crate::runtimes::python::left(body);
    if let Ok(text) = std::str::from_utf8(body) {
        let _ = crate::tools::custom::read(text);
    }
    let Ok(value) = json::parse(body) else { return };
    let _ = crate::tools::custom::from_json(value.clone());
    let Ok(call) = envelope::call(value) else { return };
    let registry = crate::tools::Registry::built_in();
    if let Some(tool) = registry.get(&call.tool) {
        if let Ok(parameters) = tool.schema().accept(call.parameters) {
            let _ = tool.work(parameters);
        }
    }
}
