//! Tools without Rust, in a daemon as its users meet it: files of the operator's and tools that admins register.

#[path = "support/daemon.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::*;

const CALCULATOR: &str = include_str!("../examples/tools/calculator.toml");

/// A directory of manifests and a daemon that reads it.
struct Tools {
    dir: tempfile::TempDir,
    daemon: Daemon,
}

impl Tools {
    fn start(files: &[(&str, &str)], config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(0), Some(0)).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let config = format!("tools_dir = {:?}\n{config}", dir.path());
        Self { daemon: Daemon::start(&config, &[]), dir }
    }

    fn write(&self, name: &str, text: &str) {
        // As an editor: beside it, then in its place.
        let new = self.dir.path().join(format!(".{name}"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn call(&self, tool: &str, parameters: Value, context: Value) -> Reply {
        self.daemon.execute(json!({ "tool_name": tool, "parameters": parameters, "context": context }))
    }

    fn version(&self, tool: &str) -> Option<String> {
        let reply = self.daemon.request("GET", &format!("/api/v1/tools/{tool}"), None);
        reply.body["version"].as_str().map(str::to_owned)
    }

    #[track_caller]
    fn wait(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !holds(self) {
            assert!(Instant::now() < deadline, "{what}:\n{}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn pointers(reply: &Reply) -> Vec<&str> {
    reply.body["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect()
}

#[test]
fn the_seeds_calculator_calculates_and_says_why_it_can_not() {
    let tools = Tools::start(&[("calculator.toml", CALCULATOR)], "");
    let reply = tools.call("calculator", json!({ "operation": "divide", "a": 1, "b": 4 }), json!({}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let body = reply.body;
    assert_eq!((&body["success"], &body["result"]), (&json!(true), &json!({ "result": 0.25 })));
    assert_eq!(body["sandbox"]["level"], "strict", "the tool's own level holds");
    assert_eq!((&body["tool_name"], &body["tool_version"]), (&json!("calculator"), &json!("1.0.0")));
    let reply = tools.call("calculator@1", json!({ "operation": "divide", "a": 1, "b": 0 }), json!({}));
    assert_eq!(reply.body["error"], json!({ "code": "tool_error", "message": "Division by zero" }));
    assert_eq!((&reply.body["success"], &reply.body["outcome"]["exit_code"]), (&json!(false), &json!(1)));

    let reply = tools.call("calculator", json!({ "operation": "power", "a": "1", "c": 2 }), json!({}));
    assert_eq!(reply.status, 422);
    let mut found = pointers(&reply);
    found.sort_unstable();
    assert_eq!(found, ["/parameters/a", "/parameters/b", "/parameters/c", "/parameters/operation"]);
    let beyond = json!({ "limits": { "max_memory_mb": 256 } });
    let reply = tools.call("calculator", json!({ "operation": "add", "a": 1, "b": 1 }), beyond);
    assert_eq!((reply.status, pointers(&reply)), (400, vec!["/context/limits/max_memory_mb"]));
    let reply = tools.call("calculator@2", json!({ "operation": "add", "a": 1, "b": 1 }), json!({}));
    assert_eq!((reply.status, &reply.body["code"]), (404, &json!("unknown_tool")));
}

/// What its author wants beyond what the operator gives is cut to that; what a caller wants beyond it is refused.
#[test]
fn a_manifests_limits_end_at_the_operators() {
    let manifest = |name: &str, limits: &str| {
        format!(
            "name = '{name}'\nversion = '1.0.0'\ndescription = 'd'\n\
             parameters = {{ type = 'object', properties = {{ wait = {{ type = 'integer', default = 0 }} }} }}\n\
             [run]\nlanguage = 'bash'\ntimeout = 300\n\
             code = 'read -r call; echo $(ulimit -f) $(ulimit -d) $(ulimit -u); sleep $(jq .wait <<<$call); head -c 5000 /dev/zero | tr \"\\\\0\" x'\n\
             [limits]\n{limits}"
        )
    };
    let beyond = "max_memory_mb = 100000\nmax_processes = 5000\nmax_file_size_mb = 500\nmax_output_bytes = 9000000\n";
    let within = "max_memory_mb = 64\nmax_processes = 32\nmax_file_size_mb = 1\nmax_output_bytes = 1000\n";
    let files = [("beyond.toml", &*manifest("beyond", beyond)), ("within.toml", &*manifest("within", within))];
    let ceilings = "[ceilings]\nmax_memory_mb = 128\nmax_processes = 48\nmax_file_size_mb = 2\n\
                    max_output_bytes = 2000\nmax_execution_time_seconds = 1\n";
    let tools = Tools::start(&files, ceilings);
    for (tool, memory_mb, processes, file_kib, kept) in
        [("beyond", 128, 48, 2048, 2000), ("within", 64, 32, 1024, 1000)]
    {
        let body = tools.call(tool, json!({}), json!({})).body;
        assert_eq!(body["success"], true, "{body}");
        let said = body["result"].as_str().unwrap();
        assert_eq!((said.len(), &body["output"]["stdout_truncated"]), (kept, &json!(true)), "{tool}");
        let seen: Vec<&str> = said.lines().next().unwrap().split(' ').collect();
        assert_eq!(seen[0], file_kib.to_string(), "{tool}");
        let cgroup = &body["sandbox"]["enforced"]["cgroup"];
        // Where this host has no such controller, processes carry the limit.
        for (name, wanted, own, of_each) in [
            ("memory_max_bytes", memory_mb << 20, seen[1], memory_mb << 10),
            ("pids_max", processes, seen[2], processes),
        ] {
            let holds = if cgroup[name].is_null() { own == of_each.to_string() } else { cgroup[name] == wanted };
            assert!(holds, "{tool}: {name} of {cgroup}, {seen:?}");
        }
    }
    let timed = tools.call("beyond", json!({ "wait": 5 }), json!({})).body;
    assert_eq!((&timed["outcome"]["kind"], &timed["outcome"]["clock"]), (&json!("timed_out"), &json!("wall")));
    let wall_ms = timed["usage"]["wall_ms"].as_f64().unwrap();
    assert!((900.0..3000.0).contains(&wall_ms), "{wall_ms}");
    for (tool, most) in [("beyond", 128), ("within", 64)] {
        let asks = |mb: i32| tools.call(tool, json!({}), json!({ "limits": { "max_memory_mb": mb } }));
        assert_eq!(asks(most).status, 200, "{tool}");
        let reply = asks(most + 1);
        assert_eq!((reply.status, pointers(&reply)), (400, vec!["/context/limits/max_memory_mb"]), "{tool}");
    }
}

#[test]
fn what_was_returned_before_is_returned_to_whoever_asks_for_that() {
    let clock = "name = 'clock'\nversion = '1.0.0'\ndescription = 'd'\nidempotent = true\n\
                 parameters = { type = 'object', properties = { x = { type = 'integer' }, y = { type = 'integer' } } }\n\
                 [run]\ncommand = ['date', '+%N']\n[cache]\nttl = 2\n";
    let plain =
        clock.replace("'clock'", "'plain'").replace("idempotent = true\n", "").replace("[cache]\nttl = 2\n", "");
    let tools = Tools::start(&[("clock.toml", clock), ("plain.toml", &plain)], "");
    let ask = |tool: &str, parameters: Value, cache: bool| {
        let reply = tools.call(tool, parameters, json!({ "cache_enabled": cache, "metadata": { "n": 1 } }));
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.body
    };
    let first = ask("clock", json!({ "x": 1, "y": 2 }), true);
    assert_eq!(first["cached"], false);
    let again = ask("clock", json!({ "y": 2, "x": 1 }), true);
    assert_eq!((&again["cached"], &again["attempts"]), (&json!(true), &json!(0)));
    assert_eq!((&again["result"], &again["sandbox"]["id"]), (&first["result"], &first["sandbox"]["id"]));
    assert_ne!(again["execution_id"], first["execution_id"]);
    assert_eq!(again["metadata"], json!({ "n": 1 }));
    // Whoever does not wait is told where it is, as of one that runs.
    let detached =
        json!({ "tool_name": "clock", "parameters": { "x": 1, "y": 2 }, "context": { "cache_enabled": true } });
    let reply = tools.daemon.request("POST", "/api/v1/executions", Some(&detached));
    assert_eq!(reply.status, 202, "{}", reply.body);
    let id = reply.body["execution_id"].as_str().unwrap();
    let place = format!("/api/v1/executions/{id}");
    assert!(reply.head.contains(&format!("location: {place}\r\n")), "{}", reply.head);
    let found = tools.daemon.request("GET", &place, None);
    assert_eq!((found.status, &found.body["state"]), (200, &json!("ended")), "{}", found.body);
    assert_eq!((&found.body["result"]["cached"], &found.body["result"]["execution_id"]), (&json!(true), &json!(id)));
    assert_eq!(found.body["result"]["result"], first["result"]);
    for (parameters, cache) in [(json!({ "x": 1, "y": 3 }), true), (json!({ "x": 1, "y": 2 }), false)] {
        let other = ask("clock", parameters, cache);
        assert_eq!(other["cached"], false);
        assert_ne!(other["result"], first["result"]);
    }
    // Not for a tool that may do something else the next time, whoever asks.
    ask("plain", json!({}), true);
    assert_eq!(ask("plain", json!({}), true)["cached"], false);
    // It ends.
    tools.wait("the result is forgotten", |_| ask("clock", json!({ "x": 1, "y": 2 }), true)["cached"] == false);
    // A tool that changes is another one.
    let first = ask("clock", json!({ "x": 7 }), true);
    assert_eq!(ask("clock", json!({ "x": 7 }), true)["result"], first["result"]);
    tools.write("clock.toml", &clock.replace("'+%N'", "'+x%N'"));
    tools.wait("the new one", |_| ask("clock", json!({ "x": 7 }), true)["result"].is_string());
}

#[test]
fn a_tools_rate_is_each_principals_own() {
    let text = "name = 'rare'\nversion = '1.0.0'\ndescription = 'd'\n[run]\ncommand = ['true']\n[rate]\ncalls = 2\nper = 600\n";
    let tools = Tools::start(&[("rare.toml", text)], "");
    let call = || tools.call("rare", json!({}), json!({}));
    assert_eq!((call().status, call().status), (200, 200));
    let refused = call();
    assert_eq!((refused.status, &refused.body["code"]), (429, &json!("rate_limited")));
    assert!(refused.head.to_lowercase().contains("retry-after: "), "{}", refused.head);
    // What a caller got wrong is not counted, and no other tool is meant.
    assert_eq!(tools.call("rare", json!({ "a": 1 }), json!({})).status, 422);
    tools.daemon.bash("true", 5.0);
}

#[test]
fn files_are_taken_as_they_change_and_bad_ones_change_nothing() {
    let slow =
        "name = 'slow'\nversion = '1.0.0'\ndescription = 'd'\n[run]\ncommand = ['sh', '-c', 'sleep 2; echo 1']\n";
    let tools = Tools::start(&[("calculator.toml", CALCULATOR), ("slow.toml", slow)], "");
    let add = |tools: &Tools| tools.call("calculator", json!({ "operation": "add", "a": 1, "b": 1 }), json!({}));
    assert_eq!(add(&tools).body["tool_version"], "1.0.0");
    std::thread::scope(|scope| {
        // Under way while its file changes and goes.
        let running = scope.spawn(|| tools.call("slow", json!({}), json!({})));
        tools.wait("it runs", |t| {
            t.daemon.request("GET", "/api/v1/executions", None).body["executions"][0]["state"] == "running"
        });
        tools.write("slow.toml", &slow.replace("echo 1", "echo 2").replace("1.0.0", "1.0.1"));
        tools.wait("the change", |t| t.version("slow").as_deref() == Some("1.0.1"));
        std::fs::remove_file(tools.path("slow.toml")).unwrap();
        tools.wait("it is gone", |t| t.version("slow").is_none());
        let reply = running.join().unwrap();
        assert_eq!((&reply.body["result"], &reply.body["tool_version"]), (&json!(1), &json!("1.0.0")));
    });
    tools.write("calculator.toml", &CALCULATOR.replace("version = \"1.0.0\"", "version = \"1.1.0\""));
    tools.wait("the new version", |t| t.version("calculator").as_deref() == Some("1.1.0"));
    // Bad in several ways: each is told with file and line, and the tool stays.
    let bad = CALCULATOR.replace("version = \"1.0.0\"", "version = \"2\"").replace("timeout = 10", "timeout = 1000");
    tools.write("calculator.toml", &bad);
    tools.wait("the complaint", |t| t.daemon.log().contains("calculator.toml: line 2: version: must be three numbers"));
    assert!(tools.daemon.log().contains("line 30: run.timeout"), "{}", tools.daemon.log());
    assert_eq!(add(&tools).body["tool_version"], "1.1.0");
    // Side by side: another file, another version.
    tools.write("old.toml", CALCULATOR);
    tools.wait("the old one", |t| t.version("calculator@1.0").as_deref() == Some("1.0.0"));
    assert_eq!(tools.version("calculator").as_deref(), Some("1.1.0"));
    // Nobody takes the place of what the daemon brings along, and of two with one name the second is told of.
    tools.write("bash.toml", &slow.replace("'slow'", "'bash'").replace("1.0.0", "9.0.0"));
    tools.write("twice.toml", CALCULATOR);
    tools.wait("both complaints", |t| {
        let log = t.daemon.log();
        log.contains("bash.toml: bash is a tool of this daemon's own")
            && log.contains("calculator@1.0.0 is registered already")
    });
    assert_eq!(tools.version("bash").as_deref(), Some("1.0.0"));
    assert_eq!(tools.daemon.bash("echo a", 5.0)["result"]["stdout"], "a\n");
}

/// The daemon holds the directory that was there when it started: what lies in another one under its name is not in force,
/// and that is told without anybody asking.
#[test]
fn a_directory_in_the_place_of_the_one_that_is_held_is_told_of() {
    let tools = Tools::start(&[("calculator.toml", CALCULATOR)], "");
    let told = |t: &Tools| t.daemon.log().contains("is another directory than at the start: restart the front");
    // Control: what changes inside it is no other directory.
    tools.write("first.toml", &CALCULATOR.replace("\"calculator\"", "\"first\""));
    tools.wait("the first one", |t| t.version("first").is_some());
    assert!(!told(&tools), "{}", tools.daemon.log());
    let elsewhere = tempfile::tempdir().unwrap();
    let held = elsewhere.path().join("held");
    std::fs::rename(tools.dir.path(), &held).unwrap();
    tools.wait("the first complaint", |t| t.daemon.log().contains("is there no more: restart the front"));
    std::fs::create_dir(tools.dir.path()).unwrap();
    std::fs::write(held.join("calculator.toml"), CALCULATOR).unwrap();
    tools.wait("the other complaint", told);
    // What is held stays in force, with what changes in it.
    tools.write("second.toml", &CALCULATOR.replace("\"calculator\"", "\"second\""));
    std::fs::write(held.join("third.toml"), CALCULATOR.replace("\"calculator\"", "\"third\"")).unwrap();
    tools.wait("the third one", |t| t.version("third").is_some());
    assert_eq!([tools.version("second"), tools.version("calculator")], [None, Some("1.0.0".into())]);
    // The same one back in its place is no matter any more.
    std::fs::remove_dir_all(tools.dir.path()).unwrap();
    std::fs::rename(&held, tools.dir.path()).unwrap();
    tools.write("fourth.toml", &CALCULATOR.replace("\"calculator\"", "\"fourth\""));
    tools.wait("the fourth one", |t| t.version("fourth").is_some());
}

/// Reading them takes its time, which is nobody else's.
#[test]
fn who_calls_does_not_wait_while_files_are_read() {
    let tools = Tools::start(&[], "");
    let code = "# a word\n".repeat(100_000);
    let heavy = |version: usize| {
        format!(
            "name = 'heavy'\nversion = '1.0.{version}'\ndescription = 'd'\n[run]\nlanguage = 'bash'\n\
             code = \"\"\"{code}\"\"\"\n"
        )
    };
    let worst_until = |newest: usize| {
        let mut worst = Duration::ZERO;
        tools.wait("the files are read", |tools| {
            let began = Instant::now();
            let version = tools.version("heavy");
            worst = worst.max(began.elapsed());
            version == Some(format!("1.0.{newest}"))
        });
        worst
    };
    let write = |from: usize| (0..6).for_each(|n| tools.write(&format!("{n}.toml"), &heavy(from + n)));
    write(0);
    let noticed = worst_until(5);
    write(6);
    kill(Pid::from_raw(tools.daemon.pid()), Signal::SIGHUP).unwrap();
    let told = worst_until(11);
    eprintln!("noticed {noticed:?}, told {told:?}");
    assert!(noticed.max(told) < Duration::from_millis(250), "noticed {noticed:?}, told {told:?}");
}

#[test]
fn a_file_that_others_could_write_is_not_read() {
    use std::os::unix::fs::PermissionsExt;
    let tools = Tools::start(&[("calculator.toml", CALCULATOR)], "");
    let mode = |mode| {
        std::fs::set_permissions(tools.path("calculator.toml"), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o666);
    tools.wait("it is told", |t| t.daemon.log().contains("writable by nobody else"));
    std::fs::write(tools.path("calculator.toml"), CALCULATOR.replace("1.0.0", "6.6.6")).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(tools.version("calculator").as_deref(), Some("1.0.0"));
    mode(0o644);
    tools.wait("it is trusted again", |t| t.version("calculator").as_deref() == Some("6.6.6"));
    // A link may lead anywhere.
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), CALCULATOR.replace("\"calculator\"", "\"linked\"")).unwrap();
    std::os::unix::fs::symlink(outside.path(), tools.path("linked.toml")).unwrap();
    tools.write("last.toml", &CALCULATOR.replace("\"calculator\"", "\"last\""));
    tools.wait("the last one", |t| t.version("last").is_some());
    assert_eq!(tools.version("linked"), None);
}

fn greeter(version: &str) -> Value {
    json!({
        "name": "greeter", "version": version, "description": "Greets.", "idempotent": true,
        "parameters": { "type": "object", "required": ["name"],
                        "properties": { "name": { "type": "string", "maxLength": 50 },
                                        "word": { "type": "string", "default": "Hello" } } },
        "run": { "language": "bash", "code": "read -r call; jq -r '.word + \", \" + .name' <<<\"$call\"" },
    })
}

#[test]
fn admins_register_tools_that_outlive_the_front() {
    let tools = Tools::start(&[], "");
    let daemon = &tools.daemon;
    let python = |version: &str| {
        let mut body = greeter(version);
        let code = "import json, sys\ncall = json.load(sys.stdin)\nprint(call['word'] + ', ' + call['name'])";
        body["run"] = json!({ "language": "python", "code": code });
        body
    };
    let reply = daemon.request("POST", "/api/v1/tools", Some(&python("1.0.0")));
    assert_eq!(reply.status, 201, "{}", reply.body);
    assert!(reply.head.contains("location: /api/v1/tools/greeter@1.0.0"), "{}", reply.head);
    assert_eq!(reply.body["parameters"]["additionalProperties"], false);
    let mut second = python("2.0.0");
    second["deprecated"] = json!({ "since": "2026-01-01", "sunset": "2030-12-31", "message": "Use version 1." });
    assert_eq!(daemon.request("POST", "/api/v1/tools", Some(&second)).status, 201);
    let same = daemon.request("POST", "/api/v1/tools", Some(&second));
    assert_eq!((same.status, &same.body["code"]), (409, &json!("conflict")));
    let bash = json!({ "name": "bash", "version": "3.0.0", "description": "d", "run": { "command": ["true"] } });
    assert_eq!(daemon.request("POST", "/api/v1/tools", Some(&bash)).status, 409);

    let greet = |tool: &str| tools.call(tool, json!({ "name": "you" }), json!({}));
    let check = || {
        let reply = greet("greeter");
        assert_eq!((&reply.body["result"], &reply.body["tool_version"]), (&json!("Hello, you\n"), &json!("1.0.0")));
        let reply = greet("greeter@2");
        assert_eq!(reply.body["deprecation"]["message"], "Use version 1.");
        // However it is answered; under a key the second time is told what was stored.
        let (execute, executions) = ("/api/v1/tools/execute", "/api/v1/executions");
        for (path, headers, status) in [
            (execute, "", 200),
            (execute, "Idempotency-Key: plain\r\n", 200),
            (execute, "Idempotency-Key: plain\r\nAccept: text/event-stream\r\n", 200),
            (execute, "Accept: text/event-stream\r\n", 200),
            (execute, "Prefer: respond-async\r\n", 202),
            (executions, "", 202),
            (executions, "Idempotency-Key: plain\r\n", 200),
            (executions, "Idempotency-Key: detached\r\n", 202),
            (executions, "Idempotency-Key: detached\r\n", 202),
        ] {
            let answer = |tool: &str| {
                let headers = headers.replace("Key: ", &format!("Key: {}-", tool.replace('@', "-")));
                let body = json!({ "tool_name": tool, "parameters": { "name": "you" } });
                let reply = request_with(&daemon.socket(), "POST", path, &headers, Some(&body)).unwrap();
                assert_eq!(reply.status, status, "{path} {headers}: {}", reply.body);
                reply.head + "\r\n"
            };
            let head = answer("greeter@2");
            assert!(head.contains("\r\ndeprecation: @1767225600\r\n"), "{path} {headers}: {head}");
            assert!(head.contains("\r\nsunset: Tue, 31 Dec 2030 00:00:00 GMT\r\n"), "{path} {headers}: {head}");
            let head = answer("greeter");
            assert!(!head.contains("deprecation") && !head.contains("sunset"), "{path} {headers}: {head}");
        }
    };
    check();
    let front = daemon.child_named("sandkeepd");
    kill(Pid::from_raw(front), Signal::SIGKILL).unwrap();
    tools.wait("another front", |t| t.daemon.children().iter().any(|(name, pid)| name == "sandkeepd" && *pid != front));
    daemon.wait_ready();
    check();

    for (format, names) in
        [("openai", "/tools/0/function/name"), ("anthropic", "/tools/0/name"), ("mcp", "/tools/0/name")]
    {
        let listed = daemon.request("GET", &format!("/api/v1/tools?format={format}"), None).body;
        let listed_names: Vec<_> = listed["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["name"].as_str().or(t["function"]["name"].as_str()))
            .collect();
        assert_eq!(listed_names.iter().filter(|name| **name == Some("greeter")).count(), 1, "{listed}");
        assert_eq!(listed.pointer(names).unwrap(), "bash");
    }
    let strict = daemon.request("GET", "/api/v1/tools/greeter?format=openai&strict=true", None).body;
    assert_eq!(strict["function"]["strict"], true);
    assert_eq!(strict["function"]["parameters"]["required"], json!(["name", "word"]));
    // What such a model sends for what it does not want to say.
    let reply = tools.call("greeter", json!({ "name": "you", "word": null }), json!({}));
    assert_eq!(reply.body["result"], "Hello, you\n");

    assert_eq!(daemon.request("DELETE", "/api/v1/tools/greeter@2", None).status, 204);
    assert_eq!(greet("greeter@2").status, 404);
    assert_eq!(greet("greeter").status, 200);
    assert_eq!(daemon.request("DELETE", "/api/v1/tools/greeter", None).status, 204);
    assert_eq!(greet("greeter").status, 404);
    assert_eq!(daemon.request("DELETE", "/api/v1/tools/greeter", None).status, 404);
    assert_eq!(daemon.request("DELETE", "/api/v1/tools/bash", None).status, 409);
}

#[test]
fn manifests_of_enemies_are_refused_by_name_and_soon() {
    let tools = Tools::start(&[], "");
    let post = |body: &Value| tools.daemon.request("POST", "/api/v1/tools", Some(body));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = greeter("1.0.0");
        change(&mut body);
        body
    };
    let began = Instant::now();
    let mut doubled = json!({ "type": "string" });
    for _ in 0..12 {
        doubled = json!({ "anyOf": [doubled.clone(), doubled.clone()] });
    }
    let loops = json!({ "a": { "$ref": "#/$defs/b" } });
    for (body, pointer) in [
        (with(&|b| b["name"] = json!("../../x")), "/name"),
        (with(&|b| b["nonsense"] = json!(1)), "/nonsense"),
        (
            with(&|b| b["parameters"]["properties"]["name"] = json!({ "$ref": "http://127.0.0.1:9/x" })),
            "/parameters/properties/name/$ref",
        ),
        (with(&|b| b["parameters"]["properties"]["name"] = doubled.clone()), "/parameters"),
        (
            with(&|b| {
                b["parameters"]["$defs"] = json!({ "b": { "allOf": [{ "$ref": "#/$defs/b" }] } });
                b["parameters"]["properties"] = loops.clone();
            }),
            "/parameters/$defs/b",
        ),
        (
            with(&|b| b["parameters"]["properties"]["name"] = json!({ "pattern": "(x{1,999}){1,999}" })),
            "/parameters/properties/name/pattern",
        ),
        (with(&|b| b["run"]["code"] = json!("x\0")), "/run/code"),
        (with(&|b| b["run"]["language"] = json!("../python")), "/run/language"),
        (with(&|b| b["limits"] = json!({ "max_memory_mb": -1 })), "/limits/max_memory_mb"),
    ] {
        let reply = post(&body);
        let text = body.to_string();
        assert_eq!(
            (reply.status, &reply.body["code"]),
            (400, &json!("malformed_request")),
            "{}: {}",
            &text[..text.len().min(300)],
            reply.body
        );
        assert!(pointers(&reply).iter().any(|p| p.starts_with(pointer)), "{pointer}: {}", reply.body);
    }
    let reply = post(&with(&|b| b["examples"] = json!([{ "name": "x".repeat(3 << 20) }])));
    assert_eq!((reply.status, pointers(&reply)), (400, vec![""]));
    let deep = "[".repeat(100_000);
    let raw = |text: &str| {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(tools.daemon.socket()).unwrap();
        let head = format!(
            "POST /api/v1/tools HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // What is too large is refused before it has come.
        let _closed = stream.write_all(text.as_bytes());
        let mut reply = String::new();
        let _reset = stream.read_to_string(&mut reply);
        reply.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(raw(&deep), "400");
    assert_eq!(raw(&format!("{{\"name\": \"{}\"}}", "x".repeat(100 << 20))), "413");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(tools.version("greeter"), None);
    assert!(Path::new(&tools.daemon.dir.path().join("front/tools")).read_dir().unwrap().next().is_none());
}
