//! The collections that are served: indexes by name.

mod embedding;
mod encoding;
mod indexing;
mod journal;
mod progress;
pub(crate) mod search;

use std::fs;
use std::iter;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use onegen_engine::Model;
use onegen_index::{Change, ChangeCounts, Fingerprints, Index, IndexError};
use onegen_proto::CollectionIndexing;
use parking_lot::{Mutex, RwLock};

use crate::admission::Caller;
use crate::config::{CollectionPath, DEFAULT_COLLECTION, ModelConfig};
use crate::wire::errors::ApiError;

use journal::ChangeJournal;

pub(crate) use embedding::{Embedding, TextEmbedding};
pub(crate) use encoding::Encoding;
pub use progress::IndexingProgress;

/// An index with its name in requests. It may be replaced while requests are answered; each request
/// searches the index that was current when it began.
#[derive(Debug)]
pub struct Collection {
    name: String,
    source: Source,
    opened: ArcSwap<OpenedIndex>,
    /// Only of a corpus.
    journal: Option<Mutex<ChangeJournal>>,
    /// Changes share it. Whoever replaces the index has it alone, so that no change goes into the old one
    /// after its changes were carried over.
    changing: RwLock<()>,
}

/// An index, and the identity of the directory that it was opened from. The same path may lead to
/// another directory later.
#[derive(Debug)]
struct OpenedIndex {
    index: Arc<Index>,
    directory: Option<DirectoryId>,
}

/// A directory's device and inode.
type DirectoryId = (u64, u64);

impl Collection {
    /// Its name in requests.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The current index.
    pub fn index(&self) -> Arc<Index> {
        self.opened.load().index.clone()
    }

    /// Opens what a configuration names. What was changed through the API in the index that was served
    /// last, for an earlier state of the corpus, is changed in this one too.
    fn open(
        name: &str,
        source: Source,
        model: &Model,
        fingerprints: &Fingerprints,
        data_dir: &Path,
        progress: &IndexingProgress,
    ) -> Result<Self> {
        let mut told = |passages, percent| {
            progress.set(CollectionIndexing {
                collection: name.to_owned(),
                passages,
                percent,
            });
        };
        let mut journal = match &source {
            Source::Index(_) => None,
            Source::Corpus(corpus) => Some(ChangeJournal::open(data_dir, corpus)?),
        };
        let changed = journal
            .as_ref()
            .map_or(0, |journal| journal.documents().len());
        let opened = source.open(model, fingerprints, data_dir, changed, &mut told)?;
        progress.clear();
        let kept = opened.index.manifest().passage_kv.as_ref();
        if kept.is_some_and(|made_by| *made_by != model.kv_fingerprint()) {
            tracing::warn!(
                collection = name,
                "the keys and values that the index keeps are not used: another weight or KV type, device or \
                 version computed them"
            );
        }
        if let Some(journal) = &mut journal {
            indexing::carry_over_last(journal, &opened.index, model, data_dir)?;
        }
        Ok(Self {
            name: name.to_owned(),
            source,
            opened: ArcSwap::from_pointee(opened),
            journal: journal.map(Mutex::new),
            changing: RwLock::default(),
        })
    }

    /// Changes documents of the current index, and of all that will be served in its place.
    ///
    /// # Errors
    /// [`ApiError::CollectionReadOnly`], and [`ApiError::NotStored`] if the disk refuses; nothing was changed
    /// then.
    pub(crate) fn change(
        &self,
        documents: &[String],
        changes: Vec<Change>,
    ) -> Result<ChangeCounts, ApiError> {
        let _shared = self.changing.read();
        let index = self.index();
        if index.is_read_only() {
            return Err(ApiError::CollectionReadOnly(self.name.clone()));
        }
        if let Some(journal) = &self.journal {
            let noted = journal.lock().changing(documents);
            noted.map_err(ApiError::not_stored)?;
        }
        index.apply(changes).map_err(|error| match error {
            IndexError::NotApplied(reason) => ApiError::NotStored(reason.to_string()),
            other => ApiError::Internal(other.to_string()),
        })
    }

    /// Opens the index that is at the path now. Returns false if that index is open already.
    fn reload(&self, model: &Model, fingerprints: &Fingerprints, data_dir: &Path) -> Result<bool> {
        let dir = self.source.index_dir(fingerprints, data_dir)?;
        let unchanged = {
            let opened = self.opened.load();
            let same = opened.index.dir() == dir && opened.directory == directory_id(&dir);
            // No other process can change an index that is open for changes here.
            same && !opened.index.is_read_only()
        };
        if unchanged {
            return Ok(false);
        }
        let journal = self.journal.as_ref();
        // Not locked while an index is built, since changes go on meanwhile.
        let changed = journal.map_or(0, |journal| journal.lock().documents().len());
        let mut told = |_, _| ();
        let opened = self
            .source
            .open(model, fingerprints, data_dir, changed, &mut told)?;
        let _alone = self.changing.write();
        if let Some(journal) = journal {
            let mut journal = journal.lock();
            indexing::carry_over(&mut journal, &self.index(), &opened.index, model)?;
        }
        self.opened.store(Arc::new(opened));
        Ok(true)
    }
}

/// All collections of a server; one model has embedded the passages of each.
#[derive(Debug)]
pub struct Collections {
    /// The collection for requests that name none.
    default: Arc<Collection>,
    others: Vec<Arc<Collection>>,
    data_dir: PathBuf,
    /// Held while indexes are opened again.
    reloading: Mutex<()>,
}

/// Where a collection comes from.
#[derive(Debug, Clone)]
enum Source {
    Index(PathBuf),
    Corpus(PathBuf),
}

impl Source {
    /// The directory of its index, which may not be built yet.
    fn index_dir(&self, fingerprints: &Fingerprints, data_dir: &Path) -> Result<PathBuf> {
        match self {
            Self::Index(dir) => Ok(dir.clone()),
            Self::Corpus(file) => indexing::corpus_dir(fingerprints, file, data_dir),
        }
    }

    /// Opens the index, which is built if it is not there. `changed` is how many documents of the corpus' index
    /// were changed through the API. While an index is built, `told` hears of the passages that are embedded and of
    /// the percentage of the corpus.
    fn open(
        &self,
        model: &Model,
        fingerprints: &Fingerprints,
        data_dir: &Path,
        changed: usize,
        told: &mut dyn FnMut(u64, u64),
    ) -> Result<OpenedIndex> {
        let index = match self {
            Self::Index(dir) => {
                // The identity is read before the index is opened. If another index replaces it in
                // between, the next reload notices that.
                let directory = directory_id(dir);
                let index = indexing::open(dir, fingerprints)?;
                return Ok(OpenedIndex::new(index, directory));
            }
            Self::Corpus(file) => {
                indexing::open_or_build(model, fingerprints, file, data_dir, changed, told)?
            }
        };
        let directory = directory_id(index.dir());
        Ok(OpenedIndex::new(index, directory))
    }
}

impl OpenedIndex {
    fn new(index: Index, directory: Option<DirectoryId>) -> Self {
        let index = Arc::new(index);
        Self { index, directory }
    }
}

fn directory_id(dir: &Path) -> Option<DirectoryId> {
    let metadata = fs::metadata(dir).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Collections {
    /// Opens every collection that the configuration names, or the corpus beside the model if it
    /// names none. The default collection is the one with that name, or otherwise the first,
    /// indexes before corpora.
    ///
    /// # Errors
    /// Two collections have the same name, there is none, or one cannot be opened or built.
    pub(crate) fn open(
        model: &Model,
        config: &ModelConfig,
        progress: &IndexingProgress,
    ) -> Result<Self> {
        let beside_model = CollectionPath {
            name: DEFAULT_COLLECTION.to_owned(),
            path: config.dir().join("almanac.jsonl"),
        };
        let mut sources = sources(config)?;
        if sources.is_empty() && beside_model.path.is_file() {
            sources.push((
                &beside_model.name,
                Source::Corpus(beside_model.path.clone()),
            ));
        }
        sources.sort_by_key(|(name, _)| *name != DEFAULT_COLLECTION);

        let fingerprints = Fingerprints::from(model);
        let mut opened = sources.into_iter().map(|(name, source)| {
            let data_dir = &config.data_dir;
            let opened = Collection::open(name, source, model, &fingerprints, data_dir, progress)
                .with_context(|| format!("cannot serve the collection {name:?}"))?;
            anyhow::Ok(Arc::new(opened))
        });
        let Some(default) = opened.next().transpose()? else {
            bail!(
                "there is nothing to retrieve from: {} is not there; name an index with --index or a corpus with --corpus",
                beside_model.path.display()
            );
        };
        Ok(Self {
            default,
            others: opened.collect::<Result<_>>()?,
            data_dir: config.data_dir.clone(),
            reloading: Mutex::new(()),
        })
    }

    /// Reopens each collection whose path now leads to another index, builds the index of a corpus that
    /// has changed, and reopens an index that another process changes. Requests are answered meanwhile.
    /// Returns for each collection whether it was replaced.
    pub(crate) fn reload(&self, model: &Model) -> Vec<(&str, Result<bool>)> {
        // Reloads run one at a time, because an index can be opened for changes only once.
        let _alone = self.reloading.lock();
        let fingerprints = Fingerprints::from(model);
        let reload = |c: &Arc<Collection>| c.reload(model, &fingerprints, &self.data_dir);
        self.all().map(|c| (c.name.as_str(), reload(c))).collect()
    }

    /// The collection with a name; without a name the default one, or the first that the caller may
    /// see. `param` is the request's field that holds the name.
    ///
    /// # Errors
    /// [`ApiError::CollectionNotFound`] names the collections that the caller may see.
    pub(crate) fn get(
        &self,
        name: Option<&str>,
        caller: &Caller,
        param: &'static str,
    ) -> Result<&Arc<Collection>, ApiError> {
        let mut seen = self
            .all()
            .filter(|collection| caller.sees(&collection.name));
        let found = match name {
            None => seen.next(),
            Some(name) => seen.find(|collection| collection.name == name),
        };
        found.ok_or_else(|| {
            let seen = self.iter().filter(|c| caller.sees(&c.name));
            ApiError::CollectionNotFound {
                collection: name.unwrap_or(DEFAULT_COLLECTION).to_owned(),
                param,
                served: seen.map(|c| format!("{:?}", c.name)).collect(),
            }
        })
    }

    /// The collections, the default one first.
    pub fn iter(&self) -> impl Iterator<Item = &Collection> {
        self.all().map(AsRef::as_ref)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Collection>> {
        iter::once(&self.default).chain(&self.others)
    }

    /// Passages that can be retrieved, in all collections together.
    pub fn passages(&self) -> u64 {
        self.iter().map(|c| c.index().passages()).sum()
    }
}

/// The sources that the configuration names, indexes before corpora.
fn sources(config: &ModelConfig) -> Result<Vec<(&str, Source)>> {
    let named: Vec<_> = config.index.iter().chain(&config.corpus).collect();
    for (at, later) in named.iter().enumerate() {
        if let Some(earlier) = named[..at].iter().find(|c| c.name == later.name) {
            bail!(
                "two collections are called {:?}: {} and {}; name them apart, as NAME=PATH",
                later.name,
                earlier.path.display(),
                later.path.display()
            );
        }
    }
    let indexes = config.index.iter();
    let indexes = indexes.map(|c| (c.name.as_str(), Source::Index(c.path.clone())));
    let corpora = config.corpus.iter();
    let corpora = corpora.map(|c| (c.name.as_str(), Source::Corpus(c.path.clone())));
    Ok(indexes.chain(corpora).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use onegen_index::{BuildOptions, IndexBuilder};

    use super::*;

    /// Collections of one passage each; the first is the default one.
    pub(crate) fn collections(names: &[&str]) -> Collections {
        let mut all = names.iter().map(|name| {
            let dir = tempfile::tempdir().unwrap();
            let fingerprints = Fingerprints {
                name: "model".into(),
                model: "m".into(),
                tokenizer: "t".into(),
                template: "p".into(),
            };
            let options = BuildOptions::new(2, fingerprints);
            let dir = dir.path().join("index");
            let mut builder = IndexBuilder::create(&dir, options).unwrap();
            let passage = serde_json::json!({"id": name, "title": "", "text": "…"});
            let passage = serde_json::from_value(passage).unwrap();
            builder.add(&passage, &[vec![1.0, 0.0]]).unwrap();
            builder.finish().unwrap();
            // Mapped files stay readable after their directory is deleted.
            let opened = OpenedIndex::new(Index::open(&dir).unwrap(), None);
            Arc::new(Collection {
                name: (*name).to_owned(),
                source: Source::Index(dir),
                opened: ArcSwap::from_pointee(opened),
                journal: None,
                changing: RwLock::default(),
            })
        });
        Collections {
            default: all.next().unwrap(),
            others: all.collect(),
            data_dir: PathBuf::new(),
            reloading: Mutex::new(()),
        }
    }
}
