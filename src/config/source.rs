//! Where settings come from, so that they can be read again: applied where they are valid, else kept as they were.

use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use super::*;

/// A file, or none, and the flags over it.
#[derive(Debug)]
pub struct Source {
    /// As operators know it.
    file: Option<PathBuf>,
    overrides: Overrides,
    /// The file's directory, for a process that can not walk to it any more.
    directory: Option<std::fs::File>,
}

impl Source {
    /// `file`, or the default file where that exists, or the built-in defaults.
    pub fn new(file: Option<PathBuf>, overrides: Overrides) -> Self {
        let default = || Some(PathBuf::from(DEFAULT_CONFIG)).filter(|p| p.exists());
        // Made absolute now: the front changes its working directory.
        let file = file.or_else(default).map(|f| std::path::absolute(&f).unwrap_or(f));
        Self { file, overrides, directory: None }
    }

    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The settings as the file says now. Every error names the file.
    pub fn read(&self) -> Result<Config, ConfigError> {
        let Some(file) = &self.file else { return raw::Raw::default().validate(&self.overrides) };
        let raw = match (&self.directory, file.file_name()) {
            (Some(directory), Some(name)) => {
                let through = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
                raw::read(&through, file)?
            }
            _ => raw::read(file, file)?,
        };
        raw.validate(&self.overrides).map_err(|e| match e {
            ConfigError::Value { key, message } => {
                ConfigError::Value { key, message: format!("{message} (in {})", file.display()) }
            }
            other => other,
        })
    }

    /// As `read`, for a process whose limits it sets: the file must be root's and writable by nobody else.
    pub fn read_as_roots(&self) -> Result<Config, ConfigError> {
        if let Some(file) = &self.file {
            let metadata =
                std::fs::metadata(file).map_err(|source| ConfigError::Read { path: file.clone(), source })?;
            if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
                return Err(ConfigError::Owner { path: file.clone() });
            }
        }
        self.read()
    }

    /// Keeps the file in reach of a process that is about to lose the rights to walk to it.
    pub fn hold(&mut self) -> std::io::Result<()> {
        if let Some(parent) = self.file.as_deref().and_then(Path::parent) {
            self.directory = Some(std::fs::File::open(parent)?);
        }
        Ok(())
    }
}

impl Config {
    /// What may change while the daemon runs, taken from `next`; the rest stays, and the keys in which `next` differs
    /// there are named: they need a restart.
    pub fn adopt(&self, next: Config) -> (Config, Vec<&'static str>) {
        let mut differs = Vec::new();
        let mut same = |key, same: bool| {
            if !same {
                differs.push(key);
            }
        };
        same("state_dir", self.state_dir == next.state_dir);
        same("run_dir", self.run_dir == next.run_dir);
        same("listen.socket", self.listen.socket == next.listen.socket);
        same("listen.group", self.listen.group == next.listen.group);
        same("listen.tcp", self.listen.tcp == next.listen.tcp);
        same("listen.api_keys", self.listen.api_keys == next.listen.api_keys);
        same("http", self.http == next.http);
        same("capacity", self.capacity == next.capacity);
        same(
            "leases",
            (self.host.lease_first_uid, self.host.lease_count) == (next.host.lease_first_uid, next.host.lease_count),
        );
        same("users", (&self.host.front_user, &self.host.box_user) == (&next.host.front_user, &next.host.box_user));
        let config = Config {
            allow_degraded: next.allow_degraded,
            levels: next.levels,
            ceilings: next.ceilings,
            principals: next.principals,
            listen: Listen { tcp_anonymous: next.listen.tcp_anonymous, ..self.listen.clone() },
            host: Host { runtime_directories: next.host.runtime_directories, ..self.host.clone() },
            ..self.clone()
        };
        (config, differs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_change_is_kept_and_named() {
        let parse = |text| Config::parse(text, Path::new("t"), &Overrides::default()).unwrap();
        let old = parse("");
        let next = parse(
            "allow_degraded = true\nstate_dir = '/x'\n[levels]\nminimal = true\n[ceilings]\nmax_memory_mb = 100\n\
             [listen]\ntcp_anonymous = 'loopback'\nsocket = '/x/s'\n[http]\nqueue_max = 7\n[capacity]\nsandboxes = 3\n\
             [leases]\ncount = 100\n[users]\nfront = 'x'\n[runtimes]\ndirectories = ['/opt/x']\n\
             [[principals]]\nname = 'a'\nuids = [1]\n",
        );
        let (config, differs) = old.adopt(next.clone());
        assert_eq!(differs, ["state_dir", "listen.socket", "http", "capacity", "leases", "users"]);
        assert!(config.allow_degraded && config.levels.minimal);
        assert_eq!((config.ceilings, config.principals), (next.ceilings, next.principals));
        assert_eq!(config.listen.tcp_anonymous, TcpAnonymous::Loopback);
        assert_eq!(config.host.runtime_directories, next.host.runtime_directories);
        assert_eq!((&config.state_dir, config.http), (&old.state_dir, old.http));
        assert_eq!((config.capacity, config.host.lease_count), (old.capacity, old.host.lease_count));
        assert_eq!(old.adopt(old.clone()), (old, vec![]));
    }

    #[test]
    fn a_held_file_is_read_again_from_anywhere_and_errors_name_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("s.toml");
        std::fs::write(&file, "allow_degraded = true\n").unwrap();
        let mut source = Source::new(Some(file.clone()), Overrides::default());
        source.hold().unwrap();
        assert!(source.read().unwrap().allow_degraded);
        // An editor replaces the file.
        std::fs::write(dir.path().join("new"), "[ceilings]\nmax_memory_mb = 0\n").unwrap();
        std::fs::rename(dir.path().join("new"), &file).unwrap();
        let message = source.read().unwrap_err().to_string();
        assert!(message.starts_with("ceilings.max_memory_mb") && message.contains("s.toml"), "{message}");
        std::fs::write(&file, "nonsense = 1\n").unwrap();
        let message = source.read().unwrap_err().to_string();
        assert!(message.contains(&file.display().to_string()) && message.contains("nonsense"), "{message}");
        std::fs::remove_file(&file).unwrap();
        assert!(source.read().unwrap_err().to_string().contains("s.toml"));
    }
}
