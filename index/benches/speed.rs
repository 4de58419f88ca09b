//! The side of this crate in `against_faiss.py` and `million.py`. Prints one JSON object.
//!
//! ```text
//! speed build ROWS DIMENSION DIR      builds an index, one vector a passage
//! speed search QUERIES DIMENSION DIR  opens it and searches for ten passages, one query after the other
//! speed exact QUERIES DIMENSION DIR   the same by an exact scan
//! ```
//!
//! ROWS and QUERIES are files of f32.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use onegen_index::{BuildOptions, Fingerprints, Hit, Index, IndexBuilder, Passage, SearchOptions};
use serde_json::{Value, json};

const K: usize = 10;

fn main() -> Result<()> {
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [what, file, dimension, dir] = arguments[..] else {
        println!("usage: speed build|search|exact FILE DIMENSION DIR");
        return Ok(());
    };
    let dimension = dimension.parse()?;
    let rows = rows(file, dimension)?;
    let told = match what {
        "build" => build(rows, dimension, dir.as_ref())?,
        "search" => search(rows, dir.as_ref(), false)?,
        "exact" => search(rows, dir.as_ref(), true)?,
        _ => bail!("{what:?} is none of build, search and exact"),
    };
    println!("{told}");
    Ok(())
}

/// The rows of a file, one in memory at a time.
fn rows(file: &str, dimension: usize) -> Result<impl Iterator<Item = Vec<f32>>> {
    let file = File::open(file).with_context(|| format!("cannot read {file}"))?;
    let mut input = BufReader::with_capacity(1 << 20, file);
    let mut bytes = vec![0; dimension * size_of::<f32>()];
    Ok(std::iter::from_fn(move || {
        input.read_exact(&mut bytes).ok()?;
        let (numbers, _) = bytes.as_chunks::<4>();
        Some(numbers.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }))
}

fn build(rows: impl Iterator<Item = Vec<f32>>, dimension: usize, dir: &Path) -> Result<Value> {
    let fingerprints = Fingerprints {
        name: "random".into(),
        model: "m".into(),
        tokenizer: "t".into(),
        template: "p".into(),
    };
    let start = Instant::now();
    let mut builder = IndexBuilder::create(dir, BuildOptions::new(dimension, fingerprints))?;
    for (number, row) in rows.enumerate() {
        let passage = Passage {
            id: number.to_string(),
            title: String::new(),
            text: format!("The text of number {number}."),
            url: None,
            metadata: None,
            part: None,
        };
        builder.add(&passage, &[row])?;
    }
    let added = start.elapsed().as_secs_f64();
    let mut linked = added;
    let manifest = builder.finish_with(|_| linked = start.elapsed().as_secs_f64())?;
    let segment = manifest.segments.first().context("no vectors")?;
    Ok(json!({
        "seconds": start.elapsed().as_secs_f64(),
        "seconds_of_adding": added,
        "seconds_of_linking": linked - added,
        "graph": segment.graph,
        "files": segment.files,
    }))
}

fn search(queries: impl Iterator<Item = Vec<f32>>, dir: &Path, exact: bool) -> Result<Value> {
    let queries: Vec<_> = queries.collect();
    let start = Instant::now();
    let index = Index::open(dir)?;
    let seconds_to_open = start.elapsed().as_secs_f64();
    let options = SearchOptions {
        exact,
        ..SearchOptions::new(K)
    };
    let run = || -> Result<(f64, Vec<Vec<u32>>)> {
        let start = Instant::now();
        let found = queries
            .iter()
            .map(|query| index.search(query, &options))
            .collect::<Result<Vec<_>, _>>()?;
        let seconds = start.elapsed().as_secs_f64() / found.len() as f64;
        let number = |hit: &Hit| Ok(hit.passage.id.parse()?);
        let numbers = |hits: &Vec<Hit>| hits.iter().map(number).collect();
        Ok((seconds, found.iter().map(numbers).collect::<Result<_>>()?))
    };
    // Once to bring everything into memory.
    let (seconds_at_first, _) = run()?;
    let (seconds, found) = run()?;
    Ok(json!({
        "seconds_to_open": seconds_to_open,
        "seconds_at_first": seconds_at_first,
        "seconds": seconds,
        "found": found,
    }))
}
