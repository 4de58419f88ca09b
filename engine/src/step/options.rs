//! The limits that an engine keeps to.

use crate::conversations::store::StoreOptions;
use crate::error::StartError;
use crate::model::Model;
use crate::passages::PassageCacheOptions;

/// The engine's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Positions forwarded in one step at most, at least 1. Fewer make tokens of other turns come
    /// more evenly while a long prompt is read, more make reading it faster. Default 512.
    pub max_step_tokens: usize,
    /// Turns in the batch at most, parked ones included, at least 1. Default 64.
    pub max_sequences: usize,
    /// Turns that may wait for a place before requests are refused. Default 256.
    pub max_waiting: usize,
    /// Conversations kept; beyond, the least recently used is forgotten. Default 4096.
    pub max_conversations: usize,
    /// Bytes that KV-caches may hold; beyond, idle ones are dropped and rebuilt from their token
    /// logs when needed. Default 1 GiB.
    pub kv_bytes: usize,
    /// Threads that call retrievers, at least 1. Default 2.
    pub retrieval_workers: usize,
    /// What keys and values of passages may take that are kept for later splices, of a model with block attention.
    /// Default 256 MiB in memory.
    pub passages: PassageCacheOptions,
    /// The directory in which conversations outlive the process. `None`, the default, keeps them in memory only.
    pub store: Option<StoreOptions>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_step_tokens: 512,
            max_sequences: 64,
            max_waiting: 256,
            max_conversations: 4096,
            kv_bytes: 1 << 30,
            retrieval_workers: 2,
            passages: PassageCacheOptions {
                bytes: 256 << 20,
                disk: None,
            },
            store: None,
        }
    }
}

impl EngineOptions {
    pub(crate) fn check(&self, model: &Model) -> Result<(), StartError> {
        let sizes = [
            ("max_step_tokens", self.max_step_tokens),
            ("max_sequences", self.max_sequences),
            ("max_conversations", self.max_conversations),
            ("retrieval_workers", self.retrieval_workers),
        ];
        if let Some((option, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(StartError::Zero { option });
        }
        let least = model.least_kv_bytes();
        if self.kv_bytes < least {
            return Err(StartError::KvBudget {
                bytes: self.kv_bytes,
                least,
            });
        }
        Ok(())
    }
}
