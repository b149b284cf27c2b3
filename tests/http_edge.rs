//! The front alone: what it refuses, what it bounds, and what it says while there is no engine.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::monitor::Monitor;
use support::{Front, post, read_reply};

fn bash(command: &str) -> Value {
    json!({ "tool_name": "bash", "parameters": { "command": command } })
}

#[test]
fn without_an_engine_nothing_runs_and_the_rest_is_served() {
    let front = Front::start("");
    assert_eq!(front.get("/healthz").status, 200);
    assert_eq!(front.get("/readyz").problem(), (503, "engine_unavailable".into()));
    assert_eq!(front.get("/api/v1/capabilities").problem(), (503, "engine_unavailable".into()));
    let reply = front.execute(bash("df -h"));
    assert_eq!(reply.problem(), (503, "engine_unavailable".into()));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert!(!reply.body.contains("engine.sock"), "no path of the host: {}", reply.body);
    assert_eq!(front.get("/api/v1/executions").json(), json!({ "executions": [], "total": 0, "next_cursor": null }));
    let retried = Instant::now();
    let reply = front.execute(
        json!({ "tool_name": "bash", "parameters": { "command": "a" }, "context": { "retry_count": 2, "timeout": 5 } }),
    );
    assert_eq!(reply.problem(), (503, "engine_unavailable".into()));
    assert!(retried.elapsed() > Duration::from_millis(120), "two pauses");
}

#[test]
fn paths_methods_and_media_types_are_problems_too() {
    let front = Front::start("");
    assert_eq!(front.get("/").problem(), (404, "not_found".into()));
    assert_eq!(front.get("/api/v1/none").problem(), (404, "not_found".into()));
    assert_eq!(front.get("/api/v1/tools/../../x").problem(), (404, "not_found".into()));
    let reply = front.get("/api/v1/tools/execute");
    // A GET of this path is no tool's name either.
    assert!(matches!(reply.problem().0, 404 | 405), "{reply:?}");
    let reply = front.raw("PUT /api/v1/tools HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n", b"");
    assert_eq!(reply.problem(), (405, "method_not_allowed".into()));
    assert!(reply.header("allow").unwrap().contains("GET"), "{reply:?}");
    let reply = front.raw("POST /api/v1/executions/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n", b"");
    assert_eq!(reply.problem().0, 405);
    assert_eq!(front.get("/api/v1/tools/none").problem(), (404, "unknown_tool".into()));
    assert_eq!(front.get("/api/v1/tools?format=xml").problem(), (400, "malformed_request".into()));
    // Places are JSON pointers, whatever a caller names its parameters.
    assert_eq!(front.get("/api/v1/tools?a~b/c=1&format=").pointers(), ["/format", "/a~0b~1c"]);
    assert_eq!(front.get("/api/v1/executions/exe_1").problem(), (404, "unknown_execution".into()));
    assert_eq!(front.get("/api/v1/executions/%00%2e%2e%2f").problem(), (404, "unknown_execution".into()));
    for media in ["", "Content-Type: application/x-www-form-urlencoded\r\n", "Content-Type: text/plain\r\n"] {
        let head = format!("POST /api/v1/tools/execute HTTP/1.1\r\nHost: localhost\r\n{media}Content-Length: 2\r\n");
        assert_eq!(front.raw(&head, b"{}").problem(), (415, "unsupported_media_type".into()));
    }
    let head = "GET /api/v1/tools HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n";
    assert_eq!(front.raw(head, b"").problem(), (406, "not_acceptable".into()));
    // Events are all that this path has; elsewhere nothing is asked for by that name.
    let execution = |path: &str, accept: &str| {
        let head = format!("GET /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\n{accept}");
        front.raw(&head, b"").problem()
    };
    let (unknown, no) = ((404, "unknown_execution".into()), (406, "not_acceptable".into()));
    for accept in ["application/json", "application/problem+json", "text/event-stream;q=0", "image/*"] {
        assert_eq!(execution("executions/x/events", &format!("Accept: {accept}\r\n")), no, "{accept}");
    }
    for accept in ["", "Accept: text/event-stream\r\n", "Accept: text/*\r\n", "Accept: application/json, */*;q=0.1\r\n"]
    {
        assert_eq!(execution("executions/x/events", accept), unknown, "{accept}");
    }
    let json = "Accept: application/json\r\n";
    assert_eq!(execution("executions/events", json), unknown);
    assert_eq!(execution("executions/events", "Accept: text/event-stream\r\n"), no);
    assert_eq!(execution("tools/events", json), (404, "unknown_tool".into()));
    let head = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: req_00000000000000000000000000\r\n";
    let id = front.raw(head, b"").header("x-request-id").unwrap().to_owned();
    assert!(id.starts_with("req_") && id != "req_00000000000000000000000000");
}

#[test]
fn bad_bodies_are_refused_by_name() {
    let front = Front::start("");
    let nul = "{\"tool_name\":\"bash\",\"parameters\":{\"command\":\"a\\u0000\"}}";
    for (body, status, code, pointer) in [
        ("", 400, "malformed_json", ""),
        ("not json", 400, "malformed_json", ""),
        ("{\"tool_name\":\"bash\"} x", 400, "malformed_json", ""),
        ("{\"a\":1,\"a\":2}", 400, "malformed_json", "/a"),
        ("{\"context\":{\"timeout\":NaN}}", 400, "malformed_json", "/context/timeout"),
        ("{\"context\":{\"timeout\":1e999}}", 400, "malformed_json", "/context/timeout"),
        ("[]", 400, "malformed_request", ""),
        ("{}", 400, "malformed_request", "/tool_name"),
        ("{\"tool_name\":5}", 400, "malformed_request", "/tool_name"),
        ("{\"tool_name\":\"a\\nb\"}", 400, "malformed_request", "/tool_name"),
        ("{\"tool_name\":\"bash\",\"parameters\":[]}", 400, "malformed_request", "/parameters"),
        ("{\"tool_name\":\"bash\",\"parameter\":{}}", 400, "malformed_request", "/parameter"),
        ("{\"tool_name\":\"none\"}", 404, "unknown_tool", ""),
        ("{\"tool_name\":\"bash\"}", 422, "invalid_parameters", "/parameters/command"),
        (nul, 422, "invalid_parameters", "/parameters/command"),
    ] {
        let reply = front.execute_text(body);
        assert_eq!(reply.problem(), (status, code.into()), "{body}: {reply:?}");
        assert_eq!(reply.pointers().first().map_or("", String::as_str), pointer, "{body}: {reply:?}");
    }
    for (context, pointer) in [
        (json!({ "timeout": -1 }), "/context/timeout"),
        (json!({ "timeout": 0 }), "/context/timeout"),
        (json!({ "timeout": 1e308 }), "/context/timeout"),
        (json!({ "timeout": "60" }), "/context/timeout"),
        (json!({ "retry_count": 6 }), "/context/retry_count"),
        (json!({ "retry_count": 0.5 }), "/context/retry_count"),
        (json!({ "sandbox_mode": "yes" }), "/context/sandbox_mode"),
        (json!({ "security_level": "none" }), "/context/security_level"),
        (json!({ "sandbox_mode": false, "security_level": "strict" }), "/context/security_level"),
        (json!({ "workspace": "../etc" }), "/context/workspace"),
        (json!({ "workspace": "a".repeat(5000) }), "/context/workspace"),
        (json!({ "execution_id": "a b" }), "/context/execution_id"),
        (json!({ "agent_id": "a".repeat(5000) }), "/context/agent_id"),
        (json!({ "metadata": { "a": "x".repeat(20_000) } }), "/context/metadata"),
        (json!({ "unknown": 1 }), "/context/unknown"),
        (json!({ "limits": { "max_memory_mb": -1 } }), "/context/limits/max_memory_mb"),
        (json!({ "limits": { "max_memory_mb": 1e308 } }), "/context/limits/max_memory_mb"),
        (json!({ "limits": { "max_memory_mb": 1e-9 } }), "/context/limits/max_memory_mb"),
        (json!({ "limits": { "max_processes": u64::MAX } }), "/context/limits/max_processes"),
        (json!({ "limits": { "max_output_bytes": 1e30 } }), "/context/limits/max_output_bytes"),
        (json!({ "limits": { "max_cpu_percent": "50" } }), "/context/limits/max_cpu_percent"),
        (json!({ "limits": { "max_execution_time_seconds": 301 } }), "/context/limits/max_execution_time_seconds"),
        (json!({ "limits": { "memory": 1 } }), "/context/limits/memory"),
        (json!({ "limits": 5 }), "/context/limits"),
    ] {
        let mut body = bash("true");
        body["context"] = context;
        let reply = front.execute(body.clone());
        assert_eq!(reply.problem(), (400, "malformed_request".into()), "{body}: {reply:?}");
        assert_eq!(reply.pointers(), [pointer], "{body}");
        assert!(reply.body.len() < 1000, "a message repeats no long value: {}", reply.body);
    }
    let several = json!({ "tool_name": "bash", "x": 1, "context": { "timeout": -1, "limits": { "a": 1 } } });
    assert_eq!(front.execute(several).pointers(), ["/x", "/context/timeout", "/context/limits/a"]);
    let reply = front.execute(json!({ "tool_name": "bash", "parameters": { "command": "a", "timeout": 301 } }));
    assert_eq!(reply.json()["errors"][0]["message"], "301 is greater than the maximum of 300");
    let reply = front.execute(
        json!({ "tool_name": "bash", "parameters": { "command": "a" }, "context": { "security_level": "minimal" } }),
    );
    assert_eq!(reply.problem(), (403, "forbidden".into()));
    let reply = front.execute(json!({ "tool_name": "bash", "parameters": {}, "context": { "sandbox_id": "sbx_1" } }));
    assert_eq!(reply.problem(), (404, "unknown_sandbox".into()));
    let head = format!("{}Idempotency-Key: a b\r\n", post(2));
    assert_eq!(front.raw(&head, b"{}").problem(), (400, "malformed_request".into()));
    for deep in ["[".repeat(100_000), "{\"a\":".repeat(100_000)] {
        assert_eq!(front.execute_text(&deep).problem(), (400, "malformed_json".into()));
    }
    assert_eq!(front.get("/healthz").status, 200, "others are still served");
}

#[test]
fn a_body_without_end_is_cut_at_the_cap() {
    let front = Front::start("[http]\nbody_bytes_max = 65536\n");
    let reply = front.raw(&post(10 << 30), b"{");
    assert_eq!(reply.problem(), (413, "too_large".into()));
    let mut stream = front.connect();
    let head = "POST /api/v1/tools/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    let mut sent = 0;
    while sent < 10 << 30 && stream.write_all(chunk.as_bytes()).is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 4 << 20, "{sent} bytes were taken");
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
}

#[test]
fn slow_callers_are_let_go_and_others_served() {
    let front = Front::start("[http]\nheader_timeout_ms = 1000\nbody_timeout_ms = 1000\nconnections_max = 8\n");
    let began = Instant::now();
    let mut slow: Vec<_> = ["", "P", "PRI * HTTP/2.0\r\n\r\n", "POST /api/v1/tools/execute HTTP/1.1\r\nHost: x\r\nA: "]
        .into_iter()
        .map(|text| {
            let mut stream = front.connect();
            stream.write_all(text.as_bytes()).unwrap();
            stream
        })
        .collect();
    let mut body = front.connect();
    body.write_all(format!("{}\r\n{{", post(100)).as_bytes()).unwrap();
    assert_eq!(front.get("/healthz").status, 200);
    let mut told = Vec::new();
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _reset_is_an_end_too = stream.read_to_end(&mut rest);
        told.push(String::from_utf8_lossy(&rest).into_owned());
    }
    // The last of them had begun a request.
    assert!(told[3].starts_with("HTTP/1.1 408 ") && told[3].contains("\"code\":\"request_timeout\""), "{told:?}");
    let mut start = [0; 12];
    body.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 408");
    // Between requests a connection is closed without a word: it would be taken for the answer to the next one.
    for half in ["", "GET /healthz HTTP/1.1\r\nHo"] {
        let mut kept = front.connect();
        kept.write_all(format!("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n{half}").as_bytes()).unwrap();
        let mut all = Vec::new();
        let _reset_is_an_end_too = kept.read_to_end(&mut all);
        let all = String::from_utf8_lossy(&all).into_owned();
        assert!(all.starts_with("HTTP/1.1 200 ") && all.matches("HTTP/1.1").count() == 1, "{all}");
    }
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
}

/// Whoever reads what a run says is not idle, however long that takes; whoever has asked and got an answer is.
#[test]
fn a_stream_that_is_read_outlives_the_time_of_idle_connections() {
    let idle_max = Duration::from_millis(500);
    let front = Front::start_as("[http]\nheader_timeout_ms = 100\n", |options| options.idle_max = idle_max);
    let _monitor = Monitor::start(&front.engine_socket(), front.dir.path(), 4);
    assert_eq!(front.get("/readyz").status, 200);
    std::thread::scope(|scope| {
        let idle = scope.spawn(|| {
            // HTTP/2, where nobody else looks at the clock between requests: preface, empty SETTINGS, GET / of localhost.
            let block = [&[0x82, 0x86, 0x84, 0x41, 9][..], b"localhost"].concat();
            let head = [&[0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1][..], &block].concat();
            let mut stream = front.connect();
            stream
                .write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0, 0, 0, 4, 0, 0, 0, 0, 0][..], &head].concat())
                .unwrap();
            let began = Instant::now();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            let text = String::from_utf8_lossy(&all).into_owned();
            assert!(text.contains("not_found"), "it was answered first: {text}");
            began.elapsed()
        });
        let body = bash("for n in 1 2 3 4 5 6 7 8; do echo line $n; sleep 0.25; done").to_string();
        let head = format!("{}Accept: text/event-stream\r\n", post(body.len()));
        let began = Instant::now();
        let reply = front.raw(&head, body.as_bytes());
        let followed = began.elapsed();
        assert!(reply.body.contains("line 8") && reply.body.contains("event: result"), "{reply:?}");
        let took = idle.join().unwrap();
        let least = idle_max - Duration::from_millis(50);
        assert!(least < took && took < followed - idle_max, "idle {took:?}, followed {followed:?}");
    });
}

#[test]
fn connections_beyond_the_cap_are_refused_in_words_and_tcp_takes_nothing_from_the_socket() {
    let front =
        Front::start("[http]\nconnections_max = 2\nheader_timeout_ms = 2000\n[listen]\ntcp_anonymous = 'loopback'\n");
    let held: Vec<_> = (0..6).map(|_| TcpStream::connect(front.tcp).unwrap()).collect();
    assert_eq!(front.get("/healthz").status, 200);
    let get = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n";
    let began = Instant::now();
    let refused = front.raw_tcp(get, b"");
    assert_eq!(refused.problem(), (503, "at_capacity".into()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(began.elapsed() < Duration::from_secs(1), "at once: {:?}", began.elapsed());
    drop(held);
    wait_for("places come free", || front.raw_tcp(get, b"").status == 200);
}

/// One address may hold its share of the connections; another has a place in any case.
#[test]
fn a_peer_that_holds_connections_keeps_nobody_out() {
    let settings = |per_peer: usize| {
        format!(
            "[http]\nconnections_max = 6\nconnections_per_peer_max = {per_peer}\nheader_timeout_ms = 60000\n\
             [listen]\ntcp_anonymous = 'loopback'\n"
        )
    };
    let from = |front: &Front, address: [u8; 4]| {
        let mut stream = connect_from(address, front.tcp);
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        read_reply(stream)
    };
    let (crowd, other) = ([127, 0, 0, 2], [127, 0, 0, 3]);
    let front = Front::start(&settings(4));
    let held: Vec<_> = (0..4).map(|_| connect_from(crowd, front.tcp)).collect();
    wait_for("its places are taken", || from(&front, crowd).status == 429);
    assert_eq!(from(&front, crowd).problem(), (429, "rate_limited".into()));
    assert_eq!(from(&front, other).status, 200);
    drop(held);
    // Without a bound of its own it may have all; an idle one of them makes room for somebody else, not for another of its.
    let front = Front::start(&settings(6));
    let mut held: Vec<_> = (0..6).map(|_| connect_from(crowd, front.tcp)).collect();
    wait_for("all places are taken", || from(&front, crowd).status == 429);
    assert_eq!(from(&front, other).status, 200);
    let mut byte = [0];
    assert_eq!(held[0].read(&mut byte).unwrap(), 0, "the one that was idle for longest is closed");
    held[5].write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(read_reply(held.pop().unwrap()).status, 200, "the others go on");
    let metrics = front.get("/metrics").body;
    assert!(metrics.contains("sandkeep_connections_evicted_total 1"), "{metrics}");
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A connection to `to` from another address of this host.
fn connect_from(address: [u8; 4], to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((address, 0))).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

#[test]
fn tcp_needs_a_credential_unless_loopback_is_trusted() {
    let off = Front::start("");
    let get = "GET /api/v1/tools HTTP/1.1\r\nHost: localhost\r\n";
    let reply = off.raw_tcp(get, b"");
    assert_eq!(reply.problem(), (401, "unauthenticated".into()));
    assert!(reply.json()["hint"].as_str().unwrap().contains("API key"));
    let on = Front::start("[listen]\ntcp_anonymous = 'loopback'\n");
    assert_eq!(on.raw_tcp(get, b"").status, 200);
    for head in [
        "GET /api/v1/tools HTTP/1.1\r\nHost: evil.example\r\n",
        "GET /api/v1/tools HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n",
    ] {
        assert_eq!(on.raw_tcp(head, b"").problem(), (403, "forbidden".into()));
    }
    let form =
        "POST /api/v1/tools/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n";
    assert_eq!(on.raw_tcp(form, b"{}").problem().0, 415);
    assert_eq!(on.raw_tcp(&post(2), b"{}").problem(), (400, "malformed_request".into()));
}

#[test]
fn tool_schemas_are_as_agreed() {
    let front = Front::start("");
    let listed = front.get("/api/v1/tools").json();
    for tool in listed["tools"].as_array().unwrap() {
        assert_eq!(front.get(&format!("/api/v1/tools/{}", tool["name"].as_str().unwrap())).json(), *tool);
    }
    let text = format!("{listed:#}\n");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract/golden/tools.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(golden).unwrap(), "UPDATE_GOLDEN=1 writes the file anew");
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let front = Front::start("");
    let mut stream = front.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        let mut rest = [0; 4096];
        let _body = stream.read(&mut rest).unwrap();
    }
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(read_reply(stream).status, 200);
}
