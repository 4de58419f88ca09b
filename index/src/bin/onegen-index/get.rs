//! `onegen-index get`: shows a passage.

use std::io::{Write, stdout};

use anyhow::{Result, bail};
use onegen_index::Passage;

use crate::Format;
use crate::place::{Place, place};

/// Show the passage with an id
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The index, or a collection as in postgres://USER@HOST/DATABASE?table=wiki or milvus://HOST:19530/wiki
    #[arg(value_parser = place())]
    dir: Place,

    /// The passage's id
    id: String,

    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let store = arguments.dir.open()?;
    let Some(passage) = store.get(&arguments.id)? else {
        bail!("the index holds no passage with the id {:?}", arguments.id);
    };
    let mut out = stdout().lock();
    if arguments.format.json {
        writeln!(out, "{}", serde_json::to_string(&passage)?)?;
        return Ok(());
    }
    let Passage {
        id,
        title,
        text,
        url,
        metadata,
        part,
    } = passage;
    writeln!(out, "id          {id}")?;
    writeln!(out, "title       {title}")?;
    if let Some(url) = url {
        writeln!(out, "url         {url}")?;
    }
    if let Some(part) = part {
        let (start, end) = (part.start, part.end);
        writeln!(
            out,
            "part of     {}, characters {start} to {end}",
            part.document
        )?;
    }
    if let Some(metadata) = metadata {
        writeln!(out, "metadata    {}", serde_json::to_string(&metadata)?)?;
    }
    writeln!(out, "\n{text}")?;
    Ok(())
}
