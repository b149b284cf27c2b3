//! The OpenAPI document against the daemon that serves it: the same paths, the same bounds, the same bodies.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/machine.rs"]
mod machine;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use daemon::Daemon;

use jsonschema::Validator;
use serde_json::{Map, Value, json};
use support::{Front, Reply};

fn document(front: &Front) -> Value {
    let reply = front.get("/openapi.json");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    reply.json()
}

/// `schema`, which may refer to the components of `document`.
fn validator(document: &Value, schema: &Value) -> Validator {
    let whole = json!({ "components": document["components"], "allOf": [schema] });
    jsonschema::draft202012::options().should_validate_formats(true).build(&whole).unwrap()
}

fn component(document: &Value, name: &str) -> Validator {
    assert!(document["components"]["schemas"][name].is_object(), "{name}");
    validator(document, &json!({ "$ref": format!("#/components/schemas/{name}") }))
}

/// What `value` refers to, where it is a reference.
fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    value["$ref"].as_str().map_or(value, |target| document.pointer(&target[1..]).unwrap())
}

/// Path, method in capitals, operation.
fn operations(document: &Value) -> Vec<(&str, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().iter().map(move |(m, o)| (path.as_str(), m.to_uppercase(), o))
        })
        .collect()
}

#[test]
fn the_document_is_as_agreed() {
    let front = Front::start("");
    let text = format!("{:#}\n", document(&front));
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract/golden/openapi.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    assert!(text == std::fs::read_to_string(golden).unwrap(), "UPDATE_GOLDEN=1 writes the file anew");
}

/// Without a credential, as /healthz: a client has to read it before it knows how to show one.
#[test]
fn whoever_reaches_a_listener_may_read_it_and_nothing_more() {
    let front = Front::start("");
    let get = |path: &str| front.raw_tcp(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n"), b"").status;
    for (path, method, operation) in operations(&document(&front)) {
        let path = path.replace(['{', '}'], "");
        if method == "GET" {
            let expected = if operation["security"].is_array() { 401 } else { front.get(&path).status };
            assert_eq!(get(&path), expected, "{path}");
            assert!(expected != 401 || operation["responses"]["401"].is_object());
        }
    }
    assert_eq!(get("/openapi.json"), 200);
}

#[test]
fn every_path_has_the_methods_that_the_document_gives_it_and_no_other() {
    let front = Front::start("");
    let document = document(&front);
    let mut methods: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (path, method, _) in operations(&document) {
        methods.entry(path).or_default().insert(method);
    }
    for (path, mut methods) in methods {
        let at = path.replace("{name}", "none").replace("{id}", "exe_none");
        for method in &methods {
            let reply = front.raw(&format!("{method} {at} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"), b"");
            let code = if reply.status >= 400 { reply.problem().1 } else { String::new() };
            assert!(!["not_found", "method_not_allowed"].contains(&code.as_str()), "{method} {path}: {reply:?}");
        }
        // PATCH is nobody's, so Allow names all that there is.
        let reply = front.raw(&format!("PATCH {at} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"), b"");
        assert_eq!(reply.problem(), (405, "method_not_allowed".into()), "{path}");
        let allowed: BTreeSet<String> = reply.header("allow").unwrap().split(',').map(str::to_owned).collect();
        if methods.contains("GET") {
            methods.insert("HEAD".into());
        }
        assert_eq!(allowed, methods, "{path}");
    }
}

#[test]
fn every_operation_is_told_in_full_and_every_reference_leads_somewhere() {
    let front = Front::start("");
    let document = document(&front);
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{path} {method}: named twice");
        assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{path} {method}");
        let tags: Vec<&Value> = document["tags"].as_array().unwrap().iter().map(|t| &t["name"]).collect();
        assert!(tags.contains(&&operation["tags"][0]), "{path} {method}");
        let in_path = |p: &&Value| p["in"] == "path";
        let declared = operation["parameters"].as_array().into_iter().flatten().filter(in_path).count();
        assert_eq!(declared, path.matches('{').count(), "{path} {method}");
        let statuses: Vec<&String> = operation["responses"].as_object().unwrap().keys().collect();
        assert!(statuses.iter().any(|s| s.starts_with('2')) && statuses.iter().any(|s| *s == "503"), "{path} {method}");
        assert_eq!(statuses.iter().any(|s| *s == "415"), operation["requestBody"].is_object(), "{path} {method}");
    }
    let mut open = vec![&document];
    let mut references = 0;
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(target)) = fields.get("$ref") {
                    references += 1;
                    assert!(document.pointer(target.strip_prefix('#').unwrap()).is_some(), "{target}");
                }
                open.extend(fields.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    assert!(references > 50, "{references}");
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        component(&document, name);
    }
}

/// A body that the document refuses is refused by the daemon, and the other way round: but for what only it can know.
#[test]
fn the_documents_bounds_of_a_call_are_the_daemons() {
    let front = Front::start("");
    let document = document(&front);
    let schema = component(&document, "ExecuteRequest");
    let malformed = |reply: &Reply| reply.status == 400 && reply.problem().1 == "malformed_request";
    let check = |body: Value| {
        let reply = front.execute(body.clone());
        assert!([400, 404, 422, 403, 503].contains(&reply.status), "{body}: {reply:?}");
        assert_eq!(schema.is_valid(&body), !malformed(&reply), "{body}: {reply:?}");
        schema.is_valid(&body)
    };
    let call = |field: &str, value: Value| {
        let mut body = json!({ "tool_name": "bash", "parameters": { "command": "true" } });
        body[field] = value;
        body
    };
    for (good, body) in [
        (false, json!([])),
        (false, json!({})),
        (true, json!({ "tool_name": "bash", "parameters": null, "context": null })),
        (false, call("tool_name", Value::Null)),
        (false, call("tool_name", json!(5))),
        (false, call("tool_name", json!(""))),
        (true, call("tool_name", json!("é".repeat(128)))),
        (false, call("tool_name", json!("é".repeat(129)))),
        (false, call("tool_name", json!("a\u{85}"))),
        (true, call("tool_name", json!("a b"))),
        (false, call("parameters", json!([]))),
        (false, call("context", json!("x"))),
        (false, call("other", json!(1))),
        (false, call("context", json!({ "other": 1 }))),
    ] {
        assert_eq!(check(body.clone()), good, "{body}");
    }
    let long = |n: usize| json!("x".repeat(n));
    let of_field: Vec<(&str, Vec<Value>, Vec<Value>)> = vec![
        (
            "execution_id",
            vec![json!("a.b-c_D9"), json!("..."), long(128), Value::Null],
            vec![json!(""), json!("."), json!(".."), json!("a b"), json!("é"), json!("a\n"), long(129), json!(1)],
        ),
        ("workspace", vec![json!("project-a"), long(64), Value::Null], vec![json!(".."), json!("a/b"), long(65)]),
        ("agent_id", vec![json!("data agent"), long(128), Value::Null], vec![json!(""), json!("a\u{7f}"), long(129)]),
        (
            "timeout",
            vec![json!(1e-9), json!(3600), json!(3600.0), Value::Null],
            vec![json!(0), json!(-1), json!(3600.1), json!(1e308), json!("60"), json!(true)],
        ),
        (
            "retry_count",
            vec![json!(0), json!(5), json!(2.0), Value::Null],
            vec![json!(6), json!(-1), json!(0.5), json!("1")],
        ),
        ("cache_enabled", vec![json!(true), Value::Null], vec![json!("true"), json!(0)]),
        ("sandbox_mode", vec![json!(true), json!(false), Value::Null], vec![json!("yes"), json!(1)]),
        (
            "security_level",
            vec![json!("standard"), json!("maximum"), Value::Null],
            vec![json!("none"), json!("Strict"), json!(2)],
        ),
        ("sandbox_id", vec![json!("sbx_1"), Value::Null], vec![json!(""), json!(1), long(129)]),
        ("metadata", vec![json!({ "a": [1, { "b": null }] }), Value::Null], vec![json!([]), json!("x")]),
        ("limits", vec![json!({}), Value::Null], vec![json!({ "memory": 1 }), json!([]), json!(5)]),
    ];
    let described = document.pointer("/components/schemas/ExecuteRequest/properties/context/properties").unwrap();
    let names = |schema: &Value| schema.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(described), of_field.iter().map(|(name, ..)| (*name).to_owned()).collect());
    for (name, good, bad) in of_field {
        for (expected, value) in good.into_iter().map(|v| (true, v)).chain(bad.into_iter().map(|v| (false, v))) {
            let body = call("context", json!({ name: value }));
            // Level minimal is refused by its own rule, after this one.
            assert_eq!(check(body.clone()), expected, "{body}");
        }
    }
    let of_limit: Vec<(&str, Vec<Value>, Vec<Value>)> = vec![
        ("max_memory_mb", vec![json!(16), json!(4096), Value::Null], vec![json!(15.9), json!(0), json!("1")]),
        ("max_cpu_percent", vec![json!(1), json!(400.0)], vec![json!(0.9), json!(-1)]),
        ("max_cpu_seconds", vec![json!(0.001), json!(300)], vec![json!(0), json!(-0.1)]),
        ("max_execution_time_seconds", vec![json!(1e-9), json!(300)], vec![json!(0), json!(300.1)]),
        ("max_file_size_mb", vec![json!(1e-9), json!(1024)], vec![json!(0), json!(1024.1)]),
        ("max_network_requests", vec![json!(0), json!(u32::MAX)], vec![json!(1u64 << 32), json!(-1), json!(0.5)]),
        ("max_processes", vec![json!(4), json!(1024), json!(64.0)], vec![json!(3), json!(0.5), json!(u64::MAX)]),
        ("max_output_bytes", vec![json!(0), json!(16 << 20)], vec![json!((16 << 20) + 1), json!(1e30), json!(-1)]),
    ];
    let described = &described["limits"]["properties"];
    assert_eq!(names(described), of_limit.iter().map(|(name, ..)| (*name).to_owned()).collect());
    for (name, good, bad) in of_limit {
        for (expected, value) in good.into_iter().map(|v| (true, v)).chain(bad.into_iter().map(|v| (false, v))) {
            let body = call("context", json!({ "limits": { name: value } }));
            assert_eq!(check(body.clone()), expected, "{body}");
        }
    }
}

#[test]
fn the_documents_bounds_of_a_manifest_are_the_daemons() {
    let front = Front::start("");
    let document = document(&front);
    let schema = component(&document, "ToolManifest");
    let example = document
        .pointer("/paths/~1api~1v1~1tools/post/requestBody/content/application~1json/examples/greet/value")
        .unwrap();
    let register = |body: &Value| {
        let text = body.to_string();
        let head = format!(
            "POST /api/v1/tools HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            text.len()
        );
        front.raw(&head, text.as_bytes())
    };
    let mut taken = 0;
    let mut check = |changes: Value, good: bool| {
        let Value::Object(changes) = changes else { panic!() };
        let mut body = example.clone();
        let fields: &mut Map<String, Value> = body.as_object_mut().unwrap();
        fields.extend(changes);
        if good {
            taken += 1;
            fields.insert("version".into(), format!("1.0.{taken}").into());
        }
        let reply = register(&body);
        assert_eq!(reply.status, if good { 201 } else { 400 }, "{body}: {reply:?}");
        assert_eq!(schema.is_valid(&body), good, "{body}: {reply:?}");
    };
    check(json!({}), true);
    for good in [
        json!({ "level": null, "deprecated": null, "parameters": null, "examples": [], "rate": null }),
        json!({ "run": { "command": ["true", ""], "timeout": 300, "code": null, "language": null } }),
        json!({ "rate": { "calls": 100_000, "per": 86_400 }, "cache": { "ttl": 604_800 } }),
        json!({ "deprecated": { "since": "2026-01-01", "sunset": null, "message": "use another" } }),
        json!({ "limits": { "max_memory_mb": 64, "max_cpu_seconds": 0.5 }, "egress": [] }),
    ] {
        check(good, true);
    }
    for bad in [
        json!({ "name": "a b" }),
        json!({ "name": "x".repeat(65) }),
        json!({ "name": null }),
        json!({ "version": "1.0" }),
        json!({ "version": "01.0.0" }),
        json!({ "version": "1000000000.0.0" }),
        json!({ "description": "" }),
        json!({ "description": "x".repeat(4097) }),
        json!({ "read_only": null }),
        json!({ "level": "none" }),
        json!({ "examples": [1] }),
        json!({ "examples": vec![json!({ "who": "a" }); 17] }),
        json!({ "parameters": { "type": "string" } }),
        json!({ "parameters": {} }),
        json!({ "run": { "command": [] } }),
        json!({ "run": { "command": [""] } }),
        json!({ "run": { "command": ["a\0"] } }),
        json!({ "run": { "command": ["a"], "language": "bash", "code": "b" } }),
        json!({ "run": { "language": "bash" } }),
        json!({ "run": { "language": "cobol", "code": "x" } }),
        json!({ "run": { "language": "bash", "code": "" } }),
        json!({ "run": { "command": ["a"], "timeout": 300.1 } }),
        json!({ "run": { "command": ["a"], "timeout": 0 } }),
        json!({ "run": { "command": ["a"], "other": 0 } }),
        json!({ "limits": { "memory": 1 } }),
        json!({ "limits": { "max_memory_mb": 0 } }),
        json!({ "egress": ["example.org"] }),
        json!({ "cache": { "ttl": 0 } }),
        json!({ "cache": { "ttl": 604_801 } }),
        json!({ "rate": { "calls": 0, "per": 1 } }),
        json!({ "rate": { "calls": 100_001, "per": 1 } }),
        json!({ "rate": { "calls": 1, "per": 0 } }),
        json!({ "deprecated": { "since": "2026-02-30" } }),
        json!({ "deprecated": { "since": "2026-01-01", "message": "two\nlines" } }),
        json!({ "other": 1 }),
    ] {
        check(bad, false);
    }
}

/// What is answered, success or not, is what the document says of that path and status.
#[test]
fn answers_are_as_the_document_has_them() {
    let front = Front::start("");
    let document = document(&front);
    let held = |path: &str, method: &str, reply: &Reply| {
        let response = resolved(&document, &document["paths"][path][method]["responses"][reply.status.to_string()]);
        assert!(response.is_object(), "{method} {path}: {}", reply.status);
        let media = reply.header("content-type").unwrap();
        let schema = &response["content"][media]["schema"];
        if media.contains("json") {
            let body = reply.json();
            let found: Vec<String> = validator(&document, schema).iter_errors(&body).map(|e| e.to_string()).collect();
            assert!(found.is_empty(), "{method} {path}: {found:?}: {body}");
        } else {
            assert!(schema.is_object(), "{method} {path}: {media}");
        }
        for (name, header) in response["headers"].as_object().unwrap() {
            let declared = resolved(&document, header);
            assert!(declared["required"] != true || reply.header(name).is_some(), "{method} {path}: {name}");
        }
    };
    for (path, at) in [
        ("/api/v1/tools", "/api/v1/tools"),
        ("/api/v1/tools", "/api/v1/tools?format=openai&strict=true"),
        ("/api/v1/tools", "/api/v1/tools?format=anthropic"),
        ("/api/v1/tools", "/api/v1/tools?format=mcp"),
        ("/api/v1/tools", "/api/v1/tools?format="),
        ("/api/v1/tools/{name}", "/api/v1/tools/python@1.0.0"),
        ("/api/v1/tools/{name}", "/api/v1/tools/none"),
        ("/api/v1/executions", "/api/v1/executions"),
        ("/api/v1/executions/{id}", "/api/v1/executions/none"),
        ("/api/v1/capabilities", "/api/v1/capabilities"),
        ("/healthz", "/healthz"),
        ("/readyz", "/readyz"),
        ("/metrics", "/metrics"),
        ("/openapi.json", "/openapi.json"),
    ] {
        held(path, "get", &front.get(at));
    }
    for body in ["", "[]", "{}", r#"{"tool_name":"none"}"#, r#"{"tool_name":"bash"}"#] {
        held("/api/v1/tools/execute", "post", &front.execute_text(body));
    }
    held(
        "/api/v1/tools/execute",
        "post",
        &front.execute(json!({ "tool_name": "bash", "parameters": { "command": "a" } })),
    );
    let head = "POST /api/v1/tools/execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n";
    held("/api/v1/tools/execute", "post", &front.raw(head, b"{}"));
    held("/api/v1/tools/execute", "post", &front.raw_tcp(head, b"{}"));
}

/// What only a whole daemon answers: calls that ran, one that is under way, what the host can have.
#[test]
fn answers_about_what_runs_are_as_the_document_has_them() {
    if !machine::expect("root") {
        return;
    }
    let daemon = Daemon::start("", &[]);
    let document = daemon.request("GET", "/openapi.json", None).body;
    let held = |path: &str, method: &str, reply: &daemon::Reply, status: u16| {
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.body);
        let pointer = format!("/paths/{}/{method}/responses/{status}", path.replace('/', "~1"));
        let response = resolved(&document, document.pointer(&pointer).unwrap());
        let schema = &response["content"]["application/json"]["schema"];
        let found: Vec<String> = validator(&document, schema)
            .iter_errors(&reply.body)
            .map(|e| format!("{}: {e}", e.instance_path()))
            .collect();
        assert!(found.is_empty(), "{method} {path}: {found:?}: {}", reply.body);
    };
    let result = |name: &str, reply: &daemon::Reply| {
        let found: Vec<String> =
            component(&document, name).iter_errors(&reply.body["result"]).map(|e| e.to_string()).collect();
        assert!(found.is_empty(), "{found:?}: {}", reply.body);
    };
    let execute = "/api/v1/tools/execute";
    let context = json!({ "agent_id": "a", "metadata": { "b": [1] }, "retry_count": 1, "workspace": null });
    for (tool, parameters, context) in [
        ("bash", json!({ "command": "df -h" }), context),
        ("bash", json!({ "command": "exit 3" }), json!({})),
        ("bash", json!({ "command": "kill -9 $$" }), json!({ "security_level": "strict" })),
        ("bash", json!({ "command": "sleep 9", "timeout": 0.2 }), json!({})),
        ("bash", json!({ "command": "yes" , "timeout": 20 }), json!({ "limits": { "max_output_bytes": 1000 } })),
        ("python", json!({ "code": "x = [1, {'a': None}, 2.5]\nprint(x)" }), json!({})),
        ("python", json!({ "code": "raise ValueError(1)" }), json!({})),
    ] {
        let reply = daemon.execute(json!({ "tool_name": tool, "parameters": parameters, "context": context }));
        held(execute, "post", &reply, 200);
        result(&format!("{tool}.result"), &reply);
    }
    held("/api/v1/capabilities", "get", &daemon.request("GET", "/api/v1/capabilities", None), 200);
    held("/readyz", "get", &daemon.request("GET", "/readyz", None), 200);
    std::thread::scope(|scope| {
        let under_way = scope.spawn(|| {
            daemon.execute(json!({ "tool_name": "bash", "parameters": { "command": "sleep 60" },
                "context": { "execution_id": "live" } }))
        });
        let began = Instant::now();
        let look = || daemon.request("GET", "/api/v1/executions/live", None);
        while look().body["state"] != "running" {
            assert!(began.elapsed() < Duration::from_secs(20), "{}", daemon.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        let one = look();
        assert!(one.body["host_pid"].is_number(), "root is admin: {}", one.body);
        held("/api/v1/executions/{id}", "get", &one, 200);
        held("/api/v1/executions", "get", &daemon.request("GET", "/api/v1/executions", None), 200);
        held("/api/v1/executions/{id}", "delete", &daemon.request("DELETE", "/api/v1/executions/live", None), 202);
        let ended = under_way.join().unwrap();
        held(execute, "post", &ended, 200);
        assert_eq!(ended.body["outcome"]["by"], "caller");
    });
}
