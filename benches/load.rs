//! The load generator behind `scripts/bench`: makes calls and launches peers from one process, by one clock.
//!
//! It is told what to do line by line on standard input and answers each command with one line, `ok key=value …` or
//! `error why`. `scripts/bench` compiles it with rustc alone: through cargo every change of the library would be built
//! a second time, with the features that development dependencies add. So it uses nothing but std.
//!
//! ```text
//! subject http | spawn        begins subject number 0, 1, …; the lines up to `end` say what it is
//!   socket PATH  request METHOD TARGET  body JSON  result JSON       http; without `result` any 200 will do
//!   arg TEXT …   stdout TEXT                                         spawn; without `stdout` it goes to /dev/null
//! end
//! rounds FILE WARM RUNS SEED SUBJECT:EVERY,…    each round runs the subjects once, in an order of its own
//! flood FILE CALLERS MS SUBJECT,…               as fast as it goes
//! pace FILE CALLERS RATE MS SUBJECT:WEIGHT,…    RATE calls a second begin, whether or not earlier ones have ended
//! hold COUNT SUBJECT                            begins calls, each on a connection of its own, and lets them run
//! release                                       hangs up on them
//! ```
//!
//! In TEXT `\n` and `\\` stand for a newline and a backslash. `@N@` stands for twelve digits that no other call has, in
//! what is sent and in what must come back. A FILE gets three little-endian 64-bit numbers a call: subject, nanoseconds
//! from the command's start to the call's, nanoseconds that the call took. A call is checked after its clock stopped.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Stands for the call's own number.
const NUMBER: &str = "@N@";
/// Sandbox ids that are remembered: some minutes at full speed, about 64 MiB.
const IDS_MAX: usize = 1 << 20;
/// A service may hang up on a connection that was silent for some seconds: it is renewed before, off the clock.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// A call that takes longer than any may run.
const TIMEOUT: Duration = Duration::from_secs(330);

type Result<T> = std::result::Result<T, String>;

/// What is measured.
enum Subject {
    Http { socket: String, request: String, body: String, result: Option<String> },
    Spawn { argv: Vec<String>, stdout: Option<String> },
}

/// Why a call does not count.
enum Fault {
    /// 429 or 503: the service said that it has no room.
    Refused(String),
    /// Another answer than the one that was due, or none.
    Wrong(String),
}

/// Everything that all calls share.
#[derive(Default)]
struct World {
    subjects: Vec<Subject>,
    number: AtomicU64,
    seen: Mutex<Seen>,
}

/// The last [`IDS_MAX`] sandbox ids.
#[derive(Default)]
struct Seen {
    ids: HashSet<u128>,
    order: VecDeque<u128>,
}

impl Seen {
    fn add(&mut self, id: u128) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > IDS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// `sbx_` and 26 digits of Crockford's base 32.
fn sandbox_id(text: &[u8]) -> Option<u128> {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let digits = text.strip_prefix(b"sbx_")?;
    let value = |digit: &u8| ALPHABET.iter().position(|known| known == digit).map(|at| at as u128);
    (digits.len() == 26).then_some(())?;
    digits.iter().try_fold(0u128, |sum, digit| Some(sum << 5 | value(digit)?))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let (first, rest) = needle.split_first()?;
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|byte| byte == first) {
        from += at + 1;
        if haystack[from..].starts_with(rest) {
            return Some(from - 1);
        }
    }
    None
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned()
}

/// One caller: its kept connection and its buffer.
struct Caller<'w> {
    world: &'w World,
    connection: Option<(String, UnixStream, Instant)>,
    reply: Vec<u8>,
}

impl<'w> Caller<'w> {
    fn new(world: &'w World) -> Self {
        Self { world, connection: None, reply: Vec::with_capacity(1 << 16) }
    }

    /// Runs `subject` once; when it began and how long it took.
    fn call(&mut self, subject: usize) -> std::result::Result<(Instant, Duration), Fault> {
        let number = format!("{:012}", self.world.number.fetch_add(1, Ordering::Relaxed));
        let fill = |text: &str| if text.contains(NUMBER) { text.replace(NUMBER, &number) } else { text.to_owned() };
        match &self.world.subjects[subject] {
            Subject::Spawn { argv, stdout } => {
                let argv: Vec<String> = argv.iter().map(|a| fill(a)).collect();
                spawn(&argv, stdout.as_deref().map(fill).as_deref()).map_err(Fault::Wrong)
            }
            Subject::Http { socket, request, body, result } => {
                let request = http_request(request, &fill(body));
                let (begun, took, status, head) = self.exchange(socket, &request).map_err(|e| {
                    self.connection = None;
                    Fault::Wrong(format!("{socket}: {e}"))
                })?;
                let body = &self.reply[head..];
                if status == 429 || status == 503 {
                    return Err(Fault::Refused(shown(body)));
                }
                let checked = match result {
                    Some(result) => self.check(body, &fill(result)),
                    None => Ok(()),
                };
                match checked {
                    Ok(()) if status == 200 => Ok((begun, took)),
                    Ok(()) => Err(Fault::Wrong(format!("status {status}: {}", shown(body)))),
                    Err(why) => Err(Fault::Wrong(format!("{why}: {}", shown(body)))),
                }
            }
        }
    }

    /// `body` must hold exactly this result, and the id of a sandbox that no call had before.
    ///
    /// A quotation mark inside of a JSON string has a backslash before it, so no output can look like these keys.
    fn check(&self, body: &[u8], result: &str) -> Result<()> {
        let key = b"\"success\":true,\"result\":";
        let at = find(body, key).ok_or("no success")? + key.len();
        let rest = body[at..].strip_prefix(result.as_bytes()).ok_or("another result than was due")?;
        if rest.first() != Some(&b',') {
            return Err("another result than was due".into());
        }
        let key = b"\"sandbox\":{\"id\":\"";
        let id = &rest[find(rest, key).ok_or("no sandbox")? + key.len()..];
        let id = &id[..id.iter().position(|b| *b == b'"').unwrap_or(0)];
        let number = sandbox_id(id).ok_or("not a sandbox's id")?;
        let mut seen = self.world.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        seen.add(number).then_some(()).ok_or_else(|| format!("sandbox {} was used twice", shown(id)))
    }

    /// One request and its whole reply: begin, time taken, status, where in `self.reply` the body begins.
    fn exchange(&mut self, socket: &str, request: &[u8]) -> io::Result<(Instant, Duration, u16, usize)> {
        let fresh = |(path, _, used): &(String, UnixStream, Instant)| path == socket && used.elapsed() < IDLE_MAX;
        if !self.connection.as_ref().is_some_and(fresh) {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            self.connection = Some((socket.to_owned(), stream, Instant::now()));
        }
        let Some((_, stream, used)) = &mut self.connection else { return Err(io::ErrorKind::NotConnected.into()) };
        let reply = &mut self.reply;
        reply.clear();
        let begun = Instant::now();
        stream.write_all(request)?;
        let (status, head, length) = loop {
            more(stream, reply)?;
            if let Some(end) = find(reply, b"\r\n\r\n") {
                let (status, length) = head_of(&reply[..end])?;
                break (status, end + 4, length);
            }
        };
        while reply.len() < head + length {
            more(stream, reply)?;
        }
        let took = begun.elapsed();
        *used = Instant::now();
        if reply.len() > head + length {
            return Err(io::Error::other("bytes after the reply"));
        }
        Ok((begun, took, status, head))
    }
}

fn http_request(request: &str, body: &str) -> Vec<u8> {
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    format!("{request} HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn more(stream: &mut UnixStream, into: &mut Vec<u8>) -> io::Result<()> {
    let filled = into.len();
    into.resize(filled + (1 << 16), 0);
    let read = stream.read(&mut into[filled..]);
    into.truncate(filled + read.as_ref().map_or(0, |n| *n));
    if read? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Status and length of the body.
fn head_of(head: &[u8]) -> io::Result<(u16, usize)> {
    let bad = || io::Error::other(format!("not a reply with a length: {}", shown(head)));
    let text = std::str::from_utf8(head).map_err(|_| bad())?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).ok_or_else(bad)?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Ok((status, length.ok_or_else(bad)?))
}

/// A process from its start to its end, with its output. std starts it by posix_spawn: no copy of this one is made.
fn spawn(argv: &[String], stdout: Option<&str>) -> Result<(Instant, Duration)> {
    let (program, rest) = argv.split_first().ok_or("nothing to run")?;
    let mut command = Command::new(program);
    command.args(rest).stdin(Stdio::null());
    command.stdout(if stdout.is_some() { Stdio::piped() } else { Stdio::null() });
    let failed = |e: io::Error| format!("{program}: {e}");
    let mut out = Vec::new();
    let begun = Instant::now();
    let mut child = command.spawn().map_err(failed)?;
    if let Some(pipe) = &mut child.stdout {
        pipe.read_to_end(&mut out).map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    let took = begun.elapsed();
    if !status.success() {
        return Err(format!("{program}: {status}"));
    }
    match stdout {
        Some(due) if due.as_bytes() != out => Err(format!("{program} wrote {}", shown(&out))),
        _ => Ok((begun, took)),
    }
}

/// What one command counted.
#[derive(Default)]
struct Tally {
    calls: AtomicU64,
    wrong: AtomicU64,
    refused: AtomicU64,
    first: Mutex<Option<String>>,
}

impl Tally {
    fn count(&self, fault: Fault) {
        let (counter, why) = match fault {
            Fault::Wrong(why) => (&self.wrong, why),
            Fault::Refused(why) => (&self.refused, why),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.first.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(why);
    }

    fn told(&self, took: Duration) -> String {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let first = self.first.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take().unwrap_or_default();
        let (calls, wrong, refused) = (of(&self.calls), of(&self.wrong), of(&self.refused));
        let first = first.replace(['\n', '\r'], " ");
        format!("calls={calls} wrong={wrong} refused={refused} ns={} first={first}", took.as_nanos())
    }
}

/// The records of one command.
struct Records(Mutex<BufWriter<File>>);

impl Records {
    fn create(path: &str) -> Result<Self> {
        let file = File::create(path).map_err(|e| format!("{path}: {e}"))?;
        Ok(Self(Mutex::new(BufWriter::with_capacity(1 << 16, file))))
    }

    fn add(&self, subject: usize, at: Duration, took: Duration) -> Result<()> {
        let mut line = [0; 24];
        let numbers = [subject as u64, at.as_nanos() as u64, took.as_nanos() as u64];
        for (slot, number) in line.chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).write_all(&line).map_err(|e| e.to_string())
    }

    fn finish(self) -> Result<()> {
        let mut file = self.0.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        file.flush().map_err(|e| e.to_string())
    }
}

/// SplitMix64: an order that looks like none and is the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % most.max(1) as u64) as usize
    }
}

/// `SUBJECT:NUMBER,…`; without a number it is 1.
fn listed(world: &World, text: &str) -> Result<Vec<(usize, usize)>> {
    let entry = |entry: &str| {
        let (subject, number) = entry.split_once(':').unwrap_or((entry, "1"));
        let (subject, number) = (subject.parse().ok()?, number.parse().ok()?);
        (subject < world.subjects.len() && number > 0).then_some((subject, number))
    };
    text.split(',').map(|e| entry(e).ok_or_else(|| format!("no such subject: {e}"))).collect()
}

/// One caller; stops at the first fault, because a run with a wrong answer measures nothing.
fn rounds(world: &World, file: &str, numbers: [u64; 3], subjects: &str) -> Result<String> {
    let [warm, runs, seed] = numbers;
    let subjects = listed(world, subjects)?;
    let records = Records::create(file)?;
    // One for each subject: each keeps its connection.
    let mut callers: Vec<Caller> = subjects.iter().map(|_| Caller::new(world)).collect();
    let mut random = Random(seed);
    let (tally, start) = (Tally::default(), Instant::now());
    let mut order: Vec<usize> = (0..subjects.len()).collect();
    'all: for round in 0..warm + runs {
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at + 1));
        }
        for &at in &order {
            let (subject, every) = subjects[at];
            if round % every as u64 != 0 {
                continue;
            }
            match callers[at].call(subject) {
                Ok((begun, took)) if round >= warm => {
                    tally.calls.fetch_add(1, Ordering::Relaxed);
                    records.add(subject, begun - start, took)?;
                }
                Ok(_) => {}
                Err(fault) => {
                    tally.count(fault);
                    break 'all;
                }
            }
        }
    }
    records.finish()?;
    Ok(tally.told(start.elapsed()))
}

/// `callers` at once until `length` is over. `rate` calls a second begin, or as many as can.
fn many(
    world: &World,
    file: &str,
    callers: u64,
    rate: Option<f64>,
    length: Duration,
    subjects: &str,
) -> Result<String> {
    let subjects: Vec<usize> =
        listed(world, subjects)?.into_iter().flat_map(|(s, weight)| std::iter::repeat_n(s, weight)).collect();
    let records = Records::create(file)?;
    let (tally, turn, failed) = (Tally::default(), AtomicU64::new(0), AtomicBool::new(false));
    let start = Instant::now();
    let work = || -> Result<()> {
        let mut caller = Caller::new(world);
        while !failed.load(Ordering::Relaxed) {
            let turn = turn.fetch_add(1, Ordering::Relaxed);
            let mut late = Duration::ZERO;
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64(turn as f64 / rate);
                if due >= length {
                    break;
                }
                match due.checked_sub(start.elapsed()) {
                    Some(early) => std::thread::sleep(early),
                    // A call waited here because all callers were busy: that is time which its caller saw.
                    None => late = start.elapsed().saturating_sub(due),
                }
            } else if start.elapsed() >= length {
                break;
            }
            let mut random = Random(turn);
            let subject = subjects[random.below(subjects.len())];
            match caller.call(subject) {
                Ok((begun, took)) => {
                    tally.calls.fetch_add(1, Ordering::Relaxed);
                    records.add(subject, (begun - start).saturating_sub(late), took + late)?;
                }
                Err(fault) => {
                    tally.count(fault);
                    // A soak goes on, so that it can tell how many; not at the speed of refusals, though.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        Ok(())
    };
    let ended: Vec<Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..callers)
            .map(|_| {
                scope.spawn(|| {
                    let ended = work();
                    if ended.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    ended
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a caller panicked".into()))).collect()
    });
    let took = start.elapsed();
    ended.into_iter().collect::<Result<()>>()?;
    records.finish()?;
    Ok(tally.told(took))
}

/// Connections on each of which a call runs that nobody waits for.
fn hold(world: &World, count: u64, subject: &str) -> Result<Vec<UnixStream>> {
    let (subject, _) = listed(world, subject)?[0];
    let Subject::Http { socket, request, body, .. } = &world.subjects[subject] else {
        return Err("only calls can be held".into());
    };
    let request = http_request(request, body);
    let open = |_| -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(&request)?;
        Ok(stream)
    };
    (0..count).map(open).collect::<io::Result<_>>().map_err(|e| e.to_string())
}

fn text(escaped: &str) -> String {
    let (mut out, mut chars) = (String::new(), escaped.chars());
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some(other)) => out.push(other),
            (plain, _) => out.push(plain),
        }
    }
    out
}

/// The lines up to `end`.
fn subject(kind: &str, lines: &mut impl Iterator<Item = io::Result<String>>) -> Result<Subject> {
    let (mut socket, mut request, mut body, mut result) = (String::new(), String::new(), String::new(), None);
    let (mut argv, mut stdout) = (Vec::new(), None);
    loop {
        let line = lines.next().ok_or("a subject without an end")?.map_err(|e| e.to_string())?;
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match word {
            "socket" => socket = rest.to_owned(),
            "request" => request = rest.to_owned(),
            "body" => body = rest.to_owned(),
            "result" => result = Some(rest.to_owned()),
            "arg" => argv.push(text(rest)),
            "stdout" => stdout = Some(text(rest)),
            "end" => break,
            other => return Err(format!("a subject has no {other}")),
        }
    }
    match kind {
        "http" => Ok(Subject::Http { socket, request, body, result }),
        "spawn" => Ok(Subject::Spawn { argv, stdout }),
        other => Err(format!("no subject is {other}")),
    }
}

fn command(
    world: &mut World,
    held: &mut Vec<UnixStream>,
    line: &str,
    lines: &mut impl Iterator<Item = io::Result<String>>,
) -> Result<String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text} is not a number"));
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["subject", kind] => {
            let subject = subject(kind, lines)?;
            world.subjects.push(subject);
            Ok(format!("subject={}", world.subjects.len() - 1))
        }
        ["rounds", file, warm, runs, seed, subjects] => {
            rounds(world, file, [number(warm)?, number(runs)?, number(seed)?], subjects)
        }
        ["flood", file, callers, ms, subjects] => {
            many(world, file, number(callers)?, None, Duration::from_millis(number(ms)?), subjects)
        }
        ["pace", file, callers, rate, ms, subjects] => {
            let rate: f64 = rate.parse().map_err(|_| format!("{rate} is not a rate"))?;
            if !(rate.is_finite() && rate > 0.0) {
                return Err(format!("{rate} is not a rate"));
            }
            many(world, file, number(callers)?, Some(rate), Duration::from_millis(number(ms)?), subjects)
        }
        ["hold", count, subject] => {
            let count = number(count)?;
            held.extend(hold(world, count, subject)?);
            Ok(format!("held={}", held.len()))
        }
        ["release"] => {
            held.clear();
            Ok("held=0".into())
        }
        _ => Err(format!("no such command: {line}")),
    }
}

fn main() -> ExitCode {
    let mut lines = io::stdin().lock().lines();
    let (mut world, mut held) = (World::default(), Vec::new());
    while let Some(Ok(line)) = lines.next() {
        let answer = match command(&mut world, &mut held, &line, &mut lines) {
            Ok(told) => format!("ok {told}"),
            Err(why) => format!("error {}", why.replace(['\n', '\r'], " ")),
        };
        // Whoever told it what to do is gone: then nothing is to be done.
        if writeln!(io::stdout(), "{answer}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
