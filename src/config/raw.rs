//! The file as written, before it is checked.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use super::search::RawSearch;
use super::*;
use crate::spec::{EgressRuleError, EgressRules, Level};

const MIB: u64 = 1024 * 1024;
/// A config file is written by hand; a larger one is a mistake.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    tools_dir: Option<PathBuf>,
    allow_degraded: bool,
    listen: RawListen,
    http: RawHttp,
    levels: RawLevels,
    ceilings: RawCeilings,
    capacity: RawCapacity,
    pool: RawPool,
    checks: RawChecks,
    workspaces: RawWorkspaces,
    leases: RawLeases,
    users: RawUsers,
    runtimes: RawRuntimes,
    egress: RawEgress,
    search: RawSearch,
    principals: Vec<RawPrincipal>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawListen {
    socket: Option<PathBuf>,
    group: Option<String>,
    tcp: Vec<SocketAddr>,
    tcp_anonymous: Option<TcpAnonymous>,
    api_keys: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawHttp {
    body_bytes_max: usize,
    header_timeout_ms: u64,
    body_timeout_ms: u64,
    connections_max: usize,
    connections_per_peer_max: usize,
    queue_max: usize,
    queue_total_max: usize,
    queue_wait_max_ms: u64,
}

impl Default for RawHttp {
    fn default() -> Self {
        Self {
            body_bytes_max: 16 * MIB as usize,
            header_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            connections_max: 1024,
            connections_per_peer_max: 512,
            queue_max: 512,
            queue_total_max: 4096,
            queue_wait_max_ms: 60_000,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLevels {
    minimal: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawCeilings {
    max_memory_mb: u64,
    max_cpu_percent: f64,
    max_execution_time_seconds: u64,
    max_cpu_seconds: u64,
    max_file_size_mb: u64,
    max_processes: u32,
    max_output_bytes: u64,
}

impl Default for RawCeilings {
    fn default() -> Self {
        Self {
            max_memory_mb: 4096,
            max_cpu_percent: 400.0,
            max_execution_time_seconds: 300,
            max_cpu_seconds: 1200,
            max_file_size_mb: 1024,
            max_processes: 1024,
            max_output_bytes: 16 * MIB,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawCapacity {
    sandboxes: u32,
    memory_mb: Option<u64>,
    processes: u32,
    cpu_percent: Option<f64>,
    principal_percent: u32,
}

impl Default for RawCapacity {
    fn default() -> Self {
        Self { sandboxes: 1024, memory_mb: None, processes: 16_384, cpu_percent: None, principal_percent: 100 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawPool {
    enabled: bool,
    waiting_max: u32,
    memory_mb: u64,
}

impl Default for RawPool {
    fn default() -> Self {
        Self { enabled: true, waiting_max: 64, memory_mb: 512 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawChecks {
    bash: bool,
    python: bool,
    python_modules: Vec<String>,
    off: Vec<String>,
}

impl Default for RawChecks {
    fn default() -> Self {
        Self { bash: true, python: true, python_modules: Vec::new(), off: Vec::new() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawWorkspaces {
    size_mb: u64,
    files: u64,
    each_principal: u32,
    total_mb: u64,
}

impl Default for RawWorkspaces {
    fn default() -> Self {
        Self { size_mb: 256, files: 65_536, each_principal: 16, total_mb: 16_384 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLeases {
    first_uid: Option<u32>,
    count: u32,
}

impl Default for RawLeases {
    fn default() -> Self {
        Self { first_uid: None, count: 65_536 }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawUsers {
    front: Option<String>,
    r#box: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawRuntimes {
    directories: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawEgress {
    enabled: bool,
    ports: Vec<u16>,
    hosts: Vec<String>,
    allow: Vec<String>,
    deny: Vec<String>,
}

impl Default for RawEgress {
    fn default() -> Self {
        let EgressRules { enabled, ports, .. } = EgressRules::default();
        Self { enabled, ports, hosts: Vec::new(), allow: Vec::new(), deny: Vec::new() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrincipal {
    name: String,
    #[serde(default = "user")]
    role: Role,
    #[serde(default)]
    uids: Vec<u32>,
    #[serde(default)]
    gids: Vec<u32>,
    level_floor: Option<String>,
    level_ceiling: Option<String>,
}

fn user() -> Role {
    Role::User
}

/// Reads `path`, which errors call `shown`; also what the file that was read is like.
pub(super) fn read(path: &Path, shown: &Path) -> Result<(Raw, std::fs::Metadata), ConfigError> {
    let failed = |source| ConfigError::Read { path: shown.to_owned(), source };
    let (text, metadata) = file::read(path, FILE_BYTES_MAX).map_err(failed)?;
    Ok((parse(&text, shown)?, metadata))
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Raw, ConfigError> {
    toml::from_str(text).map_err(|e| ConfigError::Syntax { path: path.to_owned(), message: e.to_string() })
}

fn bad(key: &'static str, message: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, message: message.into() }
}

pub(super) fn within(key: &'static str, value: u64, least: u64, most: u64) -> Result<u64, ConfigError> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(bad(key, format!("{value} is not between {least} and {most}")))
    }
}

fn centipercent(key: &'static str, percent: f64) -> Result<u32, ConfigError> {
    // NaN fails the range test too.
    if (1.0..=102_400.0).contains(&percent) {
        Ok((percent * 100.0).round() as u32)
    } else {
        Err(bad(key, format!("{percent} is not between 1 and 102400")))
    }
}

fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || path.parent().is_none() {
        return Err(bad(key, format!("{} is not an absolute path below / without '..'", path.display())));
    }
    // overlayfs takes its directories as one string and gives these a meaning.
    match path.to_str() {
        Some(text) if !text.chars().any(|c| matches!(c, ':' | ',' | '\\') || c.is_control()) => Ok(path),
        _ => Err(bad(key, format!("{} holds ':', ',', '\\' or a control character", path.display()))),
    }
}

impl Raw {
    pub(super) fn validate(self, overrides: &Overrides) -> Result<Config, ConfigError> {
        let own_state = overrides.state_dir.clone();
        let run_dir = match (&self.run_dir, &own_state) {
            (_, Some(state)) => state.join("run"),
            (Some(run), None) => run.clone(),
            (None, None) => DEFAULT_RUN_DIR.into(),
        };
        let run_dir = absolute("run_dir", run_dir)?;
        let state_dir =
            absolute("state_dir", own_state.or(self.state_dir).unwrap_or_else(|| DEFAULT_STATE_DIR.into()))?;
        let socket = overrides.socket.clone().or(self.listen.socket).unwrap_or_else(|| run_dir.join("sandkeep.sock"));
        let mut tcp = self.listen.tcp;
        if !overrides.tcp.is_empty() {
            tcp = overrides.tcp.clone();
        }
        Ok(Config {
            state_dir,
            allow_degraded: self.allow_degraded || overrides.allow_degraded,
            listen: Listen {
                socket: absolute("listen.socket", socket)?,
                group: self.listen.group.unwrap_or_else(|| "sandkeep".into()),
                tcp,
                tcp_anonymous: self.listen.tcp_anonymous.unwrap_or(TcpAnonymous::Off),
                api_keys: self.listen.api_keys.map(|p| absolute("listen.api_keys", p)).transpose()?,
            },
            run_dir,
            tools_dir: absolute("tools_dir", self.tools_dir.unwrap_or_else(|| DEFAULT_TOOLS_DIR.into()))?,
            http: self.http.validate()?,
            levels: Levels { minimal: self.levels.minimal },
            ceilings: self.ceilings.validate()?,
            capacity: self.capacity.validate()?,
            pool: self.pool.validate()?,
            checks: self.checks.validate()?,
            workspaces: self.workspaces.validate()?,
            host: Host {
                lease_first_uid: self.leases.first_uid()?,
                lease_count: within("leases.count", self.leases.count.into(), 64, 1 << 24)? as u32,
                front_user: self.users.front.unwrap_or_else(|| "sandkeep".into()),
                box_user: self.users.r#box.unwrap_or_else(|| "sandkeep-box".into()),
                runtime_directories: self
                    .runtimes
                    .directories
                    .into_iter()
                    .map(|d| absolute("runtimes.directories", d))
                    .collect::<Result<_, _>>()?,
            },
            egress: self.egress.validate()?,
            search: self.search.validate()?,
            principals: principals(self.principals)?,
        })
    }
}

fn principals(raw: Vec<RawPrincipal>) -> Result<Vec<PrincipalRule>, ConfigError> {
    let rules: Vec<PrincipalRule> = raw.into_iter().map(RawPrincipal::validate).collect::<Result<_, _>>()?;
    for (at, rule) in rules.iter().enumerate() {
        if rules[..at].iter().any(|r| r.name == rule.name) {
            return Err(bad("principals.name", format!("{} is there twice; uids and gids are lists", rule.name)));
        }
    }
    Ok(rules)
}

impl RawHttp {
    fn validate(self) -> Result<Http, ConfigError> {
        Ok(Http {
            body_bytes_max: within("http.body_bytes_max", self.body_bytes_max as u64, 4096, 128 * MIB)? as usize,
            header_timeout_ms: within("http.header_timeout_ms", self.header_timeout_ms, 100, 600_000)?,
            body_timeout_ms: within("http.body_timeout_ms", self.body_timeout_ms, 100, 3_600_000)?,
            connections_max: within("http.connections_max", self.connections_max as u64, 1, 1 << 20)? as usize,
            connections_per_peer_max: within(
                "http.connections_per_peer_max",
                self.connections_per_peer_max as u64,
                1,
                1 << 20,
            )? as usize,
            queue_max: within("http.queue_max", self.queue_max as u64, 1, 1 << 20)? as usize,
            queue_total_max: within("http.queue_total_max", self.queue_total_max as u64, 1, 1 << 20)? as usize,
            queue_wait_max_ms: within("http.queue_wait_max_ms", self.queue_wait_max_ms, 1, 300_000)?,
        })
    }
}

impl RawCeilings {
    fn validate(self) -> Result<Ceilings, ConfigError> {
        Ok(Ceilings {
            memory_bytes: within("ceilings.max_memory_mb", self.max_memory_mb, 16, 1 << 22)? * MIB,
            cpu_centipercent: centipercent("ceilings.max_cpu_percent", self.max_cpu_percent)?,
            wall_ms: within("ceilings.max_execution_time_seconds", self.max_execution_time_seconds, 1, 300)? * 1000,
            cpu_time_ms: within("ceilings.max_cpu_seconds", self.max_cpu_seconds, 1, 1 << 22)? * 1000,
            file_size_bytes: within("ceilings.max_file_size_mb", self.max_file_size_mb, 1, 1 << 22)? * MIB,
            pids: within("ceilings.max_processes", self.max_processes.into(), 8, 1 << 22)? as u32,
            output_bytes: within("ceilings.max_output_bytes", self.max_output_bytes, 1024, 16 * MIB)?,
        })
    }
}

impl RawCapacity {
    fn validate(self) -> Result<Capacity, ConfigError> {
        Ok(Capacity {
            sandboxes: within("capacity.sandboxes", self.sandboxes.into(), 1, 1 << 16)? as u32,
            memory_bytes: self
                .memory_mb
                .map(|mb| within("capacity.memory_mb", mb, 64, 1 << 24).map(|mb| mb * MIB))
                .transpose()?,
            pids: within("capacity.processes", self.processes.into(), 64, 1 << 22)? as u32,
            cpu_centipercent: self.cpu_percent.map(|p| centipercent("capacity.cpu_percent", p)).transpose()?,
            principal_percent: within("capacity.principal_percent", self.principal_percent.into(), 1, 100)? as u32,
        })
    }
}

impl RawPool {
    fn validate(self) -> Result<Pool, ConfigError> {
        Ok(Pool {
            enabled: self.enabled,
            waiting_max: within("pool.waiting_max", self.waiting_max.into(), 1, 1 << 14)? as u32,
            memory_bytes: within("pool.memory_mb", self.memory_mb, 16, 1 << 22)? * MIB,
        })
    }
}

impl RawChecks {
    fn validate(self) -> Result<Checks, ConfigError> {
        match self.off.iter().find(|rule| !RULES.contains(&rule.as_str())) {
            Some(rule) => Err(bad("checks.off", format!("{rule:?} is none of {}", RULES.join(", ")))),
            None => Ok(Checks {
                bash: self.bash,
                python: self.python,
                python_modules: modules(self.python_modules)?,
                off: self.off,
            }),
        }
    }
}

/// Top-level names: what a module holds comes with it.
fn modules(names: Vec<String>) -> Result<Vec<String>, ConfigError> {
    const MODULES_MAX: usize = 256;
    const NAME_BYTES_MAX: usize = 64;
    let is_name = |name: &String| {
        let first = name.bytes().next().is_some_and(|b| b == b'_' || b.is_ascii_alphabetic());
        first && name.len() <= NAME_BYTES_MAX && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric())
    };
    if names.len() > MODULES_MAX {
        return Err(bad("checks.python_modules", format!("{} are more than {MODULES_MAX}", names.len())));
    }
    match names.iter().find(|name| !is_name(name)) {
        Some(name) => Err(bad("checks.python_modules", format!("{name:?} is no name of a top-level module"))),
        None => Ok(names),
    }
}

impl RawWorkspaces {
    fn validate(self) -> Result<Workspaces, ConfigError> {
        let size_mb = within("workspaces.size_mb", self.size_mb, 8, 1 << 20)?;
        Ok(Workspaces {
            bytes: size_mb * MIB,
            files: within("workspaces.files", self.files, 64, 1 << 24)?,
            each_principal: within("workspaces.each_principal", self.each_principal.into(), 1, 256)? as u32,
            total_bytes: within("workspaces.total_mb", self.total_mb, size_mb, 1 << 24)? * MIB,
        })
    }
}

impl RawLeases {
    fn first_uid(&self) -> Result<Option<u32>, ConfigError> {
        let Some(first) = self.first_uid else { return Ok(None) };
        // Below 65536 real users live; the last two numbers are "no change" and its 16-bit twin's neighbour.
        let most = u64::from(u32::MAX - 2).saturating_sub(self.count.into());
        within("leases.first_uid", first.into(), 65_536, most).map(|v| Some(v as u32))
    }
}

impl RawEgress {
    fn validate(self) -> Result<EgressRules, ConfigError> {
        fn all<T: FromStr<Err = EgressRuleError>>(key: &'static str, texts: &[String]) -> Result<Vec<T>, ConfigError> {
            texts.iter().map(|text| text.parse().map_err(|e: EgressRuleError| bad(key, e.to_string()))).collect()
        }
        if self.ports.contains(&0) {
            return Err(bad("egress.ports", "0 is no port"));
        }
        Ok(EgressRules {
            enabled: self.enabled,
            ports: self.ports,
            hosts: all("egress.hosts", &self.hosts)?,
            allow: all("egress.allow", &self.allow)?,
            deny: all("egress.deny", &self.deny)?,
        })
    }
}

impl RawPrincipal {
    fn validate(self) -> Result<PrincipalRule, ConfigError> {
        let level = |key, text: Option<String>| {
            text.map(|t| t.parse::<Level>().map_err(|e| bad(key, format!("{t}: {e}")))).transpose()
        };
        let named = !self.name.is_empty()
            && self.name.len() <= 64
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !named {
            return Err(bad("principals.name", format!("{:?} is not 1 to 64 of [A-Za-z0-9._-]", self.name)));
        }
        Ok(PrincipalRule {
            level_floor: level("principals.level_floor", self.level_floor)?,
            level_ceiling: level("principals.level_ceiling", self.level_ceiling)?,
            name: self.name,
            role: self.role,
            uids: self.uids,
            gids: self.gids,
        })
    }
}
