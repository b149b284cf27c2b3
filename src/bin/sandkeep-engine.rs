//! The privileged monitor. Started by `sandkeepd` or by systemd; takes no requests but the seam's verbs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sandkeep::config::{Config, Overrides};
use sandkeep::engine::{Options, run};

#[derive(Parser)]
#[command(version, about = "Builds, watches and removes sandboxes; the privileged half of Sandkeep")]
struct Arguments {
    /// TOML file; it must be root's.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Directory kept over restarts.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Run with substitutes where the host lacks something, and say so in every reply.
    #[arg(long)]
    allow_degraded: bool,
    /// End when this process, which must be the parent, ends.
    #[arg(long, hide = true)]
    supervisor: Option<i32>,
    /// Leave a fence out (test builds only).
    #[cfg(feature = "fault-injection")]
    #[arg(long, hide = true)]
    drop_fence: Vec<String>,
    /// Fail at a launch step (test builds only).
    #[cfg(feature = "fault-injection")]
    #[arg(long, hide = true)]
    fail_at: Option<String>,
}

fn main() -> ExitCode {
    sandkeep::telemetry::init("info");
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = %e, "engine");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(supervisor) = arguments.supervisor {
        sandkeep::supervisor::die_with(supervisor)?;
    }
    #[cfg(feature = "fault-injection")]
    {
        sandkeep::launch::fault::drop_fences(&arguments.drop_fence)?;
        if let Some(step) = &arguments.fail_at {
            sandkeep::launch::fault::fail_at(step)?;
        }
    }
    let overrides =
        Overrides { state_dir: arguments.state_dir, allow_degraded: arguments.allow_degraded, ..Overrides::default() };
    let config = Config::load(arguments.config.as_deref(), &overrides)?;
    Ok(run(Options { config, config_file: arguments.config })?)
}
