//! SIGHUP: the configuration is read again and applied, or kept as it was with the reason told.

use super::monitor::Monitor;
use crate::config::Config;
use crate::policy::plan::Rules;
use crate::telemetry::manager;

impl Rules {
    /// Takes over what `config` says of them.
    fn adopt(&mut self, config: &Config) {
        self.ceilings = config.ceilings;
        self.allow_degraded = config.allow_degraded;
        self.runtime_directories = config.runtime_directories();
    }
}

impl Monitor {
    /// Sandboxes that exist keep what they were promised; the next Create is planned by the new rules.
    pub(super) fn reload(&mut self) {
        manager::reloading();
        let outcome = match self.settings.source.read_as_roots() {
            Ok(next) => {
                let (config, differs) = self.settings.config.adopt(next);
                self.settings.rules.adopt(&config);
                self.settings.minimal_enabled = config.levels.minimal;
                self.volumes.set_limits(config.workspaces.into());
                self.settings.config = config;
                self.renew_pool();
                if differs.is_empty() {
                    tracing::info!("configuration reloaded");
                } else {
                    tracing::warn!(keys = ?differs, "configuration reloaded; these keys need a restart of the engine");
                }
                None
            }
            Err(error) => {
                tracing::error!(%error, "configuration not reloaded, the old one stays in force");
                Some(format!("Old configuration in force: {error}"))
            }
        };
        self.settings.complaint = outcome;
        manager::ready(&self.status());
        self.status_told = self.status();
    }

    /// One line for `systemctl status`.
    pub(super) fn status(&self) -> String {
        let levels: Vec<&str> = self.levels_available().iter().map(|level| level.name()).collect();
        let levels = if levels.is_empty() { "none".to_owned() } else { levels.join(", ") };
        let mut status = format!("{} sandboxes, {} waiting; levels: {levels}", self.in_use(), self.pool.waiting());
        if self.settings.rules.allow_degraded {
            status.push_str("; degrading allowed");
        }
        match &self.settings.complaint {
            Some(complaint) => format!("{complaint}; {status}"),
            None => status,
        }
    }
}
