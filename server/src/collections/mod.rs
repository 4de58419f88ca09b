//! The collections that are served: indexes and tables of databases, by name.

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
use onegen_index::{
    Change, ChangeCounts, Fingerprints, IndexError, RemoteAddress, RemoteCollection, RemoteOptions,
    RemoteStats, Store,
};
use onegen_proto::CollectionIndexing;
use parking_lot::{Mutex, RwLock};

use crate::admission::Caller;
use crate::config::{CollectionPath, DEFAULT_COLLECTION, ModelConfig};
use crate::wire::errors::ApiError;

use journal::ChangeJournal;

pub(crate) use embedding::{Embedding, TextEmbedding};
pub(crate) use encoding::Encoding;
pub use progress::IndexingProgress;

/// An index or a table with its name in requests. An index may be replaced while requests are answered; each
/// request searches the one that was current when it began.
#[derive(Debug)]
pub struct Collection {
    name: String,
    source: Source,
    opened: ArcSwap<OpenedStore>,
    /// Only of a corpus.
    journal: Option<Mutex<ChangeJournal>>,
    /// Changes share it. Whoever replaces the index has it alone, so that no change goes into the old one
    /// after its changes were carried over.
    changing: RwLock<()>,
}

/// What is searched, and the identity of the directory that it was opened from. The same path may lead to
/// another directory later.
#[derive(Debug)]
struct OpenedStore {
    store: Arc<Store>,
    directory: Option<DirectoryId>,
}

/// A directory's device and inode.
type DirectoryId = (u64, u64);

impl Collection {
    /// Its name in requests.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is searched now.
    pub fn store(&self) -> Arc<Store> {
        self.opened.load().store.clone()
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
            Source::Index(_) | Source::Remote(_) => None,
            Source::Corpus(corpus) => Some(ChangeJournal::open(data_dir, corpus)?),
        };
        let changed = journal
            .as_ref()
            .map_or(0, |journal| journal.documents().len());
        let opened = source.open(model, fingerprints, data_dir, changed, &mut told)?;
        progress.clear();
        let index = opened.store.directory();
        let kept = index.and_then(|index| index.manifest().passage_kv.as_ref());
        if kept.is_some_and(|made_by| *made_by != model.kv_fingerprint()) {
            tracing::warn!(
                collection = name,
                "the keys and values that the index keeps are not used: another weight or KV type, device or \
                 version computed them"
            );
        }
        if let (Some(journal), Some(index)) = (&mut journal, index) {
            indexing::carry_over_last(journal, index, model, data_dir)?;
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
    /// then. [`ApiError::CollectionAway`], after which the changes may have been made; they can be made again.
    pub(crate) fn change(
        &self,
        documents: &[String],
        changes: Vec<Change>,
    ) -> Result<ChangeCounts, ApiError> {
        let _shared = self.changing.read();
        let store = self.store();
        if store.is_read_only() {
            return Err(ApiError::CollectionReadOnly(self.name.clone()));
        }
        if let Some(journal) = &self.journal {
            let noted = journal.lock().changing(documents);
            noted.map_err(ApiError::not_stored)?;
        }
        store.apply(changes).map_err(|error| match error {
            IndexError::NotApplied(reason) => ApiError::NotStored(reason.to_string()),
            IndexError::NotStorable { .. } => ApiError::invalid("text", error.to_string()),
            other => other.into(),
        })
    }

    /// Opens the index that is at the path now. Returns false if that index is open already.
    fn reload(&self, model: &Model, fingerprints: &Fingerprints, data_dir: &Path) -> Result<bool> {
        let Some(dir) = self.source.index_dir(fingerprints, data_dir)? else {
            // Whatever changes in a database is seen at once.
            return Ok(false);
        };
        let unchanged = {
            let opened = self.opened.load();
            let same = opened.store.dir() == Some(&dir) && opened.directory == directory_id(&dir);
            // No other process can change an index that is open for changes here.
            same && !opened.store.is_read_only()
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
            let before = self.store();
            if let (Some(before), Some(index)) = (before.directory(), opened.store.directory()) {
                indexing::carry_over(&mut journal, before, index, model)?;
            }
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
    Remote(RemoteAddress),
}

impl Source {
    /// The directory of its index, which may not be built yet; none in a database.
    fn index_dir(&self, fingerprints: &Fingerprints, data_dir: &Path) -> Result<Option<PathBuf>> {
        match self {
            Self::Index(dir) => Ok(Some(dir.clone())),
            Self::Corpus(file) => indexing::corpus_dir(fingerprints, file, data_dir).map(Some),
            Self::Remote(_) => Ok(None),
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
    ) -> Result<OpenedStore> {
        let index = match self {
            Self::Index(dir) => {
                // The identity is read before the index is opened. If another index replaces it in
                // between, the next reload notices that.
                let directory = directory_id(dir);
                let index = indexing::open(dir, fingerprints)?;
                return Ok(OpenedStore::new(index, directory));
            }
            Self::Corpus(file) => {
                indexing::open_or_build(model, fingerprints, file, data_dir, changed, told)?
            }
            Self::Remote(address) => {
                let collection = RemoteCollection::open(address, RemoteOptions::default())?;
                collection.check_fingerprints(fingerprints)?;
                return Ok(OpenedStore::new(collection, None));
            }
        };
        let directory = directory_id(index.dir());
        Ok(OpenedStore::new(index, directory))
    }
}

impl OpenedStore {
    fn new(store: impl Into<Store>, directory: Option<DirectoryId>) -> Self {
        let store = Arc::new(store.into());
        Self { store, directory }
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
        self.iter().map(|c| c.store().passages()).sum()
    }

    /// How calls of databases went, by collection.
    pub(crate) fn remote_stats(&self) -> Vec<(&str, RemoteStats)> {
        let stats = self
            .iter()
            .map(|c| Some((c.name(), c.store().remote_stats()?)));
        stats.flatten().collect()
    }
}

/// A directory, or a collection in a database where an address stands in place of one.
fn index_source(path: &Path) -> Result<Source> {
    match path.to_str().filter(|text| RemoteAddress::is_meant(text)) {
        None => Ok(Source::Index(path.to_path_buf())),
        Some(text) => {
            let address = text.parse().map_err(anyhow::Error::msg);
            Ok(Source::Remote(
                address.context("--index names no collection")?,
            ))
        }
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
    let indexes = config
        .index
        .iter()
        .map(|c| Ok((c.name.as_str(), index_source(&c.path)?)));
    let corpora = config.corpus.iter();
    let corpora = corpora.map(|c| Ok((c.name.as_str(), Source::Corpus(c.path.clone()))));
    indexes.chain(corpora).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use onegen_index::{BuildOptions, Index, IndexBuilder};

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
            let opened = OpenedStore::new(Index::open(&dir).unwrap(), None);
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
