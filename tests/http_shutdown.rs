//! SIGTERM: the front ends within five seconds, and running calls are told why. Alone in its process, which gets the
//! signal.

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::json;
use support::monitor::Monitor;
use support::{Front, post};

#[test]
fn a_running_call_is_ended_and_told() {
    let front = Front::start("");
    let _monitor = Monitor::start(&front.engine_socket(), front.dir.path(), 8);
    let mut stream = front.connect();
    let body = json!({ "tool_name": "bash", "parameters": { "command": "echo a; sleep 60" } }).to_string();
    write!(stream, "{}\r\n{body}", post(body.len())).unwrap();
    while !front.get("/api/v1/executions").body.contains("running") {
        std::thread::sleep(Duration::from_millis(5));
    }
    let idle = front.connect();
    let began = Instant::now();
    kill(nix::unistd::getpid(), Signal::SIGTERM).unwrap();
    let reply = support::read_reply(stream);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.json()["outcome"], json!({ "kind": "killed", "by": "shutdown", "limits_hit": [] }));
    front.thread.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(idle);
}
