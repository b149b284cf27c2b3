//! Whole calls over a stand-in for the engine: what the front does with output, ends, ids and lost connections.

mod support;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::monitor::Monitor;
use support::{Front, post};

fn start(settings: &str, sandboxes_max: u32) -> (Front, Monitor) {
    let front = Front::start(settings);
    let monitor = Monitor::start(&front.engine_socket(), front.dir.path(), sandboxes_max);
    assert_eq!(front.get("/readyz").status, 200, "found at once on the next use");
    (front, monitor)
}

fn bash(command: &str) -> Value {
    json!({ "tool_name": "bash", "parameters": { "command": command } })
}

fn ok(front: &Front, body: Value) -> Value {
    let reply = front.execute(body);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn in_background<T: Send + 'static>(
    front: &Front,
    call: impl FnOnce(&Path) -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let socket = front.socket();
    std::thread::spawn(move || call(&socket))
}

fn execute_at(socket: &Path, body: &Value) -> support::Reply {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let body = body.to_string();
    write!(stream, "{}Connection: close\r\n\r\n{body}", post(body.len())).unwrap();
    support::read_reply(stream)
}

#[test]
fn the_journeys_replies_are_exact() {
    let (front, monitor) = start("", 8);
    let mut body = bash("echo $0; echo err >&2; exit 3");
    body["context"] = json!({ "agent_id": "data-agent", "metadata": { "source": "api" } });
    let reply = ok(&front, body);
    assert_eq!(reply["result"], json!({ "stdout": "bash\n", "stderr": "err\n", "exit_code": 3, "success": false }));
    assert_eq!(reply["outcome"], json!({ "kind": "exited", "exit_code": 3, "limits_hit": [] }));
    assert_eq!(reply["error"]["code"], "nonzero_exit");
    assert_eq!((&reply["agent_id"], &reply["metadata"]["source"]), (&json!("data-agent"), &json!("api")));
    assert_eq!((&reply["denials"], &reply["cached"], &reply["attempts"]), (&json!(null), &json!(false), &json!(1)));
    assert_eq!(reply["sandbox"]["level"], "standard");
    assert_eq!(reply["sandbox"]["degraded"].as_array().unwrap().len(), 1);
    let enforced = &reply["sandbox"]["enforced"];
    assert_eq!((&enforced["root"], &enforced["network"]), (&json!("private"), &json!("none")));
    assert_eq!(enforced["landlock"], json!({ "abi": 7, "status": "none", "added": [] }));
    assert_eq!(enforced["cgroup"]["cpu_max"], json!([50_000, 100_000]));

    let code = "import math\nresult = math.sqrt(16)\nprint(result)";
    let reply = front.execute(json!({ "tool_name": "python", "parameters": { "code": code, "timeout": 30 } }));
    let result = r#""result":{"output":"4.0\n","variables":{"result":4.0},"success":true}"#;
    assert!(reply.body.contains(result), "{}", reply.body);
    let reply = ok(
        &front,
        json!({ "tool_name": "python", "parameters": { "code": "x = 1\nprint('a')\nraise ValueError('SECRET')" } }),
    );
    assert_eq!(reply["error"], json!({ "code": "exception", "message": "ValueError: SECRET" }));
    assert_eq!((&reply["result"]["output"], &reply["result"]["variables"]), (&json!("a\n"), &json!({ "x": 1 })));
    assert!(reply["result"]["error"]["traceback"].as_str().unwrap().contains("line 3, in <module>"));
    assert_eq!(front.get("/api/v1/capabilities").json()["levels"][1]["available"], true);
    wait_for("every sandbox is gone", || monitor.live() == 0);
}

#[test]
fn parameters_reach_the_command() {
    let (front, _monitor) = start("", 8);
    std::fs::create_dir(front.dir.path().join("sub")).unwrap();
    let parameters = json!({
        "command": "cat; echo $A:$HOME:$LANG:$TMPDIR:$(basename $PWD)", "working_dir": "sub",
        "env": { "A": "x y" }, "stdin": "in\n"
    });
    let reply = ok(&front, json!({ "tool_name": "bash", "parameters": parameters }));
    assert_eq!(reply["result"]["stdout"], "in\nx y:/workspace:C.UTF-8:/tmp:sub\n");
    let big = "y".repeat(1 << 20);
    let parameters = json!({ "command": "sleep 0.1; wc -c", "stdin": big });
    assert_eq!(ok(&front, json!({ "tool_name": "bash", "parameters": parameters }))["result"]["stdout"], "1048576\n");
    let parameters = json!({ "command": "true", "stdin": big });
    assert_eq!(ok(&front, json!({ "tool_name": "bash", "parameters": parameters }))["success"], true);
    let reply = ok(&front, json!({ "tool_name": "bash", "parameters": { "command": "true", "working_dir": "/none" } }));
    assert_eq!((&reply["outcome"], &reply["error"]["code"]), (&json!(null), &json!("not_found")));
    assert_eq!(reply["result"]["exit_code"], json!(null));
    let parameters = json!({ "command": "true" });
    let level = json!({ "tool_name": "bash", "parameters": parameters, "context": { "security_level": "maximum" } });
    assert_eq!(front.execute(level).problem(), (503, "level_unavailable".into()));
}

#[test]
fn output_is_kept_to_its_cap_counted_and_a_flood_killed() {
    let (front, _monitor) = start("", 8);
    let limited = |command: &str, bytes: u64| {
        let mut body = bash(command);
        body["context"] = json!({ "limits": { "max_output_bytes": bytes } });
        body
    };
    let reply = ok(&front, limited("head -c 300000 /dev/zero | tr '\\0' a; printf 'b\\xff' >&2", 1000));
    assert_eq!(reply["result"]["stdout"].as_str().unwrap().len(), 1000);
    let output = json!({
        "stdout_bytes": 300_000, "stdout_truncated": true, "stdout_lossy": false,
        "stderr_bytes": 2, "stderr_truncated": false, "stderr_lossy": true
    });
    // More than 64 times the cap: either end may win, and both are told truly.
    assert_eq!(reply["outcome"]["limits_hit"], json!([{ "limit": "output", "count": 1 }]));
    if reply["outcome"]["kind"] == "exited" {
        assert_eq!(reply["output"], output);
    }
    let began = Instant::now();
    let reply = ok(&front, limited("yes", 1000));
    assert_eq!((&reply["outcome"]["kind"], &reply["error"]["code"]), (&json!("output_limit"), &json!("output_limit")));
    assert_eq!(reply["result"]["exit_code"], json!(null));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_smallest_time_ends_a_command() {
    let (front, _monitor) = start("", 8);
    let mut body = bash("echo a; sleep 30");
    body["parameters"]["timeout"] = json!(20);
    body["context"] = json!({ "timeout": 0.5 });
    let began = Instant::now();
    let reply = ok(&front, body);
    assert_eq!(reply["outcome"], json!({ "kind": "timed_out", "clock": "wall", "limits_hit": [] }));
    assert_eq!(reply["result"]["stdout"], "a\n");
    assert!(began.elapsed() < Duration::from_secs(3));
    let reply = ok(
        &front,
        json!({ "tool_name": "python", "parameters": { "code": "x=1\nprint('a')\nwhile True: pass", "timeout": 0.8 } }),
    );
    assert_eq!(reply["result"], json!({ "output": "a\n", "variables": {}, "success": false }));
}

#[test]
fn a_caller_that_leaves_ends_its_run_and_delete_ends_anyones() {
    let (front, monitor) = start("", 8);
    let mut stream = front.connect();
    let body = bash("sleep 30").to_string();
    write!(stream, "{}\r\n{body}", post(body.len())).unwrap();
    wait_for("it runs", || front.get("/api/v1/executions").body.contains("running"));
    drop(stream);
    wait_for("its sandbox is gone", || monitor.live() == 0);
    wait_for("and it is listed no more", || front.get("/api/v1/executions").json()["total"] == 0);

    let mut body = bash("sleep 30");
    body["context"] = json!({ "execution_id": "mine" });
    let call = in_background(&front, move |socket| execute_at(socket, &body));
    wait_for("it runs", || front.get("/api/v1/executions/mine").body.contains("running"));
    let told = front.get("/api/v1/executions/mine").json();
    assert!(told["host_pid"].as_i64().unwrap() > 0 && told["cgroup_path"] == "/stand-in");
    for _ in 0..2 {
        let delete = "DELETE /api/v1/executions/mine HTTP/1.1\r\nHost: localhost\r\n";
        assert!(matches!(front.raw(delete, b"").status, 202 | 404));
    }
    let reply = call.join().unwrap().json();
    assert_eq!(reply["outcome"], json!({ "kind": "killed", "by": "caller", "limits_hit": [] }));
}

#[test]
fn the_queue_is_bounded_and_waiting_counts_as_time() {
    let (front, _monitor) = start("[http]\nqueue_max = 1\nqueue_wait_max_ms = 900\n", 1);
    let first = in_background(&front, |socket| execute_at(socket, &bash("sleep 0.7; echo first")));
    wait_for("it runs", || front.get("/api/v1/executions").body.contains("running"));
    let second = in_background(&front, |socket| execute_at(socket, &bash("echo second")));
    wait_for("it waits", || front.get("/api/v1/executions").body.contains("queued"));
    let began = Instant::now();
    let third = front.execute(bash("echo third"));
    assert_eq!(third.problem(), (429, "rate_limited".into()));
    assert!(third.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert!(began.elapsed() < Duration::from_millis(500), "at once: {:?}", began.elapsed());
    assert_eq!(first.join().unwrap().json()["result"]["stdout"], "first\n");
    assert_eq!(second.join().unwrap().json()["result"]["stdout"], "second\n");
    let first = in_background(&front, |socket| execute_at(socket, &bash("sleep 1.5")));
    wait_for("it runs", || front.get("/api/v1/executions").body.contains("running"));
    let mut late = bash("true");
    late["context"] = json!({ "timeout": 0.2 });
    let began = Instant::now();
    assert_eq!(front.execute(late).problem(), (503, "at_capacity".into()));
    assert!(began.elapsed() < Duration::from_secs(1));
    let patient = front.execute(bash("true"));
    assert_eq!(patient.problem(), (503, "at_capacity".into()), "nobody waits longer than the operator allows");
    assert!(began.elapsed() < Duration::from_millis(1400), "{:?}", began.elapsed());
    first.join().unwrap();
    let metrics = front.get("/metrics").body;
    for line in [
        "sandkeep_admission_refused_total{reason=\"own_queue\"} 1",
        "sandkeep_admission_refused_total{reason=\"waited\"} 2",
        "sandkeep_admitted_total{how=\"waited\"} 1",
        "sandkeep_admitted_total{how=\"at_once\"} 2",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} in\n{metrics}");
    }
}

/// As `nc -N` does: a caller that has said all shuts down its sending half, and is not gone.
#[test]
fn a_caller_that_has_said_all_still_gets_its_reply() {
    let (front, monitor) = start("", 8);
    let ask = |command: &str| {
        let mut stream = front.connect();
        let body = bash(command).to_string();
        write!(stream, "{}\r\n{body}", post(body.len())).unwrap();
        stream
    };
    let stream = ask("sleep 0.5; echo done");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(support::read_reply(stream).json()["result"]["stdout"], "done\n");
    // It does go away in the end, before or after it has shut down its half.
    for half in [true, false] {
        let stream = ask("sleep 30");
        if half {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        wait_for("it runs", || front.get("/api/v1/executions").body.contains("running"));
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(monitor.live(), 1, "half a connection is one");
        let began = Instant::now();
        drop(stream);
        wait_for("its sandbox is gone", || monitor.live() == 0);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        wait_for("and it is listed no more", || front.get("/api/v1/executions").json()["total"] == 0);
    }
    // Half a request is none, however it ends.
    let mut stream = front.connect();
    write!(stream, "{}\r\n{{", post(100)).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(support::read_reply(stream).problem(), (400, "malformed_request".into()));
}

#[test]
fn the_same_id_runs_once() {
    let (front, _monitor) = start("", 8);
    let mark = front.dir.path().join("mark");
    let mut body = bash(&format!("echo x >> {}; sleep 0.3; echo $RANDOM", mark.display()));
    body["context"] = json!({ "execution_id": "once" });
    let same = body.clone();
    let other = in_background(&front, move |socket| execute_at(socket, &same).body);
    let first = front.execute(body.clone()).body;
    assert_eq!(other.join().unwrap(), first, "who comes while it runs waits for it");
    assert_eq!(front.execute(body.clone()).body, first, "and who comes later gets the same");
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "x\n");
    body["parameters"]["command"] = json!("true");
    assert_eq!(front.execute(body).problem(), (409, "conflict".into()));
    let text = bash("echo $RANDOM$RANDOM").to_string();
    let head = format!("{}Idempotency-Key: k1\r\n", post(text.len()));
    assert_eq!(front.raw(&head, text.as_bytes()).body, front.raw(&head, text.as_bytes()).body);
    assert_ne!(front.execute_text(&text).body, front.execute_text(&text).body);
}

#[test]
fn a_lost_engine_is_told_and_a_new_one_found() {
    let (front, monitor) = start("", 8);
    let call = in_background(&front, |socket| execute_at(socket, &bash("echo a; sleep 30")));
    wait_for("it runs", || front.get("/api/v1/executions").body.contains("running"));
    std::thread::sleep(Duration::from_millis(100));
    monitor.crash();
    let reply = call.join().unwrap().json();
    assert_eq!((&reply["outcome"]["kind"], &reply["success"]), (&json!("engine_fault"), &json!(false)));
    assert_eq!(reply["result"]["stdout"], "a\n");
    assert_eq!(front.execute(bash("true")).problem(), (503, "engine_unavailable".into()));
    let _monitor = Monitor::start(&front.engine_socket(), front.dir.path(), 8);
    assert_eq!(ok(&front, bash("echo b"))["result"]["stdout"], "b\n");
}

#[test]
fn many_calls_at_once_leave_nothing_behind() {
    let (front, monitor) = start("", 4);
    let calls: Vec<_> = (0..24)
        .map(|n| in_background(&front, move |socket| execute_at(socket, &bash(&format!("echo {n}"))).json()))
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.join().unwrap()["result"]["stdout"], format!("{n}\n"));
    }
    wait_for("nothing is left", || monitor.live() == 0 && front.get("/api/v1/executions").json()["total"] == 0);
}
