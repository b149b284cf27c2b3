//! What exists, on a tmpfs and never synced: enough for the next engine to clean up after this one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::spec::SandboxId;

/// A journal that has grown to this is written anew: many times what those that can be alive at once take.
const BYTES_MAX: u64 = 1024 * 1024;

/// How long to wait for the lock: a sandbox that a dead engine was just building holds it until it is dead too.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// One line an event: `+ id uid`, `- id`, `next uid`. Locked for the life of the engine.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
}

/// What an earlier engine left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    pub sandboxes: Vec<String>,
    /// The uid after the last that was leased.
    pub next_uid: Option<u32>,
}

impl Journal {
    /// Reads what an earlier engine wrote and begins anew. An engine that is alive keeps its journal.
    pub fn open(path: &Path) -> io::Result<(Self, Leftovers)> {
        let mut file = locked(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let left = parse(&String::from_utf8_lossy(&text));
        let mut journal = Self { path: path.to_owned(), file, bytes: 0 };
        journal.begin_anew()?;
        if let Some(next) = left.next_uid {
            journal.line(format_args!("next {next}\n"))?;
        }
        Ok((journal, left))
    }

    pub fn born(&mut self, id: &SandboxId, uid: u32) -> io::Result<()> {
        self.line(format_args!("+ {id} {uid}\n"))
    }

    /// Where the journal has grown it begins anew, with `alive` and `next_uid`.
    pub fn gone<'a>(
        &mut self,
        id: &SandboxId,
        alive: impl Iterator<Item = (&'a SandboxId, u32)>,
        next_uid: u32,
    ) -> io::Result<()> {
        if self.bytes <= BYTES_MAX {
            return self.line(format_args!("- {id}\n"));
        }
        let mut text = format!("next {next_uid}\n");
        for (id, uid) in alive {
            text.push_str(&format!("+ {id} {uid}\n"));
        }
        self.begin_anew()?;
        self.line(format_args!("{text}"))
    }

    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        self.bytes = 0;
        self.file.set_len(0)?;
        self.file.rewind()
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) -> io::Result<()> {
        let line = line.to_string();
        self.file.write_all(line.as_bytes())?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

fn locked(path: &Path) -> io::Result<File> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let file = OpenOptions::new().create(true).read(true).write(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            // An engine that ended meanwhile may have removed what was opened.
            Ok(()) if fs::metadata(path).is_ok_and(|m| file.metadata().is_ok_and(|f| f.ino() == m.ino())) => {
                return Ok(file);
            }
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(io::Error::other("another engine runs on this directory"));
            }
            Err(fs::TryLockError::Error(e)) => return Err(e),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Lines that are cut or foreign are passed over: the cgroup tree is swept whatever the journal says.
fn parse(text: &str) -> Leftovers {
    let mut left = Leftovers::default();
    let later = |left: &mut Leftovers, next: u32| left.next_uid = Some(left.next_uid.map_or(next, |n| n.max(next)));
    for line in text.lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("+"), Some(id), Some(uid)) => {
                left.sandboxes.push(id.to_owned());
                if let Ok(uid) = uid.parse::<u32>() {
                    later(&mut left, uid.saturating_add(1));
                }
            }
            (Some("-"), Some(id), None) => left.sandboxes.retain(|s| s != id),
            (Some("next"), Some(uid), None) => {
                if let Ok(uid) = uid.parse() {
                    later(&mut left, uid);
                }
            }
            _ => {}
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_engine_learns_what_was_alive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (a, b) = (SandboxId::from_random([1; 16]), SandboxId::from_random([2; 16]));
        {
            let (mut journal, left) = Journal::open(&path).unwrap();
            assert_eq!(left, Leftovers::default());
            journal.born(&a, 70).unwrap();
            journal.born(&b, 71).unwrap();
            journal.gone(&a, [(&b, 71)].into_iter(), 72).unwrap();
        }
        let (held, left) = Journal::open(&path).unwrap();
        assert_eq!(left, Leftovers { sandboxes: vec![b.to_string()], next_uid: Some(72) });
        assert!(Journal::open(&path).is_err(), "it belongs to the engine that is alive");
        drop(held);
        let (_, left) = Journal::open(&path).unwrap();
        assert_eq!(left, Leftovers { sandboxes: vec![], next_uid: Some(72) });
    }

    #[test]
    fn a_long_one_begins_anew_with_what_is_alive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (a, b) = (SandboxId::from_random([1; 16]), SandboxId::from_random([2; 16]));
        {
            let (mut journal, _) = Journal::open(&path).unwrap();
            journal.born(&b, 71).unwrap();
            for _ in 0..20_000 {
                journal.born(&a, 70).unwrap();
                journal.gone(&a, [(&b, 71)].into_iter(), 72).unwrap();
            }
            assert!(journal.bytes <= BYTES_MAX + 100, "{}", journal.bytes);
        }
        let (_, left) = Journal::open(&path).unwrap();
        assert_eq!(left, Leftovers { sandboxes: vec![b.to_string()], next_uid: Some(72) });
    }

    #[test]
    fn a_cut_or_foreign_line_is_passed_over() {
        assert_eq!(
            parse("+ sbx_1\n? x\nnext x\n+ sbx_2 5"),
            Leftovers { sandboxes: vec!["sbx_2".into()], next_uid: Some(6) }
        );
    }
}
