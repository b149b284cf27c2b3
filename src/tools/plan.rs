//! From a call to what will run: a tool's job, its level, its limits, its time.

use std::pin::Pin;

use serde_json::Value;

use super::cache::{Epoch, Key};
use super::call::{Call, CallError, Context, Needs};
use super::definition::{AnyTool, FrontTerms, Shaped};
use super::level;
use super::phases::{self, Phases, Source};
use super::principal::Principal;
use super::schema::Violation;
use super::workspaces;
use crate::checks::{self, Language, Script};
use crate::config::Config;
use crate::policy::table::{LimitRefusal, resolve_limits, table};
use crate::runtimes::languages::Started;
use crate::runtimes::{Runtime, WORKSPACE, environment, python};
use crate::spec::{Command, CommandError, Level, LimitField, LimitRequest, Limits, VolumeUse};

pub(super) const CODE_BYTES_MAX: usize = 1024 * 1024;
pub(super) const STDIN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a call comes to.
pub enum Work {
    /// A command in a sandbox.
    Command(Box<Job>),
    Front(FrontWork),
}

/// What the front does itself, without a command or a sandbox.
pub struct FrontWork {
    /// `Err`: nothing was done.
    pub(super) run: Box<dyn Fn(FrontTerms) -> BoxFuture + Send + Sync>,
    pub(super) timeout_ms: Option<u64>,
    /// About how many bytes of memory it takes.
    pub(super) holds: usize,
}

pub(super) type BoxFuture = Pin<Box<dyn Future<Output = Result<Shaped, CallError>> + Send>>;

/// What a command needs of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkspaceNeed {
    /// The one that the call names, if it names one; else a directory of its own, which goes with it.
    IfNamed,
    /// The one that the call names, or the principal's own.
    Always { read_only: bool },
}

/// What a tool wants run.
#[derive(Debug, Clone)]
pub struct Job {
    pub runtime: Runtime,
    pub code: Vec<u8>,
    /// The caller's own variables.
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub stdin: Vec<u8>,
    pub workspace: WorkspaceNeed,
    /// What the tool will want to know of the call when it shapes the result.
    pub note: Value,
    /// Of one attempt: `parameters.timeout`, or the tool's own.
    pub timeout_ms: Option<u64>,
    /// The most that a call of this tool may have, and what it has where the caller does not say.
    pub limits: LimitRequest,
    /// What the code is written in, where that is a language of the table.
    pub source: Option<Box<Source>>,
    /// The command of such a language.
    pub started: Option<Started>,
}

impl Job {
    /// Of `runtime`, with nothing but its code.
    pub fn new(runtime: Runtime, code: Vec<u8>) -> Self {
        Self {
            runtime,
            code,
            env: Vec::new(),
            cwd: WORKSPACE.to_owned(),
            stdin: Vec::new(),
            workspace: WorkspaceNeed::IfNamed,
            note: Value::Null,
            timeout_ms: None,
            limits: LimitRequest::default(),
            source: None,
            started: None,
        }
    }
}

/// A job that may run, at a level and within limits that this caller may have.
pub(super) struct Plan {
    pub work: Work,
    pub terms: Terms,
    /// In place of the directory that a command has of its own.
    pub workspace: Option<VolumeUse>,
    /// The commands around that of the job, where there are any.
    pub phases: Option<Phases>,
    /// Under which a result of the same call may be found; none where it was not asked for or the tool is not idempotent.
    pub cached: Option<Key>,
}

/// Under what one command runs.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Whether its environment and its place are every command's own.
    pub is_plain: bool,
    pub level: Level,
    /// As asked for; the engine resolves it again.
    pub request: LimitRequest,
    pub limits: Limits,
    pub volumes: Vec<VolumeUse>,
}

/// Checks everything about `call` that can be known without the engine. Returns the plan and the rest of the call.
pub(super) fn plan(
    call: Call,
    tool: &dyn AnyTool,
    principal: &Principal,
    config: &Config,
    epoch: Epoch,
) -> Result<(Plan, Context), CallError> {
    let Call { parameters, context, .. } = call;
    let parameters = tool.schema().accept(parameters).map_err(CallError::Parameters)?;
    let level = level::effective(&context, principal, tool.about().level, config.levels)?;
    let unsuitable = |needs| CallError::LevelUnsuitable { tool: tool.about().name.clone(), level, needs };
    let strict = matches!(level, Level::Strict | Level::Maximum);
    if tool.about().needs_network && strict {
        return Err(unsuitable(Needs::Network));
    }
    let asked = (context.cache && tool.about().hints.idempotent).then(|| Value::Object(parameters.clone()));
    let mut work = tool.work(parameters).map_err(CallError::Parameters)?;
    if let Work::Command(job) = &mut work {
        screen(tool, job, level, config)?;
    }
    let (own, timeout_ms) = match &work {
        Work::Command(job) => (job.limits, job.timeout_ms),
        Work::Front(work) => (LimitRequest::default(), work.timeout_ms),
    };

    let mut request = context.limits.within(&own).map_err(|beyond| {
        let of_the_tool = |field: LimitField| {
            let shown = |request: &LimitRequest| request.get(field).unwrap_or_default() as f64 / field.unit();
            let (asked, most) = (shown(&context.limits), shown(&own));
            Violation::new(
                format!("/context/limits/{}", field.name()),
                format!("{asked} is greater than the tool's maximum of {most}"),
            )
        };
        CallError::Request(beyond.into_iter().map(of_the_tool).collect())
    })?;
    // What the tool has and this level or this host has not is the tool's author's business, not the caller's.
    clamp(&mut request, level, config, &context.limits);
    resolve_limits(level, &request, &config.ceilings).map_err(|refused| CallError::Request(named(&refused)))?;
    let wall_most = table(level).wall_ms.most.min(config.ceilings.wall_ms);
    if let Some(asked) = timeout_ms.filter(|ms| *ms > wall_most) {
        let message = format!("{} is greater than the maximum of {}", seconds(asked), seconds(wall_most));
        return Err(CallError::Parameters(vec![Violation::new("/parameters/timeout", message)]));
    }
    request.wall_ms = request.wall_ms.into_iter().chain(timeout_ms).min();
    let limits =
        resolve_limits(level, &request, &config.ceilings).map_err(|refused| CallError::Request(named(&refused)))?;

    let mut workspace = None;
    let mut phases = None;
    let (mut env, mut is_plain) = (Vec::new(), true);
    if let Work::Command(job) = &mut work {
        let named = context.workspace.is_some();
        if strict && job.source.as_ref().is_some_and(|source| source.writes(named)) {
            return Err(unsuitable(Needs::WritableWorkspace));
        }
        phases = phases::plan(job, (level, limits.memory_bytes), named, config)?;
        env = environment(&config.host.runtime_directories, &job.env);
        check_command(job, &env)?;
        is_plain = job.env.is_empty() && job.cwd == WORKSPACE;
        if strict && job.workspace == (WorkspaceNeed::Always { read_only: false }) {
            return Err(unsuitable(Needs::WritableWorkspace));
        }
        workspace = workspaces::wanted(job.workspace, level, &principal.name, context.workspace.as_ref())?;
    }
    let cached = asked
        .map(|parameters| Key::of(epoch, tool, principal, &parameters, level, &limits, context.workspace.as_ref()));
    let volumes = workspace.iter().cloned().collect();
    let terms = Terms { env, is_plain, level, request, limits, volumes };
    Ok((Plan { work, terms, workspace, phases, cached }, context))
}

/// Lowers what `level` or this host has not, but for what `asked` says itself.
pub(super) fn clamp(request: &mut LimitRequest, level: Level, config: &Config, asked: &LimitRequest) {
    if let Err(refused) = resolve_limits(level, request, &config.ceilings) {
        for r in refused.iter().filter(|r| asked.get(r.field).is_none()) {
            request.put(r.field, r.asked.clamp(r.least, r.most.max(r.least)));
        }
    }
}

/// Looks at the code that the caller wrote. Code of Python takes along what its interpreter is to refuse.
fn screen(tool: &dyn AnyTool, job: &mut Job, level: Level, config: &Config) -> Result<(), CallError> {
    let language = tool.screened();
    if let Some(language) = language {
        // Both came as text.
        let (code, stdin) = (String::from_utf8_lossy(&job.code), String::from_utf8_lossy(&job.stdin));
        let script = Script { language, code: &code, stdin: &stdin, env: &job.env, cwd: &job.cwd };
        checks::screen(&script, level, &config.checks).map_err(CallError::Blocked)?;
    }
    if job.runtime == Runtime::Python {
        let found = match language {
            Some(Language::Python) => checks::restrictions(level, &config.checks),
            _ => checks::Restrictions::default(),
        };
        fn of(one: &Option<(String, Vec<String>)>) -> Option<(&str, &[String])> {
            one.as_ref().map(|(rule, names)| (rule.as_str(), names.as_slice()))
        }
        let (modules, builtins, attributes) = (of(&found.modules), of(&found.builtins), of(&found.attributes));
        job.code = python::code(&job.code, &python::Restrictions { modules, builtins, attributes });
    }
    Ok(())
}

/// The engine would refuse the whole message; the caller is told which parameter it is.
fn check_command(job: &Job, env: &[(String, String)]) -> Result<(), CallError> {
    let probe = Command::new(vec!["-".into()], env.to_vec(), job.cwd.clone(), 0);
    let (pointer, error) = match probe {
        Ok(_) => return Ok(()),
        Err(error @ (CommandError::Cwd | CommandError::Nul("the working directory"))) => {
            ("/parameters/working_dir", error)
        }
        Err(error) => ("/parameters/env", error),
    };
    Err(CallError::Parameters(vec![Violation::new(pointer, error.to_string())]))
}

fn named(refused: &[LimitRefusal]) -> Vec<Violation> {
    refused.iter().map(violation).collect()
}

/// The engine's `most` for the contract's field `name`, in that field's unit.
pub(super) fn in_contracts_unit(name: &str, most: u64) -> f64 {
    let field = LimitField::ALL.into_iter().find(|field| field.name() == name);
    most as f64 / field.map_or(1.0, LimitField::unit)
}

/// In the contract's field and unit.
fn violation(r: &LimitRefusal) -> Violation {
    let unit = r.field.unit();
    let shown = |v: u64| v as f64 / unit;
    let message = if r.asked > r.most {
        format!("{} is greater than the maximum of {}", shown(r.asked), shown(r.most))
    } else {
        format!("{} is less than the minimum of {}", shown(r.asked), shown(r.least))
    };
    Violation::new(format!("/context/limits/{}", r.field.name()), message)
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// A tool's `timeout`, which its schema holds between 0 and 300 seconds: rounded up, so that it never becomes none.
pub(super) fn milliseconds(seconds: f64) -> u64 {
    ((seconds * 1000.0).ceil() as u64).max(1)
}

/// For the parameter `name`, or a place below it.
pub(super) fn no_nul(name: &str, text: &str, found: &mut Vec<Violation>) {
    if text.contains('\0') {
        found.push(Violation::new(format!("/parameters/{name}"), "holds a NUL byte"));
    }
}

/// JSON schema counts characters; files and pipes count bytes.
pub(super) fn bytes_at_most(name: &str, text: &str, max: usize, found: &mut Vec<Violation>) {
    if text.len() > max {
        found.push(Violation::new(format!("/parameters/{name}"), format!("is longer than {max} bytes")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;
    use crate::tools::Registry;
    use crate::tools::cache::Cache;
    use serde_json::{Value, json};

    fn planned(parameters: Value, context: Context) -> Result<Plan, CallError> {
        let Value::Object(parameters) = parameters else { panic!() };
        let call = Call { tool: "bash".into(), parameters, context };
        let (tool, epoch) = (Registry::built_in().get("bash").unwrap(), Cache::default().epoch());
        plan(call, &*tool, &Principal::new("t", Role::User), &Config::default(), epoch).map(|(plan, _)| plan)
    }

    #[test]
    fn the_smallest_time_wins() {
        let limits = |wall_ms| LimitRequest { wall_ms, ..LimitRequest::default() };
        for (timeout, limit, wall) in [
            (json!(5), None, 5_000),
            (json!(200), None, 200_000),
            (json!(200), Some(10_000), 10_000),
            (json!(0.25), Some(10_000), 250),
            (json!(1e-9), None, 1),
        ] {
            let context = Context { limits: limits(limit), ..Context::default() };
            let plan = planned(json!({ "command": "a", "timeout": timeout }), context).unwrap();
            assert_eq!(plan.terms.limits.wall_ms, wall, "{timeout}");
        }
        assert_eq!(planned(json!({ "command": "a" }), Context::default()).unwrap().terms.limits.wall_ms, 30_000);
    }

    #[test]
    fn limits_out_of_range_are_named_in_the_contracts_units() {
        let limits = LimitRequest { memory_bytes: Some(1 << 40), pids: Some(1), ..LimitRequest::default() };
        let context = Context { limits, ..Context::default() };
        let Err(CallError::Request(found)) = planned(json!({ "command": "a" }), context) else { panic!() };
        assert_eq!(
            found[0],
            Violation::new("/context/limits/max_memory_mb", "1048576 is greater than the maximum of 4096")
        );
        assert_eq!(found[1], Violation::new("/context/limits/max_processes", "1 is less than the minimum of 4"));
    }

    #[test]
    fn a_relative_working_directory_lies_in_the_workspace() {
        let plan = planned(json!({ "command": "a", "working_dir": "b/c" }), Context::default()).unwrap();
        let Work::Command(job) = plan.work else { panic!() };
        assert_eq!(job.cwd, "/workspace/b/c");
    }
}
