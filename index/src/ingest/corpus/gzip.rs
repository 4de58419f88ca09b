//! Lines that are compressed with gzip.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

/// The first bytes of a gzip file.
pub(super) const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The content of all members of a gzip file, one after another, and a counter of the compressed
/// bytes read so far.
pub(super) fn decompress<R: Read + Send>(file: R) -> (impl BufRead + Send, Arc<AtomicU64>) {
    let bytes = Arc::new(AtomicU64::new(0));
    let counted = CountingReader {
        inner: file,
        bytes: bytes.clone(),
    };
    let decoder = MultiGzDecoder::new(counted);
    (BufReader::with_capacity(1 << 16, decoder), bytes)
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
