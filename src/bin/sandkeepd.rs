//! The daemon. Started by hand as root it is its own supervisor: it starts the engine and the front and restarts what
//! dies. The front, which alone talks to callers, gives up every right before it listens.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use clap::Parser;
use sandkeep::api::http::{FrontOptions, run};
use sandkeep::arguments::Daemon;
use sandkeep::config::Config;
use sandkeep::supervisor::{self, Supervisor};

fn main() -> ExitCode {
    sandkeep::telemetry::init("info");
    match start(Daemon::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = %e, "sandkeepd");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Daemon) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(arguments.config.as_deref(), &arguments.overrides()?)?;
    if arguments.front {
        return front(config, &arguments);
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
    Ok(Supervisor { common: arguments.common(), config, engine, front }.run()?)
}

/// The first inherited descriptor is the Unix socket, the others are TCP.
fn front(config: Config, arguments: &Daemon) -> Result<(), Box<dyn std::error::Error>> {
    let mut fds = supervisor::inherited(&arguments.listen_fd)?.into_iter();
    let unix = fds.next().map(UnixListener::from);
    let tcp = fds.map(TcpListener::from).collect();
    // The engine's socket is found from here, while the way can still be walked: a directory above may be root's alone.
    std::env::set_current_dir(&config.run_dir).map_err(|e| format!("{}: {e}", config.run_dir.display()))?;
    let config = Config { run_dir: ".".into(), ..config };
    if nix::unistd::geteuid().is_root() {
        // While it still can: the front is not what a host short of memory should kill first.
        if let Err(e) = std::fs::write("/proc/self/oom_score_adj", "-900") {
            tracing::warn!(error = %e, "oom_score_adj can not be lowered, ignoring");
        }
        let (uid, gid) = supervisor::front_ids(&config);
        supervisor::drop_privilege(uid, gid)?;
    }
    // After the ids: changing them clears it.
    if let Some(parent) = arguments.supervisor {
        supervisor::die_with(parent)?;
    }
    Ok(run(FrontOptions { config, unix, tcp, ready: None, engine_uid: 0 })?)
}
