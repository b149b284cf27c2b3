//! GET /api/v1/capabilities: what this host and this principal can have, and why not.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::execute::json_response;
use super::layer::Caller;
use super::problem::Problem;
use super::router;
use crate::api::findings;
use crate::config::{Ceilings, Config, Role};
use crate::policy::table::table;
use crate::spec::{Level, LimitField};
use crate::tools::principal::Principal;
use crate::wire::FactsWire;

pub(super) async fn capabilities(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
) -> Result<Response, Problem> {
    let facts = state.service.facts().await?;
    let config = state.service.config();
    let levels: Vec<Value> = Level::ALL.into_iter().map(|l| level(l, &facts, &principal, &config)).collect();
    let runtimes: Vec<Value> = facts
        .runtimes
        .iter()
        .map(|r| json!({ "name": r.name, "program": r.program, "available": r.program.is_some() }))
        .collect();
    let table = state.service.registry().table();
    let tools: Vec<&str> = table.newest().map(|tool| tool.about().name.as_str()).collect();
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "principal": {
            "name": principal.name,
            "role": match principal.role { Role::User => "user", Role::Admin => "admin" },
            "level_floor": principal.level_floor.map(Level::name),
            "level_ceiling": principal.level_ceiling.map(Level::name),
        },
        "host": findings::host(&facts),
        "levels": levels,
        "runtimes": runtimes,
        "tools": tools,
        "checks": findings::checks(&facts),
    });
    Ok(json_response(body.to_string().into_bytes()))
}

fn level(level: Level, facts: &FactsWire, principal: &Principal, config: &Config) -> Value {
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
    json!({
        "level": level.name(),
        "backend": level.backend().name(),
        "available": available && why_not.is_none(),
        "missing": of_host.map_or_else(|| vec!["no backend for this level".to_owned()], |l| l.missing.clone()),
        "degraded": of_host.map_or_else(Vec::new, |l| l.degraded.clone()),
        "refused": why_not,
        "limits": limits(level, &config.ceilings),
    })
}

/// Default and most of each limit, in the contract's fields and units.
fn limits(level: Level, c: &Ceilings) -> Value {
    const MIB: f64 = 1024.0 * 1024.0;
    let t = table(level);
    let mut out = Map::new();
    let mut put = |field: LimitField, default: f64, most: f64| {
        out.insert(field.name().into(), json!({ "default": default.min(most), "most": most }));
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
    out.into()
}
