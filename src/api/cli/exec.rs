//! `exec` and `call`.

use std::io::{self, Read, Write};

use hyper::Method;
use serde_json::{Map, Value, json};

use super::client::{CliError, Client};
use super::{CallArgs, ContextArgs, EXIT_REFUSED, ExecArgs, out};
use crate::spec::{capped, escape_controls};

/// As `timeout(1)`.
const EXIT_TIMED_OUT: u8 = 124;
/// As a shell tells of a command that SIGKILL ended.
const EXIT_KILLED: u8 = 137;
/// Of a rule, or of what it refused.
const SHOWN_CHARS_MAX: usize = 160;
/// The daemon would refuse more.
const INPUT_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub(super) fn exec(client: &Client, args: ExecArgs, as_json: bool) -> Result<u8, CliError> {
    let from_stdin = args.code == "-";
    let code = if from_stdin { input()? } else { args.code };
    let mut parameters = Map::new();
    let name = if args.language == "bash" { "command" } else { "code" };
    parameters.insert(name.into(), code.into());
    if args.stdin {
        if from_stdin || args.language != "bash" {
            return Err(CliError::Usage("--stdin is for bash, with the script given as an argument".into()));
        }
        parameters.insert("stdin".into(), input()?.into());
    }
    let reply = execute(client, &args.language, parameters, args.context)?;
    if as_json {
        out(&format!("{reply:#}\n"))?;
        return Ok(exit_code(&reply));
    }
    let result = &reply["result"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (stdout, stderr) = match args.language.as_str() {
        "bash" => (text(&result["stdout"]), text(&result["stderr"])),
        _ => (text(&result["output"]), text(&result["error"]["traceback"])),
    };
    out(&stdout)?;
    // What a command wrote is handed on as it is: its reader chose to run it.
    let _closed = io::stderr().write_all(stderr.as_bytes());
    let exited = reply["outcome"]["kind"] == "exited";
    if let (false, Some(message)) = (exited, reply["error"]["message"].as_str()) {
        eprintln!("sandkeep: {}", escape_controls(message));
    }
    if reply["success"] != true {
        denials(&reply).iter().for_each(|line| eprintln!("{line}"));
    }
    for stream in ["stdout", "stderr"] {
        if reply["output"][format!("{stream}_truncated")] == true {
            eprintln!("sandkeep: {stream} was cut; --limit max_output_bytes=N keeps more");
        }
    }
    Ok(exit_code(&reply))
}

pub(super) fn call(client: &Client, args: CallArgs, as_json: bool) -> Result<u8, CliError> {
    let parameters = match serde_json::from_str(&args.parameters) {
        Ok(Value::Object(parameters)) => parameters,
        Ok(_) => return Err(CliError::Usage("parameters must be a JSON object".into())),
        Err(error) => return Err(CliError::Usage(format!("parameters: {error}"))),
    };
    let reply = execute(client, &args.tool, parameters, args.context)?;
    out(&format!("{:#}\n", if as_json { &reply } else { &reply["result"] }))?;
    if let (false, Some(message)) = (as_json, reply["error"]["message"].as_str()) {
        eprintln!("sandkeep: {}", escape_controls(message));
    }
    Ok(exit_code(&reply))
}

fn execute(
    client: &Client,
    tool: &str,
    mut parameters: Map<String, Value>,
    args: ContextArgs,
) -> Result<Value, CliError> {
    if let Some(timeout) = args.timeout {
        parameters.insert("timeout".into(), timeout);
    }
    let mut context = Map::new();
    if let Some(level) = args.level {
        context.insert("security_level".into(), level.name().into());
    }
    if !args.limits.is_empty() {
        context.insert("limits".into(), args.limits.into_iter().collect::<Map<_, _>>().into());
    }
    let body = json!({ "tool_name": tool, "parameters": parameters, "context": context });
    client.ask(Method::POST, "/api/v1/tools/execute", Some(&body))
}

fn input() -> Result<String, CliError> {
    let mut text = String::new();
    io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_string(&mut text).map_err(CliError::Input)?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        return Err(CliError::Usage(format!("standard input is longer than {INPUT_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// What was refused to a command that failed: often why it did.
fn denials(reply: &Value) -> Vec<String> {
    let line = |denial: &Value| {
        let text = |key: &str| capped(denial[key].as_str().unwrap_or_default(), SHOWN_CHARS_MAX);
        let times = match denial["count"].as_u64() {
            Some(1) => "once".to_owned(),
            count => format!("{} times", count.unwrap_or_default()),
        };
        format!("sandkeep: denied {times}: {} ({})", text("detail"), text("rule"))
    };
    reply["denials"].as_array().into_iter().flatten().map(line).collect()
}

/// The command's own where it ended by itself, else a shell's number for what happened.
fn exit_code(reply: &Value) -> u8 {
    let outcome = &reply["outcome"];
    let number = |key: &str| outcome[key].as_i64().unwrap_or_default();
    match outcome["kind"].as_str() {
        Some("exited") => match (number("exit_code") & 0xff) as u8 {
            // A tool may have failed although its command did not.
            0 if reply["success"] != true => 1,
            code => code,
        },
        Some("signaled") => (128 + (number("signal") & 0x7f)) as u8,
        Some("timed_out") => EXIT_TIMED_OUT,
        Some(_) => EXIT_KILLED,
        None => EXIT_REFUSED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_told_one_a_line_and_escaped() {
        let denial = json!({ "layer": "seccomp", "rule": "r", "detail": "a\u{1b}b\nc", "count": 3 });
        let told = denials(&json!({ "denials": [denial] }));
        assert_eq!(told, ["sandkeep: denied 3 times: a\\u{1b}b\\nc (r)"]);
        assert!(denials(&json!({ "denials": null })).is_empty());
    }

    #[test]
    fn exit_codes_follow_the_command() {
        for (reply, code) in [
            (json!({ "success": true, "outcome": { "kind": "exited", "exit_code": 0 } }), 0),
            (json!({ "success": false, "outcome": { "kind": "exited", "exit_code": 3 } }), 3),
            (json!({ "success": false, "outcome": { "kind": "exited", "exit_code": 0 } }), 1),
            (json!({ "success": false, "outcome": { "kind": "signaled", "signal": 9 } }), 137),
            (json!({ "success": false, "outcome": { "kind": "timed_out", "clock": "wall" } }), 124),
            (json!({ "success": false, "outcome": { "kind": "out_of_memory" } }), 137),
            (json!({ "success": false, "outcome": null }), 125),
        ] {
            assert_eq!(exit_code(&reply), code, "{reply}");
        }
    }
}
