//! One list out of several: reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009), which needs no engine's own
//! scores to mean the same as another's.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::engine::Found;
use super::html::plain;
use super::link::Link;
use crate::config::EngineName;

/// The paper's k: how little a first place is worth more than a second.
const K: f64 = 60.0;
const TITLE_CHARS_MAX: usize = 300;
const SNIPPET_CHARS_MAX: usize = 1000;

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(super) struct Hit {
    title: String,
    /// http or https.
    url: String,
    /// Text without markup; empty where the engine gave none.
    snippet: String,
    /// The one that gave it the best place.
    #[schemars(extend("enum" = EngineName::ALL.map(EngineName::name)))]
    engine: &'static str,
    /// All that found it.
    engines: Vec<&'static str>,
    /// By places alone: 1 is the first of every engine that answered.
    #[schemars(range(min = 0, max = 1))]
    score: f64,
}

struct Fused {
    hit: Hit,
    best: usize,
    sum: f64,
}

/// The best `limit` of what the engines found, each list in its engine's order.
pub(super) fn merge(lists: Vec<(&'static str, Vec<Found>)>, limit: usize) -> Vec<Hit> {
    let most = lists.len() as f64 / (K + 1.0);
    let mut all: Vec<Fused> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (engine, list) in lists {
        let mut place = 0;
        for found in list {
            let Some(link) = Link::parse(&found.url) else { continue };
            let at = *places.entry(link.page.clone()).or_insert(all.len());
            if all.get(at).is_some_and(|known| known.hit.engines.contains(&engine)) {
                continue;
            }
            place += 1;
            let fused = Fused::new(engine, place, found, link);
            match all.get_mut(at) {
                Some(known) => known.join(fused),
                None => all.push(fused),
            }
        }
    }
    all.sort_by(|a, b| b.sum.total_cmp(&a.sum).then(a.best.cmp(&b.best)));
    let rounded = |share: f64| (share * 10_000.0).round() / 10_000.0;
    all.into_iter().take(limit).map(|fused| Hit { score: rounded(fused.sum / most), ..fused.hit }).collect()
}

impl Fused {
    fn new(engine: &'static str, place: usize, found: Found, link: Link) -> Self {
        let title = Some(plain(&found.title, TITLE_CHARS_MAX)).filter(|title| !title.is_empty());
        let hit = Hit {
            title: title.unwrap_or(link.host),
            url: link.text,
            snippet: plain(&found.snippet, SNIPPET_CHARS_MAX),
            engine,
            engines: vec![engine],
            score: 0.0,
        };
        Self { hit, best: place, sum: 1.0 / (K + place as f64) }
    }

    /// The same page, of another engine: told as the engine has it that gave it the better place.
    fn join(&mut self, other: Self) {
        self.sum += other.sum;
        let engine = other.hit.engine;
        let mut engines = std::mem::take(&mut self.hit.engines);
        engines.push(engine);
        if other.best < self.best {
            let before = std::mem::replace(&mut self.hit, other.hit);
            self.best = other.best;
            if self.hit.snippet.is_empty() {
                self.hit.snippet = before.snippet;
            }
        } else if self.hit.snippet.is_empty() {
            self.hit.snippet = other.hit.snippet;
        }
        self.hit.engines = engines;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(url: &str, snippet: &str) -> Found {
        Found { title: format!("<b>{url}</b>"), url: url.into(), snippet: snippet.into() }
    }

    #[test]
    fn what_several_found_comes_first_and_once() {
        let a = vec![found("https://x.example/", "x of a"), found("https://y.example/?utm_source=a", "")];
        let b = vec![found("http://y.example", "y of b"), found("javascript:1", ""), found("https://z.example/", "z")];
        let merged = merge(vec![("a", a), ("b", b)], 10);
        let told: Vec<_> = merged.iter().map(|hit| (hit.title.as_str(), hit.engine, hit.score)).collect();
        // 61/2 × (1/62 + 1/61), 61/2 × 1/61, 61/2 × 1/62: what is dropped takes no place.
        let expected =
            [("http://y.example", "b", 0.9919), ("https://x.example/", "a", 0.5), ("https://z.example/", "b", 0.4919)];
        assert_eq!(told, expected);
        assert_eq!((merged[0].engines.as_slice(), merged[0].snippet.as_str()), (&["a", "b"][..], "y of b"));
    }

    #[test]
    fn the_first_of_all_has_the_whole_score_and_nothing_is_counted_twice() {
        let same = || {
            vec![
                found("https://x.example/", ""),
                found("http://x.example/#again", "more"),
                found("https://y.example/", ""),
            ]
        };
        let merged = merge(vec![("a", same()), ("b", same())], 10);
        assert_eq!(merged.iter().map(|hit| hit.score).collect::<Vec<_>>(), [1.0, 0.9839]);
        assert_eq!(merged[0].engines, ["a", "b"]);
        assert_eq!(merge(vec![("a", same())], 1).len(), 1);
        assert_eq!(merge(vec![("a", vec![])], 5), []);
        assert_eq!(merge(vec![], 5), []);
    }

    #[test]
    fn a_result_without_a_title_has_its_host() {
        let bare =
            Found { title: "<b> </b>\u{200b}".into(), url: "https://X.example/a".into(), snippet: String::new() };
        assert_eq!(merge(vec![("a", vec![bare])], 5)[0].title, "x.example");
    }
}
