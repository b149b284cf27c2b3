//! Tools that need no sandbox, in a whole daemon: what is told of them, and what `http_request` may reach.

#[path = "support/server.rs"]
mod server;
#[path = "support/daemon.rs"]
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use server::Server;
use support::*;

/// A daemon whose calls may reach `server`, and nothing else that is not public.
fn daemon(server: &Server, more: &str) -> Daemon {
    Daemon::start(&format!("[pool]\nenabled = false\n[egress]\nallow = [\"127.0.0.1:{}\"]\n{more}", server.port), &[])
}

fn ask(daemon: &Daemon, parameters: Value) -> Value {
    let reply = daemon.execute(json!({ "tool_name": "http_request", "parameters": parameters }));
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_needs_no_sandbox_says_so_and_needs_no_engine() {
    let daemon = Daemon::start("[pool]\nenabled = false\n", &[]);
    let call = json!({ "tool_name": "hash_text", "parameters": { "text": "abc" },
        "context": { "cache_enabled": true, "metadata": { "a": 1 }, "execution_id": "mine" } });
    let reply = daemon.execute(call.clone());
    assert_eq!(reply.status, 200, "{}", reply.body);
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let expected = json!({ "hash": sha256, "algorithm": "sha256", "for_security": true, "success": true });
    assert_eq!(reply.body["result"], expected);
    assert_eq!(reply.body["sandbox"], json!({ "backend": "none" }));
    for (name, value) in [("outcome", Value::Null), ("denials", Value::Null), ("metadata", json!({ "a": 1 }))] {
        assert_eq!(reply.body[name], value, "{name}");
    }
    // An engine that does nothing is not missed; control: a command waits for it.
    let engine = Pid::from_raw(daemon.child_named("sandkeep-engine"));
    kill(engine, Signal::SIGSTOP).unwrap();
    let other = std::thread::scope(|scope| {
        let command = json!({ "tool_name": "bash", "parameters": { "command": "true" } });
        let command = scope.spawn(|| daemon.execute(command));
        let other = daemon.execute(json!({ "tool_name": "hash_text", "parameters": { "text": "x" } }));
        let waits = !command.is_finished();
        kill(engine, Signal::SIGCONT).unwrap();
        assert!(waits, "a command needs no engine");
        let command = command.join().unwrap();
        assert_eq!((command.status, &command.body["success"]), (200, &json!(true)), "{}", command.body);
        other
    });
    assert_eq!(other.status, 200, "{}", other.body);
    // The same call again, and another with the same parameters.
    assert_eq!(daemon.execute(call).body, reply.body);
    let other =
        json!({ "tool_name": "hash_text", "parameters": { "text": "abc" }, "context": { "cache_enabled": true } });
    assert_eq!(daemon.execute(other).body["cached"], true);
    // Streamed and without a caller.
    let stream = request_with(
        &daemon.socket(),
        "POST",
        "/api/v1/executions",
        "",
        Some(&json!({ "tool_name": "data_analyzer", "parameters": { "data": [1, 2, 3] } })),
    )
    .unwrap();
    assert_eq!(stream.status, 202, "{}", stream.body);
    let path = format!("/api/v1/executions/{}", stream.body["execution_id"].as_str().unwrap());
    let mut last = Value::Null;
    until("it does not end", || {
        last = daemon.request("GET", &path, None).body;
        last["state"] == "ended"
    });
    assert_eq!(last["result"]["result"]["columns"]["values"]["mean"], 2.0, "{last}");
    // A front that comes later tells the same.
    let front = daemon.child_named("sandkeepd");
    kill(Pid::from_raw(front), Signal::SIGKILL).unwrap();
    until("no other front", || daemon.children().iter().any(|(name, pid)| name == "sandkeepd" && *pid != front));
    daemon.wait_ready();
    assert_eq!(daemon.request("GET", &path, None).body["result"], last["result"]);
}

#[test]
fn every_violation_of_a_request_is_told_at_once_and_nothing_is_asked() {
    let server = Server::start();
    let daemon = daemon(&server, "");
    let parameters = json!({
        "url": "ftp://example.com/", "headers": { "Host": "x", "X y": "1", "A": "b\nc" }, "body": "x", "json": 1,
    });
    let reply = daemon.execute(json!({ "tool_name": "http_request", "parameters": parameters }));
    assert_eq!((reply.status, reply.body["code"].as_str()), (422, Some("invalid_parameters")));
    let errors = reply.body["errors"].as_array().unwrap();
    let mut pointers: Vec<&str> = errors.iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    pointers.sort_unstable();
    let headers = ["/parameters/headers/A", "/parameters/headers/Host", "/parameters/headers/X y"];
    let expected = [&["/parameters/body"][..], &headers, &["/parameters/json", "/parameters/url"]].concat();
    assert_eq!(pointers, expected, "{errors:?}");
    // Levels without a network have no use for it.
    let strict = json!({ "tool_name": "http_request", "parameters": { "url": server.url("/") },
        "context": { "security_level": "strict" } });
    let reply = daemon.execute(strict);
    assert_eq!((reply.status, reply.body["code"].as_str()), (422, Some("level_unsuitable")), "{}", reply.body);
    assert_eq!(server.seen(), 0);
}

#[test]
fn a_request_is_made_as_it_was_asked_for() {
    let server = Server::start();
    let daemon = daemon(&server, "");
    let told = ask(&daemon, json!({ "url": server.url("/echo?q=1#part"), "headers": { "X-One": "1" } }));
    assert_eq!(told["success"], true, "{told}");
    let result = &told["result"];
    assert_eq!((result["status"].as_u64(), result["success"].as_bool()), (Some(200), Some(true)));
    assert_eq!(result["headers"]["set-cookie"], json!(["a=1", "b=2"]));
    let body = result["body"].as_str().unwrap();
    assert!(body.starts_with("GET /echo?q=1 HTTP/1.1\r\n"), "{body}");
    assert!(body.contains("x-one: 1\r\n") && body.contains("accept-encoding: identity\r\n"), "{body}");
    assert!(body.contains(&format!("host: 127.0.0.1:{}\r\n", server.port)), "{body}");
    assert_eq!(told["usage"]["network_requests"], 1);
    assert_eq!(told["sandbox"], json!({ "backend": "none" }));
    let told = ask(&daemon, json!({ "url": server.url("/echo"), "method": "POST", "json": { "a": [1] } }));
    let body = told["result"]["body"].as_str().unwrap();
    assert!(body.starts_with("POST ") && body.ends_with("\r\n\r\n{\"a\":[1]}"), "{body}");
    assert!(body.contains("content-type: application/json\r\n"), "{body}");
    let told = ask(&daemon, json!({ "url": server.url("/status/404") }));
    assert_eq!((told["success"].as_bool(), told["error"]["code"].as_str()), (Some(false), Some("http_error")));
    assert_eq!(told["result"]["status"], 404);
    let told = ask(&daemon, json!({ "url": server.url("/binary") }));
    assert_eq!(told["result"]["body_base64"], "/wD+");
    let told = ask(&daemon, json!({ "url": server.url("/echo"), "method": "HEAD" }));
    assert_eq!((told["result"]["status"].as_u64(), told["result"]["body"].as_str()), (Some(200), Some("")));
}

#[test]
fn what_is_too_long_or_too_slow_is_cut_off() {
    let server = Server::start();
    let daemon = daemon(&server, "");
    let told = ask(&daemon, json!({ "url": server.url("/large"), "max_bytes": 1000 }));
    assert_eq!(told["result"]["body"].as_str().unwrap().len(), 999, "half of a character at the end is left out");
    assert_eq!((told["result"]["truncated"].as_bool(), told["success"].as_bool()), (Some(true), Some(true)));
    let begin = Instant::now();
    let told = ask(&daemon, json!({ "url": server.url("/slow"), "timeout": 0.5 }));
    assert_eq!(told["error"]["code"], "timed_out", "{told}");
    assert_eq!(told["usage"]["network_requests"], 1, "it was made all the same");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    until("the connection is not closed", || server.open() == 0);
    let told = ask(&daemon, json!({ "url": server.url("/headers") }));
    assert_eq!(told["error"]["code"], "bad_response", "{told}");
    let told = ask(&daemon, json!({ "url": server.url("/garbage") }));
    assert_eq!(told["error"]["code"], "bad_response", "{told}");
}

#[test]
fn only_what_the_operator_allows_is_reached() {
    let server = Server::start();
    // Control: the same request with leave.
    let allowed = daemon(&server, "");
    assert_eq!(ask(&allowed, json!({ "url": server.url("/") }))["success"], true);
    let before = server.seen();
    let refused = Daemon::start("[pool]\nenabled = false\n", &[]);
    let denied = |daemon: &Daemon, url: &str| {
        let told = ask(daemon, json!({ "url": url, "timeout": 5 }));
        assert_eq!(
            (told["success"].as_bool(), told["error"]["code"].as_str()),
            (Some(false), Some("egress_denied")),
            "{told}"
        );
        assert_eq!(told["result"]["status"], Value::Null);
        assert_eq!(told["usage"]["network_requests"], 0, "nothing was sent");
        told["error"]["rule"].as_str().unwrap().to_owned()
    };
    let port = server.port;
    for (host, rule) in [
        ("127.0.0.1", "loopback"),
        ("127.1", "loopback"),
        ("0x7f000001", "loopback"),
        ("2130706433", "loopback"),
        ("017700000001", "loopback"),
        ("localhost", "loopback"),
        ("LOCALHOST", "loopback"),
        ("[::1]", "loopback"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("[::ffff:7f00:1]", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("[::]", "unspecified"),
        ("169.254.169.254", "metadata"),
        ("[fd00:ec2::254]", "metadata"),
        ("10.0.0.1", "private"),
        ("192.168.0.1", "private"),
        ("[fe80::1]", "link-local"),
        ("224.0.0.1", "multicast"),
    ] {
        assert_eq!(denied(&refused, &format!("http://{host}:{port}/")), format!("egress/{rule}"), "{host}");
    }
    assert_eq!(denied(&refused, "http://1.1.1.1:22/"), "egress/port");
    // Leave for one place is none for its neighbours.
    assert_eq!(denied(&allowed, &format!("http://127.0.0.2:{port}/")), "egress/loopback");
    assert_eq!(denied(&allowed, "http://127.0.0.1:1/"), "egress/loopback");
    let off = daemon(&server, "enabled = false\n");
    assert_eq!(denied(&off, &server.url("/")), "egress/off");
    let named = daemon(&server, "hosts = [\"*.example.com\"]\n");
    assert_eq!(denied(&named, &format!("http://localhost:{port}/")), "egress/hosts");
    // An address is no way around the names, unless it is allowed as one.
    assert_eq!(denied(&named, "http://1.1.1.1/"), "egress/hosts");
    assert_eq!(ask(&named, json!({ "url": server.url("/") }))["success"], true);
    let before = before + 1;
    assert_eq!(server.seen(), before, "nothing of it came");
}

#[test]
fn redirects_are_gone_after_under_the_same_rules() {
    let server = Server::start();
    let other = Server::start();
    let daemon = daemon(&server, "");
    let told = ask(
        &daemon,
        json!({ "url": server.url("/redirect/303"), "method": "POST", "body": "x",
        "headers": { "Authorization": "secret" } }),
    );
    let body = told["result"]["body"].as_str().unwrap();
    // The same place hears the same; a 303 is asked for with GET.
    assert!(body.starts_with("GET /echo") && body.contains("authorization: secret"), "{body}");
    assert_eq!(told["result"]["redirects"], json!([server.url("/redirect/303")]));
    assert_eq!(
        (told["result"]["url"].as_str().unwrap(), told["usage"]["network_requests"].as_u64()),
        (&*server.url("/echo"), Some(2))
    );
    let told = ask(&daemon, json!({ "url": server.url("/redirect/307"), "method": "POST", "body": "x" }));
    assert!(told["result"]["body"].as_str().unwrap().starts_with("POST /echo"), "{told}");
    let told = ask(&daemon, json!({ "url": server.url("/redirect/303"), "follow_redirects": false }));
    assert_eq!(told["result"]["status"], 303);
    for (to, rule) in [
        ("http://169.254.169.254/latest/meta-data/", "metadata"),
        (&*other.url("/"), "loopback"),
        ("//localhost:1/", "loopback"),
        ("http://[::ffff:a9fe:a9fe]/", "metadata"),
    ] {
        let told =
            ask(&daemon, json!({ "url": server.url(&format!("/to?{}", to.replace('[', "%5B").replace(']', "%5D"))) }));
        assert_eq!(
            (told["error"]["code"].as_str(), told["error"]["rule"].as_str()),
            (Some("egress_denied"), Some(&*format!("egress/{rule}"))),
            "{told}"
        );
    }
    for to in ["file:///etc/passwd", "gopher://127.0.0.1/", "http://user:word@127.0.0.1/"] {
        let told =
            ask(&daemon, json!({ "url": server.url(&format!("/to?{}", to.replace('[', "%5B").replace(']', "%5D"))) }));
        assert_eq!(told["error"]["code"], "bad_redirect", "{told}");
    }
    let told = ask(&daemon, json!({ "url": server.url("/loop") }));
    assert_eq!(
        (told["error"]["code"].as_str(), told["usage"]["network_requests"].as_u64()),
        (Some("too_many_redirects"), Some(11))
    );
    let limited = json!({ "tool_name": "http_request", "parameters": { "url": server.url("/redirect/303") },
        "context": { "limits": { "max_network_requests": 1 } } });
    let told = daemon.execute(limited).body;
    assert_eq!(told["error"]["rule"], "egress/requests", "{told}");
    // Another place does not hear what was said to this one.
    let both = Daemon::start(
        &format!("[egress]\nallow = [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]\n", server.port, other.port),
        &[],
    );
    assert_eq!(other.seen(), 0);
    let headers = json!({ "Authorization": "secret", "Cookie": "c=1", "X-Other": "1" });
    let told = ask(&both, json!({ "url": server.url(&format!("/to?{}", other.url("/echo"))), "headers": headers }));
    let body = told["result"]["body"].as_str().unwrap();
    assert!(body.contains("x-other: 1") && !body.contains("secret") && !body.contains("c=1"), "{body}");
}

#[test]
fn one_principal_does_not_take_every_place() {
    let server = Server::start();
    let daemon = daemon(&server, "");
    let call = json!({ "tool_name": "http_request", "parameters": { "url": server.url("/slow") } });
    let accept =
        || daemon.request("POST", "/api/v1/executions", Some(&call)).body["execution_id"].as_str().unwrap().to_owned();
    let ids: Vec<String> = (0..64).map(|_| accept()).collect();
    until("not all were asked", || server.open() == 64);
    let reply = daemon.execute(call.clone());
    assert_eq!((reply.status, reply.body["code"].as_str()), (429, Some("rate_limited")), "{}", reply.body);
    assert!(daemon.request("DELETE", &format!("/api/v1/executions/{}", ids[0]), None).status < 300);
    until("the place is not given back", || server.open() == 63);
    assert_eq!(ask(&daemon, json!({ "url": server.url("/") }))["success"], true);
}

#[test]
fn a_request_under_way_when_the_front_ends_is_not_made_twice() {
    let server = Server::start();
    let daemon = daemon(&server, "");
    let accepted = daemon.request(
        "POST",
        "/api/v1/executions",
        Some(&json!({ "tool_name": "http_request", "parameters": { "url": server.url("/slow"), "method": "POST" } })),
    );
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    until("it was not asked", || server.seen() == 1);
    let front = daemon.child_named("sandkeepd");
    kill(Pid::from_raw(front), Signal::SIGKILL).unwrap();
    until("no other front", || daemon.children().iter().any(|(name, pid)| name == "sandkeepd" && *pid != front));
    daemon.wait_ready();
    let path = format!("/api/v1/executions/{}", accepted.body["execution_id"].as_str().unwrap());
    let mut last = Value::Null;
    until("it does not end", || {
        last = daemon.request("GET", &path, None).body;
        last["state"] == "ended"
    });
    assert_eq!(last["result"]["error"]["code"], "interrupted", "{last}");
    assert_eq!(server.seen(), 1);
    // One that is ended by its caller closes its connection.
    let accepted = daemon.request(
        "POST",
        "/api/v1/executions",
        Some(&json!({ "tool_name": "http_request", "parameters": { "url": server.url("/slow") } })),
    );
    until("it was not asked", || server.seen() == 2 && server.open() == 1);
    let path = format!("/api/v1/executions/{}", accepted.body["execution_id"].as_str().unwrap());
    assert!(daemon.request("DELETE", &path, None).status < 300);
    until("the connection is not closed", || server.open() == 0);
}

#[test]
fn certificates_are_held_against_the_hosts_authorities() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args([
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &path("key"),
            "-out",
            &path("certificate"),
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let script = "import http.server, ssl, sys\n\
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
        c.load_cert_chain(sys.argv[1], sys.argv[2])\n\
        s = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n\
        s.socket = c.wrap_socket(s.socket, server_side=True)\n\
        print(s.server_address[1], flush=True)\n\
        s.serve_forever()\n";
    let mut child = Ends(
        Command::new("python3")
            .args(["-c", script, &path("certificate"), &path("key")])
            .current_dir(dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut port = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.0.stdout.take().unwrap()), &mut port).unwrap();
    let port = port.trim();
    let config = format!("[pool]\nenabled = false\n[egress]\nallow = [\"127.0.0.1:{port}\"]\n");
    let url = format!("https://127.0.0.1:{port}/certificate");
    let told = ask(&Daemon::start(&config, &[]), json!({ "url": url }));
    assert_eq!(told["error"]["code"], "tls_failed", "{told}");
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let trusting = Daemon::start_with(&config, &[("SSL_CERT_FILE", &path("certificate"))]);
    let told = ask(&trusting, json!({ "url": url }));
    assert_eq!(told["success"], true, "{told}");
    assert!(told["result"]["body"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
}

/// Ended with the test, also where that fails.
struct Ends(std::process::Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
