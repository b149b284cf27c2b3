//! What happens in one execution, in order, for those who follow it: every event has a number, and whoever lost the
//! connection, or the daemon, goes on behind the last number that it saw.
//!
//! The log holds what a plain reply would hold (the first bytes of each stream, up to the limit of output), once, however many
//! read it and however slowly.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::call::CallError;
use super::finish::{Execution, Reply};
use super::place::{DENIALS_TOLD_MAX, Place, TICK_MAX};
use crate::spec::{Denial, SandboxId};

/// A command that writes byte by byte is told of in pieces: whoever follows looks again after this long.
const GATHERED_FOR: Duration = Duration::from_millis(5);
/// Of one event. Larger ones would only hold up what follows them on the same connection.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Whoever follows hears something at least this often.
pub const PING: Duration = Duration::from_secs(15);
/// Changes from one stream to the other that are kept of an attempt; what comes later is told stream by stream.
const ORDER_MAX: usize = 8192;
/// Events handed out at once, and their bytes: what a reader holds that does not read on.
const TAKEN_MAX: usize = 64;
const TAKEN_BYTES_MAX: usize = CHUNK_BYTES_MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One thing that happened.
#[derive(Clone)]
pub enum What {
    /// A command runs, or the tool works that needs none. Another attempt begins its streams anew.
    Started { attempt: u32, sandbox: Option<SandboxId> },
    /// Bytes of a stream from `offset` on: whole characters, where they are characters.
    Output { stream: Stream, offset: u64, bytes: Vec<u8> },
    /// A rule refused something for the first time, so often so far. The reply has them all.
    Denied(Denial),
    /// Nothing happened for a while.
    Ping,
    /// The last one.
    End(Arc<Result<Reply, CallError>>),
}

#[derive(Clone)]
pub struct Event {
    /// Rising: see [`Place`].
    pub id: u64,
    pub what: What,
}

/// The events of one execution.
pub struct Log {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    /// The reply as its transport writes it: once, for all who ask.
    rendered: OnceLock<Arc<[u8]>>,
}

#[derive(Default)]
struct State {
    attempts: Vec<Attempt>,
    end: Option<Arc<Result<Reply, CallError>>>,
    /// The daemon stops, and the run does not: who follows comes back to the next daemon.
    suspended: bool,
}

struct Attempt {
    number: u32,
    sandbox: Option<SandboxId>,
    streams: [Told; 2],
    denials: Vec<Denial>,
    /// In which order they came: bytes of which stream, or denials, and up to where.
    order: Vec<(Lane, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Bytes(Stream),
    Denials,
}

#[derive(Default)]
struct Told {
    bytes: Vec<u8>,
    /// Those before the beginning of a character that is not whole yet.
    whole: usize,
}

impl Attempt {
    /// Everything before `whole` may be told from now on.
    fn tell(&mut self, stream: Stream, whole: usize) {
        self.streams[stream as usize].whole = whole;
        self.order(Lane::Bytes(stream), whole);
    }

    fn order(&mut self, lane: Lane, to: usize) {
        // Beyond the bound the last three, of which no two are of one kind, take what comes.
        let among = if self.order.len() < ORDER_MAX { 1 } else { 3 };
        match self.order.iter_mut().rev().take(among).find(|(last, _)| *last == lane) {
            Some((_, before)) => *before = to as u64,
            None => self.order.push((lane, to as u64)),
        }
    }

    fn told(&self) -> [u64; 2] {
        self.streams.each_ref().map(|stream| stream.whole as u64)
    }
}

impl State {
    fn place(&self) -> Place {
        let of = |a: &Attempt| Place { attempt: a.number, told: a.told(), denials: a.denials.len() as u64, tick: 0 };
        let last = self.attempts.last().map_or(Place::default(), of);
        if self.end.is_some() { last.ended() } else { last }
    }

    /// Adds to `events` what `attempt` has behind `place`, which is in it or before; whether there was room for all.
    fn read(attempt: &Attempt, place: &mut Place, events: &mut Vec<Event>, room: &mut usize) -> bool {
        if place.attempt != attempt.number {
            *place = Place { attempt: attempt.number, ..Place::default() };
            let what = What::Started { attempt: attempt.number, sandbox: attempt.sandbox.clone() };
            events.push(Event { id: place.number(), what });
        }
        for &(lane, to) in &attempt.order {
            let Lane::Bytes(stream) = lane else {
                while place.denials < to {
                    if events.len() >= TAKEN_MAX {
                        return false;
                    }
                    let what = What::Denied(attempt.denials[place.denials as usize].clone());
                    *place = Place { denials: place.denials + 1, tick: 0, ..*place };
                    events.push(Event { id: place.number(), what });
                }
                continue;
            };
            let bytes = &attempt.streams[stream as usize].bytes;
            while place.told[stream as usize] < to {
                if events.len() >= TAKEN_MAX || *room == 0 {
                    return false;
                }
                let offset = place.told[stream as usize];
                let piece = piece(&bytes[offset as usize..to as usize], (*room).min(CHUNK_BYTES_MAX));
                *room = room.saturating_sub(piece.len());
                *place = Place { tick: 0, ..*place };
                place.told[stream as usize] += piece.len() as u64;
                let what = What::Output { stream, offset, bytes: piece.to_vec() };
                events.push(Event { id: place.number(), what });
            }
        }
        true
    }
}

/// The first `most` bytes, or fewer: none of its characters is cut.
fn piece(bytes: &[u8], most: usize) -> &[u8] {
    let Some(rest) = bytes.get(most..) else { return bytes };
    if rest.first().is_none_or(|byte| byte & 0xc0 != 0x80) {
        return &bytes[..most];
    }
    // A character has four bytes at most; what has no beginning within those is none.
    let at = (most.saturating_sub(3)..most).rev().find(|at| bytes[*at] & 0xc0 != 0x80);
    &bytes[..at.filter(|at| *at > 0).unwrap_or(most)]
}

impl Default for Log {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new(()), rendered: OnceLock::new() }
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.send_replace(());
    }

    pub(super) fn started(&self, number: u32, sandbox: Option<SandboxId>) {
        let attempt = Attempt { number, sandbox, streams: Default::default(), denials: Vec::new(), order: Vec::new() };
        self.tell(|state| state.attempts.push(attempt));
    }

    /// Bytes that the reply will hold, too; of the command that was started last.
    pub(super) fn output(&self, stream: Stream, chunk: &[u8]) {
        if chunk.is_empty() {
            return;
        }
        self.tell(|state| {
            let Some(attempt) = state.attempts.last_mut() else { return };
            let told = &mut attempt.streams[stream as usize];
            told.bytes.extend_from_slice(chunk);
            let whole = told.bytes.len() - super::output::incomplete_tail(&told.bytes[told.whole..]);
            if whole > told.whole {
                attempt.tell(stream, whole);
            }
        });
    }

    /// Whether `denial` is told by an event of its own: the first of its rule, of the command that was started last.
    pub(super) fn is_news(&self, denial: &Denial) -> bool {
        let same = |told: &Denial| (&told.rule, &told.detail) == (&denial.rule, &denial.detail);
        let state = self.lock();
        state.attempts.last().is_some_and(|a| a.denials.len() < DENIALS_TOLD_MAX && !a.denials.iter().any(same))
    }

    /// What [`Log::is_news`] said is.
    pub(super) fn denied(&self, denial: Denial) {
        self.tell(|state| {
            let Some(attempt) = state.attempts.last_mut() else { return };
            if attempt.denials.len() < DENIALS_TOLD_MAX {
                attempt.denials.push(denial);
                attempt.order(Lane::Denials, attempt.denials.len());
            }
        });
    }

    /// Nothing comes after it.
    pub(super) fn end(&self, result: Result<Reply, CallError>) {
        self.tell(|state| {
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(attempt) = state.attempts.last_mut()
                    && let told = &attempt.streams[stream as usize]
                    && told.whole < told.bytes.len()
                {
                    let all = told.bytes.len();
                    attempt.tell(stream, all);
                }
            }
            state.end = Some(Arc::new(result));
        });
    }

    /// Ends the connections of those who follow.
    pub(super) fn suspend(&self) {
        self.tell(|state| state.suspended = true);
    }

    /// How it ended, once it has.
    pub fn result(&self) -> Option<Arc<Result<Reply, CallError>>> {
        self.lock().end.clone()
    }

    /// Whether an event behind the one with the number `after` came or can come; `None` where that one was never told.
    pub fn goes_on(&self, after: u64) -> Option<bool> {
        let state = self.lock();
        let (after, last) = (Place::of(after), state.place());
        let (told, denials) = match after.attempt {
            0 => ([0; 2], 0),
            number => {
                let attempt = state.attempts.iter().find(|attempt| attempt.number == number)?;
                (attempt.told(), attempt.denials.len() as u64)
            }
        };
        let low = if after.is_end() { after == last } else { after.denials <= denials };
        let is_ours = after.told.iter().zip(told).all(|(after, told)| *after <= told) && low;
        is_ours.then_some(!after.is_end())
    }

    /// The reply of one that has ended with one, as `render` writes it; `None` where there is none.
    pub async fn rendered(&self, render: fn(&Execution) -> Vec<u8>) -> Option<Arc<[u8]>> {
        if let Some(rendered) = self.rendered.get() {
            return Some(Arc::clone(rendered));
        }
        let Ok(reply) = self.result()?.as_ref().as_ref().map(Arc::clone) else { return None };
        let rendered: Arc<[u8]> = super::aside::aside(reply.held_bytes(), move || render(&reply).into()).await?;
        Some(Arc::clone(self.rendered.get_or_init(|| rendered)))
    }

    /// About what it holds in memory.
    pub(super) fn held_bytes(&self) -> usize {
        let state = self.lock();
        let of_attempt = |attempt: &Attempt| {
            let streams: usize = attempt.streams.iter().map(|told| told.bytes.capacity()).sum();
            let denial = |d: &Denial| size_of::<Denial>() + d.rule.len() + d.detail.len();
            let denials: usize = attempt.denials.iter().map(denial).sum();
            size_of::<Attempt>() + streams + denials + attempt.order.capacity() * size_of::<(Lane, u64)>()
        };
        let end = state.end.as_ref().and_then(|end| end.as_ref().as_ref().ok()).map_or(0, |reply| reply.held_bytes());
        // The reply is there as a value and, once somebody asks, as text.
        state.attempts.iter().map(of_attempt).sum::<usize>() + 2 * end
    }

    /// The next events behind `place`, which moves; whether the last one is among them.
    fn take(&self, place: &mut Place) -> (Vec<Event>, bool) {
        let state = self.lock();
        let mut events = Vec::new();
        let mut room = TAKEN_BYTES_MAX;
        let from = state.attempts.partition_point(|attempt| attempt.number < place.attempt);
        let all = state.attempts[from..].iter().all(|attempt| State::read(attempt, place, &mut events, &mut room));
        match &state.end {
            Some(end) if all && !place.is_end() => {
                *place = place.ended();
                events.push(Event { id: place.number(), what: What::End(Arc::clone(end)) });
                (events, true)
            }
            _ => (events, false),
        }
    }
}

/// One who follows.
pub struct Reader {
    log: Arc<Log>,
    changed: watch::Receiver<()>,
    place: Place,
    ended: bool,
    ping: Duration,
}

impl Reader {
    /// Behind the event with the number `after`; 0: from the beginning.
    pub fn new(log: Arc<Log>, after: u64) -> Self {
        let changed = log.changed.subscribe();
        Self { log, changed, place: Place::of(after), ended: false, ping: PING }
    }

    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The next events, at least one; empty after the last.
    pub async fn next(&mut self) -> Vec<Event> {
        if self.ended || self.place.is_end() {
            return Vec::new();
        }
        let ping = Instant::now() + self.ping;
        loop {
            self.changed.mark_unchanged();
            let (events, ended) = self.log.take(&mut self.place);
            if !events.is_empty() {
                self.ended = ended;
                return events;
            }
            if self.log.lock().suspended {
                return Vec::new();
            }
            match tokio::time::timeout_at(ping, self.changed.changed()).await {
                Ok(Ok(())) => tokio::time::sleep(GATHERED_FOR).await,
                _ => {
                    // The last number comes again where a run is as quiet as that.
                    self.place.tick = (self.place.tick + 1).min(TICK_MAX);
                    return vec![Event { id: self.place.number(), what: What::Ping }];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Layer;

    fn sandbox() -> SandboxId {
        SandboxId::from_random([0; 16])
    }

    fn told(events: &[Event]) -> Vec<(Stream, u64, String)> {
        events
            .iter()
            .filter_map(|e| match &e.what {
                What::Output { stream, offset, bytes } => {
                    Some((*stream, *offset, String::from_utf8(bytes.clone()).unwrap()))
                }
                _ => None,
            })
            .collect()
    }

    fn numbers(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.id).collect()
    }

    #[tokio::test]
    async fn who_comes_back_goes_on_where_it_was() {
        let log = Arc::new(Log::default());
        assert_eq!(
            (log.goes_on(0), log.goes_on(1), log.goes_on(Place::default().ended().number())),
            (Some(true), Some(true), None)
        );
        log.started(1, Some(sandbox()));
        log.output(Stream::Stdout, b"ab");
        log.output(Stream::Stdout, b"c");
        let mut reader = Reader::new(Arc::clone(&log), 0);
        let first = reader.next().await;
        assert_eq!(told(&first), [(Stream::Stdout, 0, "abc".into())]);
        log.output(Stream::Stdout, b"d");
        log.output(Stream::Stderr, b"e");
        log.output(Stream::Stdout, b"f");
        let mut again = Reader::new(Arc::clone(&log), first.last().unwrap().id);
        let rest = again.next().await;
        assert_eq!(
            told(&rest),
            [(Stream::Stdout, 3, "d".into()), (Stream::Stderr, 0, "e".into()), (Stream::Stdout, 4, "f".into())]
        );
        assert_eq!(numbers(&reader.next().await), numbers(&rest));
        // Another attempt begins anew; who was in the first one hears the rest of it.
        log.started(2, Some(sandbox()));
        log.output(Stream::Stderr, b"g");
        log.end(Err(CallError::Draining));
        let last = Reader::new(Arc::clone(&log), rest[1].id).next().await;
        assert_eq!(told(&last), [(Stream::Stdout, 4, "f".into()), (Stream::Stderr, 0, "g".into())]);
        assert!(matches!(last[1].what, What::Started { attempt: 2, .. }));
        let end = last.last().unwrap();
        assert!(matches!(end.what, What::End(_)));
        let mut all = Reader::new(Arc::clone(&log), 0);
        let every = all.next().await;
        assert!(all.next().await.is_empty());
        assert!(numbers(&every).windows(2).all(|two| two[0] < two[1]));
        for event in &every {
            assert_eq!(log.goes_on(event.id), Some(event.id != end.id));
        }
        // Behind the end, beyond a stream, another attempt, the end of one before: never told.
        for number in [
            end.id + 1,
            Place { attempt: 1, told: [6, 0], denials: 0, tick: 0 }.number(),
            Place { attempt: 1, told: [5, 0], denials: 1, tick: 0 }.number(),
            Place { attempt: 3, told: [0, 0], denials: 0, tick: 0 }.number(),
            Place { attempt: 1, told: [5, 1], denials: 0, tick: 0 }.ended().number(),
            u64::MAX,
        ] {
            assert_eq!(log.goes_on(number), None, "{number:#x}");
        }
    }

    #[tokio::test]
    async fn denials_stand_between_bytes_and_come_once() {
        let denial =
            |rule: usize| Denial { layer: Layer::Seccomp, rule: rule.to_string(), detail: "x".into(), count: 1 };
        let log = Arc::new(Log::default());
        assert!(!log.is_news(&denial(0)), "no command was started");
        log.started(1, Some(sandbox()));
        log.output(Stream::Stdout, b"a");
        log.denied(denial(0));
        assert!(!log.is_news(&denial(0)) && log.is_news(&denial(1)));
        log.output(Stream::Stdout, b"b");
        for rule in 1..100 {
            if log.is_news(&denial(rule)) {
                log.denied(denial(rule));
            }
        }
        log.output(Stream::Stderr, b"c");
        log.end(Err(CallError::Draining));
        let mut reader = Reader::new(Arc::clone(&log), 0);
        let all = reader.next().await;
        let kinds: String = all
            .iter()
            .map(|event| match &event.what {
                What::Started { .. } => 's',
                What::Output { bytes, .. } => bytes[0] as char,
                What::Denied(_) => 'd',
                What::Ping => 'p',
                What::End(_) => 'e',
            })
            .collect();
        assert_eq!(kinds, format!("sadb{}ce", "d".repeat(DENIALS_TOLD_MAX - 1)));
        assert!(numbers(&all).windows(2).all(|two| two[0] < two[1]));
        for (at, event) in all.iter().enumerate() {
            assert_eq!(log.goes_on(event.id), Some(at + 1 < all.len()));
            let rest = Reader::new(Arc::clone(&log), event.id).next().await;
            assert_eq!(numbers(&rest), numbers(&all[at + 1..]), "behind {at}");
        }
    }

    #[tokio::test]
    async fn characters_are_not_cut_and_large_output_comes_in_pieces() {
        let log = Arc::new(Log::default());
        log.started(1, Some(sandbox()));
        let text = "é".repeat(100_000);
        for chunk in text.as_bytes().chunks(16_383) {
            log.output(Stream::Stdout, chunk);
        }
        log.output(Stream::Stdout, &"é".as_bytes()[..1]);
        log.end(Err(CallError::Draining));
        let mut reader = Reader::new(log, 0);
        let (mut all, mut next) = (Vec::new(), 0);
        loop {
            let events = reader.next().await;
            if events.is_empty() {
                break;
            }
            for event in events {
                if let What::Output { offset, bytes, .. } = event.what {
                    assert_eq!(offset, next);
                    assert!(bytes.len() <= CHUNK_BYTES_MAX);
                    next += bytes.len() as u64;
                    // What never became a character is told at the end.
                    assert!(std::str::from_utf8(&bytes).is_ok() || next == 200_001);
                    all.extend(bytes);
                }
            }
        }
        assert_eq!(all, [text.as_bytes(), &"é".as_bytes()[..1]].concat());
    }

    #[tokio::test]
    async fn a_command_that_changes_between_its_streams_for_ever_is_told_whole_all_the_same() {
        let log = Arc::new(Log::default());
        log.started(1, Some(sandbox()));
        let all = ORDER_MAX + 100;
        for _ in 0..all {
            log.output(Stream::Stdout, b"o");
            log.output(Stream::Stderr, b"e");
        }
        assert!(log.lock().attempts[0].order.len() <= ORDER_MAX);
        log.end(Err(CallError::Draining));
        let (mut reader, mut told, mut last) = (Reader::new(log, 0), [0; 2], 0);
        loop {
            let events = reader.next().await;
            if events.is_empty() {
                break;
            }
            for event in events {
                assert!(event.id > last);
                last = event.id;
                if let What::Output { stream, offset, bytes } = event.what {
                    assert_eq!(offset, told[stream as usize]);
                    told[stream as usize] += bytes.len() as u64;
                }
            }
        }
        assert_eq!(told, [all as u64; 2]);
    }

    #[test]
    fn bytes_that_are_no_characters_are_cut_anywhere() {
        let bytes = [0x80; 100];
        assert_eq!(piece(&bytes, 10).len(), 10);
        assert_eq!(piece(&bytes, 200).len(), 100);
        assert_eq!(piece("aé".as_bytes(), 2), b"a");
        assert_eq!(piece("é".as_bytes(), 1).len(), 1);
    }

    #[tokio::test]
    async fn silence_is_told_with_a_number_of_its_own() {
        let log = Arc::new(Log::default());
        log.started(1, Some(sandbox()));
        log.output(Stream::Stdout, b"a");
        let mut reader = Reader { ping: Duration::from_millis(20), ..Reader::new(Arc::clone(&log), 0) };
        let first = reader.next().await;
        let pings = [reader.next().await, reader.next().await];
        for ping in &pings {
            assert!(matches!(ping[..], [Event { what: What::Ping, .. }]));
        }
        log.output(Stream::Stdout, b"b");
        let mut other = Reader::new(log, pings[1][0].id);
        let last = other.next().await;
        assert_eq!(told(&last), [(Stream::Stdout, 1, "b".into())]);
        assert_eq!(numbers(&reader.next().await), numbers(&last));
        let ids = [first[1].id, pings[0][0].id, pings[1][0].id, last[0].id];
        assert!(ids.windows(2).all(|two| two[0] < two[1]));
    }
}
