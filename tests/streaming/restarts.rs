//! Runs without a caller over the ends of a front, of the engine, and of both.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

/// What the engine starts ahead would be counted, too.
/// And code of Python may import anything: that is tested elsewhere.
pub const NO_POOL: &str = "[pool]\nenabled = false\n[checks]\npython = false\n";

pub fn accept(daemon: &Daemon, body: &Value) -> String {
    let reply = daemon.request("POST", "/api/v1/executions", Some(body));
    assert_eq!(reply.status, 202, "{}", reply.body);
    reply.body["execution_id"].as_str().unwrap().to_owned()
}

fn look(daemon: &Daemon, id: &str) -> Reply {
    daemon.request("GET", &format!("/api/v1/executions/{id}"), None)
}

pub fn ended(daemon: &Daemon, id: &str) -> Value {
    let mut last = Value::Null;
    until("the run does not end", || {
        last = daemon.try_request("GET", &format!("/api/v1/executions/{id}"), None).map_or(Value::Null, |r| r.body);
        last["state"] == "ended"
    });
    last
}

/// Ends the front by `signal`; its supervisor starts another.
pub fn another_front(daemon: &Daemon, signal: Signal) {
    let front = daemon.child_named("sandkeepd");
    kill(Pid::from_raw(front), signal).unwrap();
    until("no other front", || daemon.children().iter().any(|(name, pid)| name == "sandkeepd" && *pid != front));
    daemon.wait_ready();
}

fn another_engine(daemon: &Daemon) {
    let engine = daemon.child_named("sandkeep-engine");
    kill(Pid::from_raw(engine), Signal::SIGKILL).unwrap();
    until("no other engine", || {
        daemon.children().iter().any(|(name, pid)| name == "sandkeep-engine" && *pid != engine)
    });
    daemon.wait_ready();
}

/// What the engine and the front hold for runs: nothing once all is taken.
fn kept_directories(daemon: &Daemon) -> usize {
    std::fs::read_dir(daemon.dir.path().join("front/executions")).unwrap().count()
}

fn sandboxes(daemon: &Daemon) -> usize {
    let pid = daemon.child_named("sandkeep-engine");
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().count()
}

#[test]
fn a_front_that_ends_loses_and_repeats_nothing() {
    let daemon = Daemon::start(NO_POOL, &[]);
    // Control: a run with a caller ends with the front.
    let mut plain = Follow::execute(&daemon, &bash("echo begun; sleep 60"));
    assert_eq!(plain.next().unwrap().kind, "started");
    let script = "for i in $(seq 1 60); do echo out$i; echo err$i >&2; sleep 0.05; done; cat; exit 7";
    let body = json!({ "tool_name": "bash", "parameters": { "command": script, "stdin": "x".repeat(300_000) },
        "context": { "metadata": { "a": 1 }, "agent_id": "agent" } });
    let id = accept(&daemon, &body);
    let mut follow = Follow::resume(&daemon, &id, 0);
    let mut events: Vec<Event> = (0..4).map(|_| follow.next().unwrap()).collect();
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
        another_front(&daemon, signal);
        let here = look(&daemon, &id);
        assert_eq!((here.status, here.body["state"].as_str()), (200, Some("running")), "{}", here.body);
        follow = Follow::resume(&daemon, &id, events.last().unwrap().id);
        events.extend((0..4).map(|_| follow.next().unwrap()));
    }
    events.extend(follow.rest());
    rising(&events);
    let lines = |name: &str| (1..=60).map(|i| format!("{name}{i}\n")).collect::<String>();
    assert_eq!(text(&events, "stdout"), lines("out") + &"x".repeat(300_000));
    assert_eq!(text(&events, "stderr"), lines("err"));
    assert_eq!(events.iter().filter(|e| e.kind == "started").count(), 1);
    let result = events.last().unwrap();
    assert_eq!(result.kind, "result");
    let reply = &result.data;
    assert_eq!(reply["result"]["exit_code"], 7, "{reply}");
    assert_eq!(reply["result"]["stdout"].as_str().unwrap().len(), lines("out").len() + 300_000);
    assert_eq!(
        (&reply["metadata"]["a"], &reply["agent_id"], &reply["attempts"]),
        (&json!(1), &json!("agent"), &json!(1))
    );
    assert!(reply["execution_time"].as_f64().unwrap() > 3.0, "{reply}");
    assert_eq!(reply["sandbox"]["enforced"]["no_new_privs"], true, "{reply}");
    // Its end, its events and its reply outlive a front as well.
    until("sandboxes are left", || sandboxes(&daemon) == 0);
    another_front(&daemon, Signal::SIGKILL);
    assert_eq!(look(&daemon, &id).body["result"], *reply);
    let mut again = Follow::resume(&daemon, &id, 0);
    let all = again.rest();
    rising(&all);
    assert_eq!((text(&all, "stdout"), text(&all, "stderr")), (text(&events, "stdout"), text(&events, "stderr")));
    assert_eq!(all.last().unwrap().data, *reply);
    assert_eq!(all.last().unwrap().id, result.id);
    // Forgotten on request, for good.
    assert_eq!(kept_directories(&daemon), 1);
    daemon.request("DELETE", &format!("/api/v1/executions/{id}"), None);
    until("its directory is left", || kept_directories(&daemon) == 0);
    another_front(&daemon, Signal::SIGKILL);
    assert_eq!(look(&daemon, &id).status, 404);
}

#[test]
fn a_flood_over_many_ends_is_whole_and_the_same_call_runs_once() {
    let daemon = Daemon::start(NO_POOL, &[]);
    let code = "import sys, time\nfor i in range(8000):\n    print(f'{i:06d}' + 'é' * 120)\n    if i % 500 == 0: \
                time.sleep(0.2)\nprint(file=sys.stderr)\nanswer = 42";
    let body = json!({ "tool_name": "python", "parameters": { "code": code },
        "context": { "execution_id": "flood-1", "limits": { "max_output_bytes": 4 << 20 } } });
    let id = accept(&daemon, &body);
    assert_eq!(id, "flood-1");
    // A front that never ran for a second is not started for ever.
    std::thread::sleep(Duration::from_millis(1100));
    let mut pause = 7;
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(pause));
        pause = pause * 2 % 331;
        another_front(&daemon, Signal::SIGKILL);
        // Whoever lost the reply asks again, and gets the same run.
        let again = daemon.request("POST", "/api/v1/executions", Some(&body));
        assert!(again.status == 202 || again.status == 200, "{}", again.body);
    }
    let reply = ended(&daemon, &id)["result"].clone();
    let expected: String = (0..8000).map(|i| format!("{i:06}{}\n", "é".repeat(120))).collect();
    let output = reply["result"]["output"].as_str().unwrap();
    assert!(output.starts_with(&expected), "{} of {}", output.len(), expected.len());
    assert_eq!(reply["result"]["variables"]["answer"], 42);
    assert_eq!((&reply["attempts"], &reply["outcome"]["kind"]), (&json!(1), &json!("exited")), "{}", reply["outcome"]);
    assert_eq!(kept_directories(&daemon), 1);
    another_front(&daemon, Signal::SIGKILL);
    let again = daemon.request("POST", "/api/v1/executions", Some(&body));
    let stored = if again.status == 202 { ended(&daemon, &id)["result"].clone() } else { again.body };
    assert_eq!(stored["sandbox"]["id"], reply["sandbox"]["id"]);
    until("sandboxes are left", || sandboxes(&daemon) == 0);
}

#[test]
fn what_waits_and_what_is_to_end_is_not_forgotten() {
    let daemon = Daemon::start("[capacity]\nsandboxes = 1\n[pool]\nenabled = false\n", &[]);
    let first = accept(&daemon, &bash("sleep 1.5; echo first"));
    let waits = accept(&daemon, &bash("echo waited"));
    until("the first does not run", || look(&daemon, &first).body["state"] == "running");
    assert_eq!(look(&daemon, &waits).body["state"], "queued");
    another_front(&daemon, Signal::SIGTERM);
    another_front(&daemon, Signal::SIGKILL);
    assert_eq!(ended(&daemon, &waits)["result"]["result"]["stdout"], "waited\n");
    assert_eq!(ended(&daemon, &first)["result"]["result"]["stdout"], "first\n");
    // One that ends while no front is there holds no place for ever.
    let unseen = accept(&daemon, &bash("sleep 0.5; echo unseen"));
    until("it does not run", || look(&daemon, &unseen).body["state"] == "running");
    let supervisor = Pid::from_raw(daemon.pid());
    kill(supervisor, Signal::SIGSTOP).unwrap();
    kill(Pid::from_raw(daemon.child_named("sandkeepd")), Signal::SIGKILL).unwrap();
    until("the sandbox is left", || sandboxes(&daemon) == 0);
    kill(supervisor, Signal::SIGCONT).unwrap();
    daemon.wait_ready();
    assert_eq!(ended(&daemon, &unseen)["result"]["result"]["stdout"], "unseen\n");
    // Nor is one forgotten that waits while the engine ends.
    let first = accept(&daemon, &bash("sleep 60"));
    let waits = accept(&daemon, &bash("echo waited"));
    until("the first does not run", || look(&daemon, &first).body["state"] == "running");
    another_engine(&daemon);
    assert_eq!(ended(&daemon, &first)["result"]["outcome"]["kind"], "engine_fault");
    assert_eq!(ended(&daemon, &waits)["result"]["result"]["stdout"], "waited\n");
    // Ended by whoever may, just before, and after.
    let long = accept(&daemon, &bash("echo begun; sleep 60"));
    until("it does not run", || look(&daemon, &long).body["state"] == "running");
    another_front(&daemon, Signal::SIGKILL);
    daemon.request("DELETE", &format!("/api/v1/executions/{long}"), None);
    let reply = ended(&daemon, &long)["result"].clone();
    assert_eq!((&reply["outcome"]["kind"], &reply["outcome"]["by"]), (&json!("killed"), &json!("caller")), "{reply}");
    assert_eq!(reply["result"]["stdout"], "begun\n");
}

#[test]
fn an_engine_that_ends_meanwhile_is_told_and_nothing_that_was_written_is_lost() {
    let daemon = Daemon::start("", &[]);
    let id = accept(&daemon, &bash("echo begun; sleep 60"));
    let mut follow = Follow::resume(&daemon, &id, 0);
    let mut events = vec![follow.next().unwrap(), follow.next().unwrap()];
    assert_eq!(text(&events, "stdout"), "begun\n");
    let supervisor = Pid::from_raw(daemon.pid());
    // Neither is there again before both are gone.
    kill(supervisor, Signal::SIGSTOP).unwrap();
    for name in ["sandkeepd", "sandkeep-engine"] {
        kill(Pid::from_raw(daemon.child_named(name)), Signal::SIGKILL).unwrap();
    }
    kill(supervisor, Signal::SIGCONT).unwrap();
    daemon.wait_ready();
    let mut follow = Follow::resume(&daemon, &id, events.last().unwrap().id);
    events.extend(follow.rest());
    rising(&events);
    assert_eq!(text(&events, "stdout"), "begun\n");
    let reply = &events.last().unwrap().data;
    assert_eq!(reply["outcome"]["kind"], "engine_fault", "{reply}");
    assert_eq!(reply["result"]["stdout"], "begun\n");
    // Control: an engine that ends under a front that stays.
    let id = accept(&daemon, &bash("echo begun; sleep 60"));
    until("it does not run", || look(&daemon, &id).body["state"] == "running");
    another_engine(&daemon);
    assert_eq!(ended(&daemon, &id)["result"]["outcome"]["kind"], "engine_fault");
}

/// What is told of a sandbox is the sandbox's own, whatever a call like it would get now.
#[test]
fn a_run_that_is_taken_up_again_is_told_at_the_level_at_which_it_ran() {
    let tools = tempfile::tempdir().unwrap();
    let file = tools.path().join("slow.toml");
    let manifest = |level: &str| {
        let text = format!(
            "name = \"slow\"\nversion = \"1.0.0\"\ndescription = \"Says one word, late\"\nlevel = \"{level}\"\n\
             [run]\nlanguage = \"bash\"\ncode = \"sleep 1; echo word\"\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    manifest("standard");
    let daemon = Daemon::start(&format!("tools_dir = {:?}\n{NO_POOL}", tools.path()), &[]);
    let call = json!({ "tool_name": "slow", "parameters": {} });
    let id = accept(&daemon, &call);
    until("it does not run", || look(&daemon, &id).body["state"] == "running");
    manifest("strict");
    another_front(&daemon, Signal::SIGKILL);
    let reply = ended(&daemon, &id)["result"].clone();
    assert_eq!(reply["result"], "word\n", "{reply}");
    let told =
        |reply: &Value| (reply["sandbox"]["level"].clone(), reply["sandbox"]["enforced"]["seccomp"]["profile"].clone());
    let (level, profile) = told(&reply);
    assert_eq!(level, "standard", "{reply}");
    // Control: the manifest is in force for the next one.
    let next = daemon.execute(call).body;
    assert_eq!(next["sandbox"]["level"], "strict", "{next}");
    assert_ne!(told(&next).1, profile);
}
