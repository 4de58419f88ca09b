//! A record's text and the roles of its tokens.

use anyhow::{Result, ensure};

use super::super::spellings::Spellings;
use crate::fit::pack::{Pack, Query, Target, TokenPosition};

/// A record's tokens and their roles.
#[derive(Default)]
pub(super) struct RecordText {
    ids: Vec<u32>,
    /// Whether the model is trained to write each token
    learnt: Vec<bool>,
    /// The places of the retrieval tokens
    pub(super) retrievals: Vec<usize>,
}

/// A retrieval token that is trained.
pub(super) struct Anchor {
    /// Its number among the text's retrieval tokens
    pub(super) retrieval: usize,
    /// Keys of the sentences that it should find
    pub(super) positives: Vec<u32>,
    /// Keys of the sentences that it should not find
    pub(super) negatives: Vec<u32>,
}

impl RecordText {
    /// Adds tokens that are only read.
    pub(super) fn context(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.learnt.resize(self.ids.len(), false);
    }

    /// Adds tokens that the model writes. Passages among them are only read.
    pub(super) fn written(&mut self, ids: &[u32], spellings: &Spellings) -> Result<()> {
        let mut within = false;
        let mut after_retrieval = false;
        for id in ids {
            within |= spellings.opens(*id);
            self.ids.push(*id);
            self.learnt.push(!within && !after_retrieval);
            after_retrieval = *id == spellings.query;
            if after_retrieval {
                self.retrievals.push(self.ids.len() - 1);
            }
            within &= !spellings.closes(*id);
        }
        ensure!(!within, "a passage begins that does not end");
        Ok(())
    }

    /// Removes everything after the first `longest` tokens.
    pub(super) fn cut(&mut self, longest: usize) {
        self.ids.truncate(longest);
        self.learnt.truncate(longest);
        self.retrievals.retain(|at| *at < longest);
    }

    /// Adds the text as one segment, with the retrieval tokens in place.
    pub(super) fn lay(self, anchors: Vec<Anchor>, pack: &mut Pack) {
        if self.ids.is_empty() {
            return;
        }
        let Self {
            ids,
            learnt,
            retrievals,
        } = self;
        let segment = pack.push(ids.clone(), 0, vec![]);
        for offset in (1..ids.len()).filter(|at| learnt[*at]) {
            pack.predict.push(Target {
                at: TokenPosition {
                    segment,
                    offset: offset - 1,
                },
                id: ids[offset],
            });
        }
        for anchor in anchors {
            let offset = retrievals[anchor.retrieval];
            pack.queries
                .push(anchor.query(TokenPosition { segment, offset }));
        }
    }

    /// Adds the text without its retrieval tokens. Each of these gets a text of its own, together with the
    /// text before it.
    pub(super) fn lay_twice(self, anchors: Vec<Anchor>, query: u32, pack: &mut Pack) {
        let stays = |at: &usize| !self.retrievals.contains(at);
        let left: Vec<usize> = (0..self.ids.len()).filter(stays).collect();
        for anchor in anchors {
            let end = self.retrievals[anchor.retrieval];
            let before = left.iter().take_while(|at| **at < end);
            let mut ids: Vec<u32> = before.map(|at| self.ids[*at]).collect();
            ids.push(query);
            let offset = ids.len() - 1;
            let segment = pack.push(ids, 0, vec![]);
            pack.queries
                .push(anchor.query(TokenPosition { segment, offset }));
        }
        let generation = Self {
            ids: left.iter().map(|at| self.ids[*at]).collect(),
            learnt: left.iter().map(|at| self.learnt[*at]).collect(),
            retrievals: vec![],
        };
        generation.lay(vec![], pack);
    }
}

impl Anchor {
    fn query(self, at: TokenPosition) -> Query {
        Query {
            at,
            positives: self.positives,
            negatives: self.negatives,
        }
    }
}
