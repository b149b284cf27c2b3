//! The codes that a problem can have, each with its status and when it is given.

/// One row of the contract's table of errors.
pub(super) struct Code {
    pub name: &'static str,
    pub status: u16,
    pub when: &'static str,
}

const fn code(status: u16, name: &'static str, when: &'static str) -> Code {
    Code { name, status, when }
}

/// All of them, by status: a problem has one of these.
pub(super) const ALL: &[Code] = &[
    code(400, "malformed_json", "the body is not JSON, holds a name twice, or is too deep"),
    code(400, "malformed_request", "fields are unknown, mistyped or out of range; each is named"),
    code(401, "unauthenticated", "no usable credential"),
    code(403, "forbidden", "the principal may not do this"),
    code(
        403,
        "blocked",
        "a check of the code refused it before it ran; `rule` names it, `hint` says what would be allowed",
    ),
    code(404, "not_found", "there is nothing at this path"),
    code(404, "unknown_tool", "there is no such tool, or not in this version"),
    code(404, "unknown_execution", "no execution of this id is under way"),
    code(404, "unknown_sandbox", "there is no kept sandbox of this id"),
    code(404, "unknown_workspace", "there is no workspace of this name"),
    code(405, "method_not_allowed", "Allow names the methods of this path"),
    code(406, "not_acceptable", "Accept names nothing that this path answers with"),
    code(408, "request_timeout", "the request did not come in time"),
    code(409, "conflict", "the same id with another body, a name that is taken, or an end before the start"),
    code(413, "too_large", "the body is larger than the operator allows"),
    code(415, "unsupported_media_type", "the body is not application/json, or is encoded"),
    code(422, "invalid_parameters", "the tool's own schema refused; every violation is listed"),
    code(422, "missing_toolchain", "a program that the tool needs is not on this host"),
    code(422, "level_unsuitable", "the tool needs what its level forbids"),
    code(422, "not_configured", "the operator has not set up what the tool needs; the hint names the setting"),
    code(429, "rate_limited", "this principal's or peer's own limit"),
    code(500, "internal", "a bug: the log has the chain under request_id"),
    code(503, "level_unavailable", "the host can not give this level; the detail names what is missing"),
    code(503, "engine_unavailable", "the engine does not answer"),
    code(503, "setup_failed", "the sandbox could not be built; the detail names the step"),
    code(503, "at_capacity", "the whole daemon has no room"),
    code(503, "draining", "the daemon is stopping"),
];

/// The row of `name`.
pub(super) fn get(name: &str) -> Option<&'static Code> {
    ALL.iter().find(|code| code.name == name)
}
