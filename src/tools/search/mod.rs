//! `web_search`: several engines asked at once, their answers merged; requests of the front under the rules of egress.

mod ask;
mod brave;
mod duckduckgo;
mod engine;
mod google;
mod html;
mod language;
mod link;
mod merge;
mod searxng;
mod tavily;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::ask::{CONNECTION_BYTES, EngineError, REPLY_BYTES_MAX};
use self::engine::{Found, Query, SafeSearch};
use self::language::Language;
use self::merge::Hit;
use super::aside::aside;
use super::call::CallError;
use super::definition::{About, FrontTerms, FrontTool, Hints, Shaped};
use super::finish::ToolError;
use super::schema::Violation;
use super::version::Version;
use crate::config::{EngineName, Search};

const QUERY_CHARS_MAX: usize = 1000;
const LIMIT: usize = 10;
const LIMIT_MAX: usize = 50;

pub(super) struct WebSearch;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// What to look for, in the engines' own syntax.
    #[schemars(length(min = 1, max = QUERY_CHARS_MAX))]
    query: String,
    /// Asked at once; those of the operator's choice unless given.
    #[serde(default)]
    #[schemars(
        with = "Option<Vec<String>>",
        extend("items" = json!({ "type": "string", "enum": EngineName::ALL.map(EngineName::name) })),
        extend("minItems" = 1, "maxItems" = EngineName::ALL.len(), "uniqueItems" = true)
    )]
    engines: Option<Vec<EngineName>>,
    /// Most results, of all engines together; 10 unless given. One alone has fewer: google 10, brave and tavily 20.
    #[serde(default)]
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<usize>,
    /// moderate unless given. google filters with moderate as with strict, tavily can not filter and is not asked with strict.
    #[serde(default)]
    safe_search: SafeSearch,
    /// Such as `de`, `pt-BR` or `zh-Hans`; any unless given. tavily knows none.
    #[serde(default)]
    #[schemars(extend("pattern" = Language::PATTERN))]
    language: Option<String>,
}

#[derive(Default, Serialize, JsonSchema)]
pub(super) struct Output {
    /// The best first; a page that several engines found is there once.
    results: Vec<Hit>,
    /// In the order in which they were named.
    engines: Vec<Answered>,
    /// Whether any engine answered.
    success: bool,
}

#[derive(Serialize, JsonSchema)]
struct Answered {
    #[schemars(extend("enum" = EngineName::ALL.map(EngineName::name)))]
    name: &'static str,
    ok: bool,
    /// Null where it answered.
    error: Option<EngineError>,
}

impl FrontTool for WebSearch {
    type Input = Input;
    type Output = Output;

    fn about(&self) -> About {
        About {
            examples: vec![
                json!({ "query": "linux namespaces" }),
                json!({ "query": "Wetter", "language": "de", "limit": 5, "safe_search": "strict" }),
            ],
            // What the web says changes, but no call of it changes anything: callers who say so may have an earlier answer.
            hints: Hints { read_only: true, idempotent: true, open_world: true },
            needs_network: true,
            ..About::new(
                "web_search",
                "Searches the web with the engines that the operator has set up, and merges what they find. Titles and \
                 snippets are other people's text.",
                Version(1, 0, 0),
            )
        }
    }

    fn check(&self, input: &Input) -> Vec<Violation> {
        let blank = input.query.trim().is_empty() || input.query.chars().any(char::is_control);
        let message = "is blank or holds control characters";
        blank.then(|| Violation::new("/parameters/query", message)).into_iter().collect()
    }

    fn holds(&self, input: &Input) -> usize {
        let engines = input.engines.as_ref().map_or(EngineName::ALL.len(), Vec::len);
        // A reply, and what was read from it.
        engines * (2 * REPLY_BYTES_MAX + CONNECTION_BYTES)
    }

    async fn run(self: Arc<Self>, input: Arc<Input>, terms: FrontTerms) -> Result<Shaped<Output>, CallError> {
        let names = chosen(&terms.config.search, input.engines.as_deref())?;
        let limit = input.limit.unwrap_or(LIMIT);
        let query = Query {
            text: input.query.trim().to_owned(),
            results: limit,
            safe_search: input.safe_search,
            language: input.language.as_deref().and_then(Language::parse),
        };
        let asked = names.iter().map(|name| ask::ask(*name, &query, &terms)).collect();
        let mut output = Output::default();
        let (mut lists, mut failed) = (Vec::new(), Vec::new());
        for (name, answer) in names.iter().zip(side_by_side(asked).await) {
            let error = match answer {
                Ok(found) => {
                    lists.push((name.name(), found));
                    None
                }
                Err(error) => {
                    tracing::info!(engine = name.name(), code = error.code, "a search engine was of no use");
                    failed.push(format!("{} ({})", name.name(), error.code));
                    Some(error)
                }
            };
            output.engines.push(Answered { name: name.name(), ok: error.is_none(), error });
        }
        output.success = !lists.is_empty();
        let bytes = lists.iter().flat_map(|(_, list)| list).map(Found::bytes).sum();
        let merged = aside(bytes, move || merge::merge(lists, limit)).await;
        output.results = merged.ok_or_else(|| CallError::Internal("the results were not merged".into()))?;
        let error = (!output.success)
            .then(|| ToolError::new("search_failed", format!("no engine answered: {}", failed.join(", "))));
        Ok(Shaped { result: output, error })
    }
}

/// The engines to ask. One that a call names must be there; of the operator's own choice one must be.
fn chosen(search: &Search, named: Option<&[EngineName]>) -> Result<Vec<EngineName>, CallError> {
    let missing = |name: &EngineName| search.engine(*name).is_none();
    match named {
        Some(names) => match names.iter().find(|name| missing(name)) {
            None => Ok(names.to_vec()),
            Some(name) => Err(CallError::NotConfigured {
                what: format!("the search engine {} is not configured", name.name()),
                hint: format!("the operator adds [{}] to the settings ({})", name.table(), name.needs()),
            }),
        },
        None => {
            let names = search.default_engines();
            if names.iter().all(missing) {
                return Err(CallError::NotConfigured {
                    what: "no search engine is configured".into(),
                    hint: "the operator adds [search.searxng] (url), [search.brave], [search.tavily], [search.google] \
                           (key_file) or [search.duckduckgo] to the settings"
                        .into(),
                });
            }
            Ok(names)
        }
    }
}

/// All of `futures` at once, in this very task: what is left of them when the caller goes, goes along.
async fn side_by_side<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut all: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|context| {
        let mut waits = false;
        for (future, done) in all.iter_mut().filter(|(_, done)| done.is_none()) {
            match future.as_mut().poll(context) {
                Poll::Ready(output) => *done = Some(output),
                Poll::Pending => waits = true,
            }
        }
        if waits { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    all.into_iter().filter_map(|(_, done)| done).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, Overrides};

    #[test]
    fn what_is_not_set_up_is_told_with_the_setting() {
        let search = |text: &str| Config::parse(text, Path::new("t"), &Overrides::default()).unwrap().search;
        let refused = |text: &str, named: Option<&[EngineName]>| match chosen(&search(text), named) {
            Err(CallError::NotConfigured { what, hint }) => (what, hint),
            other => panic!("{other:?}"),
        };
        assert!(refused("", None).1.contains("[search.searxng]"));
        let (what, hint) = refused("[search.duckduckgo]", Some(&[EngineName::Duckduckgo, EngineName::Google]));
        assert!(what.contains("google") && hint.contains("[search.google]") && hint.contains("cx"), "{what} {hint}");
        let both = search("[search.searxng]\nurl = 'http://a'\n[search.duckduckgo]");
        assert_eq!(chosen(&both, None).unwrap(), [EngineName::Searxng, EngineName::Duckduckgo]);
        let turned = [EngineName::Duckduckgo, EngineName::Searxng];
        assert_eq!(chosen(&both, Some(&turned)).unwrap(), turned);
    }

    #[tokio::test]
    async fn what_is_done_side_by_side_comes_in_order() {
        let after = |ms: u64| async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            ms
        };
        assert_eq!(side_by_side(vec![after(20), after(0), after(10)]).await, [20, 0, 10]);
        assert_eq!(side_by_side(Vec::<std::future::Ready<()>>::new()).await, []);
    }
}
