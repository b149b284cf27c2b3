//! Workspaces over HTTP: made, listed, filled, read and removed, by whom they belong to and nobody else.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/machine.rs"]
mod machine;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use daemon::*;
use serde_json::{Value, json};

const SETTINGS: &str = "[workspaces]\nsize_mb = 16\nfiles = 1000\neach_principal = 3\n";
const ROOT: &str = "/api/v1/workspaces";

struct Raw {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// It came to its end as its head said.
    whole: bool,
}

impl Raw {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn code(&self) -> (u16, String) {
        (self.status, self.json()["code"].as_str().unwrap_or_default().to_owned())
    }
}

fn send(daemon: &Daemon, method: &str, path: &str, headers: &str, body: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    // A server that has said no already may have closed.
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
    stream
}

fn read(mut stream: UnixStream) -> Raw {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes).is_ok();
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&bytes[..at]).to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut rest = &bytes[at + 4..];
    if !head.contains("transfer-encoding: chunked") {
        return Raw { status, head, body: rest.to_vec(), whole: ended };
    }
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        rest = &rest[line + 2..];
        if size == 0 {
            return Raw { status, head, body, whole: true };
        }
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        rest = rest.get(size + 2..).unwrap_or_default();
    }
    Raw { status, head, body, whole: false }
}

fn get(daemon: &Daemon, path: &str) -> Raw {
    read(send(daemon, "GET", &format!("{ROOT}{path}"), "", b""))
}

fn put(daemon: &Daemon, path: &str, body: &[u8]) -> Raw {
    read(send(daemon, "PUT", &format!("{ROOT}{path}"), &format!("Content-Length: {}\r\n", body.len()), body))
}

fn delete(daemon: &Daemon, path: &str) -> Raw {
    read(send(daemon, "DELETE", &format!("{ROOT}{path}"), "", b""))
}

fn post(daemon: &Daemon, body: Value) -> Raw {
    let body = body.to_string();
    let headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    read(send(daemon, "POST", ROOT, &headers, body.as_bytes()))
}

fn bash(daemon: &Daemon, workspace: &str, command: &str) -> String {
    let call =
        json!({ "tool_name": "bash", "parameters": { "command": command }, "context": { "workspace": workspace } });
    let reply = daemon.execute(call);
    assert_eq!((reply.status, &reply.body["success"]), (200, &json!(true)), "{}", reply.body);
    reply.body["result"]["stdout"].as_str().unwrap().to_owned()
}

#[test]
fn workspaces_are_made_listed_and_removed() {
    if !machine::expect("root") {
        return;
    }
    let daemon = Daemon::start(SETTINGS, &[]);
    assert_eq!(get(&daemon, "").json(), json!({ "workspaces": [] }));
    let made = post(&daemon, json!({ "name": "project-a" }));
    assert_eq!(made.status, 201, "{}", made.json());
    assert!(made.head.contains("location: /api/v1/workspaces/project-a"), "{}", made.head);
    let size = made.json()["size_bytes"].as_u64().unwrap();
    assert!((16 << 20..20 << 20).contains(&size), "{size}");
    assert_eq!(post(&daemon, json!({ "name": "project-a" })).code(), (409, "conflict".into()));
    assert_eq!((put(&daemon, "/project-a", b"").status, put(&daemon, "/b", b"").status), (200, 201));
    let small = post(&daemon, json!({ "name": "small", "size_mb": 8 }));
    let size = small.json()["size_bytes"].as_u64().unwrap();
    assert!((8 << 20..12 << 20).contains(&size), "{size}");
    let names = |daemon: &Daemon| {
        let all = get(daemon, "").json();
        all["workspaces"].as_array().unwrap().iter().map(|w| w["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&daemon), ["b", "project-a", "small"]);
    assert_eq!(post(&daemon, json!({ "name": "more" })).code(), (409, "conflict".into()));
    bash(&daemon, "small", "head -c 1000000 /dev/zero > f");
    let one = get(&daemon, "/small").json();
    assert!(one["used_bytes"].as_u64().unwrap() >= 1_000_000 && one["files_used"] == 1, "{one}");
    // Bad input, everything of it named.
    let bad = post(&daemon, json!({ "name": "a/b", "size_mb": 0, "x": 1 }));
    assert_eq!(bad.code(), (400, "malformed_request".into()));
    let pointers: Vec<_> = bad.json()["errors"].as_array().unwrap().iter().map(|e| e["pointer"].clone()).collect();
    assert_eq!(pointers, ["/name", "/size_mb", "/x"]);
    assert_eq!(post(&daemon, json!({ "name": "c", "size_mb": 1_000 })).code(), (400, "malformed_request".into()));
    assert_eq!(put(&daemon, "/..", b"").status, 400);
    assert_eq!(get(&daemon, "/nonesuch").code(), (404, "unknown_workspace".into()));
    // In use it stays, and then it goes with everything.
    let call =
        json!({ "tool_name": "bash", "parameters": { "command": "sleep 30" }, "context": { "workspace": "small" } });
    let run = daemon.request("POST", "/api/v1/executions", Some(&call)).body;
    let path = format!("/api/v1/executions/{}", run["execution_id"].as_str().unwrap());
    while daemon.request("GET", &path, None).body["state"] != "running" {}
    assert_eq!(delete(&daemon, "/small").code(), (409, "conflict".into()));
    daemon.request("DELETE", &path, None);
    while daemon.request("GET", &path, None).body["state"] != "ended" {}
    assert_eq!(delete(&daemon, "/small").status, 204);
    assert_eq!(delete(&daemon, "/small").code(), (404, "unknown_workspace".into()));
    assert_eq!(names(&daemon), ["b", "project-a"]);
    let (_, clean, dir) = daemon.stop_and_keep();
    assert!(clean);
    drop(dir);
}

#[test]
fn files_come_and_go_whole_whatever_their_size() {
    if !machine::expect("root") {
        return;
    }
    let daemon = Daemon::start(&format!("{SETTINGS}[http]\nbody_timeout_ms = 1000\n"), &[]);
    put(&daemon, "/w", b"");
    let large: Vec<u8> = (0..9_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let made = put(&daemon, "/w/files/a/b/large.bin", &large);
    assert_eq!((made.status, &made.json()["bytes_written"]), (201, &json!(9_000_000)), "{}", made.json());
    let got = get(&daemon, "/w/files/a/b/large.bin");
    assert_eq!((got.status, got.whole, got.body == large), (200, true, true));
    assert!(
        got.head.contains("content-type: application/octet-stream") && got.head.contains("nosniff"),
        "{}",
        got.head
    );
    assert_eq!(put(&daemon, "/w/files/a/b/large.bin", b"small").status, 200);
    assert_eq!(get(&daemon, "/w/files/a/b/large.bin").body, b"small");
    assert_eq!(put(&daemon, "/w/files/empty", b"").status, 201);
    let empty = get(&daemon, "/w/files/empty");
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    assert_eq!(put(&daemon, "/w/files/sp%20ace/%C3%BC", b"x").status, 201);
    assert_eq!(bash(&daemon, "w", "cat 'sp ace/ü'; stat -c '%a %s' a/b/large.bin"), "x644 5\n");
    let listed = get(&daemon, "/w/files?recursive=true&pattern=*.bin").json();
    assert_eq!(listed["entries"][0]["path"], "a/b/large.bin", "{listed}");
    assert_eq!(get(&daemon, "/w/files?x=1&limit=0").code(), (400, "malformed_request".into()));
    // In pieces of the caller's own choice.
    let chunked = b"3\r\nabc\r\n5\r\ndefgh\r\n0\r\n\r\n";
    let path = format!("{ROOT}/w/files/chunked");
    assert_eq!(read(send(&daemon, "PUT", &path, "Transfer-Encoding: chunked\r\n", chunked)).status, 201);
    assert_eq!(get(&daemon, "/w/files/chunked").body, b"abcdefgh");
    // What is cut short, or stops coming, changes nothing.
    let cut = send(&daemon, "PUT", &path, "Transfer-Encoding: chunked\r\n", b"3\r\nxyz\r\n5\r\nuv");
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    drop(cut);
    let began = Instant::now();
    let slow = read(send(&daemon, "PUT", &path, "Content-Length: 100\r\n", b"xyz"));
    assert_eq!(slow.code(), (408, "request_timeout".into()));
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(get(&daemon, "/w/files/chunked").body, b"abcdefgh");
    assert_eq!(bash(&daemon, "w", "ls -A"), "a\nchunked\nempty\nsp ace\n");
    // More than there is room for: told, and the old file stays.
    let full = put(&daemon, "/w/files/chunked", &vec![1; 40 << 20]);
    assert_eq!(full.code(), (413, "too_large".into()), "{}", full.json());
    assert_eq!(get(&daemon, "/w/files/chunked").body, b"abcdefgh");
    for (path, code) in [
        ("/w/files/none", (404, "not_found")),
        ("/w/files/a", (409, "conflict")),
        ("/w/files/a/../../x", (400, "malformed_request")),
        ("/w/files//etc/passwd", (404, "not_found")),
        ("/nonesuch/files/a", (404, "unknown_workspace")),
    ] {
        assert_eq!(get(&daemon, path).code(), (code.0, code.1.to_owned()), "{path}");
    }
    bash(&daemon, "w", "ln -s /etc/passwd link; mkfifo fifo");
    assert_eq!(get(&daemon, "/w/files/link").code(), (400, "malformed_request".into()));
    assert_eq!(get(&daemon, "/w/files/fifo").code(), (409, "conflict".into()));
    assert_eq!(delete(&daemon, "/w/files/a").code(), (409, "conflict".into()));
    assert_eq!(
        (delete(&daemon, "/w/files/a?recursive=true").status, delete(&daemon, "/w/files/link").status),
        (204, 204)
    );
    assert_eq!(delete(&daemon, "/w/files/a").code(), (404, "not_found".into()));
    let compressed = read(send(&daemon, "PUT", &path, "Content-Length: 1\r\nContent-Encoding: gzip\r\n", b"x"));
    assert_eq!(compressed.code(), (415, "unsupported_media_type".into()));
    assert!(daemon.stop().1);
}

#[test]
fn a_directory_goes_as_an_archive_and_comes_back() {
    if !machine::expect("root") {
        return;
    }
    let daemon = Daemon::start(SETTINGS, &[]);
    put(&daemon, "/w", b"");
    bash(
        &daemon,
        "w",
        "mkdir -p src/d; echo one > src/a; ln -s a src/l; head -c 5000000 /dev/urandom > src/d/big; chmod 700 src/a",
    );
    let sum = bash(&daemon, "w", "cd src; sha256sum d/big");
    let archive = get(&daemon, "/w/archive?path=src");
    assert_eq!((archive.status, archive.whole), (200, true));
    assert!(archive.head.contains("application/x-tar"), "{}", archive.head);
    // As others' tar reads it.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.tar");
    std::fs::write(&file, &archive.body).unwrap();
    let listed = std::process::Command::new("tar").arg("-tvf").arg(&file).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("-rwx------") && listed.contains("l -> a") && listed.contains("d/big"), "{listed}");
    put(&daemon, "/v", b"");
    let taken = put(&daemon, "/v/archive?path=copy", &archive.body);
    assert_eq!((taken.status, taken.json()["skipped"].clone()), (200, json!([])), "{}", taken.json());
    assert_eq!(bash(&daemon, "v", "cd copy; sha256sum d/big; cat l; stat -c %a a"), format!("{sum}one\n700\n"));
    // As others' tar writes it.
    let made =
        std::process::Command::new("tar").args(["-C", "/usr/share/doc", "-cf", "-", "base-files"]).output().unwrap();
    let taken = put(&daemon, "/v/archive", &made.stdout);
    assert_eq!(taken.status, 200, "{}", taken.json());
    assert!(bash(&daemon, "v", "cat base-files/copyright").contains("Debian"));
    let cut = put(&daemon, "/v/archive?path=cut", &archive.body[..archive.body.len() / 2]);
    assert_eq!(cut.code(), (400, "malformed_request".into()));
    assert_eq!(put(&daemon, "/v/archive?path=../x", &archive.body).code(), (400, "malformed_request".into()));
    assert_eq!(get(&daemon, "/v/archive?path=none").code(), (404, "not_found".into()));
    assert!(daemon.stop().1);
}
