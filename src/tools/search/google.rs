//! Google's Custom Search JSON API: a key, and the number `cx` of a Programmable Search Engine.
//!
//! Parameters and the shape of a reply: <https://developers.google.com/custom-search/v1/reference/rest/v1/cse/list>. The key goes
//! in the header that all of Google's APIs take one from, not in the URL, which others may write down.

use hyper::header::HeaderName;
use serde::Deserialize;

use super::engine::{Engine, First, Found, Query, Request, SafeSearch, json};
use super::language::Language;
use crate::config::SearchEngine;

const RESULTS_MAX: usize = 10;
/// Of `lr`, without its `lang_`.
const LANGUAGES: [&str; 33] = [
    "ar", "bg", "ca", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "hr", "hu", "id", "is", "it", "iw", "ja",
    "ko", "lt", "lv", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv", "tr",
];

pub(super) struct Google;

#[derive(Deserialize)]
struct Reply {
    /// `customsearch#search` in every reply that tells of no error.
    kind: String,
    /// Missing where nothing was found.
    #[serde(default)]
    items: First<Item>,
}

#[derive(Deserialize)]
struct Item {
    link: Option<String>,
    title: Option<String>,
    snippet: Option<String>,
}

impl Engine for Google {
    fn request(&self, query: &Query, settings: &SearchEngine) -> Result<Request, String> {
        let count = query.results.min(RESULTS_MAX).to_string();
        // It has no middle: what should be filtered somewhat is filtered.
        let safe = if query.safe_search == SafeSearch::Off { "off" } else { "active" };
        let cx = settings.cx.as_deref().ok_or("it has no cx")?;
        let mut pairs = vec![("cx", cx), ("q", query.text.as_str()), ("num", &count), ("safe", safe)];
        let restrict = query.language.as_ref().map(|l| restriction(l).ok_or("google has no search in this language"));
        let restrict = restrict.transpose()?;
        let country = query.language.as_ref().and_then(Language::region).map(str::to_ascii_lowercase);
        pairs.extend(restrict.as_deref().map(|lr| ("lr", lr)));
        pairs.extend(country.as_deref().map(|gl| ("gl", gl)));
        Request::get(&settings.url, &pairs).with_key(HeaderName::from_static("x-goog-api-key"), settings, "")
    }

    fn read(&self, body: &[u8]) -> Result<Vec<Found>, String> {
        let Reply { kind, items } = json(body)?;
        if kind != "customsearch#search" {
            return Err("the reply is none to a search".into());
        }
        let found = |item: Item| Found {
            title: item.title.unwrap_or_default(),
            url: item.link.unwrap_or_default(),
            snippet: item.snippet.unwrap_or_default(),
        };
        Ok(items.0.into_iter().map(found).collect())
    }
}

fn restriction(language: &Language) -> Option<String> {
    let word = match language.language() {
        "zh" if language.is_traditional_chinese() => return Some("lang_zh-TW".into()),
        "zh" => return Some("lang_zh-CN".into()),
        // The words of ISO 639 before 1989 and of its macrolanguage.
        "he" => "iw",
        "nb" | "nn" => "no",
        word => word,
    };
    LANGUAGES.into_iter().find(|known| *known == word).map(|word| format!("lang_{word}"))
}

#[cfg(test)]
mod tests {
    use super::super::engine::testing::{query, request};
    use super::*;
    use crate::config::EngineName;

    const SETTINGS: &str = "[search.google]\nkey_file = KEY\ncx = '017:abc'";

    #[test]
    fn a_query_is_asked_in_its_words() {
        let of = |language, safe| request(EngineName::Google, SETTINGS, &query("a b", language, safe));
        let asked = of(None, SafeSearch::Moderate).unwrap();
        assert_eq!(asked.url, "https://www.googleapis.com/customsearch/v1?cx=017%3Aabc&q=a%20b&num=7&safe=active");
        let key = &asked.headers["x-goog-api-key"];
        assert!(key == "k-1" && key.is_sensitive());
        assert!(of(Some("de-AT"), SafeSearch::Off).unwrap().url.ends_with("&safe=off&lr=lang_de&gl=at"));
        assert!(of(Some("he"), SafeSearch::Strict).unwrap().url.ends_with("&safe=active&lr=lang_iw"));
        assert!(of(Some("zh"), SafeSearch::Strict).unwrap().url.ends_with("&lr=lang_zh-CN"));
        assert!(of(Some("tlh"), SafeSearch::Off).is_err());
    }

    #[test]
    fn a_reply_is_read() {
        // Cut from the reference's resource: queries, context and searchInformation are of no use here.
        let reply = r#"{"kind": "customsearch#search", "url": {"type": "application/json"}, "searchInformation":
            {"totalResults": "1"}, "items": [{"kind": "customsearch#result", "title": "Lectures", "htmlTitle":
            "<b>Lectures</b>", "link": "https://example.edu/lectures", "displayLink": "example.edu", "snippet":
            "Notes of all\nlectures", "htmlSnippet": "Notes of all <b>lectures</b>", "pagemap": {"metatags": [{}]}}]}"#;
        let found = Google.read(reply.as_bytes()).unwrap();
        assert_eq!((found[0].title.as_str(), found[0].url.as_str()), ("Lectures", "https://example.edu/lectures"));
        assert_eq!(found[0].snippet, "Notes of all\nlectures");
        assert_eq!(Google.read(br#"{"kind": "customsearch#search"}"#).unwrap(), []);
        for bad in ["", "{}", r#"{"error": {"code": 403}}"#, r#"{"kind": "other", "items": []}"#] {
            assert!(Google.read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
