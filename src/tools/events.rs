//! What happens in one execution, in order, for those who follow it: every event has a number, and whoever lost the
//! connection goes on behind the last number that it saw.
//!
//! The log holds what a plain reply would hold (the first bytes of each stream, up to the limit of output), once, however many
//! read it and however slowly.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::call::CallError;
use super::finish::{Execution, Reply};
use crate::spec::SandboxId;

/// A command that writes byte by byte is told of in pieces: whoever follows looks again after this long.
const GATHERED_FOR: Duration = Duration::from_millis(5);
/// Of one event. Larger ones would only hold up what follows them on the same connection.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Whoever follows hears something at least this often.
pub const PING: Duration = Duration::from_secs(15);
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
    /// A command runs. Another attempt begins its streams anew.
    Started { attempt: u32, sandbox: SandboxId },
    /// Bytes of a stream from `offset` on: whole characters, where they are characters.
    Output { stream: Stream, offset: u64, bytes: Vec<u8> },
    /// Nothing happened for a while.
    Ping,
    /// The last one.
    End(Arc<Result<Reply, CallError>>),
}

#[derive(Clone)]
pub struct Event {
    /// Rising, from 1.
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
    events: Vec<Event>,
    last: u64,
    /// The highest number that was handed out: what has not been may still grow.
    handed: u64,
    streams: [Tail; 2],
    bytes: usize,
}

#[derive(Default)]
struct Tail {
    /// Of the bytes that became events.
    offset: u64,
    /// The beginning of a character that is not whole yet.
    rest: Vec<u8>,
}

impl State {
    fn push(&mut self, what: What) {
        self.last += 1;
        self.events.push(Event { id: self.last, what });
    }

    /// `whole`: the bytes are characters, or never were any, and may be told together with those before them.
    fn output(&mut self, stream: Stream, mut bytes: Vec<u8>, whole: bool) {
        let tail = &mut self.streams[stream as usize];
        let offset = tail.offset;
        tail.offset += bytes.len() as u64;
        self.bytes += bytes.len();
        if whole
            && let Some(Event { id, what: What::Output { stream: of, bytes: last, .. } }) = self.events.last_mut()
            && *of == stream
            && *id > self.handed
            && last.len() + bytes.len() <= CHUNK_BYTES_MAX
        {
            last.append(&mut bytes);
            return;
        }
        self.push(What::Output { stream, offset, bytes });
    }
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

    pub(super) fn started(&self, attempt: u32, sandbox: SandboxId) {
        self.tell(|state| {
            state.streams = Default::default();
            state.push(What::Started { attempt, sandbox });
        });
    }

    /// Bytes that the reply will hold, too.
    pub(super) fn output(&self, stream: Stream, chunk: &[u8]) {
        if chunk.is_empty() {
            return;
        }
        self.tell(|state| {
            let mut bytes = std::mem::take(&mut state.streams[stream as usize].rest);
            bytes.extend_from_slice(chunk);
            let cut = super::output::incomplete_tail(&bytes);
            state.streams[stream as usize].rest = bytes.split_off(bytes.len() - cut);
            // In pieces of whole characters.
            while bytes.len() > CHUNK_BYTES_MAX {
                let at = (CHUNK_BYTES_MAX - 3..=CHUNK_BYTES_MAX)
                    .rev()
                    .find(|at| bytes[*at] & 0xc0 != 0x80)
                    .unwrap_or(CHUNK_BYTES_MAX);
                let rest = bytes.split_off(at);
                state.output(stream, std::mem::replace(&mut bytes, rest), true);
            }
            if !bytes.is_empty() {
                state.output(stream, bytes, true);
            }
        });
    }

    /// Nothing comes after it.
    pub(super) fn end(&self, result: Result<Reply, CallError>) {
        self.tell(|state| {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let rest = std::mem::take(&mut state.streams[stream as usize].rest);
                if !rest.is_empty() {
                    state.output(stream, rest, false);
                }
            }
            state.push(What::End(Arc::new(result)));
        });
    }

    /// How it ended, once it has.
    pub fn result(&self) -> Option<Arc<Result<Reply, CallError>>> {
        match self.lock().events.last() {
            Some(Event { what: What::End(result), .. }) => Some(Arc::clone(result)),
            _ => None,
        }
    }

    /// The number of its last event so far, and whether it is the last of all.
    pub fn last(&self) -> (u64, bool) {
        let state = self.lock();
        (state.last, matches!(state.events.last(), Some(Event { what: What::End(_), .. })))
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
        let end = match state.events.last() {
            Some(Event { what: What::End(result), .. }) => result.as_ref().as_ref().map_or(0, |r| r.held_bytes()),
            _ => 0,
        };
        // The reply is there as a value and, once somebody asks, as text.
        state.bytes + 2 * end + state.events.len() * size_of::<Event>()
    }

    /// The next events behind `after`, and whether the last one is among them.
    fn take(&self, after: u64) -> (Vec<Event>, bool) {
        let mut state = self.lock();
        let from = state.events.partition_point(|event| event.id <= after);
        let mut room = TAKEN_BYTES_MAX;
        let fits = |event: &&Event| {
            let bytes = if let What::Output { bytes, .. } = &event.what { bytes.len() } else { 0 };
            let first = room == TAKEN_BYTES_MAX;
            room = room.saturating_sub(bytes.max(1));
            first || room > 0
        };
        let taken: Vec<Event> = state.events[from..].iter().take(TAKEN_MAX).take_while(fits).cloned().collect();
        if let Some(last) = taken.last() {
            state.handed = state.handed.max(last.id);
        }
        let ended = matches!(taken.last(), Some(Event { what: What::End(_), .. }));
        (taken, ended)
    }

    /// A ping has a number as any event, but is not kept.
    fn ping(&self) -> Event {
        let mut state = self.lock();
        state.last += 1;
        state.handed = state.last;
        Event { id: state.last, what: What::Ping }
    }
}

/// One who follows.
pub struct Reader {
    log: Arc<Log>,
    changed: watch::Receiver<()>,
    after: u64,
    ended: bool,
    ping: Duration,
}

impl Reader {
    /// Behind the event `after`; 0: from the beginning.
    pub fn new(log: Arc<Log>, after: u64) -> Self {
        let changed = log.changed.subscribe();
        Self { log, changed, after, ended: false, ping: PING }
    }

    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The next events, at least one; empty after the last.
    pub async fn next(&mut self) -> Vec<Event> {
        if self.ended {
            return Vec::new();
        }
        let ping = Instant::now() + self.ping;
        loop {
            self.changed.mark_unchanged();
            let (events, ended) = self.log.take(self.after);
            if let Some(last) = events.last() {
                (self.after, self.ended) = (last.id, ended);
                return events;
            }
            // A number from another execution, or beyond the end: there is nothing more to come.
            if self.log.result().is_some() {
                self.ended = true;
                return Vec::new();
            }
            match tokio::time::timeout_at(ping, self.changed.changed()).await {
                Ok(Ok(())) => tokio::time::sleep(GATHERED_FOR).await,
                _ => {
                    let event = self.log.ping();
                    self.after = event.id;
                    return vec![event];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(events: &[Event]) -> Vec<(u64, Stream, u64, String)> {
        events
            .iter()
            .filter_map(|e| match &e.what {
                What::Output { stream, offset, bytes } => {
                    Some((e.id, *stream, *offset, String::from_utf8(bytes.clone()).unwrap()))
                }
                _ => None,
            })
            .collect()
    }

    #[tokio::test]
    async fn who_comes_back_goes_on_where_it_was() {
        let log = Arc::new(Log::default());
        log.started(1, SandboxId::from_random([0; 16]));
        log.output(Stream::Stdout, b"ab");
        log.output(Stream::Stdout, b"c");
        let mut reader = Reader::new(Arc::clone(&log), 0);
        let first = reader.next().await;
        assert_eq!(told(&first), [(2, Stream::Stdout, 0, "abc".into())]);
        // What was handed out does not grow any more.
        log.output(Stream::Stdout, b"d");
        log.output(Stream::Stderr, b"e");
        log.output(Stream::Stdout, b"f");
        let mut again = Reader::new(Arc::clone(&log), 2);
        let rest = again.next().await;
        assert_eq!(
            told(&rest),
            [
                (3, Stream::Stdout, 3, "d".into()),
                (4, Stream::Stderr, 0, "e".into()),
                (5, Stream::Stdout, 4, "f".into())
            ]
        );
        assert_eq!(told(&reader.next().await), told(&rest));
        log.end(Err(CallError::Draining));
        let end = again.next().await;
        assert!(matches!(end[..], [Event { id: 6, what: What::End(_) }]));
        assert!(again.next().await.is_empty());
        // From the beginning, and from beyond the end.
        let mut all = Reader::new(Arc::clone(&log), 0);
        assert_eq!(all.next().await.len(), 6);
        assert!(Reader::new(log, 99).next().await.is_empty());
    }

    #[tokio::test]
    async fn characters_are_not_cut_and_large_output_comes_in_pieces() {
        let log = Arc::new(Log::default());
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
                    assert!(std::str::from_utf8(&bytes).is_ok() || bytes == "é".as_bytes()[..1]);
                    all.extend(bytes);
                }
            }
        }
        assert_eq!(all, [text.as_bytes(), &"é".as_bytes()[..1]].concat());
    }

    #[tokio::test]
    async fn silence_is_told_with_a_number_of_its_own() {
        let log = Arc::new(Log::default());
        log.output(Stream::Stdout, b"a");
        let mut reader = Reader { ping: Duration::from_millis(20), ..Reader::new(Arc::clone(&log), 0) };
        assert_eq!(reader.next().await[0].id, 1);
        let ping = reader.next().await;
        assert!(matches!(ping[..], [Event { id: 2, what: What::Ping }]));
        log.output(Stream::Stdout, b"b");
        let mut other = Reader::new(log, 2);
        assert_eq!(other.next().await[0].id, 3);
        assert_eq!(reader.next().await[0].id, 3);
    }
}
