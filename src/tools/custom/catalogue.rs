//! Which custom tools there are: the operator's files, and what admins registered, kept over restarts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::manifest::{BYTES_MAX, Manifest};
use super::{file, tool};
use crate::config::file::read_no_follow;
use crate::tools::registry::{RegisterError, Registered, Registry, Table};
use crate::tools::version::Version;

/// Files that are read of one directory; more are a mistake.
const FILES_MAX: usize = 1024;
const OPERATORS_ENDING: &str = ".toml";
const OWN_ENDING: &str = ".json";

/// Where manifests lie, opened by whoever can walk there.
#[derive(Default)]
pub struct Directories {
    /// The operator's, with its path as operators know it.
    pub operators: Option<(File, PathBuf)>,
    /// The front's own.
    pub own: Option<File>,
}

/// The custom tools of a registry.
pub struct Catalogue {
    directories: Directories,
    /// Held for as long as files are read and written.
    known: Mutex<Known>,
    /// Why files as they are now are not in force.
    complaints: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Known {
    built_in: Table,
    /// By file name.
    operators: BTreeMap<String, FromFile>,
    /// What admins registered.
    own: Vec<Registered>,
}

struct FromFile {
    digest: [u8; 32],
    tool: Registered,
}

/// A tool was not registered, or not removed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error("{0} is a tool of this daemon's own: no other can have its name, and it can not be removed")]
    BuiltIn(String),
    #[error("{0} comes from a file of the operator's, who alone can remove it")]
    Operators(String),
    #[error("there is no tool {0:?}")]
    Unknown(String),
    #[error("the tool could not be kept: {0}")]
    Kept(#[source] io::Error),
}

impl Catalogue {
    /// Everything that is there, in `registry` beside what it has.
    pub fn open(directories: Directories, registry: &Registry) -> Self {
        let built_in = registry.table().copy();
        let known = Mutex::new(Known { built_in, ..Known::default() });
        let catalogue = Self { directories, known, complaints: Mutex::default() };
        {
            let mut known = catalogue.lock();
            known.own = catalogue.read_own();
        }
        catalogue.reload(registry, || {});
        catalogue
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why files of the operator's are not in force as they are now. Waits for no file.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What tells of changes to the operator's files.
    pub fn watch(&self) -> io::Result<Option<super::Watch>> {
        self.directories.operators.as_ref().map(|(directory, _)| super::Watch::of(directory)).transpose()
    }

    /// Reads the operator's files again. One that is bad is told of, and the tool that it was before stays; calls that are
    /// under way keep what they began with. `in_force` is told before anybody finds what is new.
    pub fn reload(&self, registry: &Registry, in_force: impl FnOnce()) {
        let mut known = self.lock();
        let mut complaints = Vec::new();
        if let Some((directory, shown)) = &self.directories.operators {
            let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
            let moved = match (directory.metadata().map(id), fs::metadata(shown).map(id)) {
                (Ok(held), Ok(now)) if held != now => Some("is another directory than at the start: restart the front"),
                (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                    Some("is there no more: restart the front")
                }
                // Where this process can not walk, it can not know.
                _ => None,
            };
            complaints.extend(moved.map(|message| format!("{}: {message}", shown.display())));
            match texts(directory, OPERATORS_ENDING) {
                Ok(texts) => known.take_files(texts, shown, &mut complaints),
                Err(error) => complaints.push(format!("{}: {error}", shown.display())),
            }
        }
        let (table, mut doubles) = known.table();
        complaints.append(&mut doubles);
        for complaint in &complaints {
            tracing::error!(complaint, "a custom tool is not in force as it is written now");
        }
        *self.complaints.lock().unwrap_or_else(PoisonError::into_inner) = complaints;
        let _never: Result<(), RegisterError> = registry.change(|_| {
            in_force();
            Ok(table)
        });
    }

    /// Registers a tool, now and after restarts; `body` is what `manifest` was made from.
    pub fn register(&self, registry: &Registry, manifest: Manifest, body: &Value) -> Result<Registered, ChangeError> {
        let mut known = self.lock();
        let (name, version) = (manifest.about.name.clone(), manifest.about.version);
        if !known.built_in.versions(&name).is_empty() {
            return Err(ChangeError::BuiltIn(name));
        }
        let tool = tool(manifest);
        let next = registry.table().with(Arc::clone(&tool))?;
        if let Some(own) = &self.directories.own {
            keep(own, &file_name(&name, version), body).map_err(ChangeError::Kept)?;
        }
        known.own.push(Arc::clone(&tool));
        registry.change(|_| Ok::<_, ChangeError>(next))?;
        Ok(tool)
    }

    /// Removes every version that `name` means; with a bare name, all of them.
    pub fn remove(&self, registry: &Registry, name: &str) -> Result<(), ChangeError> {
        let mut known = self.lock();
        let wanted = crate::tools::version::Wanted::parse(name);
        let is_meant = |tool: &Registered| {
            wanted.is_some_and(|wanted| wanted.name == tool.about().name && wanted.fits(tool.about().version))
        };
        if !known.own.iter().any(is_meant) {
            let bare = name.split('@').next().unwrap_or_default().to_owned();
            return Err(match () {
                () if !known.built_in.versions(&bare).is_empty() => ChangeError::BuiltIn(bare),
                () if known.operators.values().any(|f| is_meant(&f.tool)) => ChangeError::Operators(name.to_owned()),
                () => ChangeError::Unknown(crate::spec::capped(name, 64)),
            });
        }
        if let Some(own) = &self.directories.own {
            for tool in known.own.iter().filter(|tool| is_meant(tool)) {
                forget(own, &file_name(&tool.about().name, tool.about().version)).map_err(ChangeError::Kept)?;
            }
        }
        known.own.retain(|tool| !is_meant(tool));
        let (table, _) = known.table();
        registry.change(|_| Ok(table))
    }

    fn read_own(&self) -> Vec<Registered> {
        let Some(own) = &self.directories.own else { return Vec::new() };
        let texts = match texts(own, OWN_ENDING) {
            Ok(texts) => texts,
            Err(error) => {
                tracing::error!(%error, "tools that were registered can not be read");
                return Vec::new();
            }
        };
        let read = |(name, text): (String, io::Result<String>)| {
            let body = text.and_then(|text| serde_json::from_str(&text).map_err(io::Error::from));
            let manifest = body.map_err(|e| e.to_string()).and_then(|body| {
                file::from_json(body)
                    .map_err(|found| found.into_iter().map(|v| v.message).collect::<Vec<_>>().join("; "))
            });
            match manifest {
                Ok(manifest) => Some(tool(manifest)),
                Err(error) => {
                    tracing::error!(file = name, error, "a tool that was registered can not be used");
                    None
                }
            }
        };
        texts.into_iter().filter_map(read).collect()
    }
}

impl Known {
    fn take_files(&mut self, texts: Vec<(String, io::Result<String>)>, shown: &Path, complaints: &mut Vec<String>) {
        let mut before = std::mem::take(&mut self.operators);
        for (name, text) in texts {
            let old = before.remove(&name);
            let read = text.map_err(|e| vec![e.to_string()]).and_then(|text| {
                let digest: [u8; 32] = Sha256::digest(&text).into();
                if old.as_ref().is_some_and(|old| old.digest == digest) {
                    return Ok(None);
                }
                let manifest = file::read(&text);
                let manifest = manifest.map_err(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>())?;
                Ok(Some(FromFile { digest, tool: tool(manifest) }))
            });
            let now = match read {
                Ok(now) => now.or(old),
                Err(found) => {
                    complaints.extend(found.iter().map(|f| format!("{}: {f}", shown.join(&name).display())));
                    old
                }
            };
            if let Some(now) = now {
                self.operators.insert(name, now);
            }
        }
    }

    /// All tools together; of two with the same name and version the first is taken, files before what was registered.
    fn table(&self) -> (Table, Vec<String>) {
        let mut table = self.built_in.copy();
        let mut complaints = Vec::new();
        let files = self.operators.iter().map(|(file, from)| (file.as_str(), &from.tool));
        for (from, tool) in files.chain(self.own.iter().map(|tool| ("a registered tool", tool))) {
            let name = &tool.about().name;
            let added = if self.built_in.versions(name).is_empty() {
                table.add(Arc::clone(tool)).map_err(ChangeError::from)
            } else {
                Err(ChangeError::BuiltIn(name.clone()))
            };
            if let Err(error) = added {
                complaints.push(format!("{from}: {error}"));
            }
        }
        (table, complaints)
    }
}

fn file_name(name: &str, version: Version) -> String {
    format!("{name}@{version}{OWN_ENDING}")
}

/// A directory by its descriptor: its path may be closed to this process by now.
pub(super) fn through(directory: &File) -> PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string())
}

/// The files of `directory` that end so, by name, each with its text or the reason why it has none. What decides for all
/// callers must be written by the one whom the directory belongs to, and by nobody else.
fn texts(directory: &File, ending: &str) -> io::Result<Vec<(String, io::Result<String>)>> {
    let owner = directory.metadata()?;
    if owner.mode() & 0o022 != 0 {
        return Err(io::Error::other("must be writable by nobody but its owner"));
    }
    let path = through(directory);
    let mut names: Vec<String> = fs::read_dir(&path)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(ending) && !name.starts_with('.'))
        .collect();
    names.sort_unstable();
    if names.len() > FILES_MAX {
        return Err(io::Error::other(format!("holds more than {FILES_MAX} files")));
    }
    let text = |name: &String| {
        let (text, metadata) = read_no_follow(&path.join(name), BYTES_MAX)?;
        if metadata.uid() != owner.uid() || metadata.mode() & 0o022 != 0 {
            return Err(io::Error::other("must belong to its directory's owner and be writable by nobody else"));
        }
        Ok(text)
    };
    Ok(names.into_iter().map(|name| (name.clone(), text(&name))).collect())
}

/// Whole or not at all, also over a power cut.
fn keep(directory: &File, name: &str, body: &Value) -> io::Result<()> {
    let path = through(directory);
    let new = path.join(".new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(body.to_string().as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path.join(name))?;
    directory.sync_all()
}

fn forget(directory: &File, name: &str) -> io::Result<()> {
    match fs::remove_file(through(directory).join(name)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => directory.sync_all(),
    }
}
