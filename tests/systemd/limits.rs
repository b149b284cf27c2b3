//! What the kernel's controllers hold, through the installed service over HTTP. Numbers are limits of the call, not of the
//! machine: a guest that takes all it can is the same on a small one.

use serde_json::{Value, json};

use crate::service::*;

const MIB: u64 = 1 << 20;

fn hits(reply: &Value, kind: &str) -> u64 {
    let list = reply["outcome"]["limits_hit"].as_array().cloned().unwrap_or_default();
    list.iter().find(|hit| hit["limit"] == kind || hit["kind"] == kind).map_or(0, |hit| hit["count"].as_u64().unwrap())
}

fn peak(reply: &Value) -> u64 {
    reply["usage"]["memory_peak_bytes"].as_u64().unwrap()
}

#[test]
fn eight_gibibytes_touched_end_at_the_limit_with_the_group_gone() {
    let Some(service) = Service::take() else { return };
    // In pieces: as a whole it is more than this machine has, and refused before a page is touched.
    let program = "
kept = []
for n in range(128):
    kept.append(bytearray(64 << 20))
    kept[-1][::4096] = b'x' * (len(kept[-1]) // 4096)
";
    let reply = service.python(program, json!({ "max_memory_mb": 512 }));
    println!("{}", reply["outcome"]);
    assert_eq!((&reply["success"], &reply["outcome"]["kind"]), (&json!(false), &json!("out_of_memory")), "{reply}");
    // The cgroup's own counter, and its own high-water mark.
    assert!(hits(&reply, "memory") >= 1, "{}", reply["outcome"]);
    assert!((448 * MIB..=513 * MIB).contains(&peak(&reply)), "{}", reply["usage"]);
    let cgroup = &reply["sandbox"]["enforced"]["cgroup"];
    assert_eq!(cgroup["memory_max_bytes"], 512 * MIB, "{cgroup}");
    assert_eq!(reply["sandbox"]["degraded"], json!([]));
    Traces::wait_nothing();
    service.answers();
}

#[test]
fn a_fork_bomb_is_refused_and_counted() {
    let Some(service) = Service::take() else { return };
    let program = "
import os, time
born, refused = 0, 0
for n in range(100):
    try:
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
        born += 1
    except BlockingIOError:
        refused += 1
print(born, refused)
";
    let reply = service.python(program, json!({ "max_processes": 32, "max_memory_mb": 256 }));
    println!("{} {}", reply["outcome"], reply["result"]["output"]);
    assert_eq!(reply["outcome"]["kind"], "exited", "{reply}");
    let output = reply["result"]["output"].as_str().unwrap();
    let numbers: Vec<u64> = output.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [born, refused] = numbers[..] else { panic!("{output}") };
    // Pid 1 and the command itself count too.
    assert_eq!((born, refused), (30, 70));
    assert_eq!(hits(&reply, "processes").max(hits(&reply, "pids")), refused, "{}", reply["outcome"]);
    Traces::wait_nothing();

    let program = "import os\nwhile True:\n try: os.fork()\n except BlockingIOError: pass";
    let reply = service.python(program, json!({ "max_processes": 32, "max_memory_mb": 256 }));
    assert_eq!(reply["outcome"]["kind"], "pids_limit", "{reply}");
    Traces::wait_nothing();
    service.answers();
}

#[test]
fn sixteen_spinning_threads_have_one_share_of_cpu() {
    let Some(service) = Service::take() else { return };
    // Processes: threads of Python take turns by themselves.
    let call = |percent: f64| {
        let script = "for n in {1..16}; do (while :; do :; done) & done; sleep 3; exit 0";
        let limits = json!({ "max_cpu_percent": percent, "max_memory_mb": 128 });
        let parameters = json!({ "command": script, "timeout": 60 });
        service.run(&json!({ "tool_name": "bash", "parameters": parameters, "context": { "limits": limits } }))
    };
    for percent in [25.0, 50.0] {
        let reply = call(percent);
        println!("{percent} %: {} {}", reply["usage"], reply["outcome"]);
        let share = 100.0 * reply["usage"]["cpu_ms"].as_f64().unwrap() / reply["usage"]["wall_ms"].as_f64().unwrap();
        // One period of slack at either end; an emulated machine may have less to give.
        assert!((0.3 * percent..=1.25 * percent).contains(&share), "{share} of {percent}: {reply}");
        assert!(hits(&reply, "cpu") > 0, "{}", reply["outcome"]);
    }
    Traces::wait_nothing();
}

#[test]
fn scratch_and_anonymous_files_are_charged() {
    let Some(service) = Service::take() else { return };
    let program = "
size = 0
try:
    with open('/tmp/f', 'wb') as f:
        while True: size += f.write(bytes(1 << 20))
except OSError as e:
    print(e.strerror, size >> 20)
";
    let reply = service.python(program, json!({ "max_memory_mb": 128 }));
    println!("{} {}", reply["result"]["output"], reply["usage"]);
    let output = reply["result"]["output"].as_str().unwrap_or_default().to_owned();
    let full: u64 = output.trim().strip_prefix("No space left on device ").and_then(|n| n.parse().ok()).unwrap_or(0);
    // Scratch is full before memory is, and its pages are the sandbox's own.
    assert!((16..128).contains(&full), "{reply}");
    assert!((full * MIB..=(full + 64) * MIB).contains(&peak(&reply)), "{full} MiB: {}", reply["usage"]);
    assert_eq!(hits(&reply, "disk"), 1, "{}", reply["outcome"]);

    let program = "
import os
kept = []
for n in range(16):
    kept.append(os.memfd_create('m'))
    for m in range(16): os.write(kept[-1], bytes(1 << 20))
";
    let reply = service.python(program, json!({ "max_memory_mb": 128 }));
    println!("{} {}", reply["outcome"], reply["usage"]);
    assert_eq!(reply["outcome"]["kind"], "out_of_memory", "{reply}");
    assert!((112 * MIB..=129 * MIB).contains(&peak(&reply)), "{}", reply["usage"]);
    Traces::wait_nothing();
}
