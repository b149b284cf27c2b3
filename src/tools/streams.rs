//! The streams of one command, from its start to its end.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use super::output::{Captured, Flood, drain, feed};
use super::run::{Attempt, Ours, destroy};
use crate::spec::{End, Outcome, SandboxId, Usage};
use crate::wire::client::{Client, Exited, News};

/// The engine keeps a command's time; its report of the end may be this late before the engine counts as failed.
const END_GRACE: Duration = Duration::from_secs(15);
/// After the end no writer is left, so the pipes end at once; a pipe that does not is given up.
const EOF_WAIT: Duration = Duration::from_secs(1);
/// The same where output goes by way of the disk.
const SPOOLED_EOF_WAIT: Duration = Duration::from_secs(10);

/// The streams of a running command.
pub(super) struct Streams<'a> {
    pub attempt: &'a Attempt<'a>,
    pub client: &'a Client,
    pub id: &'a SandboxId,
    pub stdout: &'a mut Captured,
    pub stderr: &'a mut Captured,
    pub document: &'a mut Captured,
}

impl Streams<'_> {
    pub async fn until_end(self, ours: Ours, exited: &mut Exited, started: Instant, wall: Duration) -> End {
        let stdin = &self.attempt.job.stdin;
        let eof_wait = if self.stdout.is_kept_on_disk() { SPOOLED_EOF_WAIT } else { EOF_WAIT };
        let flood = Flood { client: self.client, sandbox: self.id };
        let mut streams = pin!(async {
            tokio::join!(
                drain(ours.stdout, self.stdout, &flood),
                drain(ours.stderr, self.stderr, &flood),
                drain(ours.result, self.document, &flood),
                feed(ours.stdin, stdin),
            )
        });
        let mut overdue = pin!(tokio::time::sleep(wall + END_GRACE));
        let mut drained = false;
        let end = loop {
            tokio::select! {
                biased;
                _ = &mut streams, if !drained => drained = true,
                news = exited.next() => match news {
                    Ok(News::Denied(denial)) => self.attempt.tell_denial(denial).await,
                    Ok(News::Ended(end)) => break Some(*end),
                    Err(_) => break None,
                },
                () = &mut overdue => {
                    tracing::error!(sandbox = %self.id, "the engine reported no end of a command in time");
                    destroy(self.client.clone(), self.id.clone());
                    break None;
                }
            }
        };
        if !drained && tokio::time::timeout(eof_wait, &mut streams).await.is_err() {
            tracing::warn!(sandbox = %self.id, "output was still held open after the end of a sandbox");
        }
        match end {
            Some(end) => end.into(),
            None => {
                let usage = Usage { wall_us: started.elapsed().as_micros() as u64, ..Usage::default() };
                End { outcome: Outcome::EngineFault, limits_hit: Vec::new(), usage, denials: None }
            }
        }
    }
}
