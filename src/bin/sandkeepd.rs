//! The daemon. Started by hand as root it is its own supervisor: it starts the engine and the front and restarts what
//! dies. The front, which alone talks to callers, gives up every right before it listens.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sandkeep::api::http::{FrontOptions, run};
use sandkeep::config::{Config, ConfigError, DEFAULT_TCP, EXIT_CONFIG, Overrides, Source};
use sandkeep::state::{self, StateError};
use sandkeep::supervisor::{self, Listeners, Supervisor};

#[derive(Parser)]
#[command(version, about = "A fresh sandbox for every tool call, over a Unix socket")]
struct Arguments {
    /// TOML file; the default is /etc/sandkeep/sandkeep.toml where that exists, else built-in settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Path of the public Unix socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Also listen on TCP; without an address on 127.0.0.1:8000 and [::1]:8000.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "default")]
    tcp: Option<Vec<String>>,
    /// Directory kept over restarts; sockets and journal then lie in its `run`.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Run with substitutes where the host lacks something, and say so in every reply.
    #[arg(long)]
    allow_degraded: bool,
    /// Be the front alone, for service managers: serve on the sockets that were passed (sd_listen_fds(3)) without any
    /// right; the engine is started apart.
    #[arg(long)]
    front: bool,
    #[arg(long, hide = true)]
    supervisor: Option<i32>,
    #[arg(long, hide = true)]
    listen_fd: Vec<RawFd>,
    /// Leave a fence out (test builds only).
    #[cfg(feature = "fault-injection")]
    #[arg(long, hide = true)]
    drop_fence: Vec<String>,
    /// Fail at a launch step (test builds only).
    #[cfg(feature = "fault-injection")]
    #[arg(long, hide = true)]
    fail_at: Option<String>,
}

impl Arguments {
    fn overrides(&self) -> Result<Overrides, String> {
        let mut tcp = Vec::new();
        for text in self.tcp.iter().flatten() {
            let addresses: Vec<&str> = if text == "default" { DEFAULT_TCP.into() } else { vec![text] };
            for address in addresses {
                tcp.push(address.parse::<SocketAddr>().map_err(|e| format!("--tcp {address}: {e}"))?);
            }
        }
        Ok(Overrides {
            socket: self.socket.clone(),
            tcp,
            state_dir: self.state_dir.clone(),
            allow_degraded: self.allow_degraded,
        })
    }

    /// What both other processes must be told in the same words.
    fn common(&self) -> Vec<OsString> {
        let mut common = Vec::new();
        for (flag, value) in [("--config", &self.config), ("--state-dir", &self.state_dir)] {
            if let Some(value) = value {
                common.extend([flag.into(), value.into()]);
            }
        }
        if self.allow_degraded {
            common.push("--allow-degraded".into());
        }
        common
    }
}

fn main() -> ExitCode {
    sandkeep::telemetry::init("info");
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = %e, "sandkeepd");
            let unusable = e.is::<ConfigError>() || e.is::<StateError>();
            if unusable { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn start(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let source = Source::new(arguments.config.clone(), arguments.overrides()?);
    let config = source.read()?;
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
    #[allow(unused_mut, reason = "only test builds add to it")]
    let mut engine: Vec<OsString> = Vec::new();
    #[cfg(feature = "fault-injection")]
    {
        engine.extend(arguments.drop_fence.iter().flat_map(|f| ["--drop-fence".into(), f.into()]));
        engine.extend(arguments.fail_at.iter().flat_map(|s| ["--fail-at".into(), s.into()]));
    }
    Ok(Supervisor { common: arguments.common(), config, source, engine, front }.run()?)
}

fn front(config: Config, mut source: Source, arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
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
    let is_root = nix::unistd::geteuid().is_root();
    let ids = is_root.then(|| supervisor::front_ids(&config));
    state::open(&config.state_dir.join("front"), ids)?;
    std::env::set_current_dir(&config.run_dir).map_err(|e| format!("{}: {e}", config.run_dir.display()))?;
    let served = Config { run_dir: ".".into(), ..config };
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
    let Listeners { unix, tcp } = listeners;
    Ok(run(FrontOptions { config: served, source: Some(source), keys, unix, tcp, ready: None, engine_uid: 0 })?)
}
