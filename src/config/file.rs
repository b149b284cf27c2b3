//! Reading a file that an operator named, whatever really lies at that path.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The text of the regular file at `path`, at most `most` bytes, and what the file that was read is like.
///
/// A FIFO would hold up whoever opens it, a device may never end: both are errors here.
pub fn read(path: &Path, most: u64) -> io::Result<(String, Metadata)> {
    read_with(path, most, 0)
}

/// As [`read`]; the last part of the path must not be a link.
pub fn read_no_follow(path: &Path, most: u64) -> io::Result<(String, Metadata)> {
    read_with(path, most, libc::O_NOFOLLOW)
}

fn read_with(path: &Path, most: u64, flags: libc::c_int) -> io::Result<(String, Metadata)> {
    let file: File = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    let mut text = String::new();
    let read = file.take(most + 1).read_to_string(&mut text)? as u64;
    if read > most {
        return Err(io::Error::other(format!("is larger than {most} bytes")));
    }
    Ok((text, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_of_a_bounded_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "12345").unwrap();
        assert_eq!(read(&path("file"), 5).unwrap().0, "12345");
        assert!(read(&path("file"), 4).unwrap_err().to_string().contains("larger"));
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        for odd in [path("fifo"), dir.path().to_owned(), "/dev/zero".into()] {
            assert!(read(&odd, 5).unwrap_err().to_string().contains("regular"), "{}", odd.display());
        }
        assert!(read(&path("link"), 5).is_ok());
        assert!(read_no_follow(&path("link"), 5).is_err());
    }
}
