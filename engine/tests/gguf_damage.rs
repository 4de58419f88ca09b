//! Damaged GGUF files: an error that names the file, no panic and no allocation beyond the file's size.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::quantized::GgmlDType;
use common::gguf::GgufFile;
use common::*;
use onegen_engine::{LoadError, LoadOptions, Model};
use tempfile::TempDir;

/// An allocator that records the largest request.
struct WatchedAllocator;

static LARGEST: AtomicUsize = AtomicUsize::new(0);
/// The file has 100 kB; a load of the undamaged one asks for nothing near this.
const TOO_MUCH: usize = 64 << 20;

// SAFETY: all calls are passed on to the system's allocator.
unsafe impl GlobalAlloc for WatchedAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the one that the system's allocator needs.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the one that the system's allocator needs.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: WatchedAllocator = WatchedAllocator;

struct Damaged {
    dir: TempDir,
    whole: Vec<u8>,
}

impl Damaged {
    fn new() -> Self {
        let dir = Family::Llama31.write(1);
        let whole = GgufFile::new(dir.path(), GgmlDType::Q8_0).bytes();
        for name in [
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors",
        ] {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        Self { dir, whole }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("damaged.gguf")
    }

    fn load(&self, bytes: &[u8]) -> Result<Model, LoadError> {
        fs::write(self.path(), bytes).unwrap();
        let loaded = Model::load(self.path(), &LoadOptions::default());
        let largest = LARGEST.load(Ordering::Relaxed);
        assert!(largest < TOO_MUCH, "{largest} bytes were asked for");
        loaded
    }

    /// The approximate start of the tensors: after the last of their names.
    fn header_len(&self) -> usize {
        let name = b"token_embd.weight";
        let at = self
            .whole
            .windows(name.len())
            .position(|bytes| bytes == name);
        at.unwrap() + 64
    }
}

#[test]
fn a_file_cut_short_anywhere_is_an_error() {
    let damaged = Damaged::new();
    assert!(damaged.load(&damaged.whole).is_ok());
    let len = damaged.whole.len();
    let header = damaged.header_len();
    let cuts = (0..64)
        .chain((64..header).step_by(97))
        .chain((header..len).step_by(4001));
    // Up to 31 bytes of padding after the last tensor may be missing.
    for cut in cuts.chain([len - 33]) {
        let error = damaged.load(&damaged.whole[..cut]).unwrap_err();
        assert!(error.to_string().contains("damaged.gguf"), "{cut}: {error}");
    }
}

#[test]
fn flipped_bits_are_errors_or_another_model() {
    let damaged = Damaged::new();
    let header = damaged.header_len();
    // All places at the start, and samples of the long lists.
    let places = (0..1500).chain((1500..header).step_by(199));
    for place in places {
        for flip in [0x01, 0xF0] {
            let mut bytes = damaged.whole.clone();
            bytes[place] ^= flip;
            if let Err(error) = damaged.load(&bytes) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
}

#[test]
fn absurd_counts_are_errors() {
    let damaged = Damaged::new();
    // Tensors, metadata, and the length of the first key.
    for place in [8, 16, 24] {
        for count in [u64::MAX, 1 << 62, 1 << 40, 1 << 31, 1 << 20] {
            let mut bytes = damaged.whole.clone();
            bytes[place..place + 8].copy_from_slice(&count.to_le_bytes());
            let error = damaged.load(&bytes).unwrap_err();
            assert!(
                matches!(error, LoadError::DamagedWeights { .. }),
                "{place}, {count}: {error}"
            );
        }
    }
}

#[test]
fn another_format_is_said_to_be_another() {
    let damaged = Damaged::new();
    let error = damaged
        .load(b"GGML and so on, for long enough")
        .unwrap_err();
    assert!(error.to_string().contains("no GGUF file"), "{error}");
    let mut old = damaged.whole.clone();
    old[4] = 1;
    let error = damaged.load(&old).unwrap_err();
    assert!(matches!(error, LoadError::Unsupported { .. }), "{error}");
    let mut big_endian = damaged.whole.clone();
    big_endian[4..8].copy_from_slice(&3u32.to_be_bytes());
    let error = damaged.load(&big_endian).unwrap_err();
    assert!(error.to_string().contains("little-endian"), "{error}");
}
