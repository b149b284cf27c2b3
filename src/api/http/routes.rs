//! Every path with its methods: what serves it, and what the document says of it.

use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};
use serde_json::{Value, json};

use super::openapi::{self, Body, JSON, Operation, Success, in_header, in_path, in_query, of, text};
use super::router::State;
use super::{batch, capabilities, envelope, execute, executions, health, layer, reply, tools};
use crate::spec::ExecutionId;
use crate::telemetry::metrics::CONTENT_TYPE;
use crate::tools::version::NAME;
use crate::tools::{Registry, custom, listing};

mod of_workspaces;

/// One method of one path.
pub(super) struct Route {
    pub method: Method,
    pub path: &'static str,
    pub handler: MethodRouter<State>,
    pub operation: Operation,
}

impl Route {
    fn new<H: Handler<T, State>, T: 'static>(
        method: Method,
        path: &'static str,
        handler: H,
        operation: Operation,
    ) -> Self {
        let filter = MethodFilter::try_from(method.clone()).expect("the table has methods of HTTP's own");
        Self { method, path, handler: on(filter, handler), operation }
    }
}

/// What operations are grouped by, and what each group is.
pub(super) const TAGS: [(&str, &str); 5] = [
    ("tools", "What can be run, and running it."),
    ("executions", "Calls that are under way, and those that nobody waited for."),
    ("workspaces", "Directories that are kept between calls, and their files."),
    ("host", "What this host and this principal can have."),
    ("service", "The daemon itself."),
];

/// The table: one entry an operation.
pub(super) fn all() -> Vec<Route> {
    let mut all = own();
    all.extend(of_workspaces::all());
    all
}

fn own() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/api/v1/tools/execute", execute::execute, execute_operation()),
        Route::new(
            Method::POST,
            "/api/v1/tools/batch",
            batch::batch,
            Operation {
                id: "executeBatch",
                tag: "tools",
                summary: "Run many tools at once",
                description: "In parallel, answered in order, each as it would have been alone. A caller that goes away ends them all.",
                body: Some(Body { name: "BatchRequest", schema: batch::schema, examples: vec![] }),
                replies: vec![Success::ok("For each call its envelope or its problem.", batch::replies)],
                ..Operation::default()
            },
        ),
        Route::new(
            Method::GET,
            "/api/v1/tools",
            tools::list,
            Operation {
                id: "listTools",
                tag: "tools",
                summary: "List the tools",
                parameters: format_parameters(),
                replies: vec![Success::ok("Every tool in its newest version.", listing::schema_of_all)],
                codes: &["malformed_request"],
                ..Operation::default()
            },
        ),
        Route::new(
            Method::POST,
            "/api/v1/tools",
            tools::register,
            Operation {
                id: "registerTool",
                tag: "tools",
                summary: "Register a custom tool",
                description: "For admins. The body has the names of a manifest in `tools.d`. The tool is there after restarts, too.",
                body: Some(Body {
                    name: "ToolManifest",
                    schema: custom::schema,
                    examples: vec![("greet".into(), custom::example())],
                }),
                replies: vec![Success {
                    status: 201,
                    description: "The tool as it is listed.",
                    content: vec![(JSON, of::<listing::Plain<'_>>)],
                    headers: &["Location"],
                }],
                codes: &["conflict", "at_capacity"],
                ..Operation::default()
            },
        ),
        Route::new(
            Method::GET,
            "/api/v1/tools/{name}",
            tools::one,
            Operation {
                id: "getTool",
                tag: "tools",
                summary: "Look at one tool",
                parameters: [vec![tool_name()], format_parameters()].concat(),
                replies: vec![Success::ok("The tool.", listing::schema_of_one)],
                codes: &["malformed_request", "unknown_tool", "not_found"],
                ..Operation::default()
            },
        ),
        Route::new(
            Method::DELETE,
            "/api/v1/tools/{name}",
            tools::remove,
            Operation {
                id: "removeTool",
                tag: "tools",
                summary: "Remove a custom tool",
                description: "For admins, and for tools that were registered: a bare name means every version of it. Calls that are \
                          under way keep it.",
                parameters: vec![tool_name()],
                replies: vec![Success { status: 204, description: "It is gone.", content: vec![], headers: &[] }],
                codes: &["unknown_tool", "not_found", "conflict"],
                ..Operation::default()
            },
        ),
        Route::new(Method::POST, "/api/v1/executions", executions::create, create_operation()),
        Route::new(
            Method::GET,
            "/api/v1/executions",
            executions::list,
            Operation {
                id: "listExecutions",
                tag: "executions",
                summary: "List executions",
                description: "Those under way, unless `state` says otherwise. Ended ones are there where nobody waited for them or \
                              their events were asked for: for an hour, the last ten thousand of all principals.",
                parameters: list_parameters(),
                replies: vec![Success::ok("Oldest first.", of::<executions::ListBody<'_>>)],
                codes: &["malformed_request"],
                ..Operation::default()
            },
        ),
        Route::new(
            Method::GET,
            "/api/v1/executions/{id}/events",
            executions::events,
            Operation {
                id: "followExecution",
                tag: "executions",
                summary: "Follow one execution",
                description: EVENTS,
                parameters: vec![
                    execution_id(),
                    in_header(
                        "Last-Event-ID",
                        json!({ "type": "string", "pattern": "^[0-9]{1,19}$" }),
                        "The last event that was seen; from the beginning unless given.",
                    ),
                ],
                replies: vec![
                    Success {
                        status: 200,
                        description: "Events, up to the one that ends it.",
                        content: vec![(EVENT_STREAM, event)],
                        headers: &[],
                    },
                    Success {
                        status: 204,
                        description: "The one that ends it was seen.",
                        content: vec![],
                        headers: &[],
                    },
                ],
                codes: &["malformed_request", "unknown_execution", "not_found", "conflict"],
                ..Operation::default()
            },
        ),
        Route::new(
            Method::GET,
            "/api/v1/executions/{id}",
            executions::one,
            Operation {
                id: "getExecution",
                tag: "executions",
                summary: "Look at one execution",
                parameters: vec![execution_id()],
                replies: vec![Success::ok("As it is now.", of::<executions::ExecutionBody<'_>>)],
                codes: &["unknown_execution", "not_found", "engine_unavailable"],
                ..Operation::default()
            },
        ),
        Route::new(
            Method::DELETE,
            "/api/v1/executions/{id}",
            executions::end,
            Operation {
                id: "endExecution",
                tag: "executions",
                summary: "End an execution",
                description: "Asks for the end and does not wait for it: the call's own reply tells how it ended. One that has ended is \
                              forgotten.",
                parameters: vec![execution_id()],
                replies: vec![Success {
                    status: 202,
                    description: "It is going to end.",
                    content: vec![(JSON, of::<executions::ExecutionBody<'_>>)],
                    headers: &[],
                }],
                codes: &["unknown_execution", "not_found"],
                ..Operation::default()
            },
        ),
        Route::new(
            Method::GET,
            "/api/v1/capabilities",
            capabilities::capabilities,
            Operation {
                id: "getCapabilities",
                tag: "host",
                summary: "What can be had here, and why not",
                parameters: vec![in_query(
                    capabilities::VERSIONS,
                    json!({ "type": "string", "enum": ["true", "false"] }),
                    "Whether languages are told with versions; true unless given. Asking the programs takes a second or two once.",
                )],
                replies: vec![Success::ok("For this principal, on this host.", of::<capabilities::Body>)],
                codes: &["malformed_request", "engine_unavailable"],
                ..Operation::default()
            },
        ),
        Route::new(
            Method::GET,
            "/healthz",
            health::alive,
            Operation {
                id: "getHealth",
                tag: "service",
                summary: "Whether the daemon serves",
                replies: vec![Success::ok("It does.", health::status_schema)],
                ..Operation::default()
            },
        ),
        Route::new(
            Method::GET,
            "/readyz",
            health::ready,
            Operation {
                id: "getReadiness",
                tag: "service",
                summary: "Whether a call could be run now",
                replies: vec![Success::ok("It could.", health::status_schema)],
                codes: &["engine_unavailable"],
                ..Operation::default()
            },
        ),
        Route::new(
            Method::GET,
            layer::METRICS,
            health::metrics,
            Operation {
                id: "getMetrics",
                tag: "service",
                summary: "Counters since the daemon's start",
                description: "For any principal, and whatever Accept says.",
                replies: vec![Success {
                    status: 200,
                    description: "In the OpenMetrics form.",
                    content: vec![(CONTENT_TYPE, text)],
                    headers: &[],
                }],
                ..Operation::default()
            },
        ),
        Route::new(
            Method::GET,
            "/openapi.json",
            openapi::document,
            Operation {
                id: "getDocument",
                tag: "service",
                summary: "This document",
                replies: vec![Success::ok("OpenAPI 3.1.", |_| json!({ "type": "object" }))],
                ..Operation::default()
            },
        ),
    ]
}

const EVENT_STREAM: &str = "text/event-stream";
const EVENTS: &str = "Server-sent events with rising ids: `started`, `stdout` and `stderr` (`offset`, and `data` or `data_base64`), \
                      `denial` (a rule refused something for the first time, up to 30 times in an attempt; the result has \
                      all of them with their counts), `ping`, and one that ends it: `result` (the envelope of an execute \
                      call) or `error` (a problem).";

/// One event, as a reader of the standard gives it out.
fn event(_: &mut schemars::SchemaGenerator) -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": { "type": "string", "pattern": "^[0-9]+$" },
            "event": { "enum": ["started", "stdout", "stderr", "denial", "ping", "result", "error"] },
            "data": { "type": "string", "contentMediaType": "application/json" },
        },
        "required": ["id", "event", "data"],
    })
}

fn create_operation() -> Operation {
    Operation {
        id: "createExecution",
        tag: "executions",
        summary: "Run a tool without waiting for it",
        description: "The same request as an execute call, which goes on by itself. `Prefer: respond-async` on an execute call \
                      means the same.",
        replies: vec![
            Success {
                status: 202,
                description: "It is under way.",
                content: vec![(JSON, of::<executions::ExecutionBody<'_>>)],
                headers: &["Location", "Deprecation", "Sunset"],
            },
            Success {
                headers: &["Deprecation", "Sunset"],
                ..Success::ok("It was answered before: the same reply.", of::<reply::Envelope<'_>>)
            },
        ],
        ..execute_operation()
    }
}

fn list_parameters() -> Vec<Value> {
    let states: Vec<&str> = crate::tools::live::Entry::STATES.into_iter().chain(["all"]).collect();
    vec![
        in_query("state", json!({ "type": "string", "enum": states }), "Under way in this state, ended, or all."),
        in_query("tool_name", json!({ "type": "string" }), "Of this tool."),
        in_query("agent_id", json!({ "type": "string" }), "Of this agent."),
        in_query(
            "limit",
            json!({ "type": "integer", "minimum": 1, "maximum": executions::LIST_MAX }),
            "On one page; as many as fit unless given.",
        ),
        in_query(
            "cursor",
            json!({ "type": "string", "pattern": "^c[0-9]{1,19}$" }),
            "`next_cursor` of the page before.",
        ),
    ]
}

fn execute_operation() -> Operation {
    let table = Registry::built_in().table();
    let of_tool = |about: &crate::tools::About| -> Vec<(String, Value)> {
        let call = |parameters: &Value| json!({ "tool_name": about.name, "parameters": parameters });
        about.examples.iter().map(|parameters| (about.name.clone(), call(parameters))).collect()
    };
    Operation {
        id: "executeTool",
        tag: "tools",
        summary: "Run a tool",
        description: "In a fresh sandbox. A caller that goes away ends its run at once. The components `NAME.parameters` and \
                      `NAME.result` are the built-in tools'; those of others are told by `GET /api/v1/tools/{name}`.",
        parameters: vec![in_header(
            "Idempotency-Key",
            json!({ "type": "string", "pattern": ExecutionId::PATTERN }),
            "The same as context.execution_id: the same body again gets the reply of the first, for 24 hours.",
        )],
        body: Some(Body {
            name: "ExecuteRequest",
            schema: envelope::schema,
            examples: table.newest().flat_map(|tool| of_tool(tool.about())).collect(),
        }),
        replies: vec![
            Success {
                status: 200,
                description: "Something ran; `success` says how it ended. As events where Accept asks for those.",
                content: vec![(JSON, of::<reply::Envelope<'_>>), (EVENT_STREAM, event)],
                headers: &["Deprecation", "Sunset"],
            },
            Success {
                status: 202,
                description: "It goes on without its caller, who preferred that.",
                content: vec![(JSON, of::<executions::ExecutionBody<'_>>)],
                headers: &["Location", "Deprecation", "Sunset"],
            },
        ],
        codes: &[
            "unknown_tool",
            "unknown_sandbox",
            "unknown_workspace",
            "conflict",
            "blocked",
            "invalid_parameters",
            "missing_toolchain",
            "level_unsuitable",
            "not_configured",
            "level_unavailable",
            "engine_unavailable",
            "setup_failed",
        ],
        bytes: &[],
    }
}

fn tool_name() -> Value {
    let of_name = NAME.trim_end_matches('$');
    in_path(
        "name",
        json!({ "type": "string", "pattern": format!(r"{of_name}(@[0-9]+(\.[0-9]+){{0,2}})?$") }),
        "A tool, and as much of its version as is meant: `bash`, `bash@1`, `bash@1.0.0`.",
    )
}

fn execution_id() -> Value {
    in_path("id", json!({ "type": "string", "pattern": ExecutionId::PATTERN }), "An execution's id.")
}

fn format_parameters() -> Vec<Value> {
    let formats = listing::Format::NAMED.map(|(name, _)| name);
    vec![
        in_query(
            "format",
            json!({ "type": "string", "enum": formats }),
            "As that provider or protocol wants tools listed; in this daemon's own words unless given.",
        ),
        in_query(
            "strict",
            json!({ "type": "string", "enum": ["true", "false"] }),
            "With format openai: for models that must fill every parameter.",
        ),
    ]
}
