//! Executions that are followed, that run without a caller, and many in one request, against a whole daemon.

#[path = "streaming/denials.rs"]
mod denials;
#[path = "streaming/restarts.rs"]
mod restarts;
#[path = "support/daemon.rs"]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::*;

#[derive(Debug, Clone)]
struct Event {
    id: u64,
    kind: String,
    data: Value,
}

/// One connection that follows.
struct Follow {
    reader: BufReader<Box<dyn Read>>,
    head: String,
}

impl Follow {
    fn open(daemon: &Daemon, method: &str, path: &str, headers: &str, body: &str) -> Self {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             {headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let reader: Box<dyn Read> = if head.to_lowercase().contains("chunked") {
            Box::new(Chunked { reader, left: 0 })
        } else {
            Box::new(reader)
        };
        Self { reader: BufReader::with_capacity(512, reader), head }
    }

    fn execute(daemon: &Daemon, body: &Value) -> Self {
        let accept = "Accept: text/event-stream\r\n";
        Self::open(daemon, "POST", "/api/v1/tools/execute", accept, &body.to_string())
    }

    fn resume(daemon: &Daemon, id: &str, after: u64) -> Self {
        let headers = format!("Last-Event-ID: {after}\r\n");
        Self::open(daemon, "GET", &format!("/api/v1/executions/{id}/events"), &headers, "")
    }

    fn next(&mut self) -> Option<Event> {
        let mut event = Event { id: 0, kind: String::new(), data: Value::Null };
        let mut data = String::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            match line.trim_end_matches('\n').split_once(": ") {
                Some(("id", id)) => event.id = id.parse().unwrap(),
                Some(("event", kind)) => event.kind = kind.to_owned(),
                Some(("data", text)) => data.push_str(text),
                _ => {
                    event.data = serde_json::from_str(&data).unwrap();
                    return Some(event);
                }
            }
        }
    }

    fn rest(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// The chunked coding of HTTP/1.1.
struct Chunked<R> {
    reader: R,
    left: usize,
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                line.clear();
                self.reader.read_line(&mut line)?;
            }
            self.left = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
            if self.left == 0 {
                return Ok(0);
            }
        }
        let most = into.len().min(self.left);
        let n = self.reader.read(&mut into[..most])?;
        self.left -= n;
        Ok(n)
    }
}

fn bash(command: &str) -> Value {
    json!({ "tool_name": "bash", "parameters": { "command": command } })
}

fn text(events: &[Event], kind: &str) -> String {
    let mut text = String::new();
    for event in events.iter().filter(|e| e.kind == kind) {
        assert_eq!(event.data["offset"], text.len(), "{event:?}");
        text.push_str(event.data["data"].as_str().unwrap());
    }
    text
}

fn rising(events: &[Event]) {
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id), "{events:?}");
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn request_text(daemon: &Daemon, path: &str) -> String {
    let mut follow = Follow::open(daemon, "GET", path, "", "");
    let mut text = String::new();
    follow.reader.read_to_string(&mut text).unwrap();
    text
}

fn rss_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn what_a_command_writes_is_told_while_it_runs_and_the_end_is_the_envelope() {
    let daemon = Daemon::start("", &[]);
    let began = Instant::now();
    let mut follow = Follow::execute(
        &daemon,
        &bash("echo one; echo two >&2; sleep 1; printf 'thr\\xc3'; sleep 0.2; printf '\\xa9e\\n'; exit 3"),
    );
    assert!(
        follow.head.contains("200 OK") && follow.head.contains("content-type: text/event-stream"),
        "{}",
        follow.head
    );
    let started = follow.next().unwrap();
    assert_eq!(started.kind, "started");
    let first = follow.next().unwrap();
    assert!(began.elapsed() < Duration::from_millis(900), "told while it runs: {:?}", began.elapsed());
    let mut events = vec![started, first];
    events.extend(follow.rest());
    rising(&events);
    assert_eq!(text(&events, "stdout"), "one\nthrée\n");
    assert_eq!(text(&events, "stderr"), "two\n");
    let end = events.last().unwrap();
    assert_eq!(end.kind, "result");
    assert_eq!(events.iter().filter(|e| e.kind == "result" || e.kind == "error").count(), 1);
    assert_eq!(end.data["result"]["stdout"], "one\nthrée\n");
    assert_eq!(end.data["outcome"]["exit_code"], 3);
    assert_eq!(end.data["sandbox"]["id"], events[0].data["sandbox_id"]);

    // Bytes that are no text.
    let mut follow = Follow::execute(&daemon, &bash("printf '\\xff\\xfe'"));
    let events = follow.rest();
    assert_eq!(events[1].data, json!({ "offset": 0, "data_base64": "//4=" }));
    assert_eq!(events.last().unwrap().data["output"]["stdout_lossy"], true);
    // What can not begin is a problem, as without events; what fails later is the one terminal event.
    let follow = Follow::execute(&daemon, &json!({ "tool_name": "bash", "parameters": {} }));
    assert!(follow.head.contains("422"), "{}", follow.head);
}

#[test]
fn whoever_comes_back_in_time_loses_and_repeats_nothing() {
    let daemon = Daemon::start("", &[]);
    let mut body = bash("for n in $(seq 1 60); do echo line $n; sleep 0.05; done");
    body["context"] = json!({ "execution_id": "follow-me" });
    let mut events = Vec::new();
    let mut follow = Follow::execute(&daemon, &body);
    events.push(follow.next().unwrap());
    for _ in 0..4 {
        events.push(follow.next().unwrap());
        drop(follow);
        std::thread::sleep(Duration::from_millis(200));
        follow = Follow::resume(&daemon, "follow-me", events.last().unwrap().id);
    }
    events.extend(follow.rest());
    rising(&events);
    let expected: String = (1..=60).map(|n| format!("line {n}\n")).collect();
    assert_eq!(text(&events, "stdout"), expected);
    assert_eq!(events.last().unwrap().data["outcome"]["kind"], "exited");
    // Again from the beginning, and from the very end, after it has ended.
    assert_eq!(text(&Follow::resume(&daemon, "follow-me", 0).rest(), "stdout"), expected);
    let last = events.last().unwrap().id;
    let head = |after: u64| Follow::resume(&daemon, "follow-me", after).head;
    assert!(head(last).contains("204 No Content") && head(last + 1).contains("400"), "{}", head(last));
    // The same call again is the same execution.
    assert_eq!(text(&Follow::execute(&daemon, &body).rest(), "stdout"), expected);
    body["parameters"]["command"] = json!("true");
    assert!(Follow::execute(&daemon, &body).head.contains("409"));
    for after in ["x", "-1", "1.5"] {
        let headers = format!("Last-Event-ID: {after}\r\n");
        let reply = Follow::open(&daemon, "GET", "/api/v1/executions/follow-me/events", &headers, "");
        assert!(reply.head.contains("400"), "{after}: {}", reply.head);
    }
    assert_eq!(daemon.request("GET", "/api/v1/executions/none/events", None).status, 404);
}

#[test]
fn a_run_that_nobody_follows_any_more_ends_after_ten_seconds() {
    let daemon = Daemon::start("", &[]);
    let mut body = bash("sleep 60");
    body["context"] = json!({ "execution_id": "left" });
    let mut follow = Follow::execute(&daemon, &body);
    assert_eq!(follow.next().unwrap().kind, "started");
    drop(follow);
    let left = Instant::now();
    let state = || daemon.request("GET", "/api/v1/executions/left", None).body;
    until("it has ended", || state()["state"] == "ended");
    assert!(left.elapsed() > Duration::from_secs(9), "{:?}", left.elapsed());
    assert_eq!(state()["result"]["outcome"], json!({ "kind": "killed", "by": "disconnect", "limits_hit": [] }));
}

#[test]
fn a_burst_is_told_whole_and_a_reader_that_stalls_holds_nothing() {
    let daemon = Daemon::start("", &[]);
    let front = daemon.child_named("sandkeepd");
    let bytes = 4 << 20;
    let mut body = bash(&format!("head -c {bytes} /dev/zero | tr '\\0' x"));
    body["context"] = json!({ "limits": { "max_output_bytes": bytes } });
    // What one such run takes, once.
    assert_eq!(text(&Follow::execute(&daemon, &body).rest(), "stdout").len(), bytes);
    let before = rss_kib(front);
    let mut stalled: Vec<Follow> = (0..4).map(|_| Follow::execute(&daemon, &body)).collect();
    let mut first: Vec<Event> = stalled.iter_mut().map(|f| f.next().unwrap()).collect();
    until("all have run", || {
        daemon.request("GET", "/api/v1/executions?state=ended", None).body["total"].as_u64() >= Some(5)
    });
    let held = rss_kib(front).saturating_sub(before);
    // Each holds its output twice, as events and in its reply; nothing beside that waits for a slow reader.
    assert!(held < 4 * 3 * (bytes as u64 >> 10), "{held} KiB more");
    for (follow, first) in stalled.iter_mut().zip(&mut first) {
        let events: Vec<Event> = std::iter::once(first.clone()).chain(follow.rest()).collect();
        rising(&events);
        assert_eq!(text(&events, "stdout").len(), bytes);
    }
}

#[test]
fn a_run_without_a_caller_goes_on_and_can_be_asked_about() {
    let daemon = Daemon::start("", &[]);
    let mut body = bash("echo a; sleep 0.5; echo b");
    body["context"] = json!({ "agent_id": "x" });
    let reply = daemon.request("POST", "/api/v1/executions", Some(&body));
    assert_eq!(reply.status, 202, "{}", reply.body);
    let id = reply.body["execution_id"].as_str().unwrap().to_owned();
    assert!(reply.head.contains(&format!("location: /api/v1/executions/{id}")), "{}", reply.head);
    let one = || daemon.request("GET", &format!("/api/v1/executions/{id}"), None);
    assert!(["queued", "building", "running"].contains(&one().body["state"].as_str().unwrap()));
    let events = Follow::resume(&daemon, &id, 0).rest();
    assert_eq!(text(&events, "stdout"), "a\nb\n");
    let ended = one().body;
    assert_eq!((&ended["state"], &ended["result"]["result"]["stdout"]), (&json!("ended"), &json!("a\nb\n")));
    assert_eq!(ended["result"], events.last().unwrap().data);

    // The other way to ask for it.
    let head =
        Follow::open(&daemon, "POST", "/api/v1/tools/execute", "Prefer: respond-async\r\n", &body.to_string()).head;
    assert!(head.contains("202 Accepted") && head.contains("preference-applied: respond-async"), "{head}");

    // Ended through the API; then forgotten.
    let mut long = bash("sleep 60");
    long["context"] = json!({ "execution_id": "long" });
    assert_eq!(daemon.request("POST", "/api/v1/executions", Some(&long)).status, 202);
    assert_eq!(daemon.request("POST", "/api/v1/executions", Some(&long)).body["execution_id"], "long");
    let state = || daemon.request("GET", "/api/v1/executions/long", None);
    until("it runs", || state().body["state"] == "running");
    assert_eq!(daemon.request("DELETE", "/api/v1/executions/long", None).status, 202);
    until("it has ended", || state().body["state"] == "ended");
    assert_eq!(state().body["result"]["outcome"]["by"], "caller");
    assert_eq!(daemon.request("DELETE", "/api/v1/executions/long", None).status, 202);
    assert_eq!(state().status, 404);

    // What fails before anything runs is told, too.
    let mut bad = bash("true");
    bad["parameters"]["working_dir"] = json!("/none");
    let id = daemon.request("POST", "/api/v1/executions", Some(&bad)).body["execution_id"].as_str().unwrap().to_owned();
    let end = Follow::resume(&daemon, &id, 0).rest().pop().unwrap();
    assert_eq!((end.kind.as_str(), &end.data["error"]["code"]), ("result", &json!("not_found")));
}

#[test]
fn listings_filter_and_go_on_where_they_were() {
    let daemon = Daemon::start("", &[]);
    for n in 0..5 {
        let mut body = bash(if n == 4 { "sleep 30" } else { "true" });
        body["context"] = json!({ "agent_id": format!("agent-{}", n % 2), "execution_id": format!("n{n}") });
        assert_eq!(daemon.request("POST", "/api/v1/executions", Some(&body)).status, 202);
    }
    let list = |query: &str| daemon.request("GET", &format!("/api/v1/executions?{query}"), None).body;
    until("four have ended", || list("state=ended")["total"] == 4);
    until("one runs", || list("state=running")["total"] == 1);
    assert_eq!((list("")["total"].clone(), list("state=all")["total"].clone()), (json!(1), json!(5)));
    assert_eq!(list("state=all&agent_id=agent-1")["total"], 2);
    assert_eq!(list("state=all&tool_name=python")["total"], 0);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = list(&format!("state=all&limit=2{cursor}"));
        assert_eq!(page["total"], 5);
        seen.extend(
            page["executions"].as_array().unwrap().iter().map(|e| e["execution_id"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["n0", "n1", "n2", "n3", "n4"]);
    for query in ["state=done", "limit=0", "limit=1001", "cursor=x", "colour=red"] {
        let reply = daemon.request("GET", &format!("/api/v1/executions?{query}"), None);
        assert_eq!((reply.status, &reply.body["code"]), (400, &json!("malformed_request")), "{query}");
    }
}

#[test]
fn a_batch_is_answered_in_order_with_each_calls_own_reply() {
    let daemon = Daemon::start("", &[]);
    let calls = json!([
        bash("sleep 1; echo slow"),
        { "tool_name": "none" },
        bash("echo fast"),
        { "tool_name": "bash", "parameters": { "command": 1 } },
        { "tool_name": "python", "parameters": { "code": "x = 1" } },
        { "tool_name": "bash", "parameters": { "command": "sleep 1" }, "context": { "nonsense": 1 } },
        bash("sleep 1; exit 2"),
    ]);
    let began = Instant::now();
    let reply = daemon.request("POST", "/api/v1/tools/batch", Some(&calls));
    assert!(began.elapsed() < Duration::from_millis(1900), "in parallel: {:?}", began.elapsed());
    assert_eq!(reply.status, 200, "{}", reply.body);
    let replies = reply.body.as_array().unwrap();
    assert_eq!(replies.len(), 7);
    assert_eq!(replies[0]["result"]["stdout"], "slow\n");
    assert_eq!((&replies[1]["code"], &replies[1]["status"]), (&json!("unknown_tool"), &json!(404)));
    assert_eq!(replies[2]["result"]["stdout"], "fast\n");
    assert_eq!(replies[3]["errors"][0]["pointer"], "/parameters/command");
    assert_eq!(replies[4]["result"]["variables"]["x"], 1);
    assert_eq!(replies[5]["errors"][0]["pointer"], "/context/nonsense");
    assert_eq!(replies[6]["error"]["code"], "nonzero_exit");
    // Its problems are counted as those of single calls are, and what ran is none.
    let counted = |code: &str| {
        let text = request_text(&daemon, "/metrics");
        let line = format!("sandkeep_refused_total{{code=\"{code}\"}} ");
        text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |n| n.parse::<u64>().unwrap())
    };
    assert_eq!(["unknown_tool", "invalid_parameters", "malformed_request"].map(counted), [1, 1, 1]);
    assert_eq!(daemon.execute(json!({ "tool_name": "none" })).status, 404);
    assert_eq!(counted("unknown_tool"), 2);
    let as_object = daemon.request("POST", "/api/v1/tools/batch", Some(&json!({ "calls": [bash("echo x")] })));
    assert_eq!(as_object.body[0]["result"]["stdout"], "x\n");
    for (body, pointer) in [
        (json!([]), ""),
        (json!(vec![bash("true"); 65]), ""),
        (json!({ "calls": 1 }), "/calls"),
        (json!({ "calls": [bash("true")], "more": 1 }), ""),
        (json!("x"), ""),
    ] {
        let reply = daemon.request("POST", "/api/v1/tools/batch", Some(&body));
        assert_eq!((reply.status, &reply.body["errors"][0]["pointer"]), (400, &json!(pointer)));
    }
    // Its caller's end is theirs.
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let body = json!([bash("sleep 60"), bash("sleep 60")]).to_string();
    let head = format!(
        "POST /api/v1/tools/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let running = || daemon.request("GET", "/api/v1/executions?state=running", None).body["total"].clone();
    until("both run", || running() == 2);
    drop(stream);
    until("both have ended", || daemon.request("GET", "/api/v1/executions", None).body["total"] == 0);
}

/// What one caller was promised holds whoever else meets the same run.
#[test]
fn promises_of_one_run_to_several_callers_are_all_kept() {
    let daemon = Daemon::start("", &[]);
    let call = |id: &str, command: &str| {
        let mut body = bash(command);
        body["context"] = json!({ "execution_id": id });
        body
    };
    let state = |id: &str| daemon.request("GET", &format!("/api/v1/executions/{id}"), None).body;
    // Streamed first, then asked for without a caller: it goes on without its stream.
    let both = call("both", "sleep 12; echo done");
    let mut follow = Follow::execute(&daemon, &both);
    assert_eq!(follow.next().unwrap().kind, "started");
    assert_eq!(daemon.request("POST", "/api/v1/executions", Some(&both)).status, 202);
    drop(follow);
    // Left, back, and left again: ten seconds from the last time.
    let again = call("again", "sleep 60");
    let mut follow = Follow::execute(&daemon, &again);
    let first = follow.next().unwrap().id;
    drop(follow);
    std::thread::sleep(Duration::from_secs(7));
    drop(Follow::resume(&daemon, "again", first));
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(state("again")["state"], "running");
    until("both has ended", || state("both")["state"] == "ended");
    assert_eq!(state("both")["result"]["result"]["stdout"], "done\n");
    until("again has ended", || state("again")["state"] == "ended");
    // One that was cut off runs anew, and nobody is told of the old one.
    let mut body = again.clone();
    // Another body under the id of one that was not stored is no conflict.
    body["parameters"]["command"] = json!("echo anew");
    let events = Follow::execute(&daemon, &body).rest();
    assert_eq!(events.last().unwrap().data["result"]["stdout"], "anew\n");
    assert_eq!(state("again")["result"]["result"]["stdout"], "anew\n");
}

#[test]
fn a_key_finds_the_run_again_and_is_for_one_call() {
    let daemon = Daemon::start("", &[]);
    let post = |path: &str, headers: &str, body: &Value| {
        let head = format!("Idempotency-Key: key-1\r\n{headers}");
        Follow::open(&daemon, "POST", path, &head, &body.to_string()).head
    };
    let body = bash("sleep 1; echo x");
    let first = post("/api/v1/executions", "", &body);
    let began = Instant::now();
    let second = post("/api/v1/executions", "", &body);
    assert!(began.elapsed() < Duration::from_millis(700), "{:?}", began.elapsed());
    for head in [first, second] {
        assert!(head.contains("202 Accepted") && head.contains("location: /api/v1/executions/key-1"), "{head}");
    }
    let events = Follow::resume(&daemon, "key-1", 0).rest();
    assert_eq!(text(&events, "stdout"), "x\n");
    let head = post("/api/v1/tools/batch", "", &json!([body]));
    assert!(head.contains("400"), "{head}");
}

/// What one caller keeps takes nothing from others, and is there when it ends, however large.
#[test]
fn a_huge_result_pushes_out_nobody_elses_and_readers_share_it() {
    let daemon = Daemon::start("", &[]);
    let front = daemon.child_named("sandkeepd");
    let mut small = bash("echo small");
    small["context"] = json!({ "execution_id": "small" });
    assert_eq!(daemon.request("POST", "/api/v1/executions", Some(&small)).status, 202);
    let mut huge = bash("head -c 16777216 /dev/zero");
    huge["context"] = json!({ "execution_id": "huge", "limits": { "max_output_bytes": 16_777_216 } });
    assert_eq!(daemon.request("POST", "/api/v1/executions", Some(&huge)).status, 202);
    let state = |id: &str| daemon.request("GET", &format!("/api/v1/executions/{id}"), None).body;
    let listed = || daemon.request("GET", "/api/v1/executions?state=ended", None).body["total"].clone();
    until("both have ended", || listed() == 2 || listed() == 1 && state("small")["state"].is_null());
    assert_eq!(state("huge")["result"]["output"]["stdout_bytes"], 16_777_216);
    let before = rss_kib(front);
    // Readers that do not read.
    let mut stalled = Vec::new();
    for n in 0..20 {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        let path = if n % 2 == 0 { "huge/events" } else { "huge" };
        write!(stream, "GET /api/v1/executions/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        stalled.push(stream);
    }
    std::thread::sleep(Duration::from_secs(1));
    let more = rss_kib(front).saturating_sub(before);
    assert!(more < 40 << 10, "{more} KiB for twenty who do not read");
    assert_eq!(daemon.bash("echo alive", 5.0)["result"]["stdout"], "alive\n");
}
