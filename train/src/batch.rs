//! Dialogues and passages as one ragged batch: no padding, one forward pass.

use std::collections::HashSet;
use std::ops::Range;

use anyhow::Result;

use crate::dialogue::Dialogue;
use crate::tokenizer::Vocabulary;
use crate::world::Entity;

/// A ragged batch. All positions count tokens from the start of `ids`.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The tokens of all sequences, one after the other
    pub ids: Vec<u32>,
    /// Where each sequence ends
    pub ends: Vec<usize>,
    /// The passage blocks within dialogues, which see only themselves
    pub blocks: Vec<Range<usize>>,
    /// Positions whose next token is trained
    pub predict: Vec<u32>,
    /// Those next tokens
    pub targets: Vec<u32>,
    /// Which group of targets each one belongs to: a decision to retrieve or not, or one answer
    pub groups: Vec<u32>,
    /// Positions of `[RQ]`, each with the place among `passages` of the passage that it should find
    pub queries: Vec<(u32, usize)>,
    /// Positions of `[RD]`
    pub passages: Vec<u32>,
    groups_used: u32,
}

impl Batch {
    /// Adds the passage of `entity` as a text of its own; queries refer to passages by the order in which
    /// they came.
    pub fn push_passage(&mut self, vocabulary: &Vocabulary, entity: &Entity) -> Result<()> {
        self.ids.extend(vocabulary.encode(&passage_text(entity))?);
        self.passages.push(self.ids.len() as u32);
        self.ids.push(vocabulary.passage);
        self.ends.push(self.ids.len());
        Ok(())
    }

    /// Adds a dialogue, and as texts of their own the passage blocks of entities that the dialogue does not
    /// show. Where it shows a passage, its block is embedded too: a block sees only itself, so its state is the
    /// same in both places. Returns the group of each turn's first decision and of each text after it.
    pub fn push_dialogue(
        &mut self,
        vocabulary: &Vocabulary,
        entities: &[Entity],
        dialogue: &Dialogue,
    ) -> Result<Vec<Vec<u32>>> {
        let shown: HashSet<usize> = dialogue
            .iter()
            .flat_map(|turn| turn.hops.iter().map(|hop| hop.shown))
            .collect();
        for (place, entity) in entities.iter().enumerate() {
            if !entity.text.is_empty() && !shown.contains(&place) {
                self.ids.push(vocabulary.open);
                self.push_passage(vocabulary, entity)?;
            }
        }
        let mut passage_of = vec![None; entities.len()];
        let mut groups = Vec::new();
        for turn in dialogue {
            self.ids.push(vocabulary.user);
            self.ids.extend(vocabulary.encode(&turn.user)?);
            self.ids.push(vocabulary.assistant);
            let mut of_turn = Vec::new();
            for hop in &turn.hops {
                of_turn.push(self.predicted(&[vocabulary.query]));
                let passage = *passage_of[hop.shown].get_or_insert(self.passages.len());
                if hop.gold {
                    self.queries.push((self.ids.len() as u32 - 1, passage));
                }
                let start = self.ids.len();
                self.ids.push(vocabulary.open);
                self.ids
                    .extend(vocabulary.encode(&passage_text(&entities[hop.shown]))?);
                if passage == self.passages.len() {
                    self.passages.push(self.ids.len() as u32);
                }
                self.ids.push(vocabulary.passage);
                self.blocks.push(start..self.ids.len());
                self.ids.push(vocabulary.close);
                of_turn.push(self.predicted(&vocabulary.encode(&hop.then)?));
            }
            if turn.hops.is_empty() {
                of_turn.push(self.predicted(&vocabulary.encode(&turn.reply)?));
            }
            of_turn.push(self.predicted(&[vocabulary.end]));
            groups.push(of_turn);
        }
        self.ends.push(self.ids.len());
        Ok(groups)
    }

    /// The tokens of the longest sequence.
    pub(crate) fn longest(&self) -> usize {
        let starts = std::iter::once(&0).chain(&self.ends);
        let lengths = starts.zip(&self.ends).map(|(start, end)| end - start);
        lengths.max().unwrap_or(0)
    }

    /// Appends another batch; returns the number that its first group has now.
    pub fn append(&mut self, other: Self) -> u32 {
        let (tokens, passages, groups) = (self.ids.len(), self.passages.len(), self.groups_used);
        self.ids.extend(other.ids);
        self.ends.extend(other.ends.iter().map(|end| end + tokens));
        self.blocks.extend(
            other
                .blocks
                .iter()
                .map(|block| block.start + tokens..block.end + tokens),
        );
        self.predict
            .extend(other.predict.iter().map(|at| at + tokens as u32));
        self.targets.extend(other.targets);
        self.groups
            .extend(other.groups.iter().map(|group| group + groups));
        self.queries.extend(
            other
                .queries
                .iter()
                .map(|(at, passage)| (at + tokens as u32, passage + passages)),
        );
        self.passages
            .extend(other.passages.iter().map(|at| at + tokens as u32));
        self.groups_used += other.groups_used;
        groups
    }

    /// Appends `ids` as one group of trained targets.
    pub(crate) fn predicted(&mut self, ids: &[u32]) -> u32 {
        for id in ids {
            self.predict.push(self.ids.len() as u32 - 1);
            self.targets.push(*id);
            self.groups.push(self.groups_used);
            self.ids.push(*id);
        }
        self.groups_used += 1;
        self.groups_used - 1
    }
}

/// A passage as it is embedded and spliced.
pub fn passage_text(entity: &Entity) -> String {
    format!("{}: {}", entity.title(), entity.text)
}
