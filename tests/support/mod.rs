//! A front on temporary sockets, a small HTTP client, and a stand-in for the engine.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod monitor;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandkeep::api::http::{FrontOptions, run};
use sandkeep::config::keys::{ApiKey, hash};
use sandkeep::config::{Config, Overrides};
use serde_json::Value;

/// Longer than anything a test waits for.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

pub struct Front {
    pub dir: tempfile::TempDir,
    pub tcp: SocketAddr,
    pub thread: std::thread::JoinHandle<()>,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// Status and code of a problem, whose form is checked.
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], self.status, "{body}");
        assert_eq!(body["request_id"].as_str(), self.header("x-request-id"), "{body}");
        let code = body["code"].as_str().unwrap().to_owned();
        assert_eq!(body["type"], format!("/problems/{}", code.replace('_', "-")));
        assert!(body["title"].is_string() && body["detail"].is_string());
        (self.status, code)
    }

    pub fn pointers(&self) -> Vec<String> {
        let errors = self.json()["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|e| e["pointer"].as_str().unwrap().to_owned()).collect()
    }
}

impl Front {
    /// The tests' own uid is principal `tester`, an admin where `settings` do not say otherwise.
    pub fn start(settings: &str) -> Self {
        Self::start_with_keys(settings, &[])
    }

    /// `keys`: pairs of a principal that `settings` name, and what it shows over TCP.
    pub fn start_with_keys(settings: &str, keys: &[(&str, &str)]) -> Self {
        Self::start_as(settings, |options| {
            options.keys = keys.iter().map(|(p, key)| ApiKey { hash: hash(key), principal: (*p).into() }).collect();
        })
    }

    /// With options that `change` makes.
    pub fn start_as(settings: &str, change: impl FnOnce(&mut FrontOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let uid = nix::unistd::getuid();
        let base = format!(
            "state_dir = '{0}'\nrun_dir = '{0}/run'\n{settings}\n[[principals]]\nname = 'tester'\nuids = [{uid}]\nrole = 'admin'\n",
            dir.path().display()
        );
        std::fs::create_dir(dir.path().join("run")).unwrap();
        let config = Config::parse(&base, Path::new("test"), &Overrides::default()).unwrap();
        let unix = UnixListener::bind(dir.path().join("front.sock")).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let mut options = FrontOptions::new(config);
        options.unix = Some(unix);
        options.tcp = vec![tcp];
        options.engine_uid = uid.as_raw();
        change(&mut options);
        let (ready, told) = nix::unistd::pipe().unwrap();
        options.ready = Some(told);
        let thread = std::thread::spawn(move || run(options).unwrap());
        std::fs::File::from(ready).read_exact(&mut [0]).unwrap();
        Self { dir, tcp: address, thread }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("front.sock")
    }

    pub fn engine_socket(&self) -> PathBuf {
        self.dir.path().join("run/engine.sock")
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        stream
    }

    /// `head` is the request line and headers, without the final line feed.
    pub fn raw(&self, head: &str, body: &[u8]) -> Reply {
        exchange(self.connect(), head, body)
    }

    pub fn raw_tcp(&self, head: &str, body: &[u8]) -> Reply {
        exchange(TcpStream::connect(self.tcp).unwrap(), head, body)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n"), b"")
    }

    pub fn execute_text(&self, body: &str) -> Reply {
        self.raw(&post(body.len()), body.as_bytes())
    }

    pub fn execute(&self, body: Value) -> Reply {
        self.execute_text(&body.to_string())
    }
}

/// The head of an execute call.
pub fn post(length: usize) -> String {
    format!(
        "POST /api/v1/tools/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    )
}

fn exchange(mut stream: impl Read + Write, head: &str, body: &[u8]) -> Reply {
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
    // A server that refuses early closes while we still write.
    let _early = stream.write_all(body);
    read_reply(stream)
}

/// Everything until the server closes.
pub fn read_reply(mut stream: impl Read) -> Reply {
    let mut bytes = Vec::new();
    let mut chunk = [0; 65536];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset && !bytes.is_empty() => break,
            Err(e) => panic!("{e}"),
        }
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no reply: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}
