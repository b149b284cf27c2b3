//! What a search engine is to this tool: a request made from a query, and results read from a reply. No I/O.

use std::fmt;
use std::marker::PhantomData;

use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::language::Language;
use crate::config::{EngineName, SearchEngine};

/// Of one engine; what it sends beyond is not looked at.
pub(super) const RESULTS_MAX: usize = 50;

/// Each file beside this one has one of them.
pub(super) trait Engine: Sync {
    /// `Err` says, to the caller, why it can not be asked this.
    fn request(&self, query: &Query, settings: &SearchEngine) -> Result<Request, String>;

    /// The results in a reply that told of no error, the best first; `Err` says what is wrong with it.
    fn read(&self, body: &[u8]) -> Result<Vec<Found>, String>;

    /// What a status that tells of an error most often means, where that is more than the status says.
    fn refusal(&self, _status: u16) -> Option<&'static str> {
        None
    }
}

pub(super) fn engine(name: EngineName) -> &'static dyn Engine {
    match name {
        EngineName::Searxng => &super::searxng::Searxng,
        EngineName::Brave => &super::brave::Brave,
        EngineName::Tavily => &super::tavily::Tavily,
        EngineName::Google => &super::google::Google,
        EngineName::Duckduckgo => &super::duckduckgo::Duckduckgo,
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SafeSearch {
    Off,
    #[default]
    Moderate,
    Strict,
}

pub(super) struct Query {
    pub text: String,
    /// As many as the caller wants of all engines together.
    pub results: usize,
    pub safe_search: SafeSearch,
    pub language: Option<Language>,
}

pub(super) struct Request {
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: Option<Vec<u8>>,
}

/// As an engine tells it: nothing of it was checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub title: String,
    pub url: String,
    pub snippet: String,
}

impl Found {
    pub(super) fn bytes(&self) -> usize {
        self.title.len() + self.url.len() + self.snippet.len()
    }
}

impl Request {
    pub(super) fn get(base: &str, pairs: &[(&str, &str)]) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        Self { method: Method::GET, url: format!("{base}?{}", form(pairs)), headers, body: None }
    }

    pub(super) fn post(base: &str, kind: &'static str, body: Vec<u8>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Self { method: Method::POST, url: base.to_owned(), headers, body: Some(body) }
    }

    /// With a header that is nobody else's to see.
    pub(super) fn with_key(mut self, name: HeaderName, settings: &SearchEngine, prefix: &str) -> Result<Self, String> {
        let key = settings.key.as_ref().ok_or("it has no key")?;
        let value = HeaderValue::from_str(&format!("{prefix}{}", key.reveal()));
        let mut value = value.map_err(|_| "its key is none that a header can hold")?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }
}

/// Names and values as a form sends them.
pub(super) fn form(pairs: &[(&str, &str)]) -> String {
    let encoded = |text: &str| {
        text.bytes().fold(String::new(), |mut all, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                all.push(byte.into());
            } else {
                all += &format!("%{byte:02X}");
            }
            all
        })
    };
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    pairs.join("&")
}

pub(super) fn query_at_most(query: &Query, chars: usize, engine: &str) -> Result<(), String> {
    if query.text.chars().count() > chars {
        return Err(format!("{engine} takes queries of at most {chars} characters"));
    }
    Ok(())
}

/// A reply in JSON as `T` has it.
pub(super) fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    // The error's own text may repeat what the engine sent.
    serde_json::from_slice(body).map_err(|_| "the reply is not the JSON that this engine is known for".to_owned())
}

/// The first of a list, and no more memory than those take.
#[derive(Debug)]
pub(super) struct First<T>(pub Vec<T>);

impl<T> Default for First<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for First<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = First<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<First<T>, A::Error> {
                let mut first = Vec::new();
                while first.len() < RESULTS_MAX {
                    match list.next_element()? {
                        Some(item) => first.push(item),
                        None => return Ok(First(first)),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(First(first))
            }

            fn visit_unit<E>(self) -> Result<First<T>, E> {
                Ok(First::default())
            }
        }
        deserializer.deserialize_any(Reader(PhantomData))
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Overrides};

    pub(in super::super) fn query(text: &str, language: Option<&str>, safe_search: SafeSearch) -> Query {
        let language = language.map(|tag| Language::parse(tag).unwrap());
        Query { text: text.into(), results: 7, safe_search, language }
    }

    /// The request of an engine whose key, where it has one, is `k-1`.
    pub(in super::super) fn request(name: EngineName, settings: &str, query: &Query) -> Result<Request, String> {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "k-1\n").unwrap();
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o600)).unwrap();
        let text = settings.replace("KEY", &format!("{:?}", file.path()));
        let config = Config::parse(&text, Path::new("t"), &Overrides::default()).unwrap().with_search_keys().unwrap();
        engine(name).request(query, config.search.engine(name).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_says_what_was_meant() {
        assert_eq!(form(&[("q", "a b&c=ü"), ("x", "-._~")]), "q=a%20b%26c%3D%C3%BC&x=-._~");
    }

    #[test]
    fn of_a_long_list_the_first_are_kept() {
        let list: First<u32> = json(format!("{:?}", (0..1000).collect::<Vec<_>>()).as_bytes()).unwrap();
        assert_eq!((list.0.len(), list.0[49]), (RESULTS_MAX, 49));
        assert!(json::<First<u32>>(b"null").unwrap().0.is_empty());
        for bad in ["[1", "{}", "[1] x", "[\"a\"]", ""] {
            assert!(json::<First<u32>>(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
