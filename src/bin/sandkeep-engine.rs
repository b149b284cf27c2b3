//! The privileged monitor. Started by `sandkeepd` or by systemd; takes no requests but the seam's verbs.

use std::process::ExitCode;

use clap::Parser;
use sandkeep::arguments::Engine;
use sandkeep::config::{Config, Overrides};
use sandkeep::engine::{Options, run};

fn main() -> ExitCode {
    sandkeep::telemetry::init("info");
    match start(Engine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = %e, "engine");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Engine) -> Result<(), Box<dyn std::error::Error>> {
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
