//! Vectors from a seed, and real ones. The tests of the library's own modules use them, too.

use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Vectors around centres, as embeddings of topics are: (count, dimension).
pub(crate) fn clustered(
    seed: u64,
    count: usize,
    dimension: usize,
    centres: usize,
) -> Vec<Vec<f32>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut point = |spread: f32| -> Vec<f32> {
        (0..dimension)
            .map(|_| rng.random_range(-spread..spread))
            .collect()
    };
    let centres: Vec<Vec<f32>> = (0..centres).map(|_| point(1.0)).collect();
    let near = |n: usize| &centres[n % centres.len()];
    (0..count)
        .map(|n| point(0.6).iter().zip(near(n)).map(|(x, c)| x + c).collect())
        .collect()
}

/// A thousand embeddings of E5 (1000, 768), if they lie beside the project: rows of a flat FAISS
/// index, f32 from byte 45 on.
pub(crate) fn e5_vectors() -> Option<Vec<Vec<f32>>> {
    let file =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/e5_flat_sample.index");
    let bytes = std::fs::read(file).ok()?;
    let (numbers, _) = bytes[45..].as_chunks::<4>();
    let numbers: Vec<f32> = numbers.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Some(numbers.chunks_exact(768).map(<[f32]>::to_vec).collect())
}
