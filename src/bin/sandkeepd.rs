//! The daemon. Started by hand as root it is its own supervisor: it starts the engine and the front and restarts what
//! dies. The front, which alone talks to callers, gives up every right before it listens.

use std::fs::File;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::ExitCode;

use clap::Parser;
use sandkeep::api::http::{FrontOptions, run};
use sandkeep::arguments::Daemon;
use sandkeep::config::{Config, ConfigError, EXIT_CONFIG, Source};
use sandkeep::state::{State, StateError};
use sandkeep::supervisor::{self, Listeners, Supervisor, SupervisorError};
use sandkeep::tools::custom::Directories;

/// Output and replies from this size on do not stay with the front once they are sent, in bytes. With sixteen callers of a
/// mebibyte each it keeps 13 MiB so, and 45 without; calls take as long.
const LARGE_TEXT: i32 = 256 << 10;

fn main() -> ExitCode {
    sandkeep::telemetry::init("info");
    match start(Daemon::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = %e, "sandkeepd");
            let child = e.downcast_ref::<SupervisorError>().is_some_and(|e| e.unusable);
            let unusable = child || e.is::<ConfigError>() || e.is::<StateError>();
            if unusable { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn start(arguments: Daemon) -> Result<(), Box<dyn std::error::Error>> {
    let source = Source::new(arguments.config.clone(), arguments.overrides()?);
    let config = source.read_as_roots()?;
    if arguments.front {
        return front(config, source, &arguments);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err("sandkeepd must be started as root: it starts the engine and then gives up its rights".into());
    }
    let mut front = Vec::new();
    if let Some(socket) = &arguments.socket {
        front.extend(["--socket".into(), socket.into()]);
    }
    Ok(Supervisor { common: arguments.common(), config, source, engine: arguments.faults(), front }.run()?)
}

/// The front's half: takes its sockets, opens what lies below root's directories, gives up every right, serves.
fn front(config: Config, mut source: Source, arguments: &Daemon) -> Result<(), Box<dyn std::error::Error>> {
    sandkeep::sys::process::map_allocations_from(LARGE_TEXT);
    let sockets = if arguments.listen_fd.is_empty() {
        supervisor::activated()
    } else {
        supervisor::inherited(&arguments.listen_fd)
    }?;
    let mut listeners = Listeners::sort(sockets)?;
    if listeners.unix.is_none() {
        return Err("no Unix socket was passed: start sandkeepd.socket, or sandkeepd without --front".into());
    }
    for address in config.listen.tcp.iter().filter(|a| !listeners.has(a)).collect::<Vec<_>>() {
        listeners.tcp.push(TcpListener::bind(address).map_err(|e| format!("listen.tcp {address}: {e}"))?);
    }
    // All that is reached by path is opened here, while the way can still be walked: a directory above may be root's.
    source.hold()?;
    let keys = config.api_keys()?;
    let config = config.with_search_keys()?;
    let is_root = nix::unistd::geteuid().is_root();
    let ids = is_root.then(|| supervisor::front_ids(&config));
    let state = State::find(config.state_dir.join("front"))?;
    let operators = match File::open(&config.tools_dir) {
        Ok(directory) => Some((directory, config.tools_dir.clone())),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(format!("tools_dir {}: {e}", config.tools_dir.display()).into()),
    };
    std::env::set_current_dir(&config.run_dir).map_err(|e| format!("{}: {e}", config.run_dir.display()))?;
    let engine_socket = Config { run_dir: ".".into(), ..config.clone() }.engine_socket();
    if let Some((uid, gid)) = ids {
        // While it still can: the front is not what a host short of memory should kill first.
        if let Err(e) = std::fs::write("/proc/self/oom_score_adj", "-900") {
            tracing::warn!(error = %e, "oom_score_adj can not be lowered, ignoring");
        }
        supervisor::drop_privilege(uid, gid)?;
    }
    // After the ids: changing them clears it.
    if let Some(parent) = arguments.supervisor {
        supervisor::die_with(parent)?;
    }
    // Only now: what lies in there is the front's, and root must not follow a link of its making.
    state.open()?;
    sandkeep::checks::load()?;
    let tools = Directories { operators, own: Some(state.directory("tools")?) };
    let executions = Some(state.directory("executions")?);
    let Listeners { unix, tcp } = listeners;
    let source = Some(source);
    Ok(run(FrontOptions { source, keys, engine_socket, unix, tcp, tools, executions, ..FrontOptions::new(config) })?)
}
