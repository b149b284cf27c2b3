//! Tells when files of a directory change.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;

/// Editors write, rename and change modes one after the other: what comes within this time is one change.
const SETTLED: Duration = Duration::from_millis(200);

/// The files of one directory.
pub struct Watch {
    /// Not a pipe, but read as one: what the events say does not matter, only that there are some.
    events: Receiver,
    /// Something has changed that nobody was told of yet.
    pending: bool,
}

impl Watch {
    /// Must be called where a runtime runs.
    pub(super) fn of(directory: &File) -> io::Result<Self> {
        let events = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // And when it leaves its place: what is put there then is another one, which operators must be told.
        let what = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        events.add_watch(&super::catalogue::through(directory), what)?;
        Ok(Self { events: Receiver::from_owned_fd_unchecked(events.as_fd().try_clone_to_owned()?)?, pending: false })
    }

    /// Completes once something has changed and nothing more did for a moment.
    pub async fn changed(&mut self) -> io::Result<()> {
        // Whoever stops waiting in between asks again.
        if !self.pending {
            self.read().await?;
            self.pending = true;
        }
        while let Ok(more) = tokio::time::timeout(SETTLED, self.read()).await {
            more?;
        }
        self.pending = false;
        Ok(())
    }

    async fn read(&mut self) -> io::Result<()> {
        loop {
            self.events.readable().await?;
            match self.events.try_read(&mut [0; 4096]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(()),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    use tokio::time::timeout;

    #[tokio::test]
    async fn what_changed_is_told_to_who_stopped_waiting_for_it_to_settle() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::of(&File::open(dir.path()).unwrap()).unwrap();
        let soon = 5 * SETTLED;
        // Nothing, first.
        assert!(timeout(SETTLED / 2, watch.changed()).await.is_err() && !watch.pending);
        fs::write(dir.path().join("a"), "a").unwrap();
        assert!(timeout(SETTLED / 2, watch.changed()).await.is_err());
        assert!(watch.pending, "the event was read, and what reads it was dropped before it was told");
        timeout(soon, watch.changed()).await.expect("the change is lost").unwrap();
        // Once.
        assert!(timeout(2 * SETTLED, watch.changed()).await.is_err());
        // The next is told as the first was.
        fs::remove_file(dir.path().join("a")).unwrap();
        timeout(soon, watch.changed()).await.expect("the next change is lost").unwrap();
    }
}
