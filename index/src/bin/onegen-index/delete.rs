//! `onegen-index delete`: takes documents out of an index.

use std::io::{Write, stdout};

use anyhow::{Result, bail};
use onegen_index::Change;
use serde_json::json;

use crate::Format;
use crate::place::{Place, place};

/// Take documents or passages out of an index, by id. Fails if one is not there; the others are then
/// out all the same
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The index, or a collection as in postgres://USER@HOST/DATABASE?table=wiki or milvus://HOST:19530/wiki
    #[arg(value_parser = place())]
    dir: Place,

    /// Ids of documents, with all their passages, or of single passages
    #[arg(required = true)]
    ids: Vec<String>,

    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let store = arguments.dir.open_for_changes()?;
    let mut deleted = 0;
    let mut missing = Vec::new();
    for id in &arguments.ids {
        let applied = store.apply(vec![Change::DeleteDocument { id: id.clone() }])?;
        deleted += applied.deleted;
        if applied.deleted == 0 {
            missing.push(id);
        }
    }
    store.settle()?;
    let passages = store.passages();
    let mut out = stdout().lock();
    if arguments.format.json {
        let report = json!({
            "dir": store.place(),
            "deleted_passages": deleted,
            "missing": missing,
            "passages": passages,
        });
        writeln!(out, "{report}")?;
    } else {
        writeln!(
            out,
            "{}: {deleted} passages deleted, {passages} left",
            store.place()
        )?;
    }
    if missing.is_empty() {
        Ok(())
    } else {
        bail!("the index holds nothing with the id {missing:?}")
    }
}
