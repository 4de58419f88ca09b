//! `onegen-index add`: embeds documents and puts them into an index.

use std::io::{Write, stdout};

use anyhow::{Context, Result};
use onegen_index::add_from_corpus;
use serde_json::json;

use crate::Format;
use crate::model::{ModelArguments, check_model};
use crate::place::{Place, place};
use crate::progress::Progress;
use crate::source::SourceArguments;

/// Embed documents and put them into an index, in place of those with the same id
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The index, or a collection as in postgres://USER@HOST/DATABASE?table=wiki or milvus://HOST:19530/wiki
    #[arg(value_parser = place())]
    dir: Place,

    #[command(flatten)]
    source: SourceArguments,

    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let store = arguments.dir.open_for_changes()?;
    let corpus = arguments.source.open()?;
    let model = arguments.model.load()?;
    check_model(&store, &model)?;
    let before = store.passages();
    let mut progress = Progress::new(corpus.total_bytes());
    let options = arguments.source.options(store.document_rules())?;
    let apply = |changes| store.apply(changes);
    let added = add_from_corpus(corpus, apply, options, &model, |event| progress.on(&event));
    progress.clear();
    let added = added.with_context(|| {
        let kept = store.passages();
        format!("the index had {before} passages and holds {kept} now")
    })?;
    store.settle()?;

    let passages = store.passages();
    let mut out = stdout().lock();
    if arguments.format.json {
        let report = json!({
            "dir": store.place(),
            "documents": added.documents,
            "added_passages": added.passages,
            "bad_records": added.bad_records,
            "left_out": progress.left_out(),
            "passages": passages,
            "seconds": progress.seconds(),
            "passages_per_second": progress.rate(added.passages),
        });
        writeln!(out, "{report}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{}: {} documents added in {} passages, {} bad records skipped; {passages} passages now",
        store.place(),
        added.documents,
        added.passages,
        added.bad_records
    )?;
    for group in progress.left_out().groups() {
        writeln!(out, "left out    {group}")?;
    }
    Ok(())
}
