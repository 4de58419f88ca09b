//! The engine as the index needs it: passages and questions in, vectors out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use onegen_engine::{LoadOptions, Model};
use onegen_index::{Embedded, Fingerprints, Passage};

/// Which model embeds.
#[derive(clap::Args)]
pub(crate) struct ModelArguments {
    /// Directory of the model
    #[arg(
        long,
        env = "ONEGEN_MODEL",
        value_name = "DIR",
        default_value = "models/almanac"
    )]
    model: PathBuf,
}

pub(crate) struct Embedder {
    model: Model,
    fingerprints: Fingerprints,
}

impl Embedder {
    pub(crate) fn load(arguments: &ModelArguments) -> Result<Self> {
        let dir = &arguments.model;
        let model = Model::load(dir, &LoadOptions::default())
            .with_context(|| format!("cannot load the model {} (--model)", dir.display()))?;
        let of_model = model.fingerprints();
        let fingerprints = Fingerprints {
            name: name(dir),
            model: of_model.model.clone(),
            tokenizer: of_model.tokenizer.clone(),
            template: of_model.template.clone(),
        };
        Ok(Self {
            model,
            fingerprints,
        })
    }

    /// Width of an embedding.
    pub(crate) fn dimension(&self) -> usize {
        self.model.hidden_size()
    }

    pub(crate) fn fingerprints(&self) -> &Fingerprints {
        &self.fingerprints
    }

    pub(crate) fn query(&self, text: &str) -> Result<Vec<f32>> {
        self.model
            .embed_query(text)
            .context("cannot embed the query")
    }

    /// Embeds passages, at most `batch_tokens` tokens at once. One that is longer than the model's
    /// context is refused with a reason.
    pub(crate) fn passages(
        &self,
        passages: &[Passage],
        batch_tokens: usize,
    ) -> Result<Vec<Embedded>> {
        let limit = self.model.max_positions();
        let mut ids = Vec::with_capacity(passages.len());
        let mut lengths = Vec::with_capacity(passages.len());
        for passage in passages {
            let of_passage = self
                .model
                .tokens()
                .passage_ids(&passage.title, &passage.text)?;
            lengths.push(of_passage.len());
            if of_passage.len() <= limit {
                ids.push(of_passage);
            }
        }
        let mut vectors = Vec::with_capacity(ids.len());
        let mut rest = ids.as_slice();
        while !rest.is_empty() {
            let mut tokens = 0;
            let fitting = rest.iter().take_while(|ids| {
                tokens += ids.len();
                tokens <= batch_tokens
            });
            // A passage that is longer than a batch is one of its own.
            let (batch, later) = rest.split_at(fitting.count().max(1));
            vectors.extend(self.model.embed_passages(batch)?);
            rest = later;
        }
        let mut vectors = vectors.into_iter();
        let embedded = lengths.into_iter().map(|length| match vectors.len() {
            _ if length > limit => Err(format!(
                "it has {length} tokens, the model's context {limit}"
            )),
            _ => Ok(vectors.next().into_iter().collect()),
        });
        Ok(embedded.collect())
    }
}

/// The model's name is its directory's, wherever it is called from.
fn name(dir: &Path) -> String {
    let whole = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    whole
        .file_name()
        .unwrap_or(whole.as_os_str())
        .to_string_lossy()
        .into_owned()
}
