//! Opens the indexes that are served: existing ones, or ones that are built once from a corpus.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use onegen_engine::Model;
use onegen_index::{
    BuildOptions, Change, Corpus, DocumentRules, Fingerprints, Index, IndexError, IngestEvent,
    IngestOptions, build_from_corpus,
};

use crate::collections::journal::ChangeJournal;

/// Opens an existing index.
///
/// # Errors
/// The directory is not an index, the index is damaged, or another model built it; the error then
/// names both models.
pub(crate) fn open(dir: &Path, fingerprints: &Fingerprints) -> Result<Index> {
    open_checked(dir, fingerprints)
        .with_context(|| format!("cannot serve the index {}", dir.display()))
}

fn open_checked(dir: &Path, fingerprints: &Fingerprints) -> Result<Index, IndexError> {
    let index = match Index::open_for_changes(dir) {
        Err(error) if leaves_searching(&error) => {
            tracing::warn!(%error, "the index is searched as it stands now, and not changed");
            Index::open(dir)?
        }
        opened => opened?,
    };
    index.check_fingerprints(fingerprints)?;
    Ok(index)
}

/// Whether an index with this error can still be searched, and only not be changed: another process
/// has it open for changes, or its directory cannot be written.
fn leaves_searching(error: &IndexError) -> bool {
    match error {
        IndexError::Locked { .. } => true,
        IndexError::Io { source, .. } => matches!(
            source.kind(),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull
        ),
        _ => false,
    }
}

/// Opens the index of a corpus, which is built first if it does not exist.
///
/// While it is built, `progress` hears of the passages that are embedded, and of the corpus' percentage that is read.
///
/// Its directory's name is made from the fingerprints of the model and of the corpus. Another model
/// or a changed corpus therefore gets another index, and an existing index is always the right one.
///
/// # Errors
/// The corpus cannot be read or embedded, or the index cannot be written. Or the index is there and cannot be
/// opened, and holds `changed` documents that were changed through the API.
pub(crate) fn open_or_build(
    model: &Model,
    fingerprints: &Fingerprints,
    corpus: &Path,
    data_dir: &Path,
    changed: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Index> {
    let dir = corpus_dir(fingerprints, corpus, data_dir)?;
    match open_checked(&dir, fingerprints) {
        Ok(index) => return Ok(index),
        Err(IndexError::NotAnIndex { .. }) => {}
        Err(error @ IndexError::Version { .. }) if changed == 0 => {
            let aside = aside(&dir);
            fs::rename(&dir, &aside)
                .with_context(|| format!("cannot move {} away", dir.display()))?;
            tracing::warn!(%error, moved_to = %aside.display(), "the index is built again");
        }
        // The index is not replaced, because it may hold documents that are not in the corpus.
        Err(error) => {
            return Err(error).with_context(|| {
                let remedy = match changed {
                    0 => "move it away to have it built again".to_owned(),
                    _ => format!(
                        "it holds {changed} documents that were changed through the API and would be lost, \
                         so open it with the version that wrote it, or move it away to serve the corpus alone"
                    ),
                };
                let (corpus, dir) = (corpus.display(), dir.display());
                format!("the index {dir} of {corpus} cannot be opened: {remedy}")
            });
        }
    }
    build(model, fingerprints, corpus, &dir, progress)
        .with_context(|| format!("cannot index {}", corpus.display()))?;
    Ok(open_checked(&dir, fingerprints)?)
}

/// A name beside a directory that nothing has.
fn aside(dir: &Path) -> PathBuf {
    let named = |number: usize| {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!(".replaced-{number}"));
        PathBuf::from(name)
    };
    let mut numbers = (1..).map(named);
    numbers
        .find(|path| !path.exists())
        .unwrap_or_else(|| named(0))
}

/// Makes the changes that were made in the index that the journal names in this one, unless it is that one.
///
/// # Errors
/// As [`carry_over`], and the other index cannot be opened.
pub(super) fn carry_over_last(
    journal: &mut ChangeJournal,
    index: &Index,
    model: &Model,
    data_dir: &Path,
) -> Result<()> {
    let last = journal.index().map(|name| data_dir.join(name));
    let last = last.filter(|dir| dir != index.dir() && !journal.documents().is_empty());
    let Some(last) = last else {
        return Ok(journal.serve(&name_of(index))?);
    };
    if !last.exists() {
        let missing = last.display();
        tracing::warn!(%missing, "documents that were put into this index are gone with it");
        return Ok(journal.serve(&name_of(index))?);
    }
    let last = Index::open(&last).with_context(|| {
        let (dir, changed) = (last.display(), journal.documents().len());
        format!(
            "{dir} holds {changed} documents that were changed through the API before the corpus changed, and \
             cannot be opened; open it with the version that wrote it, or move it away to do without them"
        )
    })?;
    carry_over(journal, &last, index, model)
}

/// Makes the changes that were made in one index of a corpus, as the journal names them, in another one.
///
/// # Errors
/// The one cannot be read or the other cannot be written; another try makes all changes again.
pub(super) fn carry_over(
    journal: &mut ChangeJournal,
    from: &Index,
    to: &Index,
    model: &Model,
) -> Result<()> {
    let documents = journal.documents();
    if !documents.is_empty() {
        let deletions = documents.iter().cloned();
        let mut changes: Vec<Change> = deletions.map(|id| Change::DeleteDocument { id }).collect();
        let same_model = from.check_fingerprints(to.fingerprints()).is_ok();
        from.for_each(|passage, vectors| {
            if !documents.contains(passage.document_id()) {
                return anyhow::Ok(());
            }
            let vectors = if same_model {
                vectors.iter().map(|vector| vector.to_vec()).collect()
            } else {
                let text = [(passage.title.as_str(), passage.text.as_str())];
                let embedded = model.embed_texts(&text)?.into_iter();
                let embedded = embedded.collect::<Result<_, _>>();
                embedded.with_context(|| format!("cannot embed the passage {:?}", passage.id))?
            };
            changes.push(Change::Upsert {
                passage: passage.clone(),
                vectors,
            });
            Ok(())
        })?;
        to.apply(changes)?;
        tracing::info!(
            documents = documents.len(),
            from = %from.dir().display(),
            to = %to.dir().display(),
            "what was changed through the API is carried over"
        );
    }
    Ok(journal.serve(&name_of(to))?)
}

fn name_of(index: &Index) -> String {
    let name = index.dir().file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The directory for the index of a corpus in its present state, whether or not it is built.
///
/// # Errors
/// The corpus cannot be read.
pub(crate) fn corpus_dir(
    fingerprints: &Fingerprints,
    corpus: &Path,
    data_dir: &Path,
) -> Result<PathBuf> {
    Ok(data_dir.join(directory_name(fingerprints, corpus)?))
}

fn directory_name(fingerprints: &Fingerprints, corpus: &Path) -> Result<PathBuf> {
    let mut hasher = blake3::Hasher::new();
    for part in [
        &fingerprints.model,
        &fingerprints.tokenizer,
        &fingerprints.template,
    ] {
        hasher.update(part.as_bytes());
    }
    let unreadable = || format!("cannot read the corpus {}", corpus.display());
    if corpus.is_dir() {
        let folder = Corpus::open(corpus).with_context(unreadable)?;
        hasher.update(folder.identity().as_bytes());
    } else {
        File::open(corpus)
            .and_then(|file| hasher.update_reader(file).map(|_| ()))
            .with_context(unreadable)?;
    }
    let mut name = corpus.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{}", &hasher.finalize().to_hex()[..16]));
    Ok(name.into())
}

fn build(
    model: &Model,
    fingerprints: &Fingerprints,
    corpus: &Path,
    dir: &Path,
    told: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    tracing::info!(corpus = %corpus.display(), index = %dir.display(), "indexing, this once");
    let options = BuildOptions::new(model.hidden_size(), fingerprints.clone());
    let corpus = Corpus::open(corpus)?;
    let total = corpus.total_bytes();
    told(0, 0);
    let progress = progress_bar(total);
    let built = build_from_corpus(
        corpus,
        dir,
        options,
        IngestOptions::new(DocumentRules::default()),
        model,
        |event| match event {
            IngestEvent::Resumed { passages, .. } => {
                progress.suspend(|| tracing::info!(passages, "going on with an interrupted build"));
            }
            IngestEvent::BadRecord(error) => {
                progress.suspend(|| tracing::warn!(%error, "a document is left out"));
            }
            IngestEvent::Embedded {
                passages,
                bytes_read,
            } => {
                progress.set_message(format!("{passages} passages"));
                progress.set_position(bytes_read);
                told(
                    passages,
                    (bytes_read * 100).checked_div(total).unwrap_or(100),
                );
            }
            IngestEvent::Linked { vectors, total } => {
                progress.set_message(format!("{vectors} of {total} vectors linked"));
            }
        },
    );
    progress.finish_and_clear();
    built?;
    Ok(())
}

/// A progress bar, which is drawn only on a terminal.
fn progress_bar(corpus_bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(corpus_bytes);
    match ProgressStyle::with_template("indexing {bar:30} {percent:>3}%  {msg}  {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
