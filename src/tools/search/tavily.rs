//! Tavily's Search API: a key as a bearer token, the query in a JSON body.
//!
//! Parameters and the shape of a reply: <https://docs.tavily.com/documentation/api-reference/endpoint/search>. It has no choice
//! of language, and no filter that every key may use: what it can not promise with safe_search strict it is not asked for.

use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use serde::Deserialize;
use serde_json::json;

use super::engine::{self, Engine, First, Found, Query, Request, SafeSearch, query_at_most};
use crate::config::SearchEngine;

const RESULTS_MAX: usize = 20;
const QUERY_CHARS_MAX: usize = 400;

pub(super) struct Tavily;

#[derive(Deserialize)]
struct Reply {
    results: First<Item>,
}

#[derive(Deserialize)]
struct Item {
    url: Option<String>,
    title: Option<String>,
    content: Option<String>,
}

impl Engine for Tavily {
    fn request(&self, query: &Query, settings: &SearchEngine) -> Result<Request, String> {
        query_at_most(query, QUERY_CHARS_MAX, "tavily")?;
        if query.safe_search == SafeSearch::Strict {
            return Err("tavily can not filter what it finds: ask it with safe_search moderate or off".into());
        }
        // The cheapest depth, said so that no account's default is another.
        let body =
            json!({ "query": query.text, "max_results": query.results.min(RESULTS_MAX), "search_depth": "basic" });
        let mut request = Request::post(&settings.url, "application/json", body.to_string().into_bytes());
        request.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        request.with_key(AUTHORIZATION, settings, "Bearer ")
    }

    fn read(&self, body: &[u8]) -> Result<Vec<Found>, String> {
        let Reply { results } = engine::json(body)?;
        let found = |item: Item| Found {
            title: item.title.unwrap_or_default(),
            url: item.url.unwrap_or_default(),
            snippet: item.content.unwrap_or_default(),
        };
        Ok(results.0.into_iter().map(found).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::testing::{query, request};
    use super::*;
    use crate::config::EngineName;

    const SETTINGS: &str = "[search.tavily]\nkey_file = KEY";

    #[test]
    fn a_query_is_asked_in_its_words() {
        let of = |safe| request(EngineName::Tavily, SETTINGS, &query("who \"is\"", Some("de"), safe));
        let asked = of(SafeSearch::Moderate).unwrap();
        assert_eq!((asked.method.as_str(), asked.url.as_str()), ("POST", "https://api.tavily.com/search"));
        let key = &asked.headers["authorization"];
        assert!(key == "Bearer k-1" && key.is_sensitive());
        let body = String::from_utf8(asked.body.unwrap()).unwrap();
        assert_eq!(body, r#"{"query":"who \"is\"","max_results":7,"search_depth":"basic"}"#);
        assert!(of(SafeSearch::Strict).err().unwrap().contains("filter"));
    }

    #[test]
    fn a_reply_is_read() {
        // Cut from the documentation's own example.
        let reply = r#"{"query": "Who is Leo Messi?", "answer": null, "images": [], "results": [{"title": "Lionel Messi Facts",
            "url": "https://www.britannica.com/facts/Lionel-Messi", "content": "Lionel Messi, a footballer.", "score":
            0.81025416, "raw_content": null, "favicon": "https://britannica.com/favicon.png"}], "response_time": "1.67",
            "auto_parameters": {"topic": "general"}, "request_id": "123e4567"}"#;
        let found = Tavily.read(reply.as_bytes()).unwrap();
        assert_eq!((found.len(), found[0].title.as_str()), (1, "Lionel Messi Facts"));
        assert_eq!(found[0].snippet, "Lionel Messi, a footballer.");
        for bad in ["", "{}", r#"{"detail": {"error": "Unauthorized"}}"#] {
            assert!(Tavily.read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
