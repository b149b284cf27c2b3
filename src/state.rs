//! What the front keeps over restarts lies in one directory with one number: the schema of everything in it.
//!
//! A newer version migrates forward, step by step, when it starts. An older one refuses to touch what a newer one wrote.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::file::read_no_follow;

/// Brings the directory from the schema of its index to the next. Must be safe to run again after a crash half-way.
type Migration = fn(&Path) -> io::Result<()>;

/// Schema 0 is the directory of 0.1.0, which had no number and nothing in it.
const MIGRATIONS: &[Migration] =
    &[|_| Ok(()), |dir| make(&dir.join(TOOLS)), |dir| make(&dir.join(EXECUTIONS)), |_| Ok(())];
/// Since schema 2: manifests of registered tools.
const TOOLS: &str = "tools";
/// Since schema 3: runs without a caller. Since schema 4 some of them need no sandbox.
const EXECUTIONS: &str = "executions";
const FILE: &str = "schema";
const FILE_BYTES_MAX: u64 = 32;

/// The state can not be used by this version.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "{dir}: the state has schema {found}, this version knows up to {known}: install the version that wrote it \
         again, or restore the backup that was made before the upgrade"
    )]
    TooNew { dir: PathBuf, found: usize, known: usize },
    #[error("{0}: is not a number: the state was damaged; restore a backup")]
    Damaged(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{dir}: migration from schema {from} failed: {source}; the state is as it was, and can be migrated again")]
    Migration { dir: PathBuf, from: usize, source: io::Error },
}

/// The state's directory, opened by whoever can walk to it and used by whoever owns it: never by root, since all in it
/// can be shaped by a front.
pub struct State {
    directory: File,
    shown: PathBuf,
}

impl State {
    pub fn find(dir: PathBuf) -> Result<Self, StateError> {
        match File::open(&dir) {
            Ok(directory) => Ok(Self { directory, shown: dir }),
            Err(source) => Err(StateError::Io { path: dir, source }),
        }
    }

    /// Makes it one of this version. Returns the schema found and the schema now.
    pub fn open(&self) -> Result<(usize, usize), StateError> {
        let through = Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string());
        let schemas = migrate(&through, MIGRATIONS).map_err(|e| e.in_words_of(&through, &self.shown))?;
        // Somebody may have emptied the state.
        for name in [TOOLS, EXECUTIONS] {
            make(&through.join(name)).map_err(|source| StateError::Io { path: self.shown.join(name), source })?;
        }
        Ok(schemas)
    }

    /// One of the directories that are there once it was opened.
    pub fn directory(&self, name: &str) -> Result<File, StateError> {
        let through = Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string()).join(name);
        let options = |flags| File::options().read(true).custom_flags(flags).open(&through);
        options(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .map_err(|source| StateError::Io { path: self.shown.join(name), source })
    }
}

impl StateError {
    /// Operators know the directory by its path, not by a descriptor's.
    fn in_words_of(self, through: &Path, shown: &Path) -> Self {
        let real = |path: PathBuf| match path.strip_prefix(through) {
            Ok(rest) if rest.as_os_str().is_empty() => shown.to_owned(),
            Ok(rest) => shown.join(rest),
            Err(_) => path,
        };
        match self {
            StateError::TooNew { dir, found, known } => StateError::TooNew { dir: real(dir), found, known },
            StateError::Damaged(path) => StateError::Damaged(real(path)),
            StateError::Io { path, source } => StateError::Io { path: real(path), source },
            StateError::Migration { dir, from, source } => StateError::Migration { dir: real(dir), from, source },
        }
    }
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

fn migrate(dir: &Path, migrations: &[Migration]) -> Result<(usize, usize), StateError> {
    let found = schema(dir)?;
    let known = migrations.len();
    if found.is_some_and(|found| found > known) {
        return Err(StateError::TooNew { dir: dir.to_owned(), found: found.unwrap_or_default(), known });
    }
    let from = found.unwrap_or(0);
    for (at, migration) in migrations.iter().enumerate().skip(from) {
        migration(dir).map_err(|source| StateError::Migration { dir: dir.to_owned(), from: at, source })?;
        write(dir, at + 1).map_err(|source| StateError::Io { path: dir.join(FILE), source })?;
        tracing::info!(from = at, to = at + 1, "state migrated");
    }
    Ok((from, known))
}

/// `None`: nothing was ever written there by a version that counts.
fn schema(dir: &Path) -> Result<Option<usize>, StateError> {
    let path = dir.join(FILE);
    let text = match read_no_follow(&path, FILE_BYTES_MAX) {
        Ok((text, _)) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Too long, not text, no file at all: none of it was written here.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::Other) => {
            return Err(StateError::Damaged(path));
        }
        Err(source) => return Err(StateError::Io { path, source }),
    };
    text.trim().parse().map(Some).map_err(|_| StateError::Damaged(path))
}

/// Whole or not at all, also over a power cut.
fn write(dir: &Path, schema: usize) -> io::Result<()> {
    let new = dir.join(".schema.new");
    // Of a crash half-way, or put there.
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = File::create_new(&new)?;
    writeln!(file, "{schema}")?;
    file.sync_all()?;
    fs::rename(&new, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[Migration] = &[|dir| fs::write(dir.join("a"), "1"), |dir| fs::rename(dir.join("a"), dir.join("b"))];
    const FAILS: &[Migration] = &[|_| Ok(()), |_| Err(io::Error::other("disk"))];

    #[test]
    fn forward_step_by_step_and_never_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(migrate(dir.path(), &TWO[..1]).unwrap(), (0, 1));
        assert!(dir.path().join("a").exists());
        // What ran once does not run again.
        fs::write(dir.path().join("a"), "kept").unwrap();
        assert_eq!(migrate(dir.path(), &TWO[..1]).unwrap(), (1, 1));
        assert_eq!(migrate(dir.path(), TWO).unwrap(), (1, 2));
        assert_eq!(fs::read_to_string(dir.path().join("b")).unwrap(), "kept");
        let message = migrate(dir.path(), &TWO[..1]).unwrap_err().to_string();
        assert!(message.contains("schema 2") && message.contains("up to 1"), "{message}");
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), "2\n");
    }

    #[test]
    fn a_migration_that_fails_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let message = migrate(dir.path(), FAILS).unwrap_err().to_string();
        assert!(message.contains("from schema 1") && message.contains("disk"), "{message}");
        assert_eq!(schema(dir.path()).unwrap(), Some(1));
        fs::write(dir.path().join("a"), "").unwrap();
        assert_eq!(migrate(dir.path(), TWO).unwrap(), (1, 2));
    }

    #[test]
    fn damage_is_not_taken_for_age() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "x", "-1", "1 2", &"1".repeat(100)] {
            fs::write(dir.path().join(FILE), text).unwrap();
            let error = State::find(dir.path().to_owned()).unwrap().open().unwrap_err();
            assert!(matches!(&error, StateError::Damaged(path) if *path == dir.path().join(FILE)), "{text:?}: {error}");
        }
    }
}
