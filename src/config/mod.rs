//! Settings: a TOML file and a few flags become one validated [`Config`], once, at start. Unknown keys fail.

pub mod file;
pub mod keys;
mod raw;
pub mod search;
mod source;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::spec::{EgressRules, Level};

pub use search::{EngineName, Search, SearchEngine};
pub use source::Source;

/// Everything that can be set, validated. Defaults are a working daemon.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Kept over restarts.
    pub state_dir: PathBuf,
    /// Sockets, journal, templates; gone at reboot.
    pub run_dir: PathBuf,
    /// The operator's manifests of custom tools, read where the directory is there when the front starts.
    pub tools_dir: PathBuf,
    /// Run with substitutes where the host lacks something, and say so in every reply.
    pub allow_degraded: bool,
    pub listen: Listen,
    pub http: Http,
    pub levels: Levels,
    pub ceilings: Ceilings,
    pub capacity: Capacity,
    pub pool: Pool,
    pub checks: Checks,
    pub workspaces: Workspaces,
    pub host: Host,
    /// What calls may reach on the network.
    pub egress: EgressRules,
    pub search: Search,
    pub principals: Vec<PrincipalRule>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listen {
    pub socket: PathBuf,
    /// Members may call; the socket belongs to it.
    pub group: String,
    pub tcp: Vec<SocketAddr>,
    pub tcp_anonymous: TcpAnonymous,
    /// File of API keys, see [`keys`]; `None`: the credential of that name, where there is one.
    pub api_keys: Option<PathBuf>,
}

/// Who may call over TCP without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcpAnonymous {
    Off,
    /// Callers on a loopback address, with a loopback Host, no Origin and a JSON body, as principal `local`.
    Loopback,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Http {
    pub body_bytes_max: usize,
    pub header_timeout_ms: u64,
    pub body_timeout_ms: u64,
    /// On the Unix socket, and the same once more on TCP.
    pub connections_max: usize,
    /// Of one uid, one IPv4 address, or one IPv6 network of 64 bits.
    pub connections_per_peer_max: usize,
    /// Calls of one principal that may wait for room; one more is refused.
    pub queue_max: usize,
    /// The same of all principals together.
    pub queue_total_max: usize,
    /// A call waits no longer than this for room, whatever time it has.
    pub queue_wait_max_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// Level minimal hides little; it is off unless the operator turns it on.
    pub minimal: bool,
}

impl Levels {
    pub fn enabled(self, level: Level) -> bool {
        level != Level::Minimal || self.minimal
    }
}

/// The most that any caller may ask for; above a level's own most they have no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceilings {
    pub memory_bytes: u64,
    pub cpu_centipercent: u32,
    pub wall_ms: u64,
    pub cpu_time_ms: u64,
    pub file_size_bytes: u64,
    pub pids: u32,
    pub output_bytes: u64,
}

/// What all sandboxes together may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub sandboxes: u32,
    /// `None`: three quarters of the host's memory.
    pub memory_bytes: Option<u64>,
    pub pids: u32,
    /// `None`: every core.
    pub cpu_centipercent: Option<u32>,
    /// Of sandboxes and memory, what one principal may hold; its first sandbox may be larger.
    pub principal_percent: u32,
}

/// What callers' code is looked at for before it runs: the rules of `crate::checks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks {
    /// Whether scripts of bash are looked at.
    pub bash: bool,
    /// Whether sources of the tool `python` are.
    pub python: bool,
    /// Modules that they may import beside those of the rule.
    pub python_modules: Vec<String>,
    /// Rules that are not asked, by their names.
    pub off: Vec<String>,
}

/// Every rule there is. Here, because the engine reads the settings too and knows nothing else of checks.
pub const RULES: [&str; 14] = [
    "bash/fork-bomb",
    "bash/fetched-code",
    "bash/rm-outside-workspace",
    "bash/eval",
    "bash/sudo",
    "bash/mkfs",
    "bash/device-write",
    "bash/netcat",
    "bash/network-device",
    "bash/fetch-without-egress",
    "python/lines",
    "python/modules",
    "python/builtins",
    "python/attributes",
];

/// Sandboxes that are built before there is a call for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    pub enabled: bool,
    /// How many may wait, of all kinds together.
    pub waiting_max: u32,
    /// What those that wait may take together, as estimated by kind.
    pub memory_bytes: u64,
}

/// Directories that are kept between calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workspaces {
    /// What one may hold; reserved on the disk when it is made.
    pub bytes: u64,
    /// Files, directories and links in one.
    pub files: u64,
    /// Of one principal.
    pub each_principal: u32,
    /// Of all together, on the disk.
    pub total_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// First host uid of the lease range; `None` takes the first free slice of the default range.
    pub lease_first_uid: Option<u32>,
    pub lease_count: u32,
    /// User names; where the user does not exist the documented number is used.
    pub front_user: String,
    pub box_user: String,
    /// Extra directories of runtimes, seen inside at the same path, read-only.
    pub runtime_directories: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    User,
    Admin,
}

/// Maps peers of the Unix socket to a principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalRule {
    pub name: String,
    pub role: Role,
    pub uids: Vec<u32>,
    pub gids: Vec<u32>,
    /// Calls run at this level or a stricter one.
    pub level_floor: Option<Level>,
    /// Calls may not ask for a stricter level.
    pub level_ceiling: Option<Level>,
}

/// The settings can not be used; the message names file, key and reason.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {message}")]
    Syntax { path: PathBuf, message: String },
    #[error(
        "{path}: must belong to root and be writable by nobody else: limits, principals and keys are root's to give"
    )]
    Owner { path: PathBuf },
    #[error("{path}: lies in another directory than at the start: restart the daemon")]
    Moved { path: PathBuf },
    #[error("{path}: can not be read by the front, which has no rights: give it mode 0644")]
    Unreadable { path: PathBuf },
    #[error("{key}: {message}")]
    Value { key: &'static str, message: String },
}

/// The flags of `sandkeepd` that override the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub socket: Option<PathBuf>,
    pub tcp: Vec<SocketAddr>,
    pub state_dir: Option<PathBuf>,
    pub allow_degraded: bool,
}

pub const DEFAULT_SOCKET: &str = "/run/sandkeep/sandkeep.sock";
pub const DEFAULT_STATE_DIR: &str = "/var/lib/sandkeep";
pub const DEFAULT_RUN_DIR: &str = "/run/sandkeep";
pub const DEFAULT_TOOLS_DIR: &str = "/etc/sandkeep/tools.d";
/// Read when `--config` is not given and the file exists.
pub const DEFAULT_CONFIG: &str = "/etc/sandkeep/sandkeep.toml";

/// Exit status of a daemon whose settings can not be used (EX_CONFIG of sysexits.h): starting it again will not help.
pub const EXIT_CONFIG: u8 = 78;

/// Addresses of `--tcp` without a value.
pub const DEFAULT_TCP: [&str; 2] = ["127.0.0.1:8000", "[::1]:8000"];

impl Config {
    /// Reads `path`, or the default file where it exists, or takes the built-in defaults; then applies `overrides`.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        Source::new(path.map(Path::to_owned), overrides.clone()).read()
    }

    /// The API keys: of the configured file, or of the credential, or none.
    pub fn api_keys(&self) -> Result<Vec<keys::ApiKey>, ConfigError> {
        match self.listen.api_keys.clone().or_else(|| keys::credential("api-keys")) {
            Some(file) => {
                // A credential's file belongs to whom it was passed to; this one is read where root put it.
                let owned = self.listen.api_keys.is_some() && nix::unistd::geteuid().is_root();
                keys::read(&file, &self.principals, owned)
            }
            None => Ok(Vec::new()),
        }
    }

    /// With the keys of the engines that `web_search` asks.
    pub fn with_search_keys(self) -> Result<Self, ConfigError> {
        Ok(Self { search: self.search.with_keys()?, ..self })
    }

    /// `text` as if it were the file `name`; nothing is read.
    pub fn parse(text: &str, name: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        raw::parse(text, name)?.validate(overrides)
    }

    /// As plans and environments write them.
    pub fn runtime_directories(&self) -> Vec<String> {
        self.host.runtime_directories.iter().map(|d| d.display().to_string()).collect()
    }

    /// Where workspaces lie: root's alone.
    pub fn workspaces_dir(&self) -> PathBuf {
        self.state_dir.join("workspaces")
    }

    /// Where the front reaches the engine.
    pub fn engine_socket(&self) -> PathBuf {
        self.run_dir.join("engine.sock")
    }
}

impl Default for Config {
    fn default() -> Self {
        raw::Raw::default().validate(&Overrides::default()).expect("the built-in defaults are valid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("t.toml"), &Overrides::default()).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_a_working_daemon() {
        let config = Config::default();
        assert!(config.http.queue_max >= 256);
        assert!(!config.levels.minimal && !config.allow_degraded);
        assert_eq!(config.listen.tcp_anonymous, TcpAnonymous::Off);
        assert_eq!(config.run_dir, Path::new(DEFAULT_RUN_DIR));
    }

    #[test]
    fn unknown_keys_fail_and_are_named() {
        let message = parse("[listen]\nsokcet = 'x'\n").unwrap_err();
        assert!(message.contains("sokcet") && message.contains("t.toml") && message.contains("line 2"), "{message}");
    }

    #[test]
    fn values_out_of_range_name_their_key() {
        for (text, key) in [
            ("[ceilings]\nmax_memory_mb = 0", "ceilings.max_memory_mb"),
            ("[ceilings]\nmax_cpu_percent = -1.0", "ceilings.max_cpu_percent"),
            ("[ceilings]\nmax_cpu_percent = nan", "ceilings.max_cpu_percent"),
            ("[leases]\ncount = 1", "leases.count"),
            ("[leases]\nfirst_uid = 0", "leases.first_uid"),
            ("[leases]\nfirst_uid = 4294967290", "leases.first_uid"),
            ("[http]\nqueue_max = 0", "http.queue_max"),
            ("[http]\nqueue_wait_max_ms = 0", "http.queue_wait_max_ms"),
            ("[http]\nconnections_per_peer_max = 0", "http.connections_per_peer_max"),
            ("[capacity]\nprincipal_percent = 101", "capacity.principal_percent"),
            ("[workspaces]\nsize_mb = 0", "workspaces.size_mb"),
            ("[workspaces]\nsize_mb = 100\ntotal_mb = 99", "workspaces.total_mb"),
            ("[runtimes]\ndirectories = ['opt']", "runtimes.directories"),
            ("[runtimes]\ndirectories = ['/']", "runtimes.directories"),
            ("[runtimes]\ndirectories = ['/opt/a:b']", "runtimes.directories"),
            ("state_dir = 'x'", "state_dir"),
            ("[[principals]]\nname = 'a b'\nuids = [1]", "principals.name"),
            ("[[principals]]\nname = 'a'\n[[principals]]\nname = 'a'\nuids = [1]", "principals.name"),
            ("[listen]\napi_keys = 'keys'", "listen.api_keys"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.starts_with(key), "{text}: {message}");
        }
    }

    #[test]
    fn a_state_dir_of_its_own_takes_the_run_dir_along() {
        let overrides = Overrides { state_dir: Some("/tmp/x".into()), ..Overrides::default() };
        let config = Config::parse("", Path::new("t"), &overrides).unwrap();
        assert_eq!(config.run_dir, Path::new("/tmp/x/run"));
        assert_eq!(config.listen.socket, Path::new("/tmp/x/run/sandkeep.sock"));
    }
}
