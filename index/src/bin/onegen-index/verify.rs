//! `onegen-index verify`: reads every byte of an index and says what is wrong.

use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Result, bail};
use indicatif::HumanBytes;
use onegen_index::Remedy;
use serde_json::json;

use crate::Format;

/// Read every byte of an index, and say what is wrong and what can be made again
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The index
    dir: PathBuf,

    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let dir = &arguments.dir;
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
