//! `web_search` in a whole daemon, with servers of the test's own in the engines' places.

#[path = "support/server.rs"]
mod server;
#[path = "support/daemon.rs"]
mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use server::{Answer, Server};
use support::*;

const KEY: &str = "k-0123456789-never-to-be-seen";

fn ok(body: impl Into<Vec<u8>>) -> Option<Answer> {
    Some(Answer::Reply("HTTP/1.1 200 OK\r\n".into(), body.into()))
}

fn to(place: &str) -> Option<Answer> {
    Some(Answer::Reply(format!("HTTP/1.1 302 Found\r\nLocation: {place}\r\n"), Vec::new()))
}

/// The shapes of the engines' replies: one page that all know, one of its own each.
fn as_engines_do(head: &str) -> Option<Answer> {
    let one = |url: &str, title: &str, text: &str, name: &str| {
        json!([{ url: "https://shared.example/page?utm_source=x", title: "Shared", text: "everybody's" },
            { url: format!("https://{name}.example/"), title: name, text: "its own" }])
    };
    let path = head.split(' ').nth(1).unwrap();
    let body = match path.split(['?', '/']).nth(1).unwrap() {
        "searxng" => json!({ "results": one("url", "title", "content", "searxng"), "unresponsive_engines": [] }),
        "brave" => json!({ "type": "search", "web": { "results": one("url", "title", "description", "brave") } }),
        "tavily" => json!({ "results": one("url", "title", "content", "tavily") }),
        "google" => json!({ "kind": "customsearch#search", "items": one("link", "title", "snippet", "google") }),
        "duckduckgo" => {
            let page = "<div id=\"links\"><div class=\"result web-result\"><a class=\"result__a\" \
                href=\"//duckduckgo.com/l/?uddg=http%3A%2F%2Fshared.example%2Fpage%23x&amp;rut=0\">Sha<b>red</b></a>\
                <a class=\"result__snippet\">every&shy;body's</a></div><div class=\"result web-result\"><a class=\"result__a\" \
                href=\"https://duckduckgo.example/\">duckduckgo</a></div></div>";
            return ok(page);
        }
        _ => return None,
    };
    ok(body.to_string())
}

struct Searching {
    daemon: Daemon,
    _keys: tempfile::TempDir,
}

/// A daemon with all engines at `server`, under their names; `general` is `[search]`'s own, `more` what follows.
fn searching(server: &Server, general: &str, more: &str) -> Searching {
    searching_at("127.0.0.1", server, general, more)
}

fn searching_at(host: &str, server: &Server, general: &str, more: &str) -> Searching {
    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("key");
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let url = |name: &str| format!("http://{host}:{}/{name}", server.port);
    let mut config =
        format!("[pool]\nenabled = false\n[search]\n{general}\n[search.searxng]\nurl = {:?}\n", url("searxng"));
    for name in ["brave", "tavily", "google"] {
        config += &format!("[search.{name}]\nurl = {:?}\nkey_file = {file:?}\n", url(name));
        config += if name == "google" { "cx = '017:abc'\n" } else { "" };
    }
    config += &format!("[search.duckduckgo]\nurl = {:?}\n{more}", url("duckduckgo"));
    Searching { daemon: Daemon::start(&config, &[]), _keys: keys }
}

impl Searching {
    fn search(&self, parameters: Value, context: Value) -> Value {
        let call = json!({ "tool_name": "web_search", "parameters": parameters, "context": context });
        let reply = self.daemon.execute(call);
        assert_eq!(reply.status, 200, "{}", reply.body);
        let told = reply.body.to_string() + &self.daemon.log();
        assert!(!told.contains(KEY), "{told}");
        reply.body
    }
}

/// Of each engine its name, and code and rule of its error.
fn errors(told: &Value) -> Vec<(&str, &str, &str)> {
    fn text(value: &Value) -> &str {
        value.as_str().unwrap_or("")
    }
    let of = |engine| {
        let engine: &Value = engine;
        (text(&engine["name"]), text(&engine["error"]["code"]), text(&engine["error"]["rule"]))
    };
    told["result"]["engines"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn all_engines_are_asked_and_what_they_found_is_one_list() {
    let server = Server::answering(|head, _| as_engines_do(head));
    let all = searching(&server, "", "");
    let told = all.search(json!({ "query": "a b" }), json!({}));
    assert_eq!((told["success"].as_bool(), told["result"]["success"].as_bool()), (Some(true), Some(true)), "{told}");
    let names = ["searxng", "brave", "tavily", "google", "duckduckgo"];
    let ok: Vec<Value> = names.iter().map(|name| json!({ "name": name, "ok": true, "error": null })).collect();
    assert_eq!(told["result"]["engines"], json!(ok));
    let results = told["result"]["results"].as_array().unwrap();
    assert_eq!(results.len(), 6, "{told}");
    let shared = json!({ "title": "Shared", "url": "https://shared.example/page?utm_source=x", "snippet": "everybody's",
        "engine": "searxng", "engines": names, "score": 1.0 });
    assert_eq!(results[0], shared);
    assert_eq!((&results[1]["url"], &results[1]["engines"]), (&json!("https://searxng.example/"), &json!(["searxng"])));
    assert_eq!(told["usage"]["network_requests"], 5);
    assert_eq!(told["sandbox"], json!({ "backend": "none" }));
    // Each heard its own key, in a header.
    let requests = server.requests();
    let with = |start: &str| requests.iter().find(|request| request.starts_with(start)).unwrap();
    assert!(
        with("GET /brave?q=a%20b&count=10&safesearch=moderate").contains(&format!("x-subscription-token: {KEY}\r\n"))
    );
    assert!(
        with("GET /google?cx=017%3Aabc&q=a%20b&num=10&safe=active").contains(&format!("x-goog-api-key: {KEY}\r\n"))
    );
    assert!(with("POST /tavily ").contains(&format!("authorization: Bearer {KEY}\r\n")));
    for start in ["GET /searxng/search?q=a%20b&format=json&safesearch=1&language=all", "POST /duckduckgo "] {
        assert!(!with(start).contains(KEY), "{start}");
    }
    // Chosen engines, few results, in another order.
    let parameters = json!({ "query": "a", "engines": ["duckduckgo", "tavily"], "limit": 2, "language": "de", "safe_search": "off" });
    let told = all.search(parameters, json!({ "cache_enabled": true }));
    let results = told["result"]["results"].as_array().unwrap();
    assert_eq!((results.len(), &results[0]["engine"]), (2, &json!("duckduckgo")));
    assert_eq!(results[0]["url"], "http://shared.example/page#x");
    assert_eq!(told["usage"]["network_requests"], 2);
    let told = all.daemon.request("GET", "/api/v1/capabilities", None).body;
    assert_eq!(told["search_engines"], json!(names));
}

#[test]
fn an_engine_that_fails_takes_nothing_from_the_others() {
    let server = Server::answering(|head, _| match head.split(['?', ' ']).nth(1).unwrap() {
        "/searxng/search" => Some(Answer::Silence),
        "/brave" => Some(Answer::Reply("HTTP/1.1 500 Oh\r\n".into(), KEY.into())),
        "/tavily" => ok(format!("this is not JSON: {KEY}")),
        "/google" => ok(format!("{{\"kind\": \"customsearch#search\", \"items\": [{}]}}", "1,".repeat(1 << 20))),
        _ => as_engines_do(head),
    });
    let all = searching(&server, "timeout_ms = 700", "");
    let began = Instant::now();
    let told = all.search(json!({ "query": "a" }), json!({}));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(told["success"], true, "{told}");
    let expected = [
        ("searxng", "timed_out", ""),
        ("brave", "http_error", ""),
        ("tavily", "bad_response", ""),
        ("google", "bad_response", ""),
        ("duckduckgo", "", ""),
    ];
    assert_eq!(errors(&told), expected);
    let results = told["result"]["results"].as_array().unwrap();
    assert_eq!((results.len(), &results[0]["score"]), (2, &json!(1.0)), "of one that answered, its first is the best");
    // All of them.
    let told = all.search(json!({ "query": "a", "engines": ["tavily", "brave"] }), json!({}));
    assert_eq!((&told["success"], &told["result"]["success"]), (&json!(false), &json!(false)));
    let message = "no engine answered: tavily (bad_response), brave (http_error)";
    assert_eq!(told["error"], json!({ "code": "search_failed", "message": message }));
    assert_eq!(told["result"]["results"], json!([]));
    // What has the call's time for its own leaves some of it for the rest.
    let slow = searching(&server, "timeout_ms = 20000", "");
    let began = Instant::now();
    let told = slow.search(json!({ "query": "a", "engines": ["searxng", "duckduckgo"] }), json!({ "timeout": 2 }));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(errors(&told), [("searxng", "timed_out", ""), ("duckduckgo", "", "")], "{told}");
    assert_eq!(told["success"], true);
}

#[test]
fn an_engine_is_reached_by_its_setting_and_leads_nowhere_else() {
    let other = Server::start();
    let elsewhere = other.url("/");
    let server = Server::answering(move |head, _| match head.split(['?', ' ']).nth(1).unwrap() {
        "/searxng/search" => to("http://169.254.169.254/latest/meta-data/"),
        "/brave" => to(&elsewhere),
        "/tavily" => to("file:///etc/passwd"),
        "/google" => to("/elsewhere/google"),
        "/duckduckgo" => to("/duckduckgo"),
        "/elsewhere/google" => as_engines_do("GET /google HTTP/1.1"),
        _ => None,
    });
    let all = searching(&server, "", "");
    let told = all.search(json!({ "query": "a" }), json!({}));
    let expected = [
        ("searxng", "egress_denied", "egress/metadata"),
        ("brave", "egress_denied", "egress/loopback"),
        ("tavily", "bad_redirect", ""),
        // Its own place, which heard the key already.
        ("google", "", ""),
        ("duckduckgo", "too_many_redirects", ""),
    ];
    assert_eq!(errors(&told), expected, "{told}");
    assert_eq!(other.seen(), 0);
    assert_eq!(told["usage"]["network_requests"], 1 + 1 + 1 + 2 + 11);
    // Where another place may be reached, it does not hear the key.
    let both = searching(&server, "", &format!("[egress]\nallow = [\"127.0.0.1:{}\"]\n", other.port));
    let told = both.search(json!({ "query": "a", "engines": ["brave"] }), json!({}));
    assert_eq!(errors(&told), [("brave", "bad_response", "")], "{told}");
    assert!(other.seen() == 1 && !other.requests()[0].contains(KEY), "{:?}", other.requests());
    // Other calls do not reach what an engine's setting opens.
    let url = server.url("/searxng/search");
    let request = json!({ "tool_name": "http_request", "parameters": { "url": url } });
    assert_eq!(all.daemon.execute(request).body["error"]["rule"], "egress/loopback");
    // The operator's no is stronger than an engine's setting.
    for (rules, rule) in [("enabled = false", "egress/off"), ("deny = [\"127.0.0.0/8\"]", "egress/deny")] {
        let before = server.seen();
        let denied = searching(&server, "", &format!("[egress]\n{rules}\n"));
        let told = denied.search(json!({ "query": "a", "engines": ["google"] }), json!({}));
        assert_eq!(errors(&told), [("google", "egress_denied", rule)]);
        assert!(!told.to_string().contains("127.0.0.1"), "{told}");
        assert_eq!((server.seen(), &told["usage"]["network_requests"]), (before, &json!(0)));
    }
    // Names that callers may ask for are callers' business.
    let named = searching(&server, "", "[egress]\nhosts = [\"*.example.com\"]\n");
    assert_eq!(errors(&named.search(json!({ "query": "a", "engines": ["google"] }), json!({}))), [("google", "", "")]);
}

#[test]
fn keys_come_as_credentials_and_stay_when_the_settings_are_read_again() {
    let server = Server::answering(|head, _| as_engines_do(head));
    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("search-brave"), format!("{KEY}\n")).unwrap();
    let brave = format!("[pool]\nenabled = false\n[search.brave]\nurl = {:?}\n", server.url("/brave"));
    let directory = credentials.path().display().to_string();
    let daemon = Daemon::start_with(&brave, &[("CREDENTIALS_DIRECTORY", &directory)]);
    let ready = || daemon.request("GET", "/api/v1/capabilities", None).body["search_engines"].clone();
    assert_eq!(ready(), json!(["brave"]));
    // Another engine, and one whose key nobody has read.
    let more = format!("{brave}[search.duckduckgo]\nurl = {:?}\n[search.tavily]\n", server.url("/duckduckgo"));
    std::fs::write(daemon.dir.path().join("sandkeep.toml"), format!("{more}[search]\nengines = ['tavily', 'brave']\n"))
        .unwrap();
    kill(Pid::from_raw(daemon.pid()), Signal::SIGHUP).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while ready() != json!(["brave", "duckduckgo"]) {
        assert!(Instant::now() < deadline, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(daemon.log().contains("search.tavily"), "{}", daemon.log());
    let told = daemon.execute(json!({ "tool_name": "web_search", "parameters": { "query": "a" } })).body;
    assert_eq!(errors(&told), [("tavily", "not_configured", ""), ("brave", "", "")], "{told}");
    assert!(server.requests()[0].contains(&format!("x-subscription-token: {KEY}\r\n")));
    assert!(!daemon.log().contains(KEY));
}

#[test]
fn what_engines_send_is_text_of_strangers() {
    let long = "x".repeat(100_000);
    let hostile = json!({ "results": [
        { "url": "javascript:alert(1)", "title": "script", "content": "" },
        { "url": "https://user@evil.example/", "title": "user", "content": "" },
        { "url": null, "title": "nowhere", "content": "" },
        { "url": "https://a.example/ü\" x", "title": "A <script>alert('x')</script><b>bold</b>\u{1b}[31m\nred\u{202e}",
          "content": "Vec<T> &lt;b&gt; &amp;amp; \u{200b}\u{e0041}<!-- hidden -->seen" },
        { "url": "https://b.example/", "title": long, "content": long },
        { "url": "https://c.example/", "title": "<br>", "content": null },
    ] });
    let server = Server::answering(move |_, _| ok(hostile.to_string()));
    let all = searching(&server, "engines = ['searxng']", "");
    let told = all.search(json!({ "query": "a" }), json!({}));
    let results = told["result"]["results"].as_array().unwrap();
    assert_eq!(results.len(), 3, "{told}");
    assert_eq!(results[0]["url"], "https://a.example/%C3%BC%22%20x");
    assert_eq!(
        (&results[0]["title"], &results[0]["snippet"]),
        (&json!("A bold [31m red"), &json!("Vec<T> <b> &amp; seen"))
    );
    let chars = |value: &Value| value.as_str().unwrap().chars().count();
    assert_eq!((chars(&results[1]["title"]), chars(&results[1]["snippet"])), (301, 1001));
    assert_eq!((&results[2]["title"], &results[2]["snippet"]), (&json!("c.example"), &json!("")));
}

#[test]
fn what_can_not_be_searched_is_refused_before_anything_is_asked() {
    let server = Server::answering(|head, _| as_engines_do(head));
    let none = Daemon::start("[pool]\nenabled = false\n", &[]);
    let call = |parameters: Value, context: Value| json!({ "tool_name": "web_search", "parameters": parameters, "context": context });
    let refused = |daemon: &Daemon, call: Value| {
        let reply = daemon.execute(call);
        assert_eq!(reply.status, 422, "{}", reply.body);
        reply.body
    };
    let told = refused(&none, call(json!({ "query": "a" }), json!({})));
    assert_eq!(told["code"], "not_configured");
    assert!(told["hint"].as_str().unwrap().contains("[search.searxng]"), "{told}");
    assert_eq!(none.request("GET", "/api/v1/capabilities", None).body["search_engines"], json!([]));
    let one = Daemon::start(&format!("[search.searxng]\nurl = {:?}\n", server.url("/searxng")), &[]);
    let told = refused(&one, call(json!({ "query": "a", "engines": ["searxng", "brave"] }), json!({})));
    assert_eq!(told["code"], "not_configured");
    assert!(told["hint"].as_str().unwrap().contains("[search.brave]"), "{told}");
    let told = refused(&one, call(json!({ "query": "a" }), json!({ "security_level": "strict" })));
    assert_eq!(told["code"], "level_unsuitable");
    let wrong =
        json!({ "query": " ", "engines": ["bing", "bing"], "limit": 51, "safe_search": "on", "language": "klingon" });
    let told = refused(&one, call(wrong, json!({})));
    let mut pointers: Vec<_> =
        told["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    pointers.sort_unstable();
    pointers.dedup();
    let named = ["/parameters/engines", "/parameters/engines/0", "/parameters/engines/1", "/parameters/language"];
    assert_eq!(pointers, [&named[..], &["/parameters/limit", "/parameters/safe_search"]].concat(), "{told}");
    let told = refused(&one, call(json!({ "query": " \n " }), json!({})));
    assert_eq!(told["errors"][0]["pointer"], "/parameters/query");
    assert_eq!(server.seen(), 0);
    // The caller's own bound is of requests, whichever engine makes them; names are looked up for all before any is asked.
    let all = searching_at("localhost", &server, "", "");
    let told = all.search(json!({ "query": "a" }), json!({ "limits": { "max_network_requests": 2 } }));
    let used_up = errors(&told).into_iter().filter(|error| error.2 == "egress/requests").count();
    assert_eq!((used_up, &told["usage"]["network_requests"], server.seen()), (3, &json!(2), 2), "{told}");
}
