//! Dialogues and passages as one ragged batch: no padding, one forward pass.

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
    /// Adds the passage of `entity`; queries refer to passages by the order in which they came.
    pub fn push_passage(&mut self, vocabulary: &Vocabulary, entity: &Entity) -> Result<()> {
        self.ids.extend(vocabulary.encode(&passage_text(entity))?);
        self.passages.push(self.ids.len() as u32);
        self.ids.push(vocabulary.passage);
        self.ends.push(self.ids.len());
        Ok(())
    }

    /// Adds a dialogue; `passage_of` gives an entity's place among the passages. Returns the group of
    /// each turn's first decision and of each text after it.
    pub fn push_dialogue(
        &mut self,
        vocabulary: &Vocabulary,
        entities: &[Entity],
        dialogue: &Dialogue,
        passage_of: &[Option<usize>],
    ) -> Result<Vec<Vec<u32>>> {
        let mut groups = Vec::new();
        for turn in dialogue {
            self.ids.push(vocabulary.user);
            self.ids.extend(vocabulary.encode(&turn.user)?);
            self.ids.push(vocabulary.assistant);
            let mut of_turn = Vec::new();
            for hop in &turn.hops {
                of_turn.push(self.predicted(&[vocabulary.query]));
                if let (true, Some(passage)) = (hop.gold, passage_of[hop.shown]) {
                    self.queries.push((self.ids.len() as u32 - 1, passage));
                }
                self.ids.push(vocabulary.open);
                self.ids
                    .extend(vocabulary.encode(&passage_text(&entities[hop.shown]))?);
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

    /// Appends another batch; returns the number that its first group has now.
    pub fn append(&mut self, other: Self) -> u32 {
        let (tokens, passages, groups) = (self.ids.len(), self.passages.len(), self.groups_used);
        self.ids.extend(other.ids);
        self.ends.extend(other.ends.iter().map(|end| end + tokens));
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
