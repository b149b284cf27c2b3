//! Where settings come from, so that they can be read again: applied where they are valid, else kept as they were.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use super::*;

/// A file and the flags over it.
#[derive(Debug)]
pub struct Source {
    /// As operators know it.
    file: PathBuf,
    /// Nobody named it: where it does not exist, the built-in settings hold.
    default: bool,
    overrides: Overrides,
    /// The file's directory as it was at the start, for a process that can not walk to it any more.
    directory: Option<File>,
}

/// Whether only root can have written it.
pub(super) fn is_roots(metadata: &Metadata) -> bool {
    metadata.uid() == 0 && metadata.mode() & 0o022 == 0
}

impl Source {
    /// `file`, or the default file.
    pub fn new(file: Option<PathBuf>, overrides: Overrides) -> Self {
        let default = file.is_none();
        let file = file.unwrap_or_else(|| DEFAULT_CONFIG.into());
        // Made absolute now: the front changes its working directory.
        let file = std::path::absolute(&file).unwrap_or(file);
        Self { file, default, overrides, directory: None }
    }

    /// The settings as the file says now. Every error names the file.
    pub fn read(&self) -> Result<Config, ConfigError> {
        self.settings(|_| Ok(()))
    }

    /// As `read`, for processes whose limits and callers it sets: the file must be root's and writable by nobody else.
    pub fn read_as_roots(&self) -> Result<Config, ConfigError> {
        self.settings(
            |metadata| {
                if is_roots(metadata) { Ok(()) } else { Err(ConfigError::Owner { path: self.file.clone() }) }
            },
        )
    }

    /// As `read_as_roots`, for whoever decides for both halves whether a reload is begun: what the front, which is not
    /// root, could not read must not be applied by the engine alone.
    pub fn read_for_both(&self) -> Result<Config, ConfigError> {
        if self.has_moved() {
            return Err(ConfigError::Moved { path: self.file.clone() });
        }
        self.settings(|metadata| {
            if !is_roots(metadata) {
                return Err(ConfigError::Owner { path: self.file.clone() });
            }
            if metadata.mode() & 0o004 == 0 {
                return Err(ConfigError::Unreadable { path: self.file.clone() });
            }
            Ok(())
        })
    }

    fn settings(&self, check: impl Fn(&Metadata) -> Result<(), ConfigError>) -> Result<Config, ConfigError> {
        let (raw, metadata) = match self.raw() {
            Err(ConfigError::Read { source, .. }) if self.default && source.kind() == io::ErrorKind::NotFound => {
                return raw::Raw::default().validate(&self.overrides);
            }
            result => result?,
        };
        check(&metadata)?;
        raw.validate(&self.overrides).map_err(|e| match e {
            ConfigError::Value { key, message } => {
                ConfigError::Value { key, message: format!("{message} (in {})", self.file.display()) }
            }
            other => other,
        })
    }

    /// By its path, which is what operators mean; through the directory of the start where the path can not be walked.
    fn raw(&self) -> Result<(raw::Raw, Metadata), ConfigError> {
        match (raw::read(&self.file, &self.file), &self.directory, self.file.file_name()) {
            (Err(ConfigError::Read { source, .. }), Some(directory), Some(name))
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                let through = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
                raw::read(&through, &self.file)
            }
            (result, ..) => result,
        }
    }

    /// Keeps the file in reach of a process that is about to lose the rights to walk to it.
    pub fn hold(&mut self) -> io::Result<()> {
        let Some(parent) = self.file.parent() else { return Ok(()) };
        match File::open(parent) {
            Ok(directory) => self.directory = Some(directory),
            Err(e) if self.default && e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Whether the path leads to another directory than at the start: a process that holds that one would read an old
    /// file.
    fn has_moved(&self) -> bool {
        let (Some(held), Some(parent)) = (&self.directory, self.file.parent()) else { return false };
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        match (held.metadata(), std::fs::metadata(parent)) {
            (Ok(held), Ok(now)) => id(held) != id(now),
            _ => true,
        }
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
        same("tools_dir", self.tools_dir == next.tools_dir);
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
        let (search, keyless) = self.search.adopt(next.search);
        differs.extend(keyless);
        let config = Config {
            allow_degraded: next.allow_degraded,
            levels: next.levels,
            ceilings: next.ceilings,
            pool: next.pool,
            checks: next.checks,
            workspaces: next.workspaces,
            egress: next.egress,
            search,
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
             [egress]\nports = [8080]\n[checks]\npython = false\npython_modules = ['os']\n[workspaces]\nsize_mb = 9\n[search.searxng]\nurl = 'http://a'\n\
             [[principals]]\nname = 'a'\nuids = [1]\n",
        );
        let (config, differs) = old.adopt(next.clone());
        assert_eq!(differs, ["state_dir", "listen.socket", "http", "capacity", "leases", "users"]);
        assert!(config.allow_degraded && config.levels.minimal);
        assert_eq!(config.workspaces, next.workspaces);
        assert_eq!((config.ceilings, config.egress, config.principals), (next.ceilings, next.egress, next.principals));
        assert!(!config.checks.python && config.checks.python_modules == ["os"]);
        assert_eq!(config.search.ready(), [EngineName::Searxng]);
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

    #[test]
    fn whoever_decides_for_both_takes_only_what_both_will_read() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("d/s.toml");
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(&file, "").unwrap();
        let mut source = Source::new(Some(file.clone()), Overrides::default());
        source.hold().unwrap();
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert!(source.read_for_both().is_ok());
        mode(0o600);
        assert!(matches!(source.read_for_both(), Err(ConfigError::Unreadable { .. })));
        mode(0o666);
        assert!(matches!(source.read_for_both(), Err(ConfigError::Owner { .. })));
        assert!(matches!(source.read_as_roots(), Err(ConfigError::Owner { .. })));
        std::fs::rename(dir.path().join("d"), dir.path().join("old")).unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(&file, "allow_degraded = true\n").unwrap();
        assert!(matches!(source.read_for_both(), Err(ConfigError::Moved { .. })));
        // Whoever can walk there reads what the path means now.
        assert!(source.read().unwrap().allow_degraded);
    }
}
