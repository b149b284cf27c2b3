//! The privileged monitor. Started by `sandkeepd` or by systemd; takes no requests but the seam's verbs.

use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::Parser;
use sandkeep::arguments::Engine;
use sandkeep::config::{ConfigError, EXIT_CONFIG, Overrides, Source};
use sandkeep::engine::{Options, probe, run};
use sandkeep::wire::encode;

/// All that the engine is told through its environment.
const ENVIRONMENT: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "RUST_LOG"];

/// Pid 1 of every sandbox begins as a copy of this process. What else a service manager or a shell put into its
/// environment is left behind by an exec: nothing can be taken out of the pages in which the kernel passed it.
fn leave_environment() -> Result<(), Box<dyn std::error::Error>> {
    let known = |name: &std::ffi::OsStr| ENVIRONMENT.iter().any(|known| name == *known);
    if std::env::vars_os().all(|(name, _)| known(&name)) {
        return Ok(());
    }
    let kept = std::env::vars_os().filter(|(name, _)| known(name));
    let program = std::env::current_exe()?;
    Err(Command::new(program).args(std::env::args_os().skip(1)).env_clear().envs(kept).exec().into())
}

fn main() -> ExitCode {
    sandkeep::telemetry::init("info");
    if let Err(error) = leave_environment() {
        tracing::error!(%error, "engine");
        return ExitCode::FAILURE;
    }
    match start(Engine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = %e, "engine");
            if e.is::<ConfigError>() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn start(arguments: Engine) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(supervisor) = arguments.supervisor {
        sandkeep::supervisor::die_with(supervisor)?;
    }
    #[cfg(feature = "fault-injection")]
    {
        sandkeep::launch::fault::drop_fences(&arguments.faults.drop_fence)?;
        if let Some(step) = &arguments.faults.fail_at {
            sandkeep::launch::fault::fail_at(step)?;
        }
    }
    let overrides =
        Overrides { state_dir: arguments.state_dir, allow_degraded: arguments.allow_degraded, ..Overrides::default() };
    let source = Source::new(arguments.config, overrides);
    let options = Options { config: source.read_as_roots()?, source };
    if arguments.probe {
        return write_probe(&options);
    }
    Ok(run(options)?)
}

fn write_probe(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        return Err("what --probe writes is not for a terminal: sandkeep doctor reads and shows it".into());
    }
    out.write_all(&encode(&probe(options)?)?)?;
    Ok(out.flush()?)
}
