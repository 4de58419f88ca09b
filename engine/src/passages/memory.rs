//! Blocks in memory, the least recently used out first.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::block::{PassageKvSource, PassageName};
use crate::model::{BlockDigest, PassageKv};

/// **Invariant:** `held` is the sum of the blocks' bytes, and at most `budget`.
pub(super) struct Memory {
    budget: usize,
    held: usize,
    blocks: HashMap<BlockDigest, HeldBlock>,
    clock: u64,
    evictions: u64,
}

struct HeldBlock {
    name: PassageName,
    kv: Arc<PassageKv>,
    /// Where its next splice finds it: what was read from the disk is in memory from then on.
    source: PassageKvSource,
    /// The clock at its last use.
    used: u64,
}

impl Memory {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget,
            held: 0,
            blocks: HashMap::new(),
            clock: 0,
            evictions: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.held
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    pub(super) fn contains(&self, block: BlockDigest) -> bool {
        self.blocks.contains_key(&block)
    }

    pub(super) fn get(&mut self, block: BlockDigest) -> Option<(Arc<PassageKv>, PassageKvSource)> {
        self.clock += 1;
        let held = self.blocks.get_mut(&block)?;
        held.used = self.clock;
        let source = std::mem::replace(&mut held.source, PassageKvSource::Memory);
        Some((held.kv.clone(), source))
    }

    /// Keeps a block, unless it is larger than the whole budget.
    pub(super) fn insert(
        &mut self,
        block: BlockDigest,
        name: PassageName,
        kv: Arc<PassageKv>,
        source: PassageKvSource,
    ) {
        if kv.bytes() > self.budget {
            return;
        }
        self.remove(block);
        while self.held + kv.bytes() > self.budget {
            let oldest = self.blocks.iter().min_by_key(|(_, held)| held.used);
            let Some(oldest) = oldest.map(|(block, _)| *block) else {
                return;
            };
            self.remove(oldest);
            self.evictions += 1;
        }
        self.clock += 1;
        self.held += kv.bytes();
        let used = self.clock;
        let held = HeldBlock {
            name,
            kv,
            source,
            used,
        };
        self.blocks.insert(block, held);
    }

    /// The passages whose blocks are held.
    pub(super) fn names(&self) -> HashSet<PassageName> {
        self.blocks.values().map(|held| held.name.clone()).collect()
    }

    /// Deletes the blocks of these passages.
    pub(super) fn delete(&mut self, gone: &HashSet<PassageName>) {
        self.blocks.retain(|_, held| !gone.contains(&held.name));
        self.held = self.blocks.values().map(|held| held.kv.bytes()).sum();
    }

    fn remove(&mut self, block: BlockDigest) {
        if let Some(held) = self.blocks.remove(&block) {
            self.held -= held.kv.bytes();
        }
    }
}
