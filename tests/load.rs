//! Many callers at once: who floods fills its own queue, who is slow or huge waits alone. A stand-in plays the engine, so
//! that what is seen is the front's doing; `tests/daemon.rs` has the same crowd with real sandboxes.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::monitor::Monitor;
use support::{Front, Reply, post, read_reply};

const PRINCIPALS: &str = "[[principals]]\nname = 'a'\n[[principals]]\nname = 'b'\n";
const KEYS: [(&str, &str); 2] = [("a", "sandkeep_a"), ("b", "sandkeep_b")];

fn start(settings: &str, sandboxes_max: u32) -> (Front, Monitor) {
    let front = Front::start_with_keys(&format!("{settings}\n{PRINCIPALS}"), &KEYS);
    let monitor = Monitor::start(&front.engine_socket(), front.dir.path(), sandboxes_max);
    assert_eq!(front.get("/readyz").status, 200);
    (front, monitor)
}

fn bash(command: &str) -> Value {
    json!({ "tool_name": "bash", "parameters": { "command": command } })
}

/// A call that is sent and not yet answered, as the principal of `key`.
fn send(to: SocketAddr, key: &str, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let body = body.to_string();
    write!(stream, "{}Authorization: Bearer {key}\r\nConnection: close\r\n\r\n{body}", post(body.len())).unwrap();
    stream
}

fn call(to: SocketAddr, key: &str, body: &Value) -> Reply {
    read_reply(send(to, key, body))
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn metric(front: &Front, name: &str) -> u64 {
    let text = front.get("/metrics").body;
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
}

/// A flood of 40 calls of 0.25 s over two places takes five seconds in order of arrival.
#[test]
fn who_floods_delays_nobody_else() {
    let (front, _monitor) = start("", 2);
    let flood: Vec<_> = (0..40).map(|_| send(front.tcp, KEYS[0].1, &bash("sleep 0.25"))).collect();
    wait_for("the flood waits", || metric(&front, "sandkeep_executions_waiting") >= 37);
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        let began = Instant::now();
        let reply = call(front.tcp, KEYS[1].1, &bash("true"));
        assert_eq!((reply.status, &reply.json()["success"]), (200, &json!(true)), "{reply:?}");
        slowest = slowest.max(began.elapsed());
    }
    assert!(metric(&front, "sandkeep_executions_waiting") >= 10, "the flood was still there");
    assert!(slowest < Duration::from_millis(1500), "{slowest:?} where one turn takes a quarter of a second");
    // Control: the flooder's own next call waits behind what it has sent.
    let began = Instant::now();
    assert_eq!(call(front.tcp, KEYS[0].1, &bash("true")).status, 200);
    assert!(began.elapsed() > slowest, "{:?}", began.elapsed());
    for stream in flood {
        assert_eq!(read_reply(stream).status, 200);
    }
}

#[test]
fn a_full_queue_is_told_at_once_and_is_its_owners_alone() {
    let (front, _monitor) = start("[http]\nqueue_max = 4\nqueue_total_max = 6\n", 1);
    let held = send(front.tcp, KEYS[0].1, &bash("sleep 2.5"));
    wait_for("it runs", || front.get("/api/v1/executions").body.contains("running"));
    let mut waiting: Vec<_> = (0..4).map(|_| send(front.tcp, KEYS[0].1, &bash("true"))).collect();
    wait_for("four wait", || metric(&front, "sandkeep_executions_waiting") == 4);
    let began = Instant::now();
    let refused = call(front.tcp, KEYS[0].1, &bash("true"));
    assert_eq!(refused.problem(), (429, "rate_limited".into()));
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // Others have queues of their own, and where all are full the longest one makes room.
    let others: Vec<_> = (0..3).map(|_| send(front.tcp, KEYS[1].1, &bash("true"))).collect();
    let pushed_out = read_reply(waiting.pop().unwrap());
    assert_eq!(pushed_out.problem(), (503, "at_capacity".into()));
    assert!(pushed_out.header("retry-after").is_some());
    let refused = call(front.tcp, KEYS[1].1, &bash("true"));
    assert_eq!(refused.problem(), (503, "at_capacity".into()), "its own queue would be the longest");
    assert!(began.elapsed() < Duration::from_secs(2), "all of that at once: {:?}", began.elapsed());
    for stream in waiting.into_iter().chain(others).chain([held]) {
        assert_eq!(read_reply(stream).status, 200);
    }
    assert_eq!(metric(&front, "sandkeep_admission_refused_total{reason=\"own_queue\"}"), 1);
    assert_eq!(metric(&front, "sandkeep_admission_refused_total{reason=\"pushed_out\"}"), 1);
    assert_eq!(metric(&front, "sandkeep_admission_refused_total{reason=\"all_queues\"}"), 1);
}

/// The stand-in has 4 GiB: a call of all of it among many of an eighth.
#[test]
fn a_huge_call_neither_blocks_nor_starves() {
    let (front, _monitor) = start("", 64);
    let small = |seconds: f64| {
        let mut body = bash(&format!("sleep {seconds}"));
        body["context"] = json!({ "limits": { "max_memory_mb": 512 } });
        body
    };
    let mut huge = bash("true");
    huge["context"] = json!({ "limits": { "max_memory_mb": 4096 } });
    let stop = AtomicBool::new(false);
    // Holds a place for longer than the rest of the test needs.
    let long = send(front.tcp, KEYS[0].1, &small(4.0));
    wait_for("it runs", || front.get("/api/v1/executions").body.contains("running"));
    let began = Instant::now();
    std::thread::scope(|scope| {
        let huge = scope.spawn(|| {
            let reply = call(front.tcp, KEYS[0].1, &huge);
            (reply.status, began.elapsed())
        });
        wait_for("the huge one waits", || metric(&front, "sandkeep_executions_waiting") > 0);
        let callers: Vec<_> = (0..12)
            .map(|_| {
                scope.spawn(|| {
                    let (mut done, mut longest) = (0, Duration::ZERO);
                    while !stop.load(Ordering::Relaxed) {
                        let sent = Instant::now();
                        assert_eq!(call(front.tcp, KEYS[1].1, &small(0.05)).status, 200);
                        longest = longest.max(sent.elapsed());
                        done += 1;
                    }
                    (done, longest)
                })
            })
            .collect();
        let (status, took) = huge.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        let small: Vec<(i32, Duration)> = callers.into_iter().map(|c| c.join().unwrap()).collect();
        let (done, longest) = (small.iter().map(|s| s.0).sum::<i32>(), small.iter().map(|s| s.1).max().unwrap());
        assert_eq!(status, 200);
        // It can not begin before the long one has ended; others hold the rest until it may.
        assert!(took > Duration::from_secs(3) && took < Duration::from_secs(20), "{took:?}");
        // Where nobody passes the head of one queue, each of the twelve would have waited once, for the whole of it.
        assert!(done > 36, "{done} small calls in {took:?}");
        assert!(longest < took / 4 * 3, "{longest:?} of {took:?}");
    });
    assert_eq!(read_reply(long).status, 200);
}

/// On default settings, over both kinds of socket, with 8 places.
#[test]
fn two_hundred_at_once_all_get_their_own_answer() {
    let (front, monitor) = start("", 8);
    let unix = |socket: &Path, body: &Value| {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        let body = body.to_string();
        write!(stream, "{}Connection: close\r\n\r\n{body}", post(body.len())).unwrap();
        read_reply(stream)
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        for n in 0..200 {
            let (front, unix) = (&front, &unix);
            scope.spawn(move || {
                let body = bash(&format!("echo {n}"));
                let reply =
                    if n % 2 == 0 { unix(&front.socket(), &body) } else { call(front.tcp, KEYS[n / 2 % 2].1, &body) };
                assert_eq!(reply.status, 200, "{reply:?}");
                assert_eq!(reply.json()["result"]["stdout"], format!("{n}\n"));
            });
        }
    });
    assert!(began.elapsed() < Duration::from_secs(100), "{:?}", began.elapsed());
    wait_for("nothing is left", || monitor.live() == 0 && metric(&front, "sandkeep_executions_live") == 0);
}

/// Nor does a large batch, on its way in or out.
#[test]
fn a_large_batch_holds_up_nobody() {
    let (front, _monitor) = start("", 16);
    let probe = || {
        let began = Instant::now();
        assert_eq!(front.get("/healthz").status, 200);
        began.elapsed()
    };
    let quiet = (0..50).map(|_| probe()).max().unwrap();
    let with = |command: &str, stdin: String, id: &str| {
        let mut call = bash(command);
        call["parameters"]["stdin"] = stdin.into();
        // Under an id, the text of a call is gone over once more.
        call["context"] = json!({ "limits": { "max_output_bytes": 4_000_000 }, "execution_id": id });
        call
    };
    // Every byte of the reply is escaped as six.
    let calls = json!([
        with("wc -c", "y".repeat(4 << 20), "in-1"),
        with("wc -c", "y".repeat(4 << 20), "in-2"),
        with("wc -c", "y".repeat(4 << 20), "in-3"),
        with("head -c 4000000 /dev/zero | tr '\\0' '\\1'", String::new(), "out"),
    ]);
    let body = calls.to_string();
    let head = post(body.len()).replace("/execute", "/batch");
    let stop = AtomicBool::new(false);
    let (reply, loud) = std::thread::scope(|scope| {
        let prober = scope.spawn(|| {
            let mut worst = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                worst = worst.max(probe());
                std::thread::sleep(Duration::from_millis(2));
            }
            worst
        });
        let reply = front.raw(&head, body.as_bytes());
        stop.store(true, Ordering::Relaxed);
        (reply, prober.join().unwrap())
    });
    eprintln!("quiet {quiet:?}, loud {loud:?}");
    assert_eq!((reply.status, reply.body.matches("\"stdout\":\"4194304\\n\"").count()), (200, 3));
    assert!(reply.body.len() > 6 * 4_000_000 && reply.body.ends_with("}]"), "{}", reply.body.len());
    assert!(loud < (quiet * 10).max(Duration::from_millis(250)), "quiet {quiet:?}, loud {loud:?}");
}

/// Readers that take nothing of large replies, and senders of large bodies, do not hold up a small call.
#[test]
fn a_stalled_reader_and_large_texts_hold_up_nobody() {
    let (front, _monitor) = start("", 16);
    let probe = || {
        let began = Instant::now();
        assert_eq!(front.get("/healthz").status, 200);
        std::thread::sleep(Duration::from_millis(2));
        began.elapsed()
    };
    let quiet = (0..50).map(|_| probe()).max().unwrap();
    let mut large = bash("head -c 8000000 /dev/zero | tr '\\0' '\\1'");
    large["context"] = json!({ "limits": { "max_output_bytes": 8_000_000 } });
    let stdin = json!({ "tool_name": "bash", "parameters": { "command": "wc -c", "stdin": "y".repeat(4 << 20) } });
    let answered = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let any = stream.peek(&mut [0]).is_ok_and(|n| n == 1);
        stream.set_nonblocking(false).unwrap();
        any
    };
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let (stalled, senders, mut loud) = std::thread::scope(|scope| {
        let prober = scope.spawn(|| {
            let mut loud = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                loud.push(probe());
            }
            loud
        });
        let stalled: Vec<_> = (0..6).map(|_| send(front.tcp, KEYS[0].1, &large)).collect();
        let senders: Vec<_> = (0..4).map(|_| send(front.tcp, KEYS[0].1, &stdin)).collect();
        wait_for("large replies", || stalled.iter().chain(&senders).all(answered));
        stop.store(true, Ordering::Relaxed);
        (stalled, senders, prober.join().unwrap())
    });
    let took = began.elapsed();
    loud.sort_unstable();
    let worst = loud[loud.len() * 99 / 100];
    // And while six readers take nothing of what is ready for them.
    let stuck = (0..50).map(|_| probe()).max().unwrap();
    let began = Instant::now();
    assert_eq!(call(front.tcp, KEYS[1].1, &bash("true")).status, 200);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let seen = format!(
        "{} probes in {took:?}: quiet {quiet:?}, loud {worst:?} max {:?}, stuck {stuck:?}",
        loud.len(),
        loud.last()
    );
    eprintln!("{seen}");
    // The thread that serves everybody would need longer than that for one of those replies.
    let most = (quiet * 10).max(Duration::from_millis(250));
    assert!(worst < most && stuck < most, "{seen}");
    assert!(loud.len() as f64 > 25.0 * took.as_secs_f64(), "{seen}");
    for mut stream in stalled {
        // Every byte is escaped as six.
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        assert!(text.starts_with(b"HTTP/1.1 200") && text.len() > 6 * 8_000_000, "{}", text.len());
    }
    for stream in senders {
        assert_eq!(read_reply(stream).json()["result"]["stdout"], "4194304\n");
    }
}
