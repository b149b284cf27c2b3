//! `doctor`: what the host gives, what needs it, what mends it. Told by the daemon where one answers, else tried out by an
//! engine that serves nobody.

mod deployment;
mod probe;
mod report;

use std::path::{Path, PathBuf};

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::client::{CliError, Client};
use super::out;
use crate::api::findings;
use crate::config::{Config, DEFAULT_CONFIG, Overrides};
use deployment::{Asked, Deployment};
use report::{Report, Source};

const EXITS: &str = "Exit status:
  0    everything is as it should be
  1    a warning: something is weaker than it could be (degraded levels too) or may run short
  2    level minimal, standard or strict can not be given on this host
  125  nobody could be asked";

#[derive(Args)]
#[command(after_help = EXITS)]
pub(super) struct DoctorArgs {
    /// Ask no daemon, try it out; needs root
    #[arg(long)]
    offline: bool,
    /// The daemon's configuration [default: /etc/sandkeep/sandkeep.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The daemon's --state-dir; only without a daemon
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Judge as a daemon with --allow-degraded does; only without a daemon
    #[arg(long)]
    allow_degraded: bool,
}

pub(super) fn doctor(socket: &Path, args: &DoctorArgs, as_json: bool) -> Result<u8, CliError> {
    let asked = if args.offline {
        Asked::Not
    } else {
        match Client::new(socket.to_owned())?.ask(Method::GET, "/api/v1/capabilities?versions=false", None) {
            Ok(reply) => Asked::Told(reply),
            Err(error) => Asked::Failed(error),
        }
    };
    let (source, host) = match &asked {
        Asked::Told(reply) if !reply["checks"].is_array() => {
            let version = reply["version"].as_str().unwrap_or("unknown");
            return Err(CliError::Reply(format!(
                "it is of version {version} and holds no checks; restart the daemon, or: sandkeep doctor --offline"
            )));
        }
        Asked::Told(reply) => (Source::Daemon, reply.clone()),
        Asked::Not | Asked::Failed(_) if nix::unistd::geteuid().is_root() => (Source::Probe, offline(args)?),
        Asked::Failed(error) => {
            return Err(CliError::Usage(format!("{error}\nwithout a daemon, root can find out: sudo sandkeep doctor")));
        }
        Asked::Not => return Err(CliError::Usage("--offline needs root: sudo sandkeep doctor --offline".into())),
    };
    let config = Config::load(args.config.as_deref(), &Overrides::default());
    let shown = args.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
    let deployment = Deployment {
        socket,
        asked: &asked,
        version: host["version"].as_str().unwrap_or_default(),
        config: config.map_err(|e| format!("{}: {e}", shown.display())),
    };
    let installed = deployment.findings().iter().map(|f| serde_json::json!(findings::finding(f))).collect();
    let report = Report::new(source, host, installed);
    out(&if as_json { format!("{:#}\n", report.json()) } else { report.text() })?;
    Ok(report.exit_code())
}

/// What the daemon would have told.
fn offline(args: &DoctorArgs) -> Result<Value, CliError> {
    let probed = probe::run(args)?;
    let levels: Vec<Value> = probed
        .facts
        .levels
        .iter()
        .map(|l| crate::spec::Level::from(l.level))
        .map(|level| {
            let off = level == crate::spec::Level::Minimal && !probed.facts.minimal_enabled;
            serde_json::json!({ "level": level.name(), "refused": off.then_some("turned off on this host") })
        })
        .collect();
    Ok(serde_json::json!({
        "version": probed.version,
        "host": findings::host(&probed.facts),
        "levels": levels,
        "checks": findings::checks(&probed.facts),
    }))
}
