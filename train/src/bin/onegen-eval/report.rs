//! Writes the figures to standard output, a file of records and a model card.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use onegen_train::exam::card;
use onegen_train::exam::figures::Figure;
use serde::Serialize;

use crate::arguments::Arguments;

/// The figures measured so far.
pub(crate) struct Report {
    /// The figures of each model; those of the last one are being measured.
    models: Vec<(String, Vec<Figure>)>,
    records: Option<(PathBuf, BufWriter<File>)>,
    /// The first error in writing records. It is reported at the end, so that no figure is lost.
    fault: Option<std::io::Error>,
    seed: u64,
}

impl Report {
    /// Opens the file of records, if one is wanted. `seed` is the seed of the intervals.
    pub(crate) fn new(records: Option<&Path>, seed: u64) -> Result<Self> {
        let open = |path: &Path| {
            let file = File::create(path);
            let file = file.with_context(|| format!("cannot write {}", path.display()))?;
            anyhow::Ok((path.to_owned(), BufWriter::new(file)))
        };
        Ok(Self {
            models: vec![],
            records: records.map(open).transpose()?,
            fault: None,
            seed,
        })
    }

    /// The seed of the intervals.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Begins with a model.
    pub(crate) fn begin(&mut self, model: &str) {
        self.models.push((model.to_owned(), vec![]));
    }

    /// The model that is being measured.
    pub(crate) fn model(&self) -> String {
        self.models
            .last()
            .map_or_else(String::new, |(name, _)| name.clone())
    }

    /// Adds figures of the model, and writes its records.
    pub(crate) fn add<T: Serialize>(&mut self, figures: Vec<Figure>, records: &[T]) {
        if let Some((_, all)) = self.models.last_mut() {
            all.extend(figures);
        }
        if let Some((_, file)) = &mut self.records {
            let written = write_lines(file, records);
            self.fault = self.fault.take().or(written.err());
        }
    }

    /// Prints the table and puts it into the card.
    pub(crate) fn finish(self, arguments: &Arguments) -> Result<()> {
        let table = format!("\n{}\n{}\n", caption(arguments), card::table(&self.models));
        println!("{table}");
        if let Some(path) = &arguments.card {
            card::write(path, &table)?;
        }
        match (self.fault, self.records) {
            (Some(fault), Some((path, _))) => {
                Err(fault).with_context(|| format!("cannot write {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

fn write_lines<T: Serialize>(file: &mut impl Write, records: &[T]) -> std::io::Result<()> {
    for record in records {
        serde_json::to_writer(&mut *file, record)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

/// The text under the table, with the conditions of the measurement.
fn caption(arguments: &Arguments) -> String {
    let drawn = match arguments.limit {
        Some(limit) => format!(
            "At most {limit} questions of each set, drawn with seed {}. ",
            arguments.seed
        ),
        None => String::new(),
    };
    let history = if arguments.plain_history {
        "earlier turns have read nothing"
    } else {
        "earlier turns are the reference ones and have read the question's own passage"
    };
    format!(
        "{drawn}Answers greedy, at most {} tokens and {} retrievals; {history}. Per cent with 95% intervals \
         (percentile bootstrap over questions, 1,000 resamples). Measured by `onegen-eval`.\n",
        arguments.max_tokens, arguments.max_retrievals
    )
}
