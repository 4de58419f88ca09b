//! Damaged and hostile models, GGUF files above all: an error that names the file, no panic and no allocation beyond
//! the file's size.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value as GgufValue;
use common::gguf::GgufFile;
use common::*;
use onegen_engine::{LoadError, LoadOptions, Model};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
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

fn load_frugally(path: &Path) -> Result<Model, LoadError> {
    let loaded = Model::load(path, &LoadOptions::default());
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest < TOO_MUCH, "{largest} bytes were asked for");
    loaded
}

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
        load_frugally(&self.path())
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

/// A header of random metadata and tensors, as far as its counts let it be one.
fn random_header(rng: &mut StdRng) -> Vec<u8> {
    let keys = [
        "general.architecture",
        "general.alignment",
        "llama.block_count",
        "tokenizer.ggml.tokens",
        "a",
    ];
    let string = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(rng.random_range(2u32..4).to_le_bytes());
    let (tensors, entries) = (rng.random_range(0u64..4), rng.random_range(0u64..6));
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(entries.to_le_bytes());
    for _ in 0..entries {
        string(&mut bytes, keys.choose(rng).unwrap());
        let kind = rng.random_range(0u32..14);
        bytes.extend(kind.to_le_bytes());
        if kind == 9 {
            bytes.extend(rng.random_range(0u32..14).to_le_bytes());
        }
        match rng.random_range(0..4) {
            0 => string(&mut bytes, "llama"),
            1 => bytes.extend(rng.random::<u64>().to_le_bytes()),
            _ => {
                let len = rng.random_range(0..24);
                bytes.extend((0..len).map(|_| rng.random::<u8>()));
            }
        }
    }
    for _ in 0..tensors {
        string(&mut bytes, ["token_embd.weight", "b"].choose(rng).unwrap());
        let dimensions = rng.random_range(0u32..6);
        bytes.extend(dimensions.to_le_bytes());
        for _ in 0..dimensions {
            let size = [0, 1, 32, 1 << 40, u64::MAX].choose(rng).unwrap();
            bytes.extend(size.to_le_bytes());
        }
        bytes.extend(rng.random_range(0u32..32).to_le_bytes());
        bytes.extend(rng.random_range(0u64..3).to_le_bytes());
    }
    bytes.extend((0..rng.random_range(0..200)).map(|_| rng.random::<u8>()));
    bytes
}

fn seeded() -> StdRng {
    let seed = 12;
    println!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

#[test]
fn random_headers_are_refused_by_the_name_of_their_file() {
    let damaged = Damaged::new();
    let mut rng = seeded();
    for number in 0..3_000 {
        let error = damaged.load(&random_header(&mut rng)).unwrap_err();
        assert!(
            error.to_string().contains("damaged.gguf"),
            "{number}: {error}"
        );
    }
}

#[test]
fn a_header_with_an_odd_value_anywhere_is_another_model_or_refused_by_name() {
    let damaged = Damaged::new();
    let dir = Family::Llama31.write(1);
    let whole = GgufFile::new(dir.path(), GgmlDType::Q8_0);
    let odd = [
        GgufValue::U32(0),
        GgufValue::U32(u32::MAX),
        GgufValue::I64(i64::MIN),
        GgufValue::U64(u64::MAX),
        GgufValue::F32(f32::NAN),
        GgufValue::F32(-1.0),
        GgufValue::Bool(true),
        GgufValue::String(String::new()),
        GgufValue::String("\u{0}{{ '%'|format(1) }}".into()),
        GgufValue::Array(Vec::new()),
        GgufValue::Array(vec![GgufValue::I32(-1); 3]),
    ];
    let mut refused = 0;
    for key in whole.metadata.keys() {
        for value in &odd {
            let mut file = GgufFile::new(dir.path(), GgmlDType::Q8_0);
            file.set(key, value.clone());
            if let Err(error) = damaged.load(&file.bytes()) {
                let told = error.to_string();
                assert!(told.contains("damaged.gguf"), "{key} {value:?}: {told}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused} were refused");
}

/// The JSON pointers of all values, those within long lists and maps only by samples.
fn places(value: &Value, at: &str, rng: &mut StdRng, found: &mut Vec<String>) {
    found.push(at.to_owned());
    let inner: Vec<(String, &Value)> = match value {
        Value::Array(all) => (0..).map(|n: usize| n.to_string()).zip(all).collect(),
        Value::Object(all) => {
            let escaped = |key: &String| key.replace('~', "~0").replace('/', "~1");
            all.iter()
                .map(|(key, value)| (escaped(key), value))
                .collect()
        }
        _ => return,
    };
    for (key, value) in inner.into_iter().choose_multiple(rng, 40) {
        places(value, &format!("{at}/{key}"), rng, found);
    }
}

#[test]
fn a_directory_with_an_odd_value_anywhere_is_another_model_or_refused_by_name() {
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1u64 << 60),
        json!(0.5),
        json!(1e300),
        json!(""),
        json!("\u{0}{% for x in range(9) %}{{ x }}"),
        json!([]),
        json!([[[]]]),
        json!({}),
        json!({"type": "Sequence", "content": "a"}),
    ];
    let dir = Family::Llama31.write(1);
    let names = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "onegen.json",
    ];
    let mut rng = seeded();
    let (mut loaded, mut refused) = (0, 0);
    for name in names {
        let path = dir.path().join(name);
        let Ok(whole) = fs::read(&path) else {
            panic!("the model has no {name}");
        };
        let value: Value = serde_json::from_slice(&whole).unwrap();
        let mut found = Vec::new();
        places(&value, "", &mut rng, &mut found);
        for _ in 0..150 {
            let mut changed = value.clone();
            let at = found.choose(&mut rng).unwrap();
            let new = odd.choose(&mut rng).unwrap();
            *changed.pointer_mut(at).unwrap() = new.clone();
            fs::write(&path, changed.to_string()).unwrap();
            match load_frugally(dir.path()) {
                Ok(_) => loaded += 1,
                Err(error) => {
                    let told = error.to_string();
                    let named = names.iter().chain(&["model.safetensors"]);
                    assert!(
                        named.into_iter().any(|name| told.contains(name)),
                        "{name}{at}: {new}: {told}"
                    );
                    refused += 1;
                }
            }
        }
        fs::write(&path, whole).unwrap();
    }
    println!("{loaded} loaded, {refused} refused");
    assert!(
        loaded > 20 && refused > 100,
        "{loaded} loaded, {refused} refused"
    );
}
