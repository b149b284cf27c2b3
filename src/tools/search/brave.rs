//! Brave's Web Search API: a key in `X-Subscription-Token`.
//!
//! Parameters, languages, countries and the shape of a reply: <https://api-dashboard.search.brave.com/documentation>.

use hyper::header::HeaderName;
use serde::Deserialize;

use super::engine::{Engine, First, Found, Query, Request, SafeSearch, json, query_at_most};
use super::language::Language;
use crate::config::SearchEngine;

const RESULTS_MAX: usize = 20;
const QUERY_CHARS_MAX: usize = 400;
const QUERY_WORDS_MAX: usize = 50;
/// Its search_lang; what is another word there is in [`search_lang`].
const LANGUAGES: [&str; 46] = [
    "ar", "eu", "bn", "bg", "ca", "hr", "cs", "da", "nl", "en", "et", "fi", "fr", "gl", "de", "el", "gu", "he", "hi",
    "hu", "is", "it", "kn", "ko", "lv", "lt", "ms", "ml", "mr", "nb", "pl", "pa", "ro", "ru", "sr", "sk", "sl", "es",
    "sv", "ta", "te", "th", "tr", "uk", "vi", "jp",
];
const COUNTRIES: [&str; 37] = [
    "AR", "AU", "AT", "BE", "BR", "CA", "CL", "DK", "FI", "FR", "DE", "GR", "HK", "IN", "ID", "IT", "JP", "KR", "MY",
    "MX", "NL", "NZ", "NO", "CN", "PL", "PT", "PH", "RU", "SA", "ZA", "ES", "SE", "CH", "TW", "TR", "GB", "US",
];

pub(super) struct Brave;

#[derive(Deserialize)]
struct Reply {
    /// Missing where nothing was found.
    web: Option<Web>,
    /// `search` in every reply of this endpoint.
    r#type: String,
}

#[derive(Deserialize)]
struct Web {
    #[serde(default)]
    results: First<Item>,
}

#[derive(Deserialize)]
struct Item {
    url: Option<String>,
    title: Option<String>,
    description: Option<String>,
}

impl Engine for Brave {
    fn request(&self, query: &Query, settings: &SearchEngine) -> Result<Request, String> {
        query_at_most(query, QUERY_CHARS_MAX, "brave")?;
        if query.text.split_whitespace().count() > QUERY_WORDS_MAX {
            return Err(format!("brave takes queries of at most {QUERY_WORDS_MAX} words"));
        }
        let count = query.results.min(RESULTS_MAX).to_string();
        let safe = match query.safe_search {
            SafeSearch::Off => "off",
            SafeSearch::Moderate => "moderate",
            SafeSearch::Strict => "strict",
        };
        let mut pairs = vec![
            ("q", query.text.as_str()),
            ("count", &count),
            ("safesearch", safe),
            ("result_filter", "web"),
            ("text_decorations", "false"),
        ];
        if let Some(language) = &query.language {
            pairs.push(("search_lang", search_lang(language).ok_or("brave has no search in this language")?));
            pairs.extend(
                language.region().filter(|region| COUNTRIES.contains(region)).map(|region| ("country", region)),
            );
        }
        Request::get(&settings.url, &pairs).with_key(HeaderName::from_static("x-subscription-token"), settings, "")
    }

    fn read(&self, body: &[u8]) -> Result<Vec<Found>, String> {
        let Reply { web, r#type } = json(body)?;
        if r#type != "search" {
            return Err("the reply is none to a search".into());
        }
        let found = |item: Item| Found {
            title: item.title.unwrap_or_default(),
            url: item.url.unwrap_or_default(),
            snippet: item.description.unwrap_or_default(),
        };
        Ok(web.map_or_else(Vec::new, |web| web.results.0.into_iter().map(found).collect()))
    }
}

fn search_lang(language: &Language) -> Option<&'static str> {
    let word = match (language.language(), language.region()) {
        ("zh", _) => {
            if language.is_traditional_chinese() {
                return Some("zh-hant");
            }
            return Some("zh-hans");
        }
        ("pt", Some("BR")) => return Some("pt-br"),
        ("pt", _) => return Some("pt-pt"),
        ("en", Some("GB")) => return Some("en-gb"),
        ("ja", _) => "jp",
        ("no", _) => "nb",
        (word, _) => word,
    };
    LANGUAGES.into_iter().find(|known| *known == word)
}

#[cfg(test)]
mod tests {
    use super::super::engine::testing::{query, request};
    use super::*;
    use crate::config::EngineName;

    const SETTINGS: &str = "[search.brave]\nkey_file = KEY";

    #[test]
    fn a_query_is_asked_in_its_words() {
        let of = |text: &str, language, safe| request(EngineName::Brave, SETTINGS, &query(text, language, safe));
        let asked = of("a&b", None, SafeSearch::Moderate).unwrap();
        assert_eq!(
            asked.url,
            "https://api.search.brave.com/res/v1/web/search?q=a%26b&count=7&safesearch=moderate&result_filter=web\
             &text_decorations=false"
        );
        let key = &asked.headers["x-subscription-token"];
        assert!(key == "k-1" && key.is_sensitive() && !asked.url.contains("k-1"));
        let ends = |language, safe, end: &str| {
            let url = of("a", Some(language), safe).unwrap().url;
            assert!(url.ends_with(end), "{url}");
        };
        ends(
            "de-CH",
            SafeSearch::Strict,
            "safesearch=strict&result_filter=web&text_decorations=false&search_lang=de&country=CH",
        );
        ends("ja", SafeSearch::Off, "&search_lang=jp");
        ends("pt", SafeSearch::Off, "&search_lang=pt-pt");
        ends("zh-TW", SafeSearch::Off, "&search_lang=zh-hant&country=TW");
        assert!(of("a", Some("eo"), SafeSearch::Off).is_err());
        assert!(of(&"a".repeat(401), None, SafeSearch::Off).is_err());
        assert!(of(&"a ".repeat(51), None, SafeSearch::Off).is_err());
    }

    #[test]
    fn a_reply_is_read() {
        // Cut from the documentation's own example.
        let reply = r#"{"type": "search", "query": {"original": "brave", "more_results_available": true}, "mixed": {},
            "web": {"type": "search", "results": [{"title": "Brave", "url": "https://brave.com/", "is_source_local": false,
            "description": "The <strong>Brave</strong> browser &amp; more", "language": "en", "profile": {"name": "Brave"},
            "meta_url": {"scheme": "https"}}], "family_friendly": true}}"#;
        let found = Brave.read(reply.as_bytes()).unwrap();
        let snippet = "The <strong>Brave</strong> browser &amp; more".to_owned();
        assert_eq!(found, [Found { title: "Brave".into(), url: "https://brave.com/".into(), snippet }]);
        assert_eq!(Brave.read(br#"{"type": "search", "query": {}}"#).unwrap(), []);
        for bad in ["", "{}", r#"{"type": "ErrorResponse", "error": {}}"#, r#"{"type": "search", "web": 1}"#] {
            assert!(Brave.read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
