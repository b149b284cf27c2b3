//! GET /api/v1/capabilities: what this host and this principal can have, and why not.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;

use super::execute::json_response;
use super::layer::Caller;
use super::problem::Problem;
use super::router;
use crate::api::findings::{self, CheckBody, HostBody};
use crate::checks::{self, Rule};
use crate::config::{Ceilings, Config, EngineName, Role};
use crate::policy::table::table;
use crate::runtimes::Runtime;
use crate::spec::{Level, LimitField};
use crate::tools::code::versions::{Found, Program};
use crate::tools::principal::Principal;
use crate::tools::{Violation, step};
use crate::wire::{FactsWire, RuntimeWire};

/// Whether programs are asked for their versions, which takes a second or two when that is done for the first time.
pub(super) const VERSIONS: &str = "versions";

/// What this host and this principal can have.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Capabilities")]
pub(super) struct Body {
    /// The daemon's.
    version: &'static str,
    principal: PrincipalBody,
    host: HostBody,
    /// From the weakest to the strictest.
    levels: Vec<LevelBody>,
    runtimes: Vec<RuntimeBody>,
    /// Those of `code_executor`.
    languages: Vec<LanguageBody>,
    /// The names of the tools.
    tools: Vec<String>,
    /// What callers' code is refused for before it runs.
    rules: Vec<RuleBody>,
    /// The names of the engines that `web_search` can ask.
    search_engines: Vec<&'static str>,
    /// Everything that was tried on this host, as `sandkeep doctor` tells it.
    checks: Vec<CheckBody>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Principal")]
struct PrincipalBody {
    name: String,
    #[schemars(extend("enum" = ["user", "admin"]))]
    role: &'static str,
    level_floor: Option<&'static str>,
    level_ceiling: Option<&'static str>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Level")]
struct LevelBody {
    #[schemars(extend("enum" = Level::ALL.map(Level::name)))]
    level: &'static str,
    backend: &'static str,
    available: bool,
    /// What the host lacks for it.
    missing: Vec<String>,
    /// What the host lacks and what is put in its place.
    degraded: Vec<String>,
    /// Why this principal may not have it; null where it may.
    refused: Option<String>,
    /// By the names of context.limits.
    limits: BTreeMap<&'static str, LimitBody>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Limit")]
struct LimitBody {
    default: f64,
    most: f64,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Rule")]
struct RuleBody {
    #[schemars(extend("pattern" = "^[a-z]+/[a-z-]+$"))]
    rule: &'static str,
    about: &'static str,
    /// Where it applies.
    #[schemars(extend("items" = serde_json::json!({ "type": "string", "enum": Level::ALL.map(Level::name) })))]
    levels: Vec<&'static str>,
    /// False where the operator has turned it off.
    on: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Runtime")]
struct RuntimeBody {
    name: String,
    /// As seen inside a sandbox; null where the host has none.
    program: Option<String>,
    available: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Language")]
struct LanguageBody {
    name: &'static str,
    /// Other names for it.
    aliases: Vec<&'static str>,
    /// Whether every program that it needs is there.
    available: bool,
    programs: Vec<ProgramBody>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Program")]
struct ProgramBody {
    /// As seen inside a sandbox.
    program: &'static str,
    /// That Debian has it in.
    package: &'static str,
    available: bool,
    /// As it says itself; null where it is not there, says nothing, or was not to be asked.
    version: Option<String>,
}

pub(super) async fn capabilities(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let with_versions = versions(&query)?;
    let facts = state.service.facts().await?;
    let config = state.service.config();
    let table = state.service.registry().table();
    let body = Body {
        version: env!("CARGO_PKG_VERSION"),
        principal: PrincipalBody {
            name: principal.name.clone(),
            role: match principal.role {
                Role::User => "user",
                Role::Admin => "admin",
            },
            level_floor: principal.level_floor.map(Level::name),
            level_ceiling: principal.level_ceiling.map(Level::name),
        },
        host: findings::host(&facts),
        levels: Level::ALL.into_iter().map(|l| level(l, &facts, &principal, &config)).collect(),
        runtimes: facts.runtimes.iter().filter(|r| Runtime::by_name(&r.name).is_some()).map(runtime).collect(),
        languages: state.service.languages(&facts, with_versions).await.into_iter().map(language).collect(),
        tools: table.newest().map(|tool| tool.about().name.clone()).collect(),
        rules: checks::rules().iter().map(|r| rule(r, &config)).collect(),
        search_engines: config.search.ready().into_iter().map(EngineName::name).collect(),
        checks: findings::checks(&facts),
    };
    // Strings, booleans and numbers only: this can not fail.
    Ok(json_response(serde_json::to_vec(&body).unwrap_or_default()))
}

fn rule(rule: &'static Rule, config: &Config) -> RuleBody {
    RuleBody {
        rule: &rule.name,
        about: &rule.about,
        levels: rule.levels.iter().map(|level| level.name()).collect(),
        on: checks::is_on(rule, &config.checks),
    }
}

fn runtime(r: &RuntimeWire) -> RuntimeBody {
    RuntimeBody { name: r.name.clone(), program: r.program.clone(), available: r.program.is_some() }
}

fn versions(query: &BTreeMap<String, String>) -> Result<bool, Problem> {
    let mut faults: Vec<Violation> = query
        .keys()
        .filter(|name| *name != VERSIONS)
        .take(16)
        .map(|name| Violation::new(step(name), "is not a parameter of this path"))
        .collect();
    let wanted = match query.get(VERSIONS).map(String::as_str) {
        None | Some("true") => true,
        Some("false") => false,
        Some(_) => {
            faults.push(Violation::new(step(VERSIONS), "must be true or false"));
            false
        }
    };
    if faults.is_empty() { Ok(wanted) } else { Err(Problem::malformed_request(faults)) }
}

fn language(found: Found) -> LanguageBody {
    let program = |p: Program| ProgramBody {
        program: p.toolchain.program,
        package: p.toolchain.package,
        available: p.available,
        version: p.version,
    };
    LanguageBody {
        name: found.language.name,
        aliases: found.language.aliases.into(),
        available: found.programs.iter().all(|p| p.available),
        programs: found.programs.into_iter().map(program).collect(),
    }
}

fn level(level: Level, facts: &FactsWire, principal: &Principal, config: &Config) -> LevelBody {
    let of_host = facts.levels.iter().find(|l| Level::from(l.level) == level);
    let available = of_host.is_some_and(|l| l.available);
    let why_not = if !config.levels.enabled(level) {
        Some("turned off on this host".to_owned())
    } else if principal.level_floor.is_some_and(|floor| level < floor) {
        Some("weaker than this principal's floor".to_owned())
    } else if principal.level_ceiling.is_some_and(|ceiling| level > ceiling) {
        Some("above this principal's ceiling".to_owned())
    } else {
        None
    };
    LevelBody {
        level: level.name(),
        backend: level.backend().name(),
        available: available && why_not.is_none(),
        missing: of_host.map_or_else(|| vec!["no backend for this level".to_owned()], |l| l.missing.clone()),
        degraded: of_host.map_or_else(Vec::new, |l| l.degraded.clone()),
        refused: why_not,
        limits: limits(level, &config.ceilings),
    }
}

/// Default and most of each limit, in the contract's fields and units.
fn limits(level: Level, c: &Ceilings) -> BTreeMap<&'static str, LimitBody> {
    const MIB: f64 = 1024.0 * 1024.0;
    let t = table(level);
    let mut out = BTreeMap::new();
    let mut put = |field: LimitField, default: f64, most: f64| {
        out.insert(field.name(), LimitBody { default: default.min(most), most });
    };
    let mib = |bytes: u64| bytes as f64 / MIB;
    put(LimitField::Memory, mib(t.memory_bytes.default), mib(t.memory_bytes.most.min(c.memory_bytes)));
    let percent = |centi: u32| f64::from(centi) / 100.0;
    put(LimitField::Cpu, percent(t.cpu_centipercent.default), percent(t.cpu_centipercent.most.min(c.cpu_centipercent)));
    let seconds = |ms: u64| ms as f64 / 1000.0;
    put(LimitField::Wall, seconds(t.wall_ms.default), seconds(t.wall_ms.most.min(c.wall_ms)));
    put(LimitField::FileSize, mib(t.file_size_bytes.default), mib(t.file_size_bytes.most.min(c.file_size_bytes)));
    put(LimitField::Pids, t.pids.default.into(), t.pids.most.min(c.pids).into());
    put(LimitField::Output, t.output_bytes.default as f64, t.output_bytes.most.min(c.output_bytes) as f64);
    if let Some(requests) = t.network_requests {
        put(LimitField::NetworkRequests, requests.default.into(), requests.most.into());
    }
    out
}
