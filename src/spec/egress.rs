//! Which places on the network a request may reach that the daemon makes for a caller, or lets a sandbox make.
//!
//! The decision is about an address, never about a name: names are resolved by whoever asks, every address that a name has is
//! asked about, and the connection is made to one of those. A name that means another place a moment later changes nothing.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::fmt;
use std::str::FromStr;

/// What the operator allows beside the public internet, and what of that not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRules {
    pub enabled: bool,
    /// Of public addresses.
    pub ports: Vec<u16>,
    /// Names that may be asked for; all where there is none.
    pub hosts: Vec<HostPattern>,
    /// Places that may be reached though their range or port may not.
    pub allow: Vec<Grant>,
    /// Places that may not be reached, whatever else is said.
    pub deny: Vec<Network>,
}

impl Default for EgressRules {
    fn default() -> Self {
        Self { enabled: true, ports: vec![80, 443], hosts: Vec::new(), allow: Vec::new(), deny: Vec::new() }
    }
}

/// Why a place can not be reached. `Display` is what the caller is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressDenial {
    #[error("the operator has turned egress off")]
    Off,
    #[error("{0} is not among the names that the operator allows")]
    Host(String),
    #[error("{0} is among the addresses that the operator denies")]
    Denied(IpAddr),
    #[error("{address} is {}", .range.what)]
    Range { address: IpAddr, range: &'static Range },
    #[error("port {port} is not among those that may be reached ({})", numbers(.ports))]
    Port { port: u16, ports: Vec<u16> },
}

impl EgressDenial {
    /// The rule's name.
    pub fn rule(&self) -> String {
        match self {
            Self::Off => "egress/off".to_owned(),
            Self::Host(_) => "egress/hosts".to_owned(),
            Self::Denied(_) => "egress/deny".to_owned(),
            Self::Range { range, .. } => format!("egress/{}", range.name),
            Self::Port { .. } => "egress/port".to_owned(),
        }
    }
}

fn numbers(ports: &[u16]) -> String {
    let all: Vec<_> = ports.iter().map(u16::to_string).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

impl EgressRules {
    /// Whether a place of the name `host`, in the form that a URL has it, may be asked for at all.
    pub fn name(&self, host: &str) -> Result<(), EgressDenial> {
        if !self.enabled {
            return Err(EgressDenial::Off);
        }
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if self.hosts.is_empty() || self.hosts.iter().any(|pattern| pattern.fits(&host)) {
            Ok(())
        } else {
            Err(EgressDenial::Host(host))
        }
    }

    /// Whether a place may be asked for by its bare `address`: where the operator names names, only what is allowed as an address.
    pub fn literal(&self, address: IpAddr, port: u16) -> Result<(), EgressDenial> {
        if self.hosts.is_empty() || self.grants(meant(address), port) {
            Ok(())
        } else {
            Err(EgressDenial::Host(address.to_string()))
        }
    }

    fn grants(&self, meant: IpAddr, port: u16) -> bool {
        self.allow.iter().any(|grant| grant.network.holds(meant) && grant.port.is_none_or(|p| p == port))
    }

    /// Whether `address` may be connected to at `port`.
    pub fn address(&self, address: IpAddr, port: u16) -> Result<(), EgressDenial> {
        if !self.enabled {
            return Err(EgressDenial::Off);
        }
        let meant = meant(address);
        if self.deny.iter().any(|network| network.holds(meant) || network.holds(address)) {
            return Err(EgressDenial::Denied(address));
        }
        if self.grants(meant, port) {
            return Ok(());
        }
        if let Some(range) = range_of(meant) {
            return Err(EgressDenial::Range { address, range });
        }
        if self.ports.contains(&port) { Ok(()) } else { Err(EgressDenial::Port { port, ports: self.ports.clone() }) }
    }

    /// Whether `address` may be connected to at `port` for a place that the operator's own settings name: neither its name, its
    /// range nor its port counts against it. What is turned off or denied stays so, and a name that leads to a metadata service
    /// is nobody's setting.
    pub fn configured(&self, address: IpAddr, port: u16) -> Result<(), EgressDenial> {
        match self.address(address, port) {
            Err(EgressDenial::Port { .. }) => Ok(()),
            Err(EgressDenial::Range { range, .. }) if range.name != METADATA_NAME => Ok(()),
            decided => decided,
        }
    }
}

/// An IPv6 address that carries an IPv4 one leads there.
fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let s = v6.segments();
    let embedded = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match s {
        // IPv4-mapped (RFC 4291) and IPv4-translated (RFC 2765).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => embedded(high, low),
        // IPv4-compatible (RFC 4291, deprecated); :: and ::1 are not of these.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => embedded(high, low),
        // NAT64 (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => embedded(high, low),
        _ => address,
    }
}

/// Addresses that are not public.
#[derive(Debug, PartialEq, Eq)]
pub struct Range {
    pub name: &'static str,
    pub what: &'static str,
    network: Network,
}

const fn v4(name: &'static str, what: &'static str, [a, b, c, d]: [u8; 4], bits: u8) -> Range {
    Range { name, what, network: Network { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits } }
}

const fn v6(name: &'static str, what: &'static str, high: [u16; 4], bits: u8) -> Range {
    let [a, b, c, d] = high;
    Range { name, what, network: Network { address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)), bits } }
}

const METADATA_NAME: &str = "metadata";
const METADATA: &str = "a cloud's metadata service";
const PRIVATE: &str = "in a private network";
const SPECIAL: &str = "an address of special purpose";

/// IANA's registries of special-purpose addresses (IPv4 and IPv6, RFC 6890), multicast, and the metadata services that lie
/// within none of them or deserve a name of their own. The first that fits names the denial.
static RANGES: [Range; 30] = [
    v4(METADATA_NAME, METADATA, [169, 254, 169, 254], 32),
    v4(METADATA_NAME, METADATA, [169, 254, 170, 2], 32),
    v4(METADATA_NAME, METADATA, [100, 100, 100, 200], 32),
    v4(METADATA_NAME, METADATA, [168, 63, 129, 16], 32),
    v4("unspecified", "no address of a host", [0, 0, 0, 0], 8),
    v4("private", PRIVATE, [10, 0, 0, 0], 8),
    v4("private", "in a provider's own network", [100, 64, 0, 0], 10),
    v4("loopback", "this host itself", [127, 0, 0, 0], 8),
    v4("link-local", "on the local link", [169, 254, 0, 0], 16),
    v4("private", PRIVATE, [172, 16, 0, 0], 12),
    v4("special", SPECIAL, [192, 0, 0, 0], 24),
    v4("special", "for documentation", [192, 0, 2, 0], 24),
    v4("special", SPECIAL, [192, 88, 99, 0], 24),
    v4("private", PRIVATE, [192, 168, 0, 0], 16),
    v4("special", "for benchmarks", [198, 18, 0, 0], 15),
    v4("special", "for documentation", [198, 51, 100, 0], 24),
    v4("special", "for documentation", [203, 0, 113, 0], 24),
    v4("multicast", "a group, not a host", [224, 0, 0, 0], 4),
    v4("special", "reserved or the broadcast address", [240, 0, 0, 0], 4),
    Range {
        name: "loopback",
        what: "this host itself",
        network: Network { address: IpAddr::V6(Ipv6Addr::LOCALHOST), bits: 128 },
    },
    Range {
        name: METADATA_NAME,
        what: METADATA,
        network: Network { address: IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), bits: 128 },
    },
    v6("private", PRIVATE, [0xfc00, 0, 0, 0], 7),
    v6("link-local", "on the local link", [0xfe80, 0, 0, 0], 10),
    v6("private", PRIVATE, [0xfec0, 0, 0, 0], 10),
    v6("multicast", "a group, not a host", [0xff00, 0, 0, 0], 8),
    v6("special", "for documentation", [0x2001, 0xdb8, 0, 0], 32),
    // Teredo, benchmarking, ORCHID and others; what is public of it is not for hosts.
    v6("special", SPECIAL, [0x2001, 0, 0, 0], 23),
    v6("special", "for documentation", [0x3fff, 0, 0, 0], 20),
    v6("special", SPECIAL, [0x64, 0xff9b, 1, 0], 48),
    v6("unspecified", "no address of a host", [0, 0, 0, 0], 128),
];

/// Everything that IANA has given to nobody for unicast yet.
static UNASSIGNED: Range = v6("special", "in no range of public addresses", [0, 0, 0, 0], 0);

fn range_of(address: IpAddr) -> Option<&'static Range> {
    let known = RANGES.iter().find(|range| range.network.holds(address));
    let global = |v6: Ipv6Addr| v6.segments()[0] & 0xe000 == 0x2000;
    known.or_else(|| match address {
        IpAddr::V6(v6) if !global(v6) => Some(&UNASSIGNED),
        _ => None,
    })
}

/// Addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn holds(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u8| {
            let rest = u32::from(width - self.bits);
            a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
        };
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

/// A text that is no rule, and what would be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressRuleError {
    #[error("{0:?} is neither an address nor a network such as 10.0.0.0/8 or fd00::/8")]
    Network(String),
    #[error("{0:?} has bits beyond its prefix")]
    Beyond(String),
    #[error("{0:?} is neither a name such as api.example.com nor a pattern such as *.example.com")]
    Host(String),
}

impl FromStr for Network {
    type Err = EgressRuleError;

    fn from_str(text: &str) -> Result<Self, EgressRuleError> {
        let wrong = || EgressRuleError::Network(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => width,
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => bits.parse().map_err(|_| wrong())?,
            Some(_) => return Err(wrong()),
        };
        if bits > width {
            return Err(wrong());
        }
        let network = Self { address, bits };
        let zeroed = match address {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from(mask(u128::from(a.to_bits()), 32 - bits) as u32)),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(mask(a.to_bits(), 128 - bits))),
        };
        if zeroed == address { Ok(network) } else { Err(EgressRuleError::Beyond(text.to_owned())) }
    }
}

fn mask(value: u128, zeros: u8) -> u128 {
    value.checked_shr(zeros.into()).and_then(|high| high.checked_shl(zeros.into())).unwrap_or(0)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A network, at every port or at one: `10.0.0.0/8`, `127.0.0.1:8080`, `[fd00::1]:443`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    network: Network,
    port: Option<u16>,
}

impl FromStr for Grant {
    type Err = EgressRuleError;

    fn from_str(text: &str) -> Result<Self, EgressRuleError> {
        match text.parse::<SocketAddr>() {
            Ok(place) => {
                let bits = if place.is_ipv4() { 32 } else { 128 };
                Ok(Self { network: Network { address: place.ip(), bits }, port: Some(place.port()) })
            }
            Err(_) => Ok(Self { network: text.parse()?, port: None }),
        }
    }
}

/// A name, or with `*.` before it every name below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    name: String,
    below: bool,
}

impl HostPattern {
    fn fits(&self, host: &str) -> bool {
        if self.below {
            host.strip_suffix(&self.name).is_some_and(|rest| rest.ends_with('.'))
        } else {
            host == self.name
        }
    }
}

impl FromStr for HostPattern {
    type Err = EgressRuleError;

    fn from_str(text: &str) -> Result<Self, EgressRuleError> {
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if name.len() <= 253 && name.split('.').all(is_label) {
            Ok(Self { name: name.to_ascii_lowercase(), below })
        } else {
            Err(EgressRuleError::Host(text.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(rules: &EgressRules, address: &str, port: u16) -> Option<String> {
        rules.address(address.parse().unwrap(), port).err().map(|denial| denial.rule())
    }

    #[test]
    fn only_public_addresses_can_be_reached() {
        let rules = EgressRules::default();
        for public in
            ["1.1.1.1", "93.184.216.34", "172.15.0.1", "172.32.0.1", "100.63.0.1", "2606:4700::1111", "2a00::1"]
        {
            assert_eq!(rule(&rules, public, 443), None, "{public}");
        }
        for (address, name) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("10.255.0.1", "private"),
            ("100.64.0.1", "private"),
            ("100.100.100.200", "metadata"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("169.254.169.254", "metadata"),
            ("169.254.1.1", "link-local"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("192.0.0.170", "special"),
            ("198.19.0.1", "special"),
            ("203.0.113.9", "special"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.250", "multicast"),
            ("255.255.255.255", "special"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("fd00:ec2::254", "metadata"),
            ("fd12::1", "private"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "private"),
            ("ff02::1", "multicast"),
            ("2001:db8::1", "special"),
            ("2001::1", "special"),
            ("64:ff9b:1::1", "special"),
            ("4000::1", "special"),
            // IPv4 inside IPv6.
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:169.254.169.254", "metadata"),
            ("::ffff:0:10.0.0.1", "private"),
            ("::10.0.0.1", "private"),
            ("64:ff9b::a00:1", "private"),
            ("64:ff9b::a9fe:a9fe", "metadata"),
            ("2002:7f00:1::", "loopback"),
            ("2002:c0a8:101::1", "private"),
        ] {
            assert_eq!(rule(&rules, address, 443), Some(format!("egress/{name}")), "{address}");
        }
    }

    #[test]
    fn ports_and_grants_are_the_operators() {
        let mut rules = EgressRules::default();
        assert_eq!(rule(&rules, "1.1.1.1", 22).as_deref(), Some("egress/port"));
        rules.allow = vec!["127.0.0.1:8080".parse().unwrap(), "10.1.0.0/16".parse().unwrap()];
        assert_eq!(rule(&rules, "127.0.0.1", 8080), None);
        assert_eq!(rule(&rules, "::ffff:127.0.0.1", 8080), None);
        assert_eq!(rule(&rules, "127.0.0.1", 8081).as_deref(), Some("egress/loopback"));
        assert_eq!(rule(&rules, "127.0.0.2", 8080).as_deref(), Some("egress/loopback"));
        assert_eq!(rule(&rules, "10.1.255.255", 22), None);
        assert_eq!(rule(&rules, "10.2.0.1", 443).as_deref(), Some("egress/private"));
        // A denial is stronger than a grant.
        rules.deny = vec!["10.1.2.0/24".parse().unwrap(), "1.0.0.0/8".parse().unwrap()];
        assert_eq!(rule(&rules, "10.1.2.3", 443).as_deref(), Some("egress/deny"));
        assert_eq!(rule(&rules, "::ffff:1.1.1.1", 443).as_deref(), Some("egress/deny"));
        rules.allow = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        assert_eq!(rule(&rules, "127.0.0.1", 1), None);
        assert_eq!(rule(&rules, "fe80::1", 1), None);
        rules.enabled = false;
        assert_eq!(rule(&rules, "8.8.8.8", 443).as_deref(), Some("egress/off"));
    }

    #[test]
    fn names_are_held_against_patterns() {
        let rules = |hosts: &[&str]| EgressRules {
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            ..EgressRules::default()
        };
        assert_eq!(rules(&[]).name("anything"), Ok(()));
        let some = rules(&["api.example.com", "*.Example.org"]);
        for good in ["api.example.com", "API.example.com.", "a.b.example.org"] {
            assert_eq!(some.name(good), Ok(()), "{good}");
        }
        for bad in ["example.com", "x.api.example.com", "example.org", "evilexample.org", "api.example.com.evil"] {
            assert!(matches!(some.name(bad), Err(EgressDenial::Host(_))), "{bad}");
        }
    }

    #[test]
    fn an_address_is_no_way_around_the_names() {
        let mut rules = EgressRules::default();
        let literal = |rules: &EgressRules, address: &str| rules.literal(address.parse().unwrap(), 443);
        assert_eq!(literal(&rules, "1.1.1.1"), Ok(()));
        rules.hosts = vec!["api.example.com".parse().unwrap()];
        assert!(matches!(literal(&rules, "1.1.1.1"), Err(EgressDenial::Host(_))));
        rules.allow = vec!["1.1.1.0/24".parse().unwrap()];
        assert_eq!(literal(&rules, "1.1.1.1"), Ok(()));
        assert_eq!(literal(&rules, "::ffff:1.1.1.1"), Ok(()));
        assert!(matches!(literal(&rules, "1.1.2.1"), Err(EgressDenial::Host(_))));
    }

    #[test]
    fn what_the_settings_name_is_reached_where_nothing_denies_it() {
        let mut rules = EgressRules { hosts: vec!["other.example".parse().unwrap()], ..EgressRules::default() };
        let rule = |rules: &EgressRules, address: &str| {
            rules.configured(address.parse().unwrap(), 8888).err().map(|denial| denial.rule())
        };
        for place in ["127.0.0.1", "::1", "10.0.0.1", "1.1.1.1"] {
            assert_eq!(rule(&rules, place), None, "{place}");
        }
        for place in ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"] {
            assert_eq!(rule(&rules, place).as_deref(), Some("egress/metadata"), "{place}");
        }
        rules.deny = vec!["127.0.0.0/8".parse().unwrap()];
        assert_eq!(rule(&rules, "127.0.0.1").as_deref(), Some("egress/deny"));
        rules.enabled = false;
        assert_eq!(rule(&rules, "1.1.1.1").as_deref(), Some("egress/off"));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in
            ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/+8", "10.0.0.0/", "::/129", "fd00::1/8", "localhost", "1.2.3"]
        {
            assert!(text.parse::<Network>().is_err(), "{text}");
            assert!(text.parse::<Grant>().is_err(), "{text}");
        }
        for text in ["", "*", "*.", "a..b", "*.*.b", "a b", "http://a"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
        assert_eq!("0.0.0.0/0".parse::<Network>().unwrap().to_string(), "0.0.0.0/0");
    }
}
