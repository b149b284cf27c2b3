//! Findings about the installation: daemon, versions, group, units. Only the command line looks for these.

use std::path::Path;
use std::process::Command;

use nix::unistd::{Gid, Group};
use serde_json::Value;

use super::super::client::CliError;
use crate::config::Config;
use crate::policy::doctor::{Finding, Status};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What became of asking the daemon.
pub(super) enum Asked {
    Not,
    Told(Value),
    Failed(CliError),
}

pub(super) struct Deployment<'a> {
    pub socket: &'a Path,
    pub asked: &'a Asked,
    /// Of whoever told about the host.
    pub version: &'a str,
    /// `Err`: why it can not be read.
    pub config: Result<Config, String>,
}

impl Deployment<'_> {
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut all = vec![self.daemon(), self.version(), self.group()];
        if Path::new("/run/systemd/system").is_dir() {
            all.extend(self.units());
        }
        all
    }

    fn daemon(&self) -> Finding {
        let socket = self.socket.display();
        let (status, found, fix) = match self.asked {
            Asked::Told(_) => (Status::Ok, format!("answers at {socket}"), ""),
            Asked::Not => (Status::Info, "not asked (--offline)".to_owned(), "sandkeep doctor, without --offline"),
            Asked::Failed(CliError::Connect { source, .. }) => (
                Status::Warning,
                format!("none answers at {socket}: {source}"),
                "systemctl start sandkeep.target, or by hand: sandkeepd",
            ),
            Asked::Failed(error) => (
                Status::Warning,
                format!("something is wrong with the one at {socket}: {error}"),
                "journalctl -u sandkeepd -u sandkeep-engine",
            ),
        };
        Finding::new("daemon", "Daemon", status, found, "every call").mended_by(fix)
    }

    fn version(&self) -> Finding {
        let same = self.version == VERSION;
        let found = if same { VERSION.to_owned() } else { format!("{}; this program is {VERSION}", self.version) };
        let status = if same { Status::Ok } else { Status::Warning };
        Finding::new("version", "Version", status, found, "telling what is true of this version")
            .mended_by("install all of Sandkeep in one version, then: systemctl restart sandkeepd sandkeep-engine")
    }

    fn group(&self) -> Finding {
        let finding = |status, found| {
            Finding::new("group", "Group that may call", status, found, "callers on the Unix socket who are not root")
        };
        let config = match &self.config {
            Ok(config) => config,
            Err(error) => {
                // It may be root's alone.
                let status = if nix::unistd::geteuid().is_root() { Status::Warning } else { Status::Info };
                return finding(status, format!("the configuration can not be read: {error}"))
                    .mended_by("as root: sandkeep config check");
            }
        };
        let name = &config.listen.group;
        let Ok(Some(group)) = Group::from_name(name) else {
            return finding(Status::Warning, format!("there is no group {name}: only root may call"))
                .mended_by(format!("groupadd --system {name}, then restart the daemon"));
        };
        let mut members = group.mem;
        members.extend(with_primary(group.gid));
        members.retain(|member| *member != config.host.front_user);
        members.sort();
        members.dedup();
        if members.is_empty() {
            finding(Status::Info, format!("nobody is in {name}: only root may call"))
                .mended_by(format!("usermod -aG {name} USER, who then logs in again"))
        } else {
            finding(Status::Ok, format!("{name}: {}", members.join(", ")))
        }
    }

    fn units(&self) -> Vec<Finding> {
        let names = ["sandkeepd.socket", "sandkeepd.service", "sandkeep-engine.service"];
        let shown =
            Command::new("systemctl").args(["show", "--property=Id,LoadState,ActiveState"]).args(names).output();
        let text = match shown {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            Ok(output) => return vec![unasked(String::from_utf8_lossy(&output.stderr).trim())],
            Err(e) => return vec![unasked(&e.to_string())],
        };
        units(&text, matches!(self.asked, Asked::Not))
    }
}

fn unasked(why: &str) -> Finding {
    let found = format!("systemctl show can not be asked: {why}");
    Finding::new("units", "systemd units", Status::Info, found, "running as a service")
}

/// From `systemctl show`, one block a unit.
fn units(shown: &str, offline: bool) -> Vec<Finding> {
    let states: Vec<(&str, &str, &str)> = shown
        .split("\n\n")
        .filter_map(|block| {
            let of = |key: &str| block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            Some((of("Id")?, of("LoadState")?, of("ActiveState")?))
        })
        .collect();
    if states.iter().all(|(_, load, _)| *load == "not-found") {
        let found = "none is installed: the daemon is run by hand";
        let finding = Finding::new("units", "systemd units", Status::Info, found, "running as a service");
        return vec![finding.mended_by("scripts/install, or the package")];
    }
    let socket_listens = states.iter().any(|(id, _, active)| *id == "sandkeepd.socket" && *active == "active");
    let unit = |&(id, load, active): &(&str, &str, &str)| {
        let (status, fix) = match (load, active) {
            ("loaded", "active" | "reloading") => (Status::Ok, String::new()),
            ("loaded", "activating" | "deactivating") => (Status::Info, format!("systemctl status {id}")),
            ("loaded", "failed") => (Status::Warning, format!("journalctl -u {id} -e, then systemctl restart {id}")),
            // The first caller starts it.
            ("loaded", _) if offline || (id == "sandkeepd.service" && socket_listens) => {
                (Status::Info, format!("systemctl start {id}"))
            }
            ("loaded", _) => (Status::Warning, format!("systemctl start {id}")),
            ("masked", _) => (Status::Warning, format!("systemctl unmask {id}")),
            _ => (Status::Warning, format!("scripts/install, or the package; then systemctl start {id}")),
        };
        let needed_by = "running as a service";
        Finding::new(&format!("unit_{id}"), id, status, format!("{load}, {active}"), needed_by).mended_by(fix)
    };
    states.iter().map(unit).collect()
}

/// Local users whose own group it is: the group database does not list them as its members.
fn with_primary(gid: Gid) -> Vec<String> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        (fields.nth(2)?.parse::<u32>().ok()? == gid.as_raw()).then_some(name)
    };
    text.lines().filter_map(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(text: &str, offline: bool) -> Vec<(String, Status)> {
        units(text, offline).into_iter().map(|f| (f.id, f.status)).collect()
    }

    #[test]
    fn units_are_told_by_what_systemd_says() {
        let shown = |socket: &str, front: &str, engine: &str| {
            format!(
                "Id=sandkeepd.socket\nLoadState=loaded\nActiveState={socket}\n\nId=sandkeepd.service\nLoadState=loaded\n\
                 ActiveState={front}\n\nId=sandkeep-engine.service\nLoadState=loaded\nActiveState={engine}\n"
            )
        };
        let only = |text: &str, offline| statuses(text, offline).into_iter().map(|(_, s)| s).collect::<Vec<_>>();
        use Status::{Info, Ok, Warning};
        assert_eq!(only(&shown("active", "active", "active"), false), [Ok, Ok, Ok]);
        assert_eq!(only(&shown("active", "inactive", "active"), false), [Ok, Info, Ok]);
        assert_eq!(only(&shown("inactive", "inactive", "failed"), false), [Warning, Warning, Warning]);
        assert_eq!(only(&shown("inactive", "inactive", "failed"), true), [Info, Info, Warning]);
        let none = "Id=a.service\nLoadState=not-found\nActiveState=inactive\n";
        assert_eq!(statuses(none, false), [("units".to_owned(), Info)]);
    }

    #[test]
    fn members_by_their_own_group_are_found() {
        assert!(with_primary(Gid::from_raw(0)).contains(&"root".to_owned()));
        assert!(with_primary(Gid::from_raw(4_000_000_000)).is_empty());
    }
}
