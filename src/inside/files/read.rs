//! A file's bytes.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use super::beneath::Root;
use super::{About, copy, owned};
use crate::wire::files::{Answer, FileFault};

pub(super) fn read(root: &Root, path: &str, offset: u64, limit: u64, mut output: File) -> Result<Answer, FileFault> {
    let (fd, stat) = root.file(path)?;
    let mut file = owned(fd);
    file.seek(SeekFrom::Start(offset)).about(path)?;
    let bytes = copy(file, &mut output, limit).about(path)?;
    Ok(Answer::Read { size: stat.st_size as u64, bytes })
}
