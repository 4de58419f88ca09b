//! The collections that are served: indexes by name.

use std::iter;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use onegen_engine::Model;
use onegen_index::{Fingerprints, Index};

use crate::access::Caller;
use crate::config::{CollectionPath, DEFAULT_COLLECTION, ModelConfig};
use crate::errors::ApiError;
use crate::indexing;

/// An index by its name in requests.
#[derive(Debug)]
pub struct Collection {
    name: String,
    index: Index,
}

impl Collection {
    /// Its name in requests.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it holds.
    pub fn index(&self) -> &Index {
        &self.index
    }
}

/// All collections of a server; one model has embedded the passages of each.
#[derive(Debug)]
pub struct Collections {
    /// For requests that name none.
    default: Arc<Collection>,
    others: Vec<Arc<Collection>>,
}

/// What a collection is made of.
enum Source<'a> {
    Index(&'a Path),
    Corpus(&'a Path),
}

impl Collections {
    /// Opens every collection that the configuration names, or the corpus beside the model if it
    /// names none. The default one is the one named so, else the first, indexes before corpora.
    ///
    /// # Errors
    /// Two have one name, there is nothing to retrieve from, or one cannot be opened or built.
    pub(crate) fn open(model: &Model, config: &ModelConfig) -> Result<Self> {
        let beside_model = CollectionPath {
            name: DEFAULT_COLLECTION.to_owned(),
            path: config.dir().join("almanac.jsonl"),
        };
        let mut sources = sources(config)?;
        if sources.is_empty() && beside_model.path.is_file() {
            sources.push((&beside_model.name, Source::Corpus(&beside_model.path)));
        }
        sources.sort_by_key(|(name, _)| *name != DEFAULT_COLLECTION);

        let fingerprints = fingerprints(model);
        let mut opened = sources.into_iter().map(|(name, source)| {
            let index = match source {
                Source::Index(dir) => indexing::open(dir, &fingerprints),
                Source::Corpus(file) => {
                    indexing::open_or_build(model, &fingerprints, file, &config.data_dir)
                }
            };
            let index = index.with_context(|| format!("cannot serve the collection {name:?}"))?;
            let name = name.to_owned();
            anyhow::Ok(Arc::new(Collection { name, index }))
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
        })
    }

    /// The collection of a name, or the default one: the first that the caller may know of. `param` is
    /// the field that holds the name.
    ///
    /// # Errors
    /// [`ApiError::CollectionNotFound`] names those that there are for the caller.
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
        self.iter().map(|c| c.index.passages()).sum()
    }
}

/// What the configuration names, indexes before corpora.
fn sources(config: &ModelConfig) -> Result<Vec<(&str, Source<'_>)>> {
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
    let indexes = indexes.map(|c| (c.name.as_str(), Source::Index(&c.path)));
    let corpora = config.corpus.iter();
    let corpora = corpora.map(|c| (c.name.as_str(), Source::Corpus(&c.path)));
    Ok(indexes.chain(corpora).collect())
}

/// What the indexes of this model are known by.
fn fingerprints(model: &Model) -> Fingerprints {
    let of_model = model.fingerprints();
    Fingerprints {
        name: model.name().to_owned(),
        model: of_model.model.clone(),
        tokenizer: of_model.tokenizer.clone(),
        template: of_model.template.clone(),
    }
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
            // Mapped files stay readable when the directory is gone.
            Arc::new(Collection {
                name: (*name).to_owned(),
                index: Index::open(&dir).unwrap(),
            })
        });
        Collections {
            default: all.next().unwrap(),
            others: all.collect(),
        }
    }
}
