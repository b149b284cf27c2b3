//! URLs of results: which are passed on, and which are the same page.

use crate::tools::http::url::Url;

const BYTES_MAX: usize = 2048;
/// Say where somebody came from, never which page.
const TRACKING: [&str; 19] = [
    "dclid",
    "fbclid",
    "gad_source",
    "gbraid",
    "gclid",
    "gclsrc",
    "igshid",
    "mc_cid",
    "mc_eid",
    "mkt_tok",
    "msclkid",
    "oly_anon_id",
    "ref_src",
    "srsltid",
    "twclid",
    "vero_id",
    "wbraid",
    "yclid",
    "_ga",
];
const TRACKING_FAMILIES: [&str; 3] = ["utm_", "pk_", "_hs"];

pub(super) struct Link {
    /// For callers: only characters that a URL may have.
    pub text: String,
    /// The same for what is most likely one page: http or https, with or without a last slash, a fragment, tracking parameters.
    pub page: String,
    pub host: String,
}

impl Link {
    /// `None`: not http or https, or written to be read as another place than it is. Names of hosts are ASCII: others look like
    /// those, and engines send Punycode.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() > BYTES_MAX || text.chars().any(char::is_control) {
            return None;
        }
        let rest = text.find("://")? + 3;
        let path = text[rest..].find(['/', '?', '#']).map_or(text.len(), |at| rest + at);
        let (place, path) = text.split_at(path);
        let (path, fragment) = match path.split_once('#') {
            Some((path, fragment)) => (encoded(path), format!("#{}", encoded(fragment))),
            None => (encoded(path), String::new()),
        };
        let url = Url::parse(&format!("{place}{path}")).ok()?;
        let text = format!("{url}{fragment}");
        let asked = url.path_and_query();
        let (path, query) = asked.split_once('?').unwrap_or((&asked, ""));
        let query: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !is_tracking(pair)).collect();
        let host = url.host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host).to_owned();
        let port = if matches!((url.https, url.port), (true, 443) | (false, 80)) { 0 } else { url.port };
        let page = format!("{host}:{port}{}?{}", path.trim_end_matches('/'), query.join("&"));
        (text.len() <= BYTES_MAX).then_some(Self { text, page, host })
    }
}

fn is_tracking(pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or(pair).to_ascii_lowercase();
    TRACKING.contains(&name.as_str()) || TRACKING_FAMILIES.iter().any(|family| name.starts_with(family))
}

/// With percent signs for all that a path, a query or a fragment can not hold: engines pass on what people wrote.
fn encoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut all = String::with_capacity(text.len());
    for (at, byte) in bytes.iter().enumerate() {
        let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
        let stays = match byte {
            b'%' => is_hex(at + 1) && is_hex(at + 2),
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?".contains(byte),
        };
        if stays {
            all.push(char::from(*byte));
        } else {
            all += &format!("%{byte:02X}");
        }
    }
    all
}

/// Where a link of DuckDuckGo's leads that goes by way of its own server.
pub(super) fn behind_redirect(href: &str) -> String {
    let href = href.strip_prefix("//").map_or_else(|| href.to_owned(), |rest| format!("https://{rest}"));
    let Some((_, query)) = href.split_once("://duckduckgo.com/l/?") else { return href };
    let target = query.split('&').find_map(|pair| pair.strip_prefix("uddg="));
    target.map(decoded).unwrap_or_default()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).filter(|d| *first == b'%' && d.iter().all(u8::is_ascii_hexdigit));
        let byte = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_one_page_is_found_to_be_one() {
        let page = |text: &str| Link::parse(text).unwrap_or_else(|| panic!("{text}")).page;
        let one = page("https://example.org/a?x=1");
        for same in [
            "http://example.org/a?x=1",
            "HTTPS://EXAMPLE.org:443/a?x=1",
            "http://example.org:80/a/?x=1",
            "https://example.org./a?x=1#part",
            "https://example.org/b/../a?x=1",
            "https://example.org/%61?utm_source=y&x=1&gclid=z",
        ] {
            assert_eq!(page(same), one, "{same}");
        }
        for other in [
            "https://example.org/A?x=1",
            "https://example.org/a?x=2",
            "https://example.org/a",
            "https://example.org:8443/a?x=1",
            "http://example.org:443/a?x=1",
            "https://www.example.org/a?x=1",
        ] {
            assert_ne!(page(other), one, "{other}");
        }
        assert_eq!(page("https://example.org"), page("http://example.org/"));
    }

    #[test]
    fn what_is_passed_on_is_a_url_of_the_web() {
        let text = |text: &str| Link::parse(text).map(|link| link.text);
        for (given, expected) in [
            (" https://example.org/a b?q=[ü]#part one ", "https://example.org/a%20b?q=%5B%C3%BC%5D#part%20one"),
            ("https://example.org/100%", "https://example.org/100%25"),
            ("https://de.wikipedia.org/wiki/Größe_(Maß)", "https://de.wikipedia.org/wiki/Gr%C3%B6%C3%9Fe_(Ma%C3%9F)"),
        ] {
            assert_eq!(text(given).as_deref(), Some(expected));
        }
        for bad in [
            "",
            "example.org",
            "//example.org/",
            "javascript:alert(1)//://",
            "data:text/html,x",
            "ftp://example.org/",
            "file:///etc/passwd",
            "https://google.com@evil.example/",
            "https://evil.example\\@google.com/",
            "https://exam\u{202e}ple.org/",
            "https://b\u{fc}cher.example/",
            "https://a\nb/",
            &format!("https://a/{}", "x".repeat(3000)),
            &format!("https://a/{}", "ü".repeat(1000)),
        ] {
            assert_eq!(text(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_target_of_a_redirect_is_found() {
        assert_eq!(behind_redirect("//duckduckgo.com/l/?uddg=https%3A%2F%2Fa%2F%C3%BC%3Fb&rut=1"), "https://a/ü?b");
        assert_eq!(behind_redirect("//duckduckgo.com/l/?rut=1"), "");
        assert_eq!(behind_redirect("https://a/?uddg=x"), "https://a/?uddg=x");
        assert_eq!(behind_redirect("//duckduckgo.com/l/?uddg=%zz%4"), "%zz%4");
    }
}
