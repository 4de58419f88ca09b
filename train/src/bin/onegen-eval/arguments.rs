//! The command's arguments.

use std::path::PathBuf;

use clap::Parser;
use onegen_engine::{KvType, WeightType};

/// Measures OneGen models over question sets and linked texts, and writes the figures into a model card.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// A model to measure in this process, as `NAME=DIR` or `DIR`; several stand side by side in the table
    #[arg(long, value_name = "[NAME=]DIR", required_unless_present = "server")]
    pub(crate) model: Vec<NamedModel>,
    /// The model that adapters were trained over: a GGUF file or a directory
    #[arg(long, env = "ONEGEN_BASE", value_name = "FILE")]
    pub(crate) base: Option<PathBuf>,
    /// How matrices are kept: f32, f16, bf16, q8_0, q4_1, q4_k or q4_0; as stored if not given
    #[arg(long, value_name = "TYPE")]
    pub(crate) weights: Option<WeightType>,
    /// How keys and values are kept: f32, f16 or q8_0
    #[arg(long, value_name = "TYPE", default_value_t = KvType::default())]
    pub(crate) kv_type: KvType,

    /// A server to measure instead, such as http://localhost:8080
    #[arg(long, value_name = "URL", conflicts_with = "model")]
    pub(crate) server: Option<String>,
    /// The server's key
    #[arg(long, env = "ONEGEN_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,
    /// The server's collection to search; its default one if not given
    #[arg(long, requires = "server")]
    pub(crate) collection: Option<String>,
    /// Put each set's passages into the collection; else it holds them, and none can be given
    #[arg(long, requires = "server")]
    pub(crate) upload: bool,

    /// A set: STEM for STEM.questions.jsonl.gz and STEM.passages.jsonl.gz, FILE.json in HotpotQA's format,
    /// or STEM=FILE.json where the passages are a JSON list of titles and texts
    #[arg(long, value_name = "STEM")]
    pub(crate) set: Vec<String>,
    /// A file with ids of questions that are left out, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) exclude: Option<PathBuf>,
    /// Questions drawn of each set; all if not given. Pools stay whole
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Of the draw and of the intervals
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// A file of messages for which nothing may be retrieved, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) small_talk: Option<PathBuf>,

    /// Texts whose mentions are to be linked, as JSON lines; the model must be one that links
    #[arg(long, value_name = "FILE")]
    pub(crate) linking: Vec<PathBuf>,
    /// The entities to link to, as JSON lines of ids, names and types
    #[arg(long, value_name = "FILE")]
    pub(crate) entities: Option<PathBuf>,
    /// The cosine that a link must have at least
    #[arg(long, default_value_t = -1.0, allow_negative_numbers = true)]
    pub(crate) min_score: f32,

    /// Also answer every question without retrieval
    #[arg(long)]
    pub(crate) no_retrieval: bool,
    /// Also answer every question from the passage that BM25 finds
    #[arg(long)]
    pub(crate) bm25_reads: bool,
    /// Also answer every question from the passage that a separate retriever finds: a folder with
    /// NAME.safetensors for each set, as train/exam/retriever_vectors.py writes them
    #[arg(long, value_name = "DIR")]
    pub(crate) retriever_vectors: Option<PathBuf>,
    /// Earlier turns have read nothing, instead of their question's own passages
    #[arg(long)]
    pub(crate) plain_history: bool,

    /// Tokens of an answer at most
    #[arg(long, default_value_t = 64)]
    pub(crate) max_tokens: usize,
    /// Retrievals of an answer at most
    #[arg(long, default_value_t = 5)]
    pub(crate) max_retrievals: usize,
    /// Questions asked at once
    #[arg(long, default_value_t = 32)]
    pub(crate) concurrent: usize,

    /// Write a record of every question, text and line there, as JSON lines
    #[arg(long, value_name = "FILE")]
    pub(crate) records: Option<PathBuf>,
    /// Put the table into this model card, between `<!-- figures -->` and `<!-- /figures -->`
    #[arg(long, value_name = "FILE")]
    pub(crate) card: Option<PathBuf>,
}

/// A model's directory and what its column is called.
#[derive(Clone)]
pub(crate) struct NamedModel {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
}

impl std::str::FromStr for NamedModel {
    type Err = String;

    fn from_str(spec: &str) -> Result<Self, String> {
        if let Some((name, directory)) = spec.split_once('=') {
            return if name.is_empty() || directory.is_empty() {
                Err(format!(
                    "{spec:?} lacks a name or a directory: give NAME=DIR"
                ))
            } else {
                Ok(Self {
                    name: name.to_owned(),
                    directory: directory.into(),
                })
            };
        }
        let directory = PathBuf::from(spec);
        let name = directory
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        Ok(Self {
            name: name.unwrap_or_else(|| spec.to_owned()),
            directory,
        })
    }
}
