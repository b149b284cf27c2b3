//! DuckDuckGo's page for browsers without JavaScript. It is no API: there is none for web results (the Instant Answer API knows
//! only abstracts of things that have a name), so its form may change, and it turns away who looks like a program or asks often.
//! That is then this engine's error.
//!
//! The form's fields, the marks of results and of the question whether one is human: searx/engines/duckduckgo.py in
//! <https://github.com/searxng/searxng>; `kl` and `kp`: <https://duckduckgo.com/duckduckgo-help-pages/settings/params>.

use html5gum::{StartTag, Token};
use hyper::header::{ACCEPT, ACCEPT_LANGUAGE, HeaderValue};

use super::engine::{Engine, Found, Query, RESULTS_MAX, Request, SafeSearch, form, query_at_most};
use super::html::{attribute, has_class, tokens};
use super::language::Language;
use super::link;
use crate::config::SearchEngine;

/// Longer ones it does not answer.
const QUERY_CHARS_MAX: usize = 499;

pub(super) struct Duckduckgo;

impl Engine for Duckduckgo {
    fn request(&self, query: &Query, settings: &SearchEngine) -> Result<Request, String> {
        query_at_most(query, QUERY_CHARS_MAX, "duckduckgo")?;
        let safe = match query.safe_search {
            SafeSearch::Off => "-2",
            SafeSearch::Moderate => "-1",
            SafeSearch::Strict => "1",
        };
        let region = query.language.as_ref().and_then(region).unwrap_or_else(|| "wt-wt".to_owned());
        let body = form(&[("q", &query.text), ("b", ""), ("kl", &region), ("kp", safe)]);
        let mut request = Request::post(&settings.url, "application/x-www-form-urlencoded", body.into_bytes());
        request.headers.insert(ACCEPT, HeaderValue::from_static("text/html"));
        let language = query.language.as_ref().and_then(|l| HeaderValue::from_str(&l.with_region("-")).ok());
        request.headers.extend(language.map(|language| (ACCEPT_LANGUAGE, language)));
        Ok(request)
    }

    fn read(&self, body: &[u8]) -> Result<Vec<Found>, String> {
        let mut page = Page::default();
        for token in tokens(&String::from_utf8_lossy(body)) {
            page.take(token);
        }
        if page.asks_whether_human {
            return Err("it asks whether a person is asking: it takes no more requests from here for a while".into());
        }
        if page.found.is_empty() && !page.found_nothing {
            return Err("the page is none that is known: its form may have changed".into());
        }
        Ok(page.found)
    }
}

/// `kl`: a country and a language; where only the language is known, Accept-Language says it.
fn region(language: &Language) -> Option<String> {
    let country = match language.region()? {
        "GB" => "uk".to_owned(),
        other => other.to_ascii_lowercase(),
    };
    let word = match language.language() {
        "ja" => "jp",
        "ko" => "kr",
        "zh" if language.is_traditional_chinese() => "tzh",
        word => word,
    };
    Some(format!("{country}-{word}"))
}

#[derive(Default)]
struct Page {
    found: Vec<Found>,
    /// Whether what comes belongs to the last of `found`; advertisements lie between results.
    in_result: bool,
    reading: Option<Reading>,
    asks_whether_human: bool,
    found_nothing: bool,
}

/// The text of an element, until it ends.
struct Reading {
    element: Vec<u8>,
    part: Part,
}

#[derive(Clone, Copy)]
enum Part {
    Title,
    Snippet,
}

impl Page {
    fn take(&mut self, token: Token) {
        match token {
            Token::StartTag(tag) => self.begin(&tag),
            Token::EndTag(tag) if self.reading.as_ref().is_some_and(|reading| reading.element == tag.name.0) => {
                self.reading = None;
            }
            Token::String(text) => {
                let Some((reading, last)) = self.reading.as_ref().zip(self.found.last_mut()) else { return };
                let part = match reading.part {
                    Part::Title => &mut last.title,
                    Part::Snippet => &mut last.snippet,
                };
                // Text by now: a sign that begins a tag must not begin one again.
                *part += &String::from_utf8_lossy(&text.0).replace('&', "&amp;").replace('<', "&lt;");
            }
            _ => {}
        }
    }

    fn begin(&mut self, tag: &StartTag<()>) {
        let is = |class| has_class(tag, class);
        self.asks_whether_human |=
            attribute(tag, "id").is_some_and(|id| id == "challenge-form") || is("anomaly-modal__title");
        self.found_nothing |= is("no-results");
        if is("result") {
            self.in_result = is("web-result") && !is("result--ad") && self.found.len() < RESULTS_MAX;
            if self.in_result {
                self.found.push(Found::default());
            }
        }
        let Some(last) = self.found.last_mut().filter(|_| self.in_result) else { return };
        let part = if is("result__a") && last.url.is_empty() {
            last.url = attribute(tag, "href").map(|href| link::behind_redirect(&href)).unwrap_or_default();
            Part::Title
        } else if is("result__snippet") && last.snippet.is_empty() {
            Part::Snippet
        } else {
            return;
        };
        self.reading = Some(Reading { element: tag.name.0.clone(), part });
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::testing::{query, request};
    use super::*;
    use crate::config::EngineName;

    #[test]
    fn a_query_is_asked_in_its_words() {
        let of = |text: &str, language, safe| {
            request(EngineName::Duckduckgo, "[search.duckduckgo]", &query(text, language, safe))
        };
        let asked = of("a b", None, SafeSearch::Moderate).unwrap();
        assert_eq!((asked.method.as_str(), asked.url.as_str()), ("POST", "https://html.duckduckgo.com/html/"));
        assert_eq!(asked.body.unwrap(), b"q=a%20b&b=&kl=wt-wt&kp=-1");
        let asked = of("a", Some("en-GB"), SafeSearch::Strict).unwrap();
        assert_eq!(asked.headers["accept-language"], "en-GB");
        assert_eq!(asked.body.unwrap(), b"q=a&b=&kl=uk-en&kp=1");
        assert!(of("a", Some("zh-TW"), SafeSearch::Off).unwrap().body.unwrap().ends_with(b"kl=tw-tzh&kp=-2"));
        assert!(of(&"a".repeat(500), None, SafeSearch::Off).is_err());
    }

    /// The page's own marks, with texts of the test's.
    const PAGE: &str = r#"<!DOCTYPE html><html><head><title>x at DuckDuckGo</title></head><body>
<div class="serp__results"><div id="links" class="results">
  <div class="result results_links results_links_deep result--ad result--ad--small">
    <h2 class="result__title"><a rel="nofollow" class="result__a" href="https://duckduckgo.com/y.js?ad_domain=x">Buy</a></h2>
    <a class="result__snippet" href="https://duckduckgo.com/y.js">an advertisement</a></div>
  <div class="result results_links results_links_deep web-result ">
    <div class="links_main links_deep result__body">
      <h2 class="result__title"><a rel="nofollow" class="result__a"
        href="//duckduckgo.com/l/?uddg=https%3A%2F%2Fexample.org%2Fa%3Fx%3D1%26y&amp;rut=0af">A &amp; <b>B</b></a></h2>
      <div class="result__extras"><a class="result__url" href="https://example.org/a"> example.org/a </a></div>
      <a class="result__snippet" href="https://example.org/a">Some <b>bold</b> words &lt;i&gt; of it</a>
    </div></div>
  <div class="result results_links results_links_deep web-result "><h2 class="result__title">
    <a rel="nofollow" class="result__a" href="https://example.net/">Two</a></h2></div>
</div></div></body></html>"#;

    #[test]
    fn a_page_is_read() {
        let found = Duckduckgo.read(PAGE.as_bytes()).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        let one = &found[0];
        assert_eq!(one.url, "https://example.org/a?x=1&y");
        assert_eq!((one.title.as_str(), one.snippet.as_str()), ("A &amp; B", "Some bold words &lt;i> of it"));
        assert_eq!((found[1].url.as_str(), found[1].snippet.as_str()), ("https://example.net/", ""));
        let nothing = r#"<div id="links"><div class="result"><div class="no-results">No results.</div></div></div>"#;
        assert_eq!(Duckduckgo.read(nothing.as_bytes()).unwrap(), []);
        let human =
            r#"<form id="challenge-form" action="//duckduckgo.com/anomaly.js"><div class="anomaly-modal__title">"#;
        assert!(Duckduckgo.read(human.as_bytes()).unwrap_err().contains("person"));
        assert!(Duckduckgo.read(b"<html><body>Hello").unwrap_err().contains("changed"));
        assert!(Duckduckgo.read(&[0xff, b'<', b'a']).is_err());
        // Wherever it is cut off.
        for end in 0..PAGE.len() {
            assert!(Duckduckgo.read(&PAGE.as_bytes()[..end]).map_or(0, |found| found.len()) <= 2, "{end}");
        }
    }
}
