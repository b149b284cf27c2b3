//! Who a connection's peer is: the kernel's word on the Unix socket, the loopback rule on TCP.

use std::collections::HashMap;
use std::ffi::CString;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Uri, header};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::config::keys::{self, ApiKey, KeyHash};
use crate::config::{Config, PrincipalRule, Role, TcpAnonymous};
use crate::tools::principal::Principal;

/// A change of the group database is seen after this long.
const GROUPS_KEPT_FOR: Duration = Duration::from_secs(10);
const GROUPS_KEPT_MAX: usize = 1024;

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub enum Peer {
    Unix { uid: u32, gid: u32 },
    Tcp(SocketAddr),
}

/// The peer may not call.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    #[error("{0}")]
    Unauthenticated(&'static str),
    #[error("{0}")]
    Forbidden(String),
}

/// A peer's groups, and when they were looked up.
type Known = HashMap<(u32, u32), (Instant, Arc<[u32]>)>;

/// Maps peers to principals.
pub struct Identity {
    rules: RwLock<Rules>,
    group: String,
    /// Hash to the name of a principal.
    keys: HashMap<KeyHash, String>,
    groups: Mutex<Known>,
}

/// What a reload may change.
#[derive(Clone)]
struct Rules {
    principals: Arc<[PrincipalRule]>,
    tcp_anonymous: TcpAnonymous,
}

impl Rules {
    fn of(config: &Config) -> Self {
        Self { principals: config.principals.as_slice().into(), tcp_anonymous: config.listen.tcp_anonymous }
    }
}

impl Identity {
    pub fn new(config: &Config, keys: Vec<ApiKey>) -> Self {
        Self {
            rules: RwLock::new(Rules::of(config)),
            group: config.listen.group.clone(),
            keys: keys.into_iter().map(|key| (key.hash, key.principal)).collect(),
            groups: Mutex::default(),
        }
    }

    /// From the next request on, whoever is connected already.
    pub fn reload(&self, config: &Config) {
        *self.rules.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Rules::of(config);
    }

    fn rules(&self) -> Rules {
        self.rules.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    pub async fn principal(&self, peer: Peer, uri: &Uri, headers: &HeaderMap) -> Result<Principal, Denied> {
        match peer {
            Peer::Unix { uid, gid } => self.local(uid, gid).await,
            // A key that is shown must be right, also where none would be needed.
            Peer::Tcp(_) if headers.contains_key(header::AUTHORIZATION) => self.by_key(headers),
            Peer::Tcp(address) => self.anonymous(address, uri, headers),
        }
    }

    /// The comparison is of hashes, in a table: what its time tells is nothing about a key.
    fn by_key(&self, headers: &HeaderMap) -> Result<Principal, Denied> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Denied::Unauthenticated("there must be one Authorization header"));
        };
        let token =
            value.to_str().ok().and_then(|v| v.split_once(' ')).filter(|(s, _)| s.eq_ignore_ascii_case("bearer"));
        let Some((_, token)) = token else {
            return Err(Denied::Unauthenticated("Authorization must be: Bearer KEY"));
        };
        let rules = self.rules();
        let name = self.keys.get(&keys::hash(token.trim()));
        let rule = name.and_then(|name| rules.principals.iter().find(|rule| rule.name == *name));
        rule.map(by_rule).ok_or(Denied::Unauthenticated("this key is not known"))
    }

    async fn local(&self, uid: u32, gid: u32) -> Result<Principal, Denied> {
        let rules = self.rules();
        if let Some(rule) = rules.principals.iter().find(|rule| rule.uids.contains(&uid)) {
            return Ok(by_rule(rule));
        }
        let groups = self.groups_of(uid, gid).await;
        if let Some(rule) = rules.principals.iter().find(|rule| rule.gids.iter().any(|gid| groups.contains(gid))) {
            return Ok(by_rule(rule));
        }
        // A configured name holds no colon, so these can not be taken.
        let name = format!("uid:{uid}");
        if uid == 0 {
            return Ok(Principal::new(name, Role::Admin));
        }
        let group = self.group.clone();
        let wanted = blocking(move || Group::from_name(&group).ok().flatten().map(|g| g.gid.as_raw())).await.flatten();
        if wanted.is_some_and(|gid| groups.contains(&gid)) {
            return Ok(Principal::new(name, Role::User));
        }
        Err(Denied::Forbidden(format!("uid {uid} is not in group {}", self.group)))
    }

    /// The peer's primary group and those that the group database gives its user.
    ///
    /// The kernel also knows the supplementary groups that the peer's process really has; asking for them needs a call
    /// that has no safe form here. The database is what the socket's mode was granted by.
    async fn groups_of(&self, uid: u32, gid: u32) -> Arc<[u32]> {
        let now = Instant::now();
        if let Some((at, groups)) = self.known().get(&(uid, gid))
            && now.duration_since(*at) < GROUPS_KEPT_FOR
        {
            return Arc::clone(groups);
        }
        let found = blocking(move || {
            let user = User::from_uid(Uid::from_raw(uid)).ok().flatten()?;
            let name = CString::new(user.name).ok()?;
            getgrouplist(&name, user.gid).ok()
        });
        let mut groups: Vec<u32> = found.await.flatten().into_iter().flatten().map(Gid::as_raw).collect();
        groups.push(gid);
        let groups: Arc<[u32]> = groups.into();
        let mut known = self.known();
        known.retain(|_, (at, _)| now.duration_since(*at) < GROUPS_KEPT_FOR);
        if known.len() < GROUPS_KEPT_MAX {
            known.insert((uid, gid), (now, Arc::clone(&groups)));
        }
        groups
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.groups.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Without a key only this machine may call, and no web page that a browser on it shows: such a page can not leave
    /// Origin out, nor send JSON without asking first, and a name that was rebound to 127.0.0.1 shows in Host.
    fn anonymous(&self, address: SocketAddr, uri: &Uri, headers: &HeaderMap) -> Result<Principal, Denied> {
        match self.rules().tcp_anonymous {
            TcpAnonymous::Off => {
                return Err(Denied::Unauthenticated(
                    "calls over TCP need an API key (Authorization: Bearer KEY); or use the Unix socket",
                ));
            }
            TcpAnonymous::Loopback => {}
        }
        if !address.ip().to_canonical().is_loopback() {
            return Err(Denied::Unauthenticated("only callers on a loopback address may call without a credential"));
        }
        if headers.contains_key(header::ORIGIN) {
            return Err(Denied::Forbidden("a call without a credential must not come from a web page (Origin)".into()));
        }
        let host = match uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => headers.get(header::HOST).and_then(|h| h.to_str().ok()),
        };
        if headers.get_all(header::HOST).iter().count() > 1 || !host.is_some_and(is_loopback_host) {
            return Err(Denied::Forbidden("a call without a credential must name a loopback Host".into()));
        }
        Ok(Principal::new("local", Role::User))
    }
}

fn by_rule(rule: &PrincipalRule) -> Principal {
    Principal {
        name: rule.name.clone(),
        role: rule.role,
        level_floor: rule.level_floor,
        level_ceiling: rule.level_ceiling,
    }
}

/// The databases may be files or the network; neither may hold up the other calls.
async fn blocking<T: Send + 'static>(look_up: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(look_up).await.ok()
}

/// `localhost`, `127.x.y.z` or `[::1]`, with or without a port.
fn is_loopback_host(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_loopback() {
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:8000"] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            "localhost.evil.example",
            "evil.example",
            "localhost:80:80",
            "10.0.0.1",
            "[::]",
            "127.0.0.1.nip.io",
            "localhost:x",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[tokio::test]
    async fn peers_map_to_principals_rules_first() {
        let text = "[[principals]]\nname = 'ci'\nuids = [4000000001]\nlevel_floor = 'strict'\n[[principals]]\nname = 'team'\ngids = [4000000002]\nrole = 'admin'\n";
        let config = Config::parse(text, std::path::Path::new("t"), &Default::default()).unwrap();
        let identity = Identity::new(&config, Vec::new());
        assert_eq!(identity.local(0, 0).await.unwrap(), Principal::new("uid:0", Role::Admin));
        let ci = identity.local(4_000_000_001, 1).await.unwrap();
        assert_eq!((ci.name.as_str(), ci.level_floor), ("ci", Some(crate::spec::Level::Strict)));
        assert_eq!(identity.local(4_000_000_003, 4_000_000_002).await.unwrap().name, "team");
        assert!(matches!(identity.local(4_000_000_003, 4_000_000_003).await, Err(Denied::Forbidden(_))));
    }

    #[test]
    fn keyless_tcp_is_for_this_machine_and_no_web_page() {
        let text = "[listen]\ntcp_anonymous = 'loopback'\n";
        let on = Config::parse(text, std::path::Path::new("t"), &Default::default()).unwrap();
        let on = Identity::new(&on, Vec::new());
        let off = Identity::new(&Config::default(), Vec::new());
        let ask = |identity: &Identity, from: &str, headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().unwrap());
            }
            match identity.anonymous(from.parse().unwrap(), &"/x".parse().unwrap(), &map) {
                Ok(principal) => (200, principal.name),
                Err(Denied::Unauthenticated(_)) => (401, String::new()),
                Err(Denied::Forbidden(_)) => (403, String::new()),
            }
        };
        let home = [("host", "localhost:8000")];
        assert_eq!(ask(&on, "127.0.0.1:5", &home), (200, "local".into()));
        assert_eq!(ask(&on, "[::ffff:127.0.0.1]:5", &home).0, 200);
        assert_eq!(ask(&off, "127.0.0.1:5", &home).0, 401);
        assert_eq!(ask(&on, "10.0.0.1:5", &home).0, 401);
        assert_eq!(ask(&on, "127.0.0.1:5", &[]).0, 403);
        assert_eq!(ask(&on, "127.0.0.1:5", &[("host", "evil.example")]).0, 403);
        assert_eq!(ask(&on, "127.0.0.1:5", &[("host", "localhost"), ("host", "evil.example")]).0, 403);
        assert_eq!(ask(&on, "127.0.0.1:5", &[("host", "localhost"), ("origin", "null")]).0, 403);
    }

    #[tokio::test]
    async fn a_key_is_its_principals_until_a_reload_takes_the_principal_away() {
        let parse = |text| Config::parse(text, std::path::Path::new("t"), &Default::default()).unwrap();
        let with = parse("[listen]\ntcp_anonymous = 'loopback'\n[[principals]]\nname = 'ci'\nlevel_floor = 'strict'\n");
        let keys = vec![ApiKey { hash: keys::hash("sandkeep_k"), principal: "ci".into() }];
        let identity = Identity::new(&with, keys);
        let ask = async |values: &[&str]| {
            let mut map = HeaderMap::new();
            for value in values {
                map.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            map.insert(header::HOST, "localhost".parse().unwrap());
            let peer = Peer::Tcp("127.0.0.1:5".parse().unwrap());
            identity.principal(peer, &"/x".parse().unwrap(), &map).await.map(|p| p.name).map_err(|e| e.to_string())
        };
        assert_eq!(ask(&["Bearer sandkeep_k"]).await.unwrap(), "ci");
        assert_eq!(ask(&["bearer  sandkeep_k"]).await.unwrap(), "ci");
        assert_eq!(ask(&[]).await.unwrap(), "local");
        for wrong in [&["Bearer sandkeep_x"][..], &["Basic c2FuZGtlZXBfaw=="], &["Bearer"], &["Bearer sandkeep_k"; 2]] {
            assert!(ask(wrong).await.is_err(), "{wrong:?}");
        }
        identity.reload(&parse(""));
        assert_eq!(ask(&["Bearer sandkeep_k"]).await.unwrap_err(), "this key is not known");
        assert!(ask(&[]).await.unwrap_err().contains("API key"));
    }
}
