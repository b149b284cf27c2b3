//! URLs of HTTP: what is needed of RFC 3986 and no more.

use std::fmt;
use std::net::IpAddr;

use fluent_uri::component::Host;
use fluent_uri::{Uri, UriRef};

/// An absolute http or https URL without user and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tools) struct Url {
    uri: Uri<String>,
    pub https: bool,
    /// A name or the text of an address, without brackets.
    pub host: String,
    pub port: u16,
}

impl Url {
    /// `Err` says what is wrong with it.
    pub(in crate::tools) fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.is_ascii() {
            return Err("holds characters that are not ASCII: write names in Punycode and the rest in percent signs");
        }
        let uri = Uri::parse(text).map_err(|_| "is no URL with a scheme such as https://")?;
        Self::of(uri.normalize())
    }

    /// Where `reference` leads from here.
    pub(super) fn join(&self, reference: &str) -> Result<Self, &'static str> {
        let reference = UriRef::parse(reference).map_err(|_| "is no URL")?;
        let uri = reference.resolve_against(&self.uri).map_err(|_| "is no URL that can be gone to")?;
        Self::of(uri.normalize())
    }

    fn of(uri: Uri<String>) -> Result<Self, &'static str> {
        let https = match uri.scheme().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err("is neither http nor https"),
        };
        let authority = uri.authority().ok_or("names no host")?;
        if authority.userinfo().is_some() {
            return Err("holds a user name: send an Authorization header");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let host = match authority.host_parsed() {
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
            Host::RegName(_) if host.is_empty() => return Err("names no host"),
            // A name is resolved as it is; nothing in it may mean something else to somebody else.
            Host::RegName(_) if host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) => {
                host
            }
            _ => return Err("names a host that is neither a name nor an address"),
        };
        let port = match authority.port().map(|port| port.as_str()).filter(|port| !port.is_empty()) {
            None => {
                if https {
                    443
                } else {
                    80
                }
            }
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("names a port that is none")?,
        };
        Ok(Self { https, host, port, uri: uri.with_fragment(None) })
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// What a request says after its method.
    pub(in crate::tools) fn path_and_query(&self) -> String {
        let path = match self.uri.path().as_str() {
            "" => "/",
            path => path,
        };
        match self.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        }
    }

    /// The Host header: without a port that the scheme implies.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        (self.https, self.port) == (other.https, other.port) && self.host.eq_ignore_ascii_case(&other.host)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.uri.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_http_can_ask_for_is_a_url() {
        let url = Url::parse("HTTPS://Example.COM/a/../b?x=1#part").unwrap();
        assert_eq!((url.https, url.host.as_str(), url.port), (true, "example.com", 443));
        assert_eq!(url.path_and_query(), "/b?x=1");
        assert_eq!(url.to_string(), "https://example.com/b?x=1");
        assert_eq!(url.authority(), "example.com");
        let url = Url::parse("http://[::1]:8080").unwrap();
        assert_eq!((url.path_and_query().as_str(), url.authority().as_str()), ("/", "[::1]:8080"));
        assert_eq!(url.address(), Some("::1".parse().unwrap()));
        // RFC 3986, 6.2.2: the same name.
        assert_eq!(Url::parse("http://ex%61mple.com/").unwrap().host, "example.com");
        // Left to the resolver, whose answer is what is checked.
        assert_eq!(Url::parse("http://0x7f.1/").unwrap().address(), None);
    }

    #[test]
    fn what_it_can_not_is_refused_with_a_reason() {
        for text in [
            "",
            "example.com",
            "//example.com/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "http://",
            "http:///x",
            "http://user:word@example.com/",
            "http://example.com:0/",
            "http://example.com:65536/",
            "http://a b/",
            "http://ex%00mple.com/",
            "http://bücher.example/",
            "http://[::1/",
            "http://[v1.x]/",
            "http://[fe80::1%25eth0]/",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_redirect_is_read_from_where_it_came() {
        let url = Url::parse("https://a.example/x/y?q").unwrap();
        for (reference, target) in [
            ("z", "https://a.example/x/z"),
            ("/z", "https://a.example/z"),
            ("//b.example/z", "https://b.example/z"),
            ("http://b.example", "http://b.example"),
            ("?r", "https://a.example/x/y?r"),
        ] {
            assert_eq!(url.join(reference).unwrap().to_string(), target);
        }
        assert!(url.join("file:///etc/passwd").is_err());
        assert!(url.join("/z").unwrap().is_same_place(&url));
        for other in ["http://a.example/", "https://b.example/", "https://a.example:444/"] {
            assert!(!Url::parse(other).unwrap().is_same_place(&url), "{other}");
        }
    }
}
