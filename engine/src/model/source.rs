//! A model's files, opened for loading, training and conversion.

use std::path::{Path, PathBuf};

use super::adapter::{Adapter, is_adapter};
use super::checkpoint::Checkpoint;
use super::gguf::{self, Gguf, GgufEntry};
use super::rope;
use super::tensors::Tensors;
use super::weights::{self, WeightFiles};
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::files::first_with;
use crate::tokens::Tokens;
use crate::tokens::chat_template::TokenizerConfig;
use crate::tokens::source::{TokenizerSource, TokenizerText};

/// The files of a model: a Hugging Face directory or a GGUF file, and maybe an adapter over it.
#[derive(Debug)]
pub struct ModelFiles {
    pub(super) config: ModelConfig,
    pub(super) stored: StoredWeights,
    /// The directory whose small files have priority over those in the weights' directory.
    before: Option<PathBuf>,
    pub(super) adapted: Option<CheckedAdapter>,
}

/// An adapter that belongs to the base it was opened over.
#[derive(Debug)]
pub(super) struct CheckedAdapter {
    adapter: Adapter,
    base_fingerprint: String,
}

/// Where a model's weights are stored.
#[derive(Debug)]
pub(super) enum StoredWeights {
    /// A directory and its weight files.
    Safetensors(PathBuf, WeightFiles),
    Gguf(Gguf),
}

impl ModelFiles {
    /// Reads the headers of the files that `path` stands for, as [`crate::Model::load`] finds them.
    ///
    /// # Errors
    /// A file is missing or damaged, or asks for what is not supported. The error names the file.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let Some(file) = gguf::find(path)? else {
            return Ok(Self {
                config: ModelConfig::load(path)?,
                stored: StoredWeights::Safetensors(path.to_owned(), WeightFiles::find(path)?),
                before: None,
                adapted: None,
            });
        };
        let gguf = Gguf::open(&file)?;
        Ok(Self {
            config: gguf.config()?,
            stored: StoredWeights::Gguf(gguf),
            before: None,
            adapted: None,
        })
    }

    /// Reads the headers of a base and of an adapter over it. From then on the two are one model: tensors are
    /// merged as they are read, and files in the adapter's directory have priority over the base's.
    ///
    /// # Errors
    /// As [`ModelFiles::open`], or the adapter is for another base.
    pub fn open_over(base: &Path, adapter: &Path) -> Result<Self, LoadError> {
        if is_adapter(base) {
            return Err(LoadError::Unsupported {
                path: base.to_owned(),
                what: "an adapter as the base of another".into(),
                remedy: "merge it into its own base first".into(),
            });
        }
        let adapter = Adapter::open(adapter)?;
        let files = Self::open(base)?;
        let base_fingerprint = files.fingerprint()?;
        adapter.check_fingerprint(base, &base_fingerprint)?;
        let config = if adapter.dir.join("config.json").is_file() {
            ModelConfig::load(&adapter.dir)?
        } else {
            files.config.clone()
        };
        adapter.check_config(base, &files.config, &config)?;
        Ok(Self {
            config,
            before: Some(adapter.dir.clone()),
            adapted: Some(CheckedAdapter {
                adapter,
                base_fingerprint,
            }),
            ..files
        })
    }

    /// The same, but small files in `dir` (tokenizer, templates, `onegen.json`) have priority over the
    /// model's own.
    #[must_use]
    pub fn with_files_of(self, dir: &Path) -> Self {
        Self {
            before: Some(dir.to_owned()),
            ..self
        }
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The directory, or the GGUF file.
    pub(super) fn path(&self) -> &Path {
        match &self.stored {
            StoredWeights::Safetensors(dir, _) => dir,
            StoredWeights::Gguf(gguf) => gguf.path(),
        }
    }

    /// The model's name; for an adapter that of its own directory.
    pub fn name(&self) -> String {
        if let Some(CheckedAdapter { adapter, .. }) = &self.adapted {
            return directory_name(&adapter.dir);
        }
        match &self.stored {
            StoredWeights::Safetensors(dir, _) => directory_name(dir),
            StoredWeights::Gguf(gguf) => {
                let file = gguf.path();
                let name = file.file_stem().unwrap_or(file.as_os_str());
                name.to_string_lossy().into_owned()
            }
        }
    }

    /// blake3 of the GGUF file, or of `config.json` and the weight files, hexadecimal; an adapter's covers its
    /// base's and its own files.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn fingerprint(&self) -> Result<String, LoadError> {
        if let Some(adapted) = &self.adapted {
            return adapted.adapter.fingerprint(&adapted.base_fingerprint);
        }
        match &self.stored {
            StoredWeights::Safetensors(dir, files) => {
                let config = dir.join("config.json");
                let all = std::iter::once(&config).chain(&files.paths);
                weights::fingerprint(all.map(PathBuf::as_path))
            }
            StoredWeights::Gguf(gguf) => weights::fingerprint([gguf.path()]),
        }
    }

    /// The directories of small files, in order of priority, and the GGUF file if the model is one.
    fn places<'a>(&'a self, before: Option<&'a Path>) -> (Vec<&'a Path>, Option<&'a Gguf>) {
        let (own, gguf) = match &self.stored {
            StoredWeights::Safetensors(dir, _) => (dir.as_path(), None),
            StoredWeights::Gguf(gguf) => (gguf.dir(), Some(gguf)),
        };
        (before.into_iter().chain([own]).collect(), gguf)
    }

    /// The path of the small file `name` with the highest priority, if there is one.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let (dirs, gguf) = self.places(self.before.as_deref());
        let path = first_with(&dirs, name).join(name);
        // A GGUF file contains its own configuration, so a config.json beside it is ignored.
        let extends = gguf.is_none() || name != "config.json" || !path.starts_with(self.dir());
        (path.is_file() && extends).then_some(path)
    }

    /// The directory of the weights.
    fn dir(&self) -> &Path {
        match &self.stored {
            StoredWeights::Safetensors(dir, _) => dir,
            StoredWeights::Gguf(gguf) => gguf.dir(),
        }
    }

    /// The tokenizer as the files describe it. Files in the directory `before` have priority over the
    /// model's own.
    fn tokenizer_source(&self, before: Option<&Path>) -> Result<TokenizerSource, LoadError> {
        let (dirs, gguf) = self.places(before);
        let mut tokenizer_config = TokenizerConfig::default();
        for dir in &dirs {
            tokenizer_config = tokenizer_config.or(TokenizerConfig::load(dir)?);
        }
        if let Some(gguf) = gguf {
            tokenizer_config = tokenizer_config.or(gguf.tokenizer_config()?);
        }
        let file = first_with(&dirs, "tokenizer.json").join("tokenizer.json");
        match gguf {
            Some(gguf) if !file.is_file() => gguf.tokenizer(tokenizer_config),
            _ => TokenizerSource::read(file, tokenizer_config),
        }
    }

    /// The tokenizer with its templates, and the path of its file.
    pub(super) fn tokens_and_file(
        &self,
        before: Option<&Path>,
    ) -> Result<(Tokens, PathBuf), LoadError> {
        let before = before.or(self.before.as_deref());
        let source = self.tokenizer_source(before)?;
        let path = source.path.clone();
        let (dirs, _) = self.places(before);
        Ok((Tokens::from_source(source, &dirs, &self.config)?, path))
    }

    /// The tokenizer with its control tokens and templates. Files in `before` have priority over the
    /// model's own.
    ///
    /// # Errors
    /// A file is damaged, or the tokenizer lacks a control token that the others name.
    pub fn tokens(&self, before: &Path) -> Result<Tokens, LoadError> {
        Ok(self.tokens_and_file(Some(before))?.0)
    }

    /// The tokenizer with the model's own control tokens and templates.
    ///
    /// # Errors
    /// As [`ModelFiles::tokens`].
    pub fn own_tokens(&self) -> Result<Tokens, LoadError> {
        Ok(self.tokens_and_file(None)?.0)
    }

    /// The content of the tokenizer's files, to be written elsewhere.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub fn tokenizer_text(&self) -> Result<TokenizerText, LoadError> {
        let source = self.tokenizer_source(self.before.as_deref())?;
        Ok(TokenizerText {
            chat_template: source.config.chat_template().map(str::to_owned),
            bos_token: source.config.bos_token().map(str::to_owned),
            eos_token: source.config.eos_token().map(str::to_owned),
            json: source.json,
        })
    }

    /// The metadata of a GGUF file, as stored; `None` for a directory.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn gguf_metadata(&self) -> Result<Option<Vec<GgufEntry>>, LoadError> {
        match &self.stored {
            StoredWeights::Safetensors(..) => Ok(None),
            StoredWeights::Gguf(gguf) => gguf.metadata().map(Some),
        }
    }

    /// The tensors, to be read by name.
    ///
    /// # Errors
    /// A file is damaged or cut short, or the adapter does not fit.
    pub(super) fn checkpoint(&self) -> Result<Checkpoint, LoadError> {
        let checkpoint = match &self.stored {
            StoredWeights::Safetensors(dir, files) => {
                let checkpoint = Checkpoint::open(dir, files)?;
                checkpoint.check_against(&self.config, &dir.join("config.json"))?
            }
            StoredWeights::Gguf(gguf) => gguf.checkpoint(&self.config)?,
        };
        let Some(CheckedAdapter { adapter, .. }) = &self.adapted else {
            return Ok(checkpoint);
        };
        Ok(checkpoint.with_changes(adapter.changes(self.path(), &self.config)?))
    }

    /// The tensors, to be read as numbers.
    ///
    /// # Errors
    /// As for loading: a file is damaged or cut short, or the adapter does not fit.
    pub fn tensors(&self) -> Result<Tensors, LoadError> {
        Ok(Tensors::new(self.checkpoint()?, &self.config))
    }
}

impl ModelConfig {
    /// The angle per position of each pair of a head's dimensions, `head_dim / 2` numbers, as
    /// transformers computes it (Su et al. 2021, with the scalings of later families).
    pub fn rotary_frequencies(&self) -> Vec<f32> {
        rope::frequencies(self)
    }
}

/// The name of a directory, also for a relative path such as `.`.
pub(super) fn directory_name(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    whole
        .file_name()
        .unwrap_or(whole.as_os_str())
        .to_string_lossy()
        .into_owned()
}
