//! The paths of workspaces.

use axum::http::Method;
use serde_json::{Value, json};

use super::super::openapi::{Body, JSON, Operation, Success, binary, in_path, in_query, of};
use super::super::workspaces::{self, BYTES, TAR};
use super::Route;
use crate::spec::WorkspaceName;

const ONE: &str = "/api/v1/workspaces/{name}";
const FILES: &str = "/api/v1/workspaces/{name}/files";
const FILE: &str = "/api/v1/workspaces/{name}/files/{*path}";
const ARCHIVE: &str = "/api/v1/workspaces/{name}/archive";

fn name() -> Value {
    in_path("name", json!({ "type": "string", "pattern": WorkspaceName::PATTERN }), "A workspace of this principal.")
}

fn path() -> Value {
    in_path(
        "path",
        json!({ "type": "string", "minLength": 1 }),
        "Of a file, from the workspace on; it may hold slashes.",
    )
}

fn below() -> Value {
    in_query("path", json!({ "type": "string", "minLength": 1 }), "A directory; the workspace itself unless given.")
}

fn flag(name: &str, description: &str) -> Value {
    in_query(name, json!({ "type": "string", "enum": ["true", "false"] }), description)
}

/// Of whatever is done inside a sandbox.
const INSIDE: &[&str] = &[
    "malformed_request",
    "unknown_workspace",
    "not_found",
    "conflict",
    "request_timeout",
    "level_unavailable",
    "engine_unavailable",
    "setup_failed",
];
const WRITING: &[&str] = &[
    "malformed_request",
    "unknown_workspace",
    "not_found",
    "conflict",
    "request_timeout",
    "too_large",
    "unsupported_media_type",
    "level_unavailable",
    "engine_unavailable",
    "setup_failed",
];

fn gone() -> Success {
    Success { status: 204, description: "It is gone.", content: vec![], headers: &[] }
}

fn bytes(media: &'static str, description: &'static str) -> Success {
    Success { status: 200, description, content: vec![(media, |_| binary())], headers: &[] }
}

pub(super) fn all() -> Vec<Route> {
    let operation =
        |id, summary, description| Operation { id, tag: "workspaces", summary, description, ..Operation::default() };
    let made = |status, description| Success {
        status,
        description,
        content: vec![(JSON, of::<workspaces::WorkspaceBody>)],
        headers: &["Location"],
    };
    vec![
        Route::new(
            Method::GET,
            "/api/v1/workspaces",
            workspaces::list,
            Operation {
                replies: vec![Success::ok("By name.", of::<workspaces::ListBody>)],
                codes: &["engine_unavailable"],
                ..operation("listWorkspaces", "List the workspaces of this principal", "")
            },
        ),
        Route::new(
            Method::POST,
            "/api/v1/workspaces",
            workspaces::create,
            Operation {
                body: Some(Body {
                    name: "WorkspaceRequest",
                    schema: workspaces::schema,
                    examples: vec![("project".into(), json!({ "name": "project-a" }))],
                }),
                replies: vec![made(201, "It is there.")],
                codes: &["conflict", "engine_unavailable", "setup_failed"],
                ..operation(
                    "createWorkspace",
                    "Make a workspace",
                    "Its size is reserved. The workspace `default` makes itself when it is first used.",
                )
            },
        ),
        Route::new(
            Method::PUT,
            ONE,
            workspaces::put,
            Operation {
                parameters: vec![name()],
                replies: vec![made(200, "It was there."), made(201, "It was made.")],
                codes: &["malformed_request", "not_found", "conflict", "engine_unavailable", "setup_failed"],
                ..operation("ensureWorkspace", "Make a workspace where there is none", "")
            },
        ),
        Route::new(
            Method::GET,
            ONE,
            workspaces::one,
            Operation {
                parameters: vec![name()],
                replies: vec![Success::ok("As it is now.", of::<workspaces::WorkspaceBody>)],
                codes: &["unknown_workspace", "not_found", "engine_unavailable"],
                ..operation("getWorkspace", "Look at one workspace", "")
            },
        ),
        Route::new(
            Method::DELETE,
            ONE,
            workspaces::remove,
            Operation {
                parameters: vec![name()],
                replies: vec![gone()],
                codes: &["unknown_workspace", "not_found", "conflict", "engine_unavailable", "setup_failed"],
                ..operation(
                    "removeWorkspace",
                    "Remove a workspace and all that is in it",
                    "Refused while a call uses it.",
                )
            },
        ),
        Route::new(
            Method::GET,
            FILES,
            workspaces::files,
            Operation {
                parameters: vec![
                    name(),
                    below(),
                    flag("recursive", "What is in the directories below, too."),
                    in_query(
                        "pattern",
                        json!({ "type": "string", "minLength": 1, "maxLength": 256 }),
                        "As list_directory takes it.",
                    ),
                    flag("hidden", "Names that begin with a dot, too."),
                    in_query(
                        "limit",
                        json!({ "type": "integer", "minimum": 1, "maximum": 10_000 }),
                        "Entries; 1,000 unless given.",
                    ),
                ],
                replies: vec![Success::ok("In the order of their paths.", of::<workspaces::FilesBody>)],
                codes: INSIDE,
                ..operation("listFiles", "List files", "")
            },
        ),
        Route::new(
            Method::GET,
            FILE,
            workspaces::download,
            Operation {
                parameters: vec![name(), path()],
                replies: vec![bytes(BYTES, "The file.")],
                codes: INSIDE,
                ..operation(
                    "getFile",
                    "Download a file",
                    "A connection that ends without its last chunk had not all of it.",
                )
            },
        ),
        Route::new(
            Method::PUT,
            FILE,
            workspaces::upload,
            Operation {
                parameters: vec![name(), path()],
                bytes: &[BYTES],
                replies: vec![
                    Success::ok("It replaced another.", of::<workspaces::WrittenBody>),
                    Success {
                        status: 201,
                        description: "It is new.",
                        content: vec![(JSON, of::<workspaces::WrittenBody>)],
                        headers: &[],
                    },
                ],
                codes: WRITING,
                ..operation(
                    "putFile",
                    "Upload a file",
                    "As a whole or not at all; directories on its way are made. The body may be as large as the workspace.",
                )
            },
        ),
        Route::new(
            Method::DELETE,
            FILE,
            workspaces::remove_file,
            Operation {
                parameters: vec![name(), path(), flag("recursive", "A directory with all that is in it.")],
                replies: vec![gone()],
                codes: INSIDE,
                ..operation("removeFile", "Remove a file, a link or an empty directory", "")
            },
        ),
        Route::new(
            Method::GET,
            ARCHIVE,
            workspaces::pack,
            Operation {
                parameters: vec![name(), below()],
                replies: vec![bytes(
                    TAR,
                    "A tar archive; links as links, and nothing but files, directories and links.",
                )],
                codes: INSIDE,
                ..operation("getArchive", "Download a directory as a tar archive", "")
            },
        ),
        Route::new(
            Method::PUT,
            ARCHIVE,
            workspaces::unpack,
            Operation {
                parameters: vec![name(), below()],
                bytes: &[TAR, BYTES],
                replies: vec![Success::ok("What was taken, and what was not.", of::<workspaces::UnpackedBody>)],
                codes: WRITING,
                ..operation(
                    "putArchive",
                    "Unpack a tar archive into a directory",
                    "Entries whose paths or links lead out of the directory, devices and FIFOs are left out and named; owners and \
                     set-id bits are not taken over. What was unpacked before a failure stays.",
                )
            },
        ),
    ]
}
