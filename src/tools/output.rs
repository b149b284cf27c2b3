//! Output of a command on its way out of the pipes: the first bytes are kept, the rest is drained and counted.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::Semaphore;

use super::aside::off_thread;
use super::events::{Log, Stream};
use super::finish::StreamFacts;
use super::spool::{Pulled, Spooled};
use crate::spec::SandboxId;
use crate::wire::client::Client;
use crate::wire::{Verb, WhyWire};

/// Taken from a pipe at once; a pipe holds 64 KiB.
const CHUNK_BYTES: usize = 16 * 1024;
/// After so many chunks in a row others get their turn.
const CHUNKS_IN_A_ROW: u32 = 32;
/// A command that writes this many times what is kept is killed.
const FLOOD_FACTOR: u64 = 64;
/// However little is kept, a pipe's worth is not a flood.
const FLOOD_BYTES_LEAST: u64 = 64 * 1024;

/// Looks into pipes by way of the disk, at once.
static DISK: Semaphore = Semaphore::const_new(8);

/// One stream.
pub(super) struct Captured {
    kept: Vec<u8>,
    kept_max: usize,
    total: u64,
    /// Whom to tell of what is kept.
    log: Option<(Arc<Log>, Stream)>,
    /// Where it is kept over restarts.
    spooled: Option<Spooled>,
}

impl Captured {
    pub(super) fn new(kept_max: usize) -> Self {
        Self { kept: Vec::new(), kept_max, total: 0, log: None, spooled: None }
    }

    pub(super) fn told(self, log: Option<&Arc<Log>>, stream: Stream) -> Self {
        Self { log: log.map(|log| (Arc::clone(log), stream)), ..self }
    }

    /// Goes on in `spooled`, behind `content`, which is there already and was told.
    pub(super) fn kept_in(self, spooled: Spooled, mut content: Vec<u8>) -> Self {
        let total = content.len() as u64 + spooled.dropped;
        content.truncate(self.kept_max);
        Self { kept: content, total, spooled: Some(spooled), ..self }
    }

    pub(super) fn is_kept_on_disk(&self) -> bool {
        self.spooled.is_some()
    }

    /// What `pipe` holds, by way of the disk where it is to be kept; false where nothing comes any more.
    async fn pull(&mut self, pipe: &Arc<Receiver>) -> bool {
        if let Some(mut spooled) = self.spooled.take() {
            let (pipe, most) = (Arc::clone(pipe), self.kept_max as u64);
            let work = move || {
                let pulled = spooled.pull(&pipe, most);
                (spooled, pulled)
            };
            // Threads are others', too. Only a runtime that stops gives nothing back.
            let Ok(_place) = DISK.acquire().await else { return false };
            let Some((spooled, pulled)) = off_thread(work).await else { return false };
            match pulled {
                Ok(pulled) => {
                    self.spooled = Some(spooled);
                    return match pulled {
                        Pulled::Nothing => true,
                        Pulled::End => false,
                        Pulled::Bytes(bytes) => {
                            self.take(&bytes);
                            true
                        }
                        Pulled::Beyond(bytes) => {
                            self.total += bytes;
                            true
                        }
                    };
                }
                // The run goes on; only a restart would show the difference.
                Err(error) => {
                    tracing::warn!(%error, "output can not be kept over a restart");
                    spooled.cut();
                }
            }
        }
        let mut chunk = [0; CHUNK_BYTES];
        match pipe.try_read(&mut chunk) {
            Ok(0) => false,
            Ok(n) => {
                self.take(&chunk[..n]);
                true
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => true,
            // A pipe's read end knows no other error; there is nothing more to be had.
            Err(_) => false,
        }
    }

    /// Everything the command writes passes here once, in order.
    fn take(&mut self, chunk: &[u8]) {
        let room = self.kept_max - self.kept.len();
        let kept = &chunk[..chunk.len().min(room)];
        self.kept.extend_from_slice(kept);
        self.total += chunk.len() as u64;
        if let Some((log, stream)) = &self.log {
            log.output(*stream, kept);
        }
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.kept.len()
    }

    fn is_flood(&self) -> bool {
        self.total > (self.kept_max as u64).saturating_mul(FLOOD_FACTOR).max(FLOOD_BYTES_LEAST)
    }

    /// Kept bytes, without facts: the result pipe's document. `None` where it did not fit.
    pub(super) fn into_document(self) -> Option<Vec<u8>> {
        (self.total == self.kept.len() as u64).then_some(self.kept)
    }

    /// What was kept as it is. Nobody takes it for text, so nothing of it is lost but what did not fit.
    pub(super) fn into_bytes(self) -> (Vec<u8>, StreamFacts) {
        let truncated = self.total > self.kept.len() as u64;
        (self.kept, StreamFacts { bytes: self.total, truncated, lossy: false })
    }

    pub(super) fn into_text(mut self) -> (String, StreamFacts) {
        let truncated = self.total > self.kept.len() as u64;
        if truncated {
            // A character cut in two at the cap is the cap's doing, not the command's.
            let cut = incomplete_tail(&self.kept);
            self.kept.truncate(self.kept.len() - cut);
        }
        let (text, lossy) = match String::from_utf8(self.kept) {
            Ok(text) => (text, false),
            Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned(), true),
        };
        (text, StreamFacts { bytes: self.total, truncated, lossy })
    }
}

/// Bytes at the end that begin a character which does not end.
pub(super) fn incomplete_tail(bytes: &[u8]) -> usize {
    match bytes.utf8_chunks().last() {
        Some(chunk) if std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none()) => {
            chunk.invalid().len()
        }
        _ => 0,
    }
}

/// Whom to tell that a command writes far too much.
pub(super) struct Flood<'a> {
    pub client: &'a Client,
    pub sandbox: &'a SandboxId,
}

impl Flood<'_> {
    async fn kill(&self) {
        let signal = Verb::Signal { id: self.sandbox.as_str().to_owned(), why: WhyWire::OutputLimit };
        // Where the connection is lost, the sandbox ends with it.
        let _lost = self.client.send(signal, &[]).await;
    }
}

/// Reads `pipe` to its end into `captured`; a flood is reported once.
pub(super) async fn drain(pipe: Option<Receiver>, captured: &mut Captured, flood: &Flood<'_>) {
    let Some(pipe) = pipe.map(Arc::new) else { return };
    let mut flood = Some(flood);
    let mut in_a_row = 0;
    loop {
        if pipe.readable().await.is_err() || !captured.pull(&pipe).await {
            return;
        }
        if captured.is_flood()
            && let Some(flood) = flood.take()
        {
            flood.kill().await;
        }
        in_a_row += 1;
        if in_a_row == CHUNKS_IN_A_ROW {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Writes `bytes` to the command's standard input and closes it. A command that does not read it all is no error.
pub(super) async fn feed(pipe: Option<Sender>, bytes: &[u8]) {
    if let Some(mut pipe) = pipe {
        let _broken_pipe = pipe.write_all(bytes).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(max: usize, chunks: &[&[u8]]) -> Captured {
        let mut captured = Captured::new(max);
        chunks.iter().for_each(|chunk| captured.take(chunk));
        captured
    }

    #[test]
    fn the_first_bytes_are_kept_and_the_rest_counted() {
        let (text, facts) = captured(5, &[b"abc", b"defg", b"h"]).into_text();
        assert_eq!(text, "abcde");
        assert_eq!(facts, StreamFacts { bytes: 8, truncated: true, lossy: false });
        let (text, facts) = captured(0, &[b"abc"]).into_text();
        assert_eq!((text.as_str(), facts.bytes, facts.truncated), ("", 3, true));
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_flagged() {
        let (text, facts) = captured(9, &[b"a\xffb"]).into_text();
        assert_eq!((text.as_str(), facts.lossy, facts.truncated), ("a\u{fffd}b", true, false));
        let (text, facts) = captured(4, &["abcé".as_bytes()]).into_text();
        assert_eq!((text.as_str(), facts.lossy, facts.truncated), ("abc", false, true));
        let (text, facts) = captured(9, &[&"é".as_bytes()[..1]]).into_text();
        assert_eq!((text.as_str(), facts.lossy), ("\u{fffd}", true));
    }

    #[test]
    fn a_flood_is_64_times_what_is_kept() {
        assert!(!captured(0, &[&[0; 65_536]]).is_flood());
        assert!(captured(0, &[&[0; 65_537]]).is_flood());
        assert!(!captured(2000, &[&[0; 128_000]]).is_flood());
        assert!(captured(2000, &[&[0; 128_001]]).is_flood());
    }

    #[test]
    fn a_document_that_did_not_fit_is_none() {
        assert_eq!(captured(3, &[b"abc"]).into_document(), Some(b"abc".to_vec()));
        assert_eq!(captured(3, &[b"abcd"]).into_document(), None);
    }
}
