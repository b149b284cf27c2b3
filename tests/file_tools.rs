//! `read_file`, `write_file`, `list_directory`, and workspaces that commands and files share, against a whole daemon.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/machine.rs"]
mod machine;

use daemon::*;
use serde_json::{Value, json};

const SETTINGS: &str = "[workspaces]\nsize_mb = 16\nfiles = 1000\neach_principal = 4\n";

fn call(tool: &str, parameters: Value, context: Value) -> Value {
    json!({ "tool_name": tool, "parameters": parameters, "context": context })
}

/// The whole body of a call that ran.
#[track_caller]
fn ran(daemon: &Daemon, tool: &str, parameters: Value, context: Value) -> Value {
    let reply = daemon.execute(call(tool, parameters, context));
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body
}

#[test]
fn a_file_is_written_listed_and_read_and_commands_see_the_same() {
    if !machine::expect("root") {
        return;
    }
    let daemon = Daemon::start(SETTINGS, &[]);
    let body = ran(&daemon, "write_file", json!({ "path": "example.txt", "content": "Grüße\n" }), json!({}));
    let expected = json!({ "path": "example.txt", "bytes_written": 8, "backup_path": null, "success": true });
    assert_eq!(body["result"], expected);
    assert_eq!((&body["success"], &body["error"]), (&json!(true), &Value::Null));
    let volumes = body["sandbox"]["enforced"]["volumes"].as_array().unwrap();
    assert_eq!(
        (volumes.len(), &volumes[0]["path"], &volumes[0]["read_only"]),
        (1, &json!("/workspace"), &json!(false))
    );
    let body = ran(&daemon, "read_file", json!({ "path": "example.txt" }), json!({}));
    let expected = json!({ "content": "Grüße\n", "encoding": "utf-8", "size_bytes": 8, "truncated": false,
        "next_offset": null, "success": true });
    assert_eq!(body["result"], expected);
    assert_eq!(body["sandbox"]["enforced"]["volumes"][0]["read_only"], true);
    let body = ran(&daemon, "list_directory", json!({ "path": "." }), json!({}));
    let entry = &body["result"]["entries"][0];
    assert_eq!(
        (&entry["name"], &entry["kind"], &entry["mode"]),
        (&json!("example.txt"), &json!("file"), &json!("0644"))
    );
    assert_eq!((&entry["path"], &entry["size_bytes"]), (&json!("example.txt"), &json!(8)));
    let modified = entry["modified"].as_str().unwrap();
    assert!(modified.starts_with("20") && modified.ends_with('Z') && modified.len() == 24, "{modified}");
    // A command that names no workspace has one of its own, which is empty.
    let own = |context| {
        ran(&daemon, "bash", json!({ "command": "ls -A; echo x > made" }), context)["result"]["stdout"].clone()
    };
    assert_eq!((own(json!({})), own(json!({}))), (json!(""), json!("")));
    assert_eq!(own(json!({ "workspace": "default" })), "example.txt\n");
    let body = ran(
        &daemon,
        "python",
        json!({ "code": "print(open('made').read(), end='')" }),
        json!({ "workspace": "default" }),
    );
    assert_eq!(body["result"]["output"], "x\n", "{body}");
    // What strict gives can only be read, and a file is not written there.
    let strict = json!({ "workspace": "default", "security_level": "strict" });
    let body = ran(&daemon, "bash", json!({ "command": "cat made; touch no" }), strict.clone());
    assert_eq!((&body["result"]["stdout"], &body["result"]["exit_code"]), (&json!("x\n"), &json!(1)));
    assert_eq!(ran(&daemon, "read_file", json!({ "path": "made" }), strict.clone())["result"]["content"], "x\n");
    let reply = daemon.execute(call("write_file", json!({ "path": "a", "content": "" }), strict));
    assert_eq!((reply.status, &reply.body["code"]), (422, &json!("level_unsuitable")), "{}", reply.body);
    // A name that nobody made.
    for tool in [
        call("bash", json!({ "command": "true" }), json!({ "workspace": "nonesuch" })),
        call("read_file", json!({ "path": "x" }), json!({ "workspace": "nonesuch" })),
    ] {
        let reply = daemon.execute(tool);
        assert_eq!((reply.status, &reply.body["code"]), (404, &json!("unknown_workspace")), "{}", reply.body);
    }
    assert!(daemon.stop().1);
}

#[test]
fn what_can_not_be_done_is_told_with_its_code_and_everything_stays() {
    if !machine::expect("root") {
        return;
    }
    let daemon = Daemon::start(SETTINGS, &[]);
    let bash = "mkdir d; mkfifo p; ln -s /etc/passwd l; echo old > f; head -c 3000000 /dev/urandom > big";
    ran(&daemon, "bash", json!({ "command": bash }), json!({ "workspace": "default" }));
    for (tool, parameters, code) in [
        ("read_file", json!({ "path": "none" }), "not_found"),
        ("read_file", json!({ "path": "d" }), "is_a_directory"),
        ("read_file", json!({ "path": "p" }), "not_a_file"),
        ("read_file", json!({ "path": "l" }), "outside_workspace"),
        ("read_file", json!({ "path": "/etc/shadow" }), "outside_workspace"),
        ("read_file", json!({ "path": "../../etc/shadow" }), "outside_workspace"),
        ("read_file", json!({ "path": "f/x" }), "not_a_directory"),
        ("write_file", json!({ "path": "d", "content": "" }), "is_a_directory"),
        ("write_file", json!({ "path": "no/f", "content": "" }), "not_found"),
        ("write_file", json!({ "path": "../f", "content": "" }), "outside_workspace"),
        ("list_directory", json!({ "path": "f" }), "not_a_directory"),
        ("list_directory", json!({ "path": "/" }), "outside_workspace"),
    ] {
        let body = ran(&daemon, tool, parameters.clone(), json!({}));
        assert_eq!(
            (&body["success"], &body["error"]["code"]),
            (&json!(false), &json!(code)),
            "{tool} {parameters} {body}"
        );
        assert_eq!(body["result"]["success"], false, "{body}");
        assert_eq!(body["outcome"]["kind"], "exited", "{body}");
    }
    // A write that finds no room leaves the old file.
    let limits = json!({ "limits": { "max_file_size_mb": 1 } });
    let body = ran(&daemon, "write_file", json!({ "path": "f", "content": "x".repeat(2 << 20) }), limits);
    assert_eq!((&body["success"], &body["error"]["code"]), (&json!(false), &json!("too_large")), "{body}");
    let body = ran(
        &daemon,
        "bash",
        json!({ "command": "head -c 20000000 /dev/zero > fill; rm -f none" }),
        json!({ "workspace": "default" }),
    );
    assert_eq!(body["result"]["exit_code"], 0, "{body}");
    let body = ran(&daemon, "write_file", json!({ "path": "f", "content": "x".repeat(100_000) }), json!({}));
    assert_eq!(body["error"]["code"], "no_space", "{body}");
    let body = ran(&daemon, "read_file", json!({ "path": "f" }), json!({}));
    assert_eq!(body["result"]["content"], "old\n");
    // Parts of a large file, and all of its bytes.
    let (mut offset, mut bytes) = (0, 0);
    loop {
        let body = ran(
            &daemon,
            "read_file",
            json!({ "path": "big", "encoding": "base64", "offset": offset, "limit": 1_000_000 }),
            json!({}),
        );
        let result = &body["result"];
        bytes += result["content"].as_str().unwrap().len() / 4 * 3;
        match result["next_offset"].as_u64() {
            Some(next) => offset = next,
            None => break,
        }
    }
    assert!((2_999_990..=3_000_010).contains(&bytes), "{bytes}");
    let body = ran(&daemon, "read_file", json!({ "path": "big", "limit": 4_000_000 }), json!({}));
    assert_eq!((&body["result"]["truncated"], &body["result"]["next_offset"]), (&json!(true), &json!(1 << 20)), "kept");
    assert_eq!(body["result"]["encoding"], "base64");
    let more = json!({ "limits": { "max_output_bytes": 4 << 20 } });
    let body = ran(&daemon, "read_file", json!({ "path": "big", "limit": 4_000_000 }), more);
    assert_eq!(body["result"]["truncated"], false);
    // Every violation at once, and nothing run.
    for (tool, parameters, pointers) in [
        ("read_file", json!({ "path": "", "encoding": "x", "offset": -1, "limit": 0 }), &["limit", "offset"][..]),
        ("read_file", json!({ "path": "a\0", "encoding": "utf-7" }), &["encoding", "path"]),
        ("write_file", json!({ "path": "a\0", "content": "!", "encoding": "base64", "mode": "9" }), &["mode"]),
        ("write_file", json!({ "path": "a\0", "content": "!", "encoding": "base64" }), &["content", "path"]),
        ("write_file", json!({ "path": "a", "content": "\u{4eba}", "encoding": "iso-8859-1" }), &["content"]),
        ("write_file", json!({ "path": "a" }), &["content"]),
        ("list_directory", json!({ "path": "", "pattern": "[a", "limit": 10_001 }), &["limit"]),
        ("list_directory", json!({ "path": "", "pattern": "[a" }), &["path", "pattern"]),
    ] {
        let reply = daemon.execute(call(tool, parameters.clone(), json!({})));
        assert_eq!((reply.status, &reply.body["code"]), (422, &json!("invalid_parameters")), "{}", reply.body);
        let errors = reply.body["errors"].as_array().unwrap();
        let mut found: Vec<&str> =
            errors.iter().map(|e| e["pointer"].as_str().unwrap().rsplit('/').next().unwrap()).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, pointers, "{tool} {parameters} {errors:?}");
    }
    assert!(daemon.stop().1);
}

#[test]
fn a_result_is_told_again_only_while_the_workspace_is_as_it_was() {
    if !machine::expect("root") {
        return;
    }
    let daemon = Daemon::start(SETTINGS, &[]);
    let write = |text: &str| ran(&daemon, "write_file", json!({ "path": "f", "content": text }), json!({}));
    let read = || {
        let body = ran(&daemon, "read_file", json!({ "path": "f" }), json!({ "cache_enabled": true }));
        (body["result"]["content"].as_str().unwrap().to_owned(), body["cached"].as_bool().unwrap())
    };
    write("one");
    assert_eq!((read(), read()), (("one".into(), false), ("one".into(), true)));
    write("two");
    assert_eq!((read(), read()), (("two".into(), false), ("two".into(), true)));
    // A command that may write it, while it runs and once it has.
    let command = json!({ "command": "sleep 1; echo three > f" });
    let started =
        daemon.request("POST", "/api/v1/executions", Some(&call("bash", command, json!({ "workspace": "default" }))));
    assert_eq!(started.status, 202, "{}", started.body);
    let path = format!("/api/v1/executions/{}", started.body["execution_id"].as_str().unwrap());
    while daemon.request("GET", &path, None).body["state"] != "running" {}
    assert_eq!((read(), read()), (("two".into(), false), ("two".into(), false)));
    while daemon.request("GET", &path, None).body["state"] != "ended" {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!((read(), read()), (("three\n".into(), false), ("three\n".into(), true)));
    assert!(daemon.stop().1);
}
