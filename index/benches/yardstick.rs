//! The side of hnsw_rs in `against_faiss.py`. Prints one JSON object.
//!
//! ```text
//! yardstick ROWS QUERIES DIMENSION M EF_CONSTRUCTION THREADS EF...
//! ```
//!
//! Builds a graph over ROWS and searches it for ten vectors near each of QUERIES, one after the other,
//! with every EF. ROWS and QUERIES are files of f32 with unit rows.

use std::time::Instant;

use anyhow::{Context, Result};
use hnsw_rs::prelude::{Distance, Hnsw};
use serde_json::json;

const K: usize = 10;
const LAYERS: usize = 16;

/// 1 − cosine of unit vectors, never below 0, which hnsw_rs would not accept.
struct Cosine;

impl Distance<f32> for Cosine {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        const LANES: usize = 16;
        let mut sums = [0.0f32; LANES];
        let (a_chunks, a_rest) = a.as_chunks::<LANES>();
        let (b_chunks, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            for lane in 0..LANES {
                sums[lane] += a[lane] * b[lane];
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
        (1.0 - sums.iter().sum::<f32>() - rest).max(0.0)
    }
}

fn main() -> Result<()> {
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [rows, queries, numbers @ ..] = &arguments[..] else {
        println!("usage: yardstick ROWS QUERIES DIMENSION M EF_CONSTRUCTION THREADS EF...");
        return Ok(());
    };
    let numbers = numbers
        .iter()
        .map(|number| number.parse())
        .collect::<Result<Vec<usize>, _>>()?;
    let [dimension, m, ef_construction, threads, ladder @ ..] = &numbers[..] else {
        println!("usage: yardstick ROWS QUERIES DIMENSION M EF_CONSTRUCTION THREADS EF...");
        return Ok(());
    };
    let (rows, queries) = (read(rows, *dimension)?, read(queries, *dimension)?);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(*threads)
        .build()?;
    let start = Instant::now();
    let graph = Hnsw::<f32, Cosine>::new(*m, rows.len(), LAYERS, *ef_construction, Cosine);
    let numbered: Vec<(&Vec<f32>, usize)> = rows.iter().zip(0..).collect();
    pool.install(|| graph.parallel_insert(&numbered));
    let build_seconds = start.elapsed().as_secs_f64();
    let searches: Vec<_> = ladder
        .iter()
        .map(|&ef| {
            let start = Instant::now();
            let found: Vec<Vec<usize>> = queries
                .iter()
                .map(|query| {
                    let near = graph.search(query, K, ef);
                    near.iter().map(|neighbour| neighbour.d_id).collect()
                })
                .collect();
            let seconds = start.elapsed().as_secs_f64() / queries.len() as f64;
            json!({"ef": ef, "seconds": seconds, "found": found})
        })
        .collect();
    println!(
        "{}",
        json!({"build_seconds": build_seconds, "searches": searches})
    );
    Ok(())
}

fn read(file: &str, dimension: usize) -> Result<Vec<Vec<f32>>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
    let (numbers, _) = bytes.as_chunks::<4>();
    let numbers: Vec<f32> = numbers.iter().map(|&b| f32::from_le_bytes(b)).collect();
    Ok(numbers
        .chunks_exact(dimension)
        .map(<[f32]>::to_vec)
        .collect())
}
