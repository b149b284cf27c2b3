//! The flags of the two daemons. In the library, so that one generator writes the manual pages of all programs; the engine
//! links no more of it than its own flags.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::Parser;

use crate::config::{DEFAULT_TCP, Overrides};

/// Flags of test builds alone, of both daemons.
#[cfg(feature = "fault-injection")]
#[derive(clap::Args)]
pub struct Faults {
    /// Leave a fence out.
    #[arg(long, hide = true)]
    pub drop_fence: Vec<String>,
    /// Fail at a launch step.
    #[arg(long, hide = true)]
    pub fail_at: Option<String>,
}

/// Flags of `sandkeep-engine`.
#[derive(Parser)]
#[command(
    name = "sandkeep-engine",
    version,
    about = "Builds, watches and removes sandboxes; the privileged half of Sandkeep"
)]
pub struct Engine {
    /// TOML file; it must be root's.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Directory kept over restarts.
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
    /// Run with substitutes where the host lacks something, and say so in every reply.
    #[arg(long)]
    pub allow_degraded: bool,
    /// Try out what this host has, write it to standard output for `sandkeep doctor`, and end; nothing is left.
    #[arg(long)]
    pub probe: bool,
    /// End when this process, which must be the parent, ends.
    #[arg(long, hide = true)]
    pub supervisor: Option<i32>,
    #[cfg(feature = "fault-injection")]
    #[command(flatten)]
    pub faults: Faults,
}

/// Flags of `sandkeepd`.
#[derive(Parser)]
#[command(name = "sandkeepd", version, about = "A fresh sandbox for every tool call, over a Unix socket")]
pub struct Daemon {
    /// TOML file; the default is /etc/sandkeep/sandkeep.toml where that exists, else built-in settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Path of the public Unix socket.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Also listen on TCP; without an address on 127.0.0.1:8000 and [::1]:8000.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "default")]
    pub tcp: Option<Vec<String>>,
    /// Directory kept over restarts; sockets and journal then lie in its `run`.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Run with substitutes where the host lacks something, and say so in every reply.
    #[arg(long)]
    pub allow_degraded: bool,
    /// Be the front alone, for service managers: serve on the sockets that were passed (sd_listen_fds(3)) without any
    /// right; the engine is started apart.
    #[arg(long)]
    pub front: bool,
    #[arg(long, hide = true)]
    pub supervisor: Option<i32>,
    #[arg(long, hide = true)]
    pub listen_fd: Vec<RawFd>,
    #[cfg(feature = "fault-injection")]
    #[command(flatten)]
    pub faults: Faults,
}

impl Daemon {
    /// What the flags override in the file. Fails with the flag that is no address.
    pub fn overrides(&self) -> Result<Overrides, String> {
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
    pub fn common(&self) -> Vec<OsString> {
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

    /// What only the engine is told: nothing, except in test builds.
    pub fn faults(&self) -> Vec<OsString> {
        #[cfg(feature = "fault-injection")]
        return {
            let dropped = self.faults.drop_fence.iter().flat_map(|fence| ["--drop-fence".into(), fence.into()]);
            dropped.chain(self.faults.fail_at.iter().flat_map(|step| ["--fail-at".into(), step.into()])).collect()
        };
        #[cfg(not(feature = "fault-injection"))]
        Vec::new()
    }
}
