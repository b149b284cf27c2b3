//! GET and POST /api/v1/tools, GET and DELETE /api/v1/tools/{name}

use std::collections::BTreeMap;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use super::bodies;
use super::execute::{cut_short, json_response};
use super::layer::Caller;
use super::problem::Problem;
use super::{json, router};
use crate::spec::capped;
use crate::tools::aside::aside;
use crate::tools::listing::Format;
use crate::tools::principal::Principal;
use crate::tools::{Violation, step};

/// `format` and, for OpenAI's, `strict`.
fn format(query: &BTreeMap<String, String>) -> Result<Format, Problem> {
    let mut faults = Vec::new();
    let shown = |value: &str| capped(value, 32);
    let format = query.get("format").map_or(Format::Plain, |asked| {
        let named = Format::NAMED.into_iter().find(|(name, _)| name == asked);
        if named.is_none() {
            let message = format!("{:?} is not a format: openai, anthropic and mcp are", shown(asked));
            faults.push(Violation::new("/format", message));
        }
        named.map_or(Format::Plain, |(_, format)| format)
    });
    let strict = match query.get("strict").map_or("false", String::as_str) {
        "false" => false,
        "true" if format == Format::OpenAi => true,
        "true" => {
            faults.push(Violation::new("/strict", "is for format openai"));
            false
        }
        other => {
            faults.push(Violation::new("/strict", format!("must be true or false, not {:?}", shown(other))));
            false
        }
    };
    let known = |name: &&String| name.as_str() != "format" && name.as_str() != "strict";
    faults.extend(
        query.keys().filter(known).take(16).map(|name| Violation::new(step(name), "is not a parameter of this path")),
    );
    match faults.is_empty() {
        true if strict => Ok(Format::OpenAiStrict),
        true => Ok(format),
        false => Err(Problem::malformed_request(faults)),
    }
}

pub(super) async fn list(
    State(state): State<router::State>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let listing = format(&query)?.listing(&state.service.registry().table());
    Ok(json_response(listing.to_vec()))
}

pub(super) async fn one(
    State(state): State<router::State>,
    name: Result<Path<String>, PathRejection>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let format = format(&query)?;
    // A path that is not UTF-8 names nothing, either.
    let name = name.map_or_else(|_| String::from("\u{fffd}"), |Path(name)| name);
    let table = state.service.registry().table();
    match table.get(&name) {
        Some(tool) => Ok(json_response(format.one(&table, &**tool).to_string().into_bytes())),
        None => {
            let detail = format!("there is no tool {:?}", capped(&name, 64));
            Err(Problem::new(StatusCode::NOT_FOUND, "unknown_tool", detail))
        }
    }
}

fn admins_only(principal: &Principal) -> Result<(), Problem> {
    if principal.is_admin() {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "tools are registered and removed by admins alone"))
}

/// The body is a manifest, with the names of `tools.d`'s files.
pub(super) async fn register(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    admins_only(&principal)?;
    bodies::json_only(request.headers())?;
    let held = state.bodies.hold(&principal.name);
    let (body, _held) = bodies::read(request.into_body(), state.service.config().http, held).await?;
    let work = {
        let body = body.clone();
        move || json::parse(&body).map_err(Problem::malformed_json)
    };
    let manifest = aside(body.len(), work).await.ok_or_else(cut_short)??;
    let tool = state.service.register(manifest).await?;
    let about = tool.about();
    tracing::info!(tool = about.name, version = %about.version, principal = principal.name, "tool registered");
    let place = format!("/api/v1/tools/{}@{}", about.name, about.version);
    let table = state.service.registry().table();
    let mut response = json_response(Format::Plain.one(&table, &*tool).to_string().into_bytes());
    *response.status_mut() = StatusCode::CREATED;
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

pub(super) async fn remove(
    State(state): State<router::State>,
    Extension(Caller(principal)): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    admins_only(&principal)?;
    let name = name.map_or_else(|_| String::from("\u{fffd}"), |Path(name)| name);
    state.service.remove_tool(name.clone()).await?;
    tracing::info!(tool = name, principal = principal.name, "tool removed");
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}
