//! An HTTP server of the test's own on loopback, which counts who asks.
#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub struct Server {
    pub port: u16,
    seen: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

/// What a test answers to a request's head and body; `None`: what all tests' servers answer.
type Own = Box<dyn Fn(&str, &str) -> Option<Answer> + Send + Sync>;

pub enum Answer {
    /// Status line and headers, without a length; body.
    Reply(String, Vec<u8>),
    /// None, until the other side goes.
    Silence,
}

impl Server {
    /// Ends with the test.
    pub fn start() -> Self {
        Self::answering(|_, _| None)
    }

    pub fn answering(own: impl Fn(&str, &str) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let own: Arc<Own> = Arc::new(Box::new(own));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let server = Self { port, seen: Arc::clone(&seen), open: Arc::clone(&open), requests: Arc::clone(&requests) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, open) = (Arc::clone(&seen), Arc::clone(&open));
                let (requests, own) = (Arc::clone(&requests), Arc::clone(&own));
                std::thread::spawn(move || {
                    open.fetch_add(1, Ordering::SeqCst);
                    let _client_gone = serve(stream.unwrap(), &seen, &requests, &own);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Requests that came.
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// Each that came, head and body.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, seen: &AtomicUsize, requests: &Mutex<Vec<String>>, own: &Own) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    seen.fetch_add(1, Ordering::SeqCst);
    let lower = head.to_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let text = String::from_utf8_lossy(&body).into_owned();
    requests.lock().unwrap().push(format!("{head}{text}"));
    match own(&head, &text) {
        Some(Answer::Reply(start, body)) => {
            let head = format!("{start}Content-Length: {}\r\n\r\n", body.len());
            return stream.write_all(&[head.as_bytes(), &body].concat());
        }
        Some(Answer::Silence) => {
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            return reader.read(&mut [0]).map(drop);
        }
        None => {}
    }
    let path = head.split(' ').nth(1).unwrap_or("").to_owned();
    let reply = |status: &str, headers: &str, body: &[u8]| {
        let mut all = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        if !head.starts_with("HEAD ") {
            all.extend_from_slice(body);
        }
        all
    };
    let echo = [head.as_bytes(), &body].concat();
    let answer = match path.as_str() {
        "/binary" => reply("200", "", &[0xff, 0x00, 0xfe]),
        "/large" => reply("200", "", "é".repeat(1 << 20).replacen('é', "a", 1).as_bytes()),
        "/garbage" => b"this is not HTTP\r\n\r\n".to_vec(),
        "/headers" => reply("200", &format!("X: {}\r\n", "x".repeat(100_000)), b""),
        "/loop" => reply("302", "Location: /loop\r\n", b""),
        "/slow" => {
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            // Until the other side goes.
            return reader.read(&mut [0]).map(drop);
        }
        path if path.starts_with("/status/") => reply(&path[8..], "", b"no"),
        path if path.starts_with("/redirect/") => reply(&path[10..], "Location: /echo\r\n", b""),
        path if path.starts_with("/to?") => {
            reply("302", &format!("Location: {}\r\n", path[4..].replace("%5B", "[").replace("%5D", "]")), b"")
        }
        _ => reply("200", "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n", &echo),
    };
    stream.write_all(&answer)
}
