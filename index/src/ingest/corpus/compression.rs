//! Lines that are compressed with gzip or zstd.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

/// How the lines of a file are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    /// The compression whose files begin with these four bytes.
    pub(super) fn from_beginning(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The content of all members or frames of a file, one after another, and a counter of the compressed
    /// bytes read so far.
    ///
    /// # Errors
    /// The memory of a decoder cannot be had.
    pub(super) fn decompress<R: Read + Send + 'static>(
        self,
        file: R,
    ) -> io::Result<(Box<dyn BufRead + Send>, Arc<AtomicU64>)> {
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = CountingReader {
            inner: file,
            bytes: bytes.clone(),
        };
        let decoder: Box<dyn Read + Send> = match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(counted)),
            Self::Zstd => Box::new(zstd::Decoder::new(counted)?),
        };
        Ok((Box::new(BufReader::with_capacity(1 << 16, decoder)), bytes))
    }
}

struct CountingReader<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
