//! Runs that go on without a caller, on disk: what a front needs to take up again, after a restart, a run that an earlier one
//! promised to somebody.
//!
//! One directory a run, of files that are each written in one way only: `call`, once, before the promise; `journal`, lines that
//! are added; the streams of each attempt, into which the kernel moves what a pipe holds, so that at no moment bytes are in
//! neither place (splice(2)); `end`, once, by renaming. A front that is killed between any two system calls leaves a state from
//! which the next one goes on. Against a crash of the whole machine nothing is kept: no sandbox survives that either.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use data_encoding::HEXLOWER;
use nix::fcntl::{SpliceFFlags, splice};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe::Receiver;

use super::call::CallError;
use crate::wire::{CreatedWire, DenialWire, LandlockWire};

/// Of all runs under way together, at their largest.
const PROMISED_BYTES_MAX: u64 = 2 << 30;
/// A pipe's worth.
const CHUNK_BYTES: usize = 64 * 1024;
const CALL: &str = "call";
const JOURNAL: &str = "journal";
const END: &str = "end";
/// Begins the names of what is being removed.
const GONE: &str = ".gone-";
/// Runs that are looked at when a front starts.
const RUNS_MAX: usize = 32 * 1024;
/// No call, no reply and no stream is as large as this.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// What happened to a run, one line of its journal each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// Said before the engine was asked for the sandbox.
    Building { attempt: u32, sandbox: String, instance: u64, memory_bytes: u64 },
    /// The command was started in it.
    Started { attempt: u32, created: Box<CreatedWire>, landlock: Option<LandlockWire> },
    /// An event tells of it.
    Denied { attempt: u32, denial: DenialWire },
    /// Nothing ran in what was asked for last.
    Refused { attempt: u32 },
    /// The front itself began with what can not be begun again as if nothing had been.
    Answering,
    /// Somebody wanted it ended.
    Cancelled,
}

/// The directory of all runs.
pub struct Spools {
    /// Held open: the way to it may be one that only root can walk.
    directory: File,
    promised: Arc<AtomicU64>,
}

/// What is set aside for a run under way; given back when dropped.
pub(super) struct Share {
    promised: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The directory of one run.
#[derive(Debug, Clone)]
pub(super) struct Spool {
    path: PathBuf,
}

/// One that was found when a front started.
pub(super) struct Found<C> {
    pub spool: Spool,
    pub call: C,
    pub journal: Vec<Line>,
    pub ended: bool,
}

impl Spools {
    /// In `directory`, which is the front's own.
    pub fn new(directory: File) -> Self {
        Self { directory, promised: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string())
    }

    /// Sets `bytes` aside.
    pub(super) fn promise(&self, bytes: u64) -> Result<Share, CallError> {
        let share = Share { promised: Arc::clone(&self.promised), bytes };
        if self.promised.fetch_add(bytes, Ordering::Relaxed) + bytes > PROMISED_BYTES_MAX {
            return Err(CallError::AtCapacity {
                what: "runs without a caller may write as much as is kept of all of them".into(),
                retry_after: Some(Duration::from_secs(1)),
            });
        }
        Ok(share)
    }

    /// A new one under `name`, with `call` in it for good.
    pub(super) fn create(&self, name: &[u8; 16], call: &[u8]) -> io::Result<Spool> {
        let path = self.path().join(HEXLOWER.encode(name));
        DirBuilder::new().mode(0o700).create(&path)?;
        let spool = Spool { path };
        match spool.write(CALL, call) {
            Ok(()) => Ok(spool),
            Err(e) => {
                spool.remove();
                Err(e)
            }
        }
    }

    /// All that are there; what is damaged, or was not begun, is removed.
    pub(super) fn find<C: DeserializeOwned>(&self) -> io::Result<Vec<Found<C>>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path())?.take(RUNS_MAX) {
            let entry = entry?;
            let spool = Spool { path: entry.path() };
            if entry.file_name().to_string_lossy().starts_with(GONE) {
                spool.remove();
                continue;
            }
            match spool.found() {
                Ok(one) => found.push(one),
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) || is_no_json(&e) =>
                {
                    tracing::warn!(run = %spool.path.display(), error = %e, "a kept run is damaged and is forgotten");
                    spool.remove();
                }
                // It may be there for the next daemon.
                Err(e) => tracing::error!(run = %spool.path.display(), error = %e, "a kept run can not be read"),
            }
        }
        Ok(found)
    }
}

fn is_no_json(e: &io::Error) -> bool {
    e.get_ref().is_some_and(|e| e.is::<serde_json::Error>())
}

fn options() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    options
}

impl Spool {
    /// Whole or not at all.
    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let new = self.path.join(".new");
        options().write(true).create(true).truncate(true).open(&new)?.write_all(content)?;
        fs::rename(new, self.path.join(name))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        options().open(self.path.join(name))?.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
        Ok(content)
    }

    fn found<C: DeserializeOwned>(&self) -> io::Result<Found<C>> {
        let call = serde_json::from_slice(&self.read(CALL)?)?;
        let journal = match self.read(JOURNAL) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => lines(&read?)?,
        };
        let ended = self.path.join(END).exists();
        Ok(Found { spool: self.clone(), call, journal, ended })
    }

    /// Adds `line` to the journal.
    pub(super) fn note(&self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut file = options().append(true).create(true).open(self.path.join(JOURNAL))?;
        // A line of which a front that was killed wrote the beginning is ended: it is no line.
        let length = file.metadata()?.len();
        let mut last = [b'\n'];
        if length > 0 {
            file.read_exact_at(&mut last, length - 1)?;
        }
        if last != *b"\n" {
            text.insert(0, b'\n');
        }
        file.write_all(&text)
    }

    /// Keeps how it ended, and of the rest only what is still asked for.
    pub(super) fn end(&self, end: &[u8]) -> io::Result<()> {
        self.write(END, end)?;
        let mut call: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&self.read(CALL)?)?;
        call.insert("parameters".into(), serde_json::Value::Object(Default::default()));
        self.write(CALL, &serde_json::to_vec(&call)?)?;
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if name.to_string_lossy().ends_with(".result") {
                fs::remove_file(self.path.join(name))?;
            }
        }
        Ok(())
    }

    pub(super) fn ended<E: DeserializeOwned>(&self) -> io::Result<E> {
        Ok(serde_json::from_slice(&self.read(END)?)?)
    }

    /// When [`Spool::end`] was written.
    pub(super) fn ended_at(&self) -> io::Result<std::time::SystemTime> {
        fs::metadata(self.path.join(END))?.modified()
    }

    /// The file of one stream of an attempt, with what is in it already.
    pub(super) fn stream(&self, attempt: u32, name: &str) -> io::Result<(Spooled, Vec<u8>)> {
        let path = self.path.join(format!("{attempt}.{name}"));
        let file = options().write(true).create(true).open(&path)?;
        let mut content = Vec::new();
        (&file).take(FILE_BYTES_MAX).read_to_end(&mut content)?;
        let beyond = options().write(true).create(true).open(self.path.join(format!("{attempt}.{name}.beyond")))?;
        let dropped = beyond.metadata()?.len();
        Ok((Spooled { file: Arc::new(file), beyond: Arc::new(beyond), at: content.len() as u64, dropped }, content))
    }

    /// What is kept of a stream of an attempt.
    pub(super) fn content(&self, attempt: u32, name: &str) -> Vec<u8> {
        self.read(&format!("{attempt}.{name}")).unwrap_or_default()
    }

    /// Forgets the run: for every later front at once, on the disk when there is time.
    pub(super) fn remove(&self) {
        let mut path = self.path.clone();
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            let gone = parent.join(format!("{GONE}{}", name.to_string_lossy()));
            if fs::rename(&path, &gone).is_ok() {
                path = gone;
            }
        }
        let remove = move || {
            if let Err(e) = fs::remove_dir_all(&path)
                && e.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(run = %path.display(), error = %e, "a kept run can not be removed");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Those that are whole. One that is not was being written when its front was killed, and what it says had no consequence yet.
fn lines(text: &[u8]) -> io::Result<Vec<Line>> {
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// Where a stream is kept.
#[derive(Clone)]
pub(super) struct Spooled {
    file: Arc<File>,
    /// As long as what was thrown away, or a little less where a front was killed in that moment; nothing is in it.
    beyond: Arc<File>,
    at: u64,
    pub dropped: u64,
}

/// What came of one look into a pipe.
pub(super) enum Pulled {
    /// Nothing is in it now.
    Nothing,
    /// It has no writer any more.
    End,
    Bytes(Vec<u8>),
    /// Thrown away.
    Beyond(u64),
}

impl Spooled {
    /// Nothing more can be kept: a later front must not go on behind what is there. Takes no room on the disk.
    pub(super) fn cut(&self) {
        if let Err(error) = self.beyond.set_len(self.dropped + 1) {
            tracing::warn!(%error, "a later front will not know that output is missing");
        }
    }

    /// Moves what `pipe` holds into the file, as long as that is shorter than `most`, and throws away the rest.
    pub(super) fn pull(&mut self, pipe: &Receiver, most: u64) -> io::Result<Pulled> {
        // Behind a gap nothing is kept any more.
        let room = if self.dropped > 0 { 0 } else { most.saturating_sub(self.at) };
        let room = usize::try_from(room).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let mut bytes = vec![0; if room == 0 { CHUNK_BYTES } else { room }];
        if room == 0 {
            return match pipe.try_read(&mut bytes) {
                Ok(0) => Ok(Pulled::End),
                Ok(n) => {
                    self.dropped += n as u64;
                    // Taken it is in any case; where this fails, a later front counts less.
                    let _uncounted = self.beyond.set_len(self.dropped);
                    Ok(Pulled::Beyond(n as u64))
                }
                Err(e) if is_later(&e) => Ok(Pulled::Nothing),
                Err(e) => Err(e),
            };
        }
        let mut to = i64::try_from(self.at).map_err(io::Error::other)?;
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        let moved = || splice(pipe, None, &*self.file, Some(&mut to), room, flags).map_err(io::Error::from);
        match pipe.try_io(moved) {
            Ok(0) => Ok(Pulled::End),
            Ok(n) => {
                bytes.truncate(n);
                self.file.read_exact_at(&mut bytes, self.at)?;
                self.at += n as u64;
                Ok(Pulled::Bytes(bytes))
            }
            Err(e) if is_later(&e) => Ok(Pulled::Nothing),
            Err(e) => Err(e),
        }
    }
}

fn is_later(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
