//! What one principal may know of another's, and what only admins may do. A stand-in plays the engine: who may is the
//! front's business alone.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::monitor::Monitor;
use support::{Front, Reply, read_reply};

const PRINCIPALS: &str =
    "[[principals]]\nname = 'a'\n[[principals]]\nname = 'b'\n[[principals]]\nname = 'admin'\nrole = 'admin'\n";
const KEYS: [(&str, &str); 3] = [("a", "sandkeep_a"), ("b", "sandkeep_b"), ("admin", "sandkeep_admin")];

fn start() -> (Front, Monitor) {
    let front = Front::start_with_keys(PRINCIPALS, &KEYS);
    let monitor = Monitor::start(&front.engine_socket(), front.dir.path(), 16);
    assert_eq!(front.get("/readyz").status, 200);
    (front, monitor)
}

/// A request of `who` that is not answered yet.
fn send(front: &Front, who: &str, method: &str, path: &str, body: Option<&Value>) -> TcpStream {
    let key = KEYS.iter().find(|(name, _)| *name == who).unwrap().1;
    let mut stream = TcpStream::connect(front.tcp).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    stream
}

fn ask(front: &Front, who: &str, method: &str, path: &str, body: Option<&Value>) -> Reply {
    read_reply(send(front, who, method, path, body))
}

fn bash(id: &str, command: &str) -> Value {
    json!({ "tool_name": "bash", "parameters": { "command": command }, "context": { "execution_id": id } })
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn tools_are_registered_and_removed_by_admins_alone() {
    let front = Front::start_with_keys(&format!("{PRINCIPALS}\n[listen]\ntcp_anonymous = 'loopback'\n"), &KEYS);
    let tool = json!({ "name": "own", "version": "1.0.0", "description": "d", "run": { "command": ["true"] } });
    let post = |who| ask(&front, who, "POST", "/api/v1/tools", Some(&tool));
    let delete = |who, name| ask(&front, who, "DELETE", &format!("/api/v1/tools/{name}"), None);
    let found = |who| ask(&front, who, "GET", "/api/v1/tools/own", None).status;
    assert_eq!(post("a").problem(), (403, "forbidden".into()));
    assert_eq!(found("admin"), 404);
    // Nor is a user told what would have been wrong with it.
    let bad = json!({ "name": "own", "nonsense": 1 });
    assert_eq!(ask(&front, "a", "POST", "/api/v1/tools", Some(&bad)).problem().0, 403);
    assert_eq!(ask(&front, "admin", "POST", "/api/v1/tools", Some(&bad)).problem().0, 400);
    assert_eq!(post("admin").status, 201);
    assert_eq!((found("a"), found("b")), (200, 200), "who may not change it may see it");
    // Whether it is there or not.
    for name in ["own", "own@1", "none", "bash"] {
        assert_eq!(delete("a", name).problem(), (403, "forbidden".into()), "{name}");
    }
    let text = tool.to_string();
    for (line, body) in [("POST /api/v1/tools", text.as_str()), ("DELETE /api/v1/tools/own", "")] {
        let length = body.len();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
        );
        assert_eq!(front.raw_tcp(&head, body.as_bytes()).problem(), (403, "forbidden".into()), "without a key: {line}");
    }
    assert_eq!((found("a"), delete("admin", "none").status, delete("admin", "bash").status), (200, 404, 409));
    assert_eq!((delete("admin", "own").status, found("a")), (204, 404));
}

/// A refusal but for what differs each time.
fn refusal(reply: &Reply) -> (Vec<String>, Value) {
    let mut body = reply.json();
    body.as_object_mut().unwrap().remove("request_id");
    let own = |line: &&str| {
        let line = line.to_lowercase();
        !line.starts_with("x-request-id:") && !line.starts_with("date:")
    };
    (reply.head.lines().filter(own).map(str::to_owned).collect(), body)
}

#[test]
fn anothers_execution_is_an_unknown_one_and_admins_see_all() {
    let (front, _monitor) = start();
    let one = |who: &str, method: &str, id: &str| ask(&front, who, method, &format!("/api/v1/executions/{id}"), None);
    let events = |who: &str, id: &str| ask(&front, who, "GET", &format!("/api/v1/executions/{id}/events"), None);
    let begin = |who: &str, id: &str, command: &str| {
        let reply = ask(&front, who, "POST", "/api/v1/executions", Some(&bash(id, command)));
        assert_eq!(reply.status, 202, "{reply:?}");
    };
    let state = |who: &str, id: &str| one(who, "GET", id).json()["state"].as_str().unwrap().to_owned();
    let reaches = |who: &str, id: &str, wanted: &str| until(&format!("{id}: {wanted}"), || state(who, id) == wanted);
    let total = |who: &str| ask(&front, who, "GET", "/api/v1/executions?state=all", None).json()["total"].clone();

    // One that is kept, one that runs and can be followed, and one that answers its caller alone.
    begin("a", "kept", "echo of a");
    begin("a", "live", "sleep 60");
    let plain = send(&front, "a", "POST", "/api/v1/tools/execute", Some(&bash("plain", "sleep 60")));
    reaches("a", "kept", "ended");
    reaches("a", "live", "running");
    until("plain: running", || one("a", "GET", "plain").status == 200 && state("a", "plain") == "running");

    for method in ["GET", "DELETE"] {
        let unknown = refusal(&one("b", method, "none"));
        for id in ["kept", "live", "plain"] {
            let reply = one("b", method, id);
            assert_eq!(reply.problem(), (404, "unknown_execution".into()), "{method} {id}");
            assert_eq!(refusal(&reply), unknown, "{method} {id}");
        }
    }
    let unknown = refusal(&events("b", "none"));
    for id in ["kept", "live", "plain"] {
        let reply = events("b", id);
        assert_eq!(reply.problem(), (404, "unknown_execution".into()), "{id}");
        assert_eq!(refusal(&reply), unknown, "{id}");
    }
    assert_eq!((total("a"), total("b"), total("admin")), (json!(3), json!(0), json!(3)));
    // Nothing came of what the other asked for, and their owner reaches all.
    let found = ["kept", "live", "plain"].map(|id| state("a", id));
    assert_eq!(found, ["ended", "running", "running"]);
    assert!(events("a", "kept").body.contains("of a"));
    assert_eq!(events("a", "plain").problem(), (409, "conflict".into()));
    for (id, state) in ["kept", "live", "plain"].into_iter().zip(&found) {
        let seen = one("admin", "GET", id).json();
        assert_eq!((&seen["principal"], &seen["state"]), (&json!("a"), &json!(state)), "{seen}");
    }
    assert!(one("admin", "GET", "live").json()["host_pid"].is_u64());
    assert!(events("admin", "kept").body.contains("of a"));

    // The same id is another's own: neither sees the other's, and neither is in the other's way.
    begin("b", "kept", "echo of b");
    reaches("b", "kept", "ended");
    let said = |who: &str, id: &str| one(who, "GET", id).json()["result"]["result"]["stdout"].clone();
    assert_eq!((said("a", "kept"), said("b", "kept")), (json!("of a\n"), json!("of b\n")));
    assert_eq!((one("b", "DELETE", "kept").status, one("b", "GET", "kept").status), (202, 404));
    assert_eq!(said("a", "kept"), "of a\n");

    // An admin's own comes first, whatever state each is in.
    begin("admin", "kept", "sleep 60");
    begin("admin", "live", "echo of admin");
    begin("admin", "plain", "sleep 60");
    reaches("admin", "kept", "running");
    reaches("admin", "live", "ended");
    reaches("admin", "plain", "running");
    for id in ["kept", "live", "plain"] {
        assert_eq!(one("admin", "GET", id).json()["principal"], "admin", "{id}");
    }
    assert!(events("admin", "live").body.contains("of admin"));
    for id in ["kept", "plain"] {
        assert_eq!(one("admin", "DELETE", id).json()["principal"], "admin", "{id}");
        reaches("admin", id, "ended");
        // Both have ended now, or the other one runs.
        assert_eq!(one("admin", "GET", id).json()["principal"], "admin", "{id}");
    }
    assert_eq!(one("admin", "DELETE", "live").json()["principal"], "admin");
    assert_eq!(["kept", "live", "plain"].map(|id| state("a", id)), found);
    // Once there is none of its own, the id is the other's, whom an admin may end.
    let ended = one("admin", "DELETE", "live");
    assert_eq!((ended.status, &ended.json()["principal"]), (202, &json!("a")));
    reaches("a", "live", "ended");
    assert_eq!(one("a", "GET", "live").json()["result"]["outcome"]["by"], "caller");
    drop(plain);
}
