//! `onegen-index export`: writes an index's passages as a corpus.

use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ArgAction;
use clap::builder::FalseyValueParser;
use onegen_index::{Passage, Store};
use serde::Serialize;

use crate::place::{Place, place};

/// Write all passages as JSON lines, in the order in which they were put in: a corpus that can be
/// built again
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The index, or a collection as in postgres://USER@HOST/DATABASE?table=wiki or milvus://HOST:19530/wiki
    #[arg(value_parser = place())]
    dir: Place,

    /// The file to write [default: standard output]
    #[arg(long, env = "ONEGEN_OUT", value_name = "FILE")]
    out: Option<PathBuf>,

    /// Write each passage's unit vectors too
    #[arg(long, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    with_vectors: bool,

    /// Taken for granted: what is written is JSON
    #[arg(long, env = "ONEGEN_JSON", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new(), hide = true)]
    json: bool,
}

#[derive(Serialize)]
struct Line<'p> {
    #[serde(flatten)]
    passage: &'p Passage,
    #[serde(skip_serializing_if = "Option::is_none")]
    vectors: Option<&'p [&'p [f32]]>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let store = arguments.dir.open()?;
    match &arguments.out {
        None => write(&store, stdout().lock(), arguments.with_vectors),
        Some(path) => {
            let file = File::create_new(path).with_context(|| in_file(path))?;
            write(&store, BufWriter::new(file), arguments.with_vectors)
                .with_context(|| in_file(path))
        }
    }
}

fn in_file(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

fn write(store: &Store, mut out: impl Write, with_vectors: bool) -> Result<()> {
    store.for_each::<anyhow::Error>(|passage, vectors| {
        let line = Line {
            passage,
            vectors: with_vectors.then_some(vectors),
        };
        serde_json::to_writer(&mut out, &line)?;
        Ok(out.write_all(b"\n")?)
    })?;
    Ok(out.flush()?)
}
