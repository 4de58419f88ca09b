//! `onegen-index verify`: reads every byte of an index and says what is wrong.

use std::io::{Write, stdout};

use anyhow::{Result, bail};
use indicatif::HumanBytes;
use onegen_index::{Remedy, Store};
use serde_json::json;

use crate::Format;
use crate::place::{Place, place};

/// Vectors of a collection in a database that searches are tried with.
const SAMPLE: usize = 100;

/// Read every byte of an index, and say what is wrong and what can be made again
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The index, or a collection as in postgres://USER@HOST/DATABASE?table=wiki or milvus://HOST:19530/wiki
    #[arg(value_parser = place())]
    dir: Place,

    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let dir = match &arguments.dir {
        Place::Directory(dir) => dir,
        Place::Remote(_) => return remote(arguments),
    };
    let verification = onegen_index::verify(dir)?;
    let remedy = |remedy| match remedy {
        Remedy::Compact => format!("`onegen-index compact {}` makes it again", dir.display()),
        Remedy::Restore => "restore it from a copy, or build the index again".into(),
    };
    let mut out = stdout().lock();
    if arguments.format.json {
        let finding = |finding: &onegen_index::Finding| {
            json!({
                "file": finding.file,
                "error": finding.error.to_string(),
                "remedy": remedy(finding.remedy),
            })
        };
        let report = json!({
            "dir": dir,
            "files": verification.files,
            "bytes": verification.bytes,
            "findings": verification.findings.iter().map(finding).collect::<Vec<_>>(),
        });
        writeln!(out, "{report}")?;
    } else {
        for finding in &verification.findings {
            writeln!(out, "{}", finding.error)?;
            writeln!(out, "  {}", remedy(finding.remedy))?;
        }
        writeln!(
            out,
            "{}: {} files, {} verified",
            dir.display(),
            verification.files,
            HumanBytes(verification.bytes)
        )?;
    }
    match verification.findings.len() {
        0 => Ok(()),
        1 => bail!("one thing is wrong"),
        n => bail!("{n} things are wrong"),
    }
}

/// Counts, looks at a sample, and holds searches through the graph against exact ones.
fn remote(arguments: &Arguments) -> Result<()> {
    let store = arguments.dir.open()?;
    let Store::Remote(collection) = &store else {
        return Ok(());
    };
    let verified = collection.verify(SAMPLE)?;
    let (passages, vectors) = verified.counts;
    let mut out = stdout().lock();
    if arguments.format.json {
        let report = json!({
            "address": collection.address().to_string(),
            "passages": passages,
            "vectors": vectors,
            "sample": verified.sample,
            "recall_at_10": verified.recall_at_10,
            "findings": verified.findings,
        });
        writeln!(out, "{report}")?;
    } else {
        for finding in &verified.findings {
            writeln!(out, "{finding}")?;
        }
        writeln!(
            out,
            "{}: {passages} passages, {vectors} vectors; recall@10 {:.3} against an exact scan for {} of them",
            collection.address(),
            verified.recall_at_10,
            verified.sample
        )?;
    }
    match verified.findings.len() {
        0 => Ok(()),
        1 => bail!("one thing is wrong"),
        n => bail!("{n} things are wrong"),
    }
}
