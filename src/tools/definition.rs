//! What a tool is: a [`Tool`] in its own types, and the same behind one face for all, [`AnyTool`].

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::aside::aside;
use super::call::CallError;
use super::day::Day;
use super::finish::{Finished, ToolError};
use super::plan::{BoxFuture, FrontWork, Job, Work};
use super::rooms::Rooms;
use super::schema::{self, Schema, Violation};
use super::version::Version;
use crate::checks::Language;
use crate::config::Config;
use crate::spec::{Level, capped};

/// What is told about a tool beside its schemas.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// Legal wherever tools are listed: see [`super::version::is_name`].
    pub name: String,
    pub description: String,
    pub version: Version,
    pub deprecated: Option<Deprecated>,
    /// Parameters of calls that work, as a caller would send them.
    pub examples: Vec<Value>,
    pub hints: Hints,
    /// The weakest level at which it may run; `None` leaves it to caller and principal.
    pub level: Option<Level>,
    /// Whether it is of no use without a network, which strict and maximum have not.
    pub needs_network: bool,
}

impl About {
    /// Of a tool that may do anything, and is as good as any other.
    pub fn new(name: &str, description: &str, version: Version) -> Self {
        Self {
            name: name.to_owned(),
            description: description.to_owned(),
            version,
            deprecated: None,
            examples: Vec::new(),
            hints: Hints::default(),
            level: None,
            needs_network: false,
        }
    }
}

/// A version that callers should leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deprecated {
    pub since: Day,
    /// From when on it may be gone.
    pub sunset: Option<Day>,
    /// What to use instead, say.
    pub message: Option<String>,
}

/// What a call may do outside its sandbox. Hints for callers and models; no fence depends on them but the cache, which is for
/// idempotent tools alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints {
    /// It changes nothing that outlives the call.
    pub read_only: bool,
    /// Run twice with the same parameters it leaves, and returns, the same as run once.
    pub idempotent: bool,
    /// It reaches beyond this host.
    pub open_world: bool,
}

/// A tool in its own types. The schemas that callers see are generated from them.
pub trait Tool: Send + Sync + 'static {
    /// Parameters, once they passed the schema. `deny_unknown_fields`, so that the schema says so.
    type Input: DeserializeOwned + JsonSchema;
    /// `result` of a reply.
    type Output: Serialize + JsonSchema;

    fn about(&self) -> About;

    /// What the schema can not say about parameters that it accepted.
    fn check(&self, _input: &Self::Input) -> Vec<Violation> {
        Vec::new()
    }

    fn job(&self, input: Self::Input) -> Job;

    /// The language of [`Job::code`] where that is the caller's own text, which is looked at before it runs.
    fn screened(&self) -> Option<Language> {
        None
    }

    /// From the end of the command to the caller's result.
    fn shape(&self, finished: Finished) -> Shaped<Self::Output>;
}

/// A tool that needs no sandbox: it runs nothing of its caller's, it only looks at what was sent. The front answers it.
pub trait FrontTool: Send + Sync + 'static {
    /// Parameters, once they passed the schema. `deny_unknown_fields`, so that the schema says so.
    type Input: DeserializeOwned + JsonSchema + Send + Sync + 'static;
    /// `result` of a reply.
    type Output: Serialize + JsonSchema;

    fn about(&self) -> About;

    /// What the schema can not say about parameters that it accepted.
    fn check(&self, _input: &Self::Input) -> Vec<Violation> {
        Vec::new()
    }

    /// Milliseconds that it may take; `None`: the level's own time.
    fn timeout_ms(&self, _input: &Self::Input) -> Option<u64> {
        None
    }

    /// About how many bytes of memory it takes, its input and its result included.
    fn holds(&self, input: &Self::Input) -> usize;

    /// `Err`: nothing was done. What goes over many bytes does so [`aside`].
    fn run(
        self: Arc<Self>,
        input: Arc<Self::Input>,
        terms: FrontTerms,
    ) -> impl Future<Output = Result<Shaped<Self::Output>, CallError>> + Send;
}

/// Under what a tool without a sandbox works.
pub struct FrontTerms {
    /// Whose call it is.
    pub principal: String,
    pub config: Arc<Config>,
    /// The most requests to the network, where the caller said.
    pub network_requests_max: Option<u32>,
    /// Those that were made: told also where the tool does not come to its end.
    pub network_requests: Arc<AtomicU64>,
    /// When the call's time is over.
    pub deadline: Instant,
    /// For the threads that look names up.
    pub(super) lookups: Arc<Rooms>,
}

/// The result of `work` that needs no network, always succeeds and goes over about `bytes` bytes.
pub(super) async fn worked<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Shaped<T>, CallError> {
    let unfinished = || CallError::Internal("the work of a call was not finished".into());
    Ok(Shaped { result: aside(bytes, work).await.ok_or_else(unfinished)?, error: None })
}

/// A tool's own result.
pub struct Shaped<T = Box<RawValue>> {
    pub result: T,
    pub error: Option<ToolError>,
}

/// Of a tool that says nothing.
pub(super) const TTL_DEFAULT: Duration = Duration::from_secs(300);

/// What the registry holds.
pub trait AnyTool: Send + Sync {
    fn about(&self) -> &About;

    fn schema(&self) -> &Schema;

    /// JSON schema of `result`, where it is known.
    fn result_schema(&self) -> Option<&Value>;

    /// How long a result may be told again to a caller who asks for that; for idempotent tools alone.
    fn ttl(&self) -> Duration {
        TTL_DEFAULT
    }

    /// Takes one call of `principal`'s from what the tool allows; `Err`: there is one again after this long.
    fn admit(&self, _principal: &str) -> Result<(), Duration> {
        Ok(())
    }

    /// What to do for `parameters`, which have passed the schema.
    fn work(&self, parameters: Map<String, Value>) -> Result<Work, Vec<Violation>>;

    /// See [`Tool::screened`].
    fn screened(&self) -> Option<Language> {
        None
    }

    /// Of the command that [`AnyTool::work`] asked for.
    fn shape(&self, finished: Finished) -> Shaped;
}

/// A [`Tool`] as one of many.
pub(super) struct Typed<T: Tool> {
    tool: T,
    about: About,
    schema: Schema,
    result: Value,
    types: PhantomData<fn() -> T>,
}

impl<T: Tool> Typed<T> {
    pub(super) fn new(tool: T) -> Self {
        Self {
            about: tool.about(),
            schema: Schema::of::<T::Input>(),
            result: schema::derive::result::<T::Output>(),
            tool,
            types: PhantomData,
        }
    }
}

impl<T: Tool> AnyTool for Typed<T> {
    fn about(&self) -> &About {
        &self.about
    }

    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn result_schema(&self) -> Option<&Value> {
        Some(&self.result)
    }

    fn work(&self, parameters: Map<String, Value>) -> Result<Work, Vec<Violation>> {
        let input: T::Input = read(parameters)?;
        let found = self.tool.check(&input);
        if found.is_empty() { Ok(Work::Command(Box::new(self.tool.job(input)))) } else { Err(found) }
    }

    fn screened(&self) -> Option<Language> {
        self.tool.screened()
    }

    fn shape(&self, finished: Finished) -> Shaped {
        written(&self.about, self.tool.shape(finished))
    }
}

/// A [`FrontTool`] as one of many.
pub(super) struct TypedFront<T: FrontTool> {
    tool: Arc<T>,
    about: About,
    schema: Schema,
    result: Value,
}

impl<T: FrontTool> TypedFront<T> {
    pub(super) fn new(tool: T) -> Self {
        Self {
            about: tool.about(),
            schema: Schema::of::<T::Input>(),
            result: schema::derive::result::<T::Output>(),
            tool: Arc::new(tool),
        }
    }
}

impl<T: FrontTool> AnyTool for TypedFront<T> {
    fn about(&self) -> &About {
        &self.about
    }

    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn result_schema(&self) -> Option<&Value> {
        Some(&self.result)
    }

    fn work(&self, parameters: Map<String, Value>) -> Result<Work, Vec<Violation>> {
        let input: T::Input = read(parameters)?;
        let found = self.tool.check(&input);
        if !found.is_empty() {
            return Err(found);
        }
        let (timeout_ms, holds) = (self.tool.timeout_ms(&input), self.tool.holds(&input));
        let (tool, about, input) = (Arc::clone(&self.tool), self.about.clone(), Arc::new(input));
        let run = move |terms| -> BoxFuture {
            let (tool, about, input) = (Arc::clone(&tool), about.clone(), Arc::clone(&input));
            Box::pin(async move { Ok(written(&about, tool.run(input, terms).await?)) })
        };
        Ok(Work::Front(FrontWork { run: Box::new(run), timeout_ms, holds }))
    }

    /// There was no command.
    fn shape(&self, _: Finished) -> Shaped {
        Shaped { result: RawValue::NULL.to_owned(), error: Some(ToolError::new("internal", "nothing was run")) }
    }
}

/// The schema is made from the same type: what it lets through can be read.
fn read<T: DeserializeOwned>(parameters: Map<String, Value>) -> Result<T, Vec<Violation>> {
    serde_json::from_value(Value::Object(parameters))
        .map_err(|e| vec![Violation::new("/parameters", capped(&e.to_string(), 200))])
}

fn written(about: &About, shaped: Shaped<impl Serialize>) -> Shaped {
    match serde_json::value::to_raw_value(&shaped.result) {
        Ok(result) => Shaped { result, error: shaped.error },
        Err(e) => {
            tracing::error!(error = %e, tool = about.name, "a result has no JSON form");
            let error = ToolError::new("internal", "the result has no JSON form");
            Shaped { result: RawValue::NULL.to_owned(), error: Some(error) }
        }
    }
}
