//! Refused calls in replies and in events.

use nix::sys::signal::Signal;

use super::restarts::{NO_POOL, accept, another_front, ended};
use super::*;

/// Python that makes `ptrace` and `unshare`, which every level refuses.
const REFUSED: &str = "import ctypes, sys, time\nlibc = ctypes.CDLL(None)\n\
                       def say(x): print(x, flush=True); time.sleep(0.2)\n\
                       def ptrace():\n libc.ptrace(0, 0, 0, 0); time.sleep(0.2)\n\
                       def unshare():\n libc.unshare(0x10000000); time.sleep(0.2)\n";

fn python(code: &str) -> Value {
    json!({ "tool_name": "python", "parameters": { "code": format!("{REFUSED}{code}") } })
}

fn denial(call: &str, count: u64) -> Value {
    json!({ "layer": "seccomp", "rule": format!("seccomp/standard.json: {call}"), "detail": call, "count": count })
}

/// Kinds of the events in their order, with what output says and which rule refused.
fn in_order(events: &[Event]) -> Vec<String> {
    let one = |event: &Event| match event.kind.as_str() {
        "stdout" => event.data["data"].as_str().unwrap().trim().to_owned(),
        "denial" => event.data["detail"].as_str().unwrap().to_owned(),
        other => other.to_owned(),
    };
    events.iter().filter(|event| event.kind != "ping").map(one).collect()
}

#[test]
fn the_reply_tells_what_was_refused_and_nothing_is_not_null() {
    let daemon = Daemon::start("[levels]\nminimal = true\n[checks]\npython = false\n", &[]);
    for level in ["minimal", "standard", "strict"] {
        let at = |body: Value| {
            let mut body = body;
            body["context"] = json!({ "security_level": level });
            daemon.execute(body).body
        };
        let none = at(bash("true"));
        assert_eq!(none["denials"], json!([]), "{level}");
        assert_eq!(none["sandbox"]["enforced"]["seccomp"]["denials_recorded"], true, "{level}");
        let some = at(python("ptrace(); ptrace(); ptrace(); unshare()"));
        assert_eq!(some["denials"], json!([denial("ptrace", 3), denial("unshare", 1)]), "{level}");
        assert_eq!(some["success"], true);
    }
    // The command could not be placed: nobody recorded anything.
    let mut nowhere = bash("true");
    nowhere["parameters"]["working_dir"] = json!("/nonesuch");
    let reply = daemon.execute(nowhere).body;
    assert_eq!((&reply["outcome"], &reply["denials"]), (&Value::Null, &Value::Null));
    // The same call again is answered with the first one's.
    let mut body = python("ptrace()");
    body["context"] = json!({ "execution_id": "once" });
    let first = daemon.execute(body.clone()).body;
    assert_eq!(first["denials"], json!([denial("ptrace", 1)]));
    assert_eq!(daemon.execute(body).body, first);
}

#[test]
fn the_command_line_tells_of_refusals_where_a_command_failed() {
    let daemon = Daemon::start("[checks]\npython = false\n", &[]);
    let stderr = |script: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sandkeep"));
        command.args(["exec", "bash", script]).env("SANDKEEP_SOCKET", daemon.socket());
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    let failed = stderr("unshare --user true 2>/dev/null");
    assert_eq!(failed, "sandkeep: denied once: unshare (seccomp/standard.json: unshare)\n");
    assert_eq!(stderr("unshare --user true 2>/dev/null || true"), "");
}

#[test]
fn events_tell_of_each_rule_once_in_its_place() {
    let daemon = Daemon::start("[checks]\npython = false\n", &[]);
    let mut body = python("say('a'); ptrace(); say('b'); ptrace(); unshare(); say('c')");
    body["context"] = json!({ "execution_id": "refused" });
    let mut follow = Follow::execute(&daemon, &body);
    let all = follow.rest();
    rising(&all);
    assert_eq!(in_order(&all), ["started", "a", "ptrace", "b", "unshare", "c", "result"]);
    assert_eq!(all[2].data, denial("ptrace", 1));
    assert_eq!(all.last().unwrap().data["denials"], json!([denial("ptrace", 2), denial("unshare", 1)]));
    // Whoever goes on behind any of them hears the rest, and nothing twice.
    for (at, event) in all.iter().enumerate().take(all.len() - 1) {
        let rest = Follow::resume(&daemon, "refused", event.id).rest();
        let ids = |events: &[Event]| events.iter().map(|e| e.id).collect::<Vec<_>>();
        assert_eq!(ids(&rest), ids(&all[at + 1..]), "behind {}", event.kind);
    }
}

#[test]
fn refusals_outlive_a_front() {
    let daemon = Daemon::start(NO_POOL, &[]);
    let code = "say('a'); ptrace(); say('b'); time.sleep(2); unshare(); ptrace(); say('c'); time.sleep(2); ptrace()";
    let id = accept(&daemon, &python(code));
    let mut follow = Follow::resume(&daemon, &id, 0);
    let mut events: Vec<Event> = (0..4).map(|_| follow.next().unwrap()).collect();
    assert_eq!(in_order(&events), ["started", "a", "ptrace", "b"]);
    // One front goes; the second rule refuses while no front may be there.
    another_front(&daemon, Signal::SIGKILL);
    follow = Follow::resume(&daemon, &id, events.last().unwrap().id);
    events.extend(follow.rest());
    rising(&events);
    let told = in_order(&events);
    assert_eq!((told.len(), told.last().map(String::as_str)), (7, Some("result")), "{told:?}");
    for one in ["ptrace", "unshare", "c"] {
        assert_eq!(told.iter().filter(|what| *what == one).count(), 1, "{told:?}");
    }
    let both = json!([denial("ptrace", 3), denial("unshare", 1)]);
    assert_eq!(events.last().unwrap().data["denials"], both);
    // And one after the end: what is on disk tells the same.
    another_front(&daemon, Signal::SIGTERM);
    assert_eq!(ended(&daemon, &id)["result"]["denials"], both);
    let again = Follow::resume(&daemon, &id, 0).rest();
    rising(&again);
    assert_eq!(again.iter().filter(|e| e.kind == "denial").count(), 2, "{:?}", in_order(&again));

    // An end that comes while no front is there at all is told with its refusals.
    let id = accept(&daemon, &python("say('a'); time.sleep(1); ptrace()"));
    until("not begun", || daemon.request("GET", &format!("/api/v1/executions/{id}"), None).body["state"] == "running");
    std::thread::sleep(Duration::from_millis(500));
    let front = daemon.child_named("sandkeepd");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(front), Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(front), Signal::SIGKILL).unwrap();
    daemon.wait_ready();
    assert_eq!(ended(&daemon, &id)["result"]["denials"], json!([denial("ptrace", 1)]));
}
