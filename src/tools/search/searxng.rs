//! SearXNG, an instance of the operator's own: its Search API with `format=json`, which its settings must allow.
//!
//! Parameters and the shape of a reply: docs/dev/search_api.rst and `get_json_response` of searx/webutils.py in
//! <https://github.com/searxng/searxng>; `tests/searxng.rs` asks a real one.

use serde::Deserialize;

use super::engine::{Engine, First, Found, Query, Request, SafeSearch, json};
use crate::config::SearchEngine;

pub(super) struct Searxng;

#[derive(Deserialize)]
struct Reply {
    results: First<Item>,
    /// Its own engines that did not answer, and why.
    #[serde(default)]
    unresponsive_engines: First<(String, String)>,
}

#[derive(Deserialize)]
struct Item {
    url: Option<String>,
    title: Option<String>,
    content: Option<String>,
}

impl Engine for Searxng {
    fn request(&self, query: &Query, settings: &SearchEngine) -> Result<Request, String> {
        let safe = match query.safe_search {
            SafeSearch::Off => "0",
            SafeSearch::Moderate => "1",
            SafeSearch::Strict => "2",
        };
        let language = query.language.as_ref().map_or_else(|| "all".to_owned(), |l| l.with_region("-"));
        let pairs = [("q", query.text.as_str()), ("format", "json"), ("safesearch", safe), ("language", &language)];
        Ok(Request::get(&format!("{}/search", settings.url.trim_end_matches('/')), &pairs))
    }

    fn read(&self, body: &[u8]) -> Result<Vec<Found>, String> {
        let Reply { results, unresponsive_engines } = json(body)?;
        // Nothing found and nobody asked are not the same.
        if results.0.is_empty() && !unresponsive_engines.0.is_empty() {
            return Err("none of its own engines that were asked gave a result, and some did not answer".into());
        }
        let found = |item: Item| Found {
            title: item.title.unwrap_or_default(),
            url: item.url.unwrap_or_default(),
            snippet: item.content.unwrap_or_default(),
        };
        Ok(results.0.into_iter().map(found).collect())
    }

    fn refusal(&self, status: u16) -> Option<&'static str> {
        (status == 403).then_some("it answered 403: json must be among search.formats of its settings")
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::testing::{query, request};
    use super::*;
    use crate::config::EngineName;

    const SETTINGS: &str = "[search.searxng]\nurl = 'http://127.0.0.1:8888/x/'";

    #[test]
    fn a_query_is_asked_in_its_words() {
        let url =
            |text, language, safe| request(EngineName::Searxng, SETTINGS, &query(text, language, safe)).unwrap().url;
        assert_eq!(
            url("a b", None, SafeSearch::Moderate),
            "http://127.0.0.1:8888/x/search?q=a%20b&format=json&safesearch=1&language=all"
        );
        assert!(url("a", Some("PT-br"), SafeSearch::Strict).ends_with("&safesearch=2&language=pt-BR"));
        assert!(url("a", Some("zh-Hant"), SafeSearch::Off).ends_with("&safesearch=0&language=zh-TW"));
    }

    #[test]
    fn a_reply_is_read() {
        // Cut from a reply of version 2025.8.3.
        let reply = r#"{"query": "hello", "number_of_results": 0, "results": [{"url": "https://example.org/a", "title":
            "One", "content": "first", "engine": "shelf", "template": "default.html", "parsed_url": ["https",
            "example.org", "/a", "", "", ""], "img_src": "", "thumbnail": "", "priority": "", "engines": ["shelf"],
            "positions": [1], "score": 1.0, "category": "general"}, {"url": null, "title": "no link", "content": null}],
            "answers": [], "corrections": [], "infoboxes": [], "suggestions": [], "unresponsive_engines": [["a", "timeout"]]}"#;
        let found = Searxng.read(reply.as_bytes()).unwrap();
        let one = Found { title: "One".into(), url: "https://example.org/a".into(), snippet: "first".into() };
        assert_eq!((found.len(), &found[0]), (2, &one));
        assert_eq!(Searxng.read(br#"{"results": []}"#).unwrap(), []);
        let nobody = br#"{"results": [], "unresponsive_engines": [["google", "Suspended: CAPTCHA"]]}"#;
        assert!(Searxng.read(nobody).unwrap_err().contains("did not answer"));
        for bad in ["<html>", "[]", "{}", r#"{"results": [1]}"#] {
            assert!(Searxng.read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
