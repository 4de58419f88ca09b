//! Lessons in linking as batches, and their measurement for the log.

use std::collections::HashSet;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::lesson_entities::LessonEntities;
use super::text::{self, Text};
use crate::batch::Batch;
use crate::loss::losses;
use crate::model::Model;
use crate::phrases::Wording;
use crate::tokenizer::Vocabulary;
use crate::trainer::{Curriculum, Stage};
use crate::world::{Entity, Split, World};

/// Marks are rare but important. A token where a mark is written or plausible counts this many times.
const DECISION: usize = 4;

/// The share of lessons that train finding as well as marking. Descriptions are most of a lesson's
/// tokens, but marking is harder to learn, so most lessons leave them out.
const FOUND: f64 = 0.4;

/// The share of the other lessons whose texts are scrambled.
const SCRAMBLED: f64 = 0.65;

/// Draws lessons in linking.
pub struct Course<'a> {
    /// The tokenizer
    pub vocabulary: &'a Vocabulary,
    /// Lower-cased names that are never used, those of the almanac
    pub reserved: &'a HashSet<String>,
    /// Which names
    pub split: Split,
    /// Which sentences
    pub wording: Wording,
    /// Whether some texts are scrambled. Such texts teach what a name looks like; exams do not use
    /// them
    pub scrambled: bool,
    /// The longest sequence
    pub longest: usize,
}

/// A text and all entities that it could mention.
pub struct Lesson {
    /// The text
    pub text: Text,
    /// Names and descriptions
    pub entities: Vec<Entity>,
}

impl Course<'_> {
    /// Draws one lesson, whose text may be `scrambled`.
    pub fn lesson(&self, rng: &mut StdRng, scrambled: bool) -> Lesson {
        let mut world = World::new(rng, self.split, self.reserved);
        let mut things = LessonEntities {
            world: &mut world,
            all: vec![],
        };
        let text = text::draw(&mut things, self.wording, scrambled);
        let mentioned: Vec<usize> = (0..things.all.len())
            .filter(|at| things.all[*at].mentioned)
            .collect();
        for thing in &mentioned {
            things.add_rivals(*thing);
        }
        let entities = (0..things.all.len()).map(|at| things.describe(at));
        Lesson {
            entities: entities.collect(),
            text,
        }
    }
}

impl Batch {
    /// Adds a text and its copy with marks. `entity_of` returns the place of a thing's description
    /// among the passages, if the lesson trains finding. The token after `[LK]` is given and never
    /// trained.
    pub fn push_linked(
        &mut self,
        vocabulary: &Vocabulary,
        text: &Text,
        entity_of: impl Fn(usize) -> Option<usize>,
    ) -> Result<()> {
        let continues = vocabulary
            .continues
            .context("the tokenizer has no [_CONTINUE_]")?;
        let ids = vocabulary.encode(&text.text)?;
        self.ids.push(vocabulary.user);
        self.ids.extend(&ids);
        self.ids.push(vocabulary.assistant);
        let mut mentions = text.mentions.iter().peekable();
        let mut inside = false;
        for (token, bytes) in ids.iter().zip(vocabulary.spans(&ids)) {
            if let Some(mention) = mentions
                .peek()
                .filter(|m| !inside && m.span.start < bytes.end)
            {
                debug_assert!(mention.span.start >= bytes.start);
                self.decided(vocabulary.open, DECISION);
                inside = true;
                self.decided(*token, 1);
            } else {
                let spelling = text.text.get(bytes.clone()).unwrap_or_default();
                let rare = spelling.contains(char::is_uppercase);
                self.decided(*token, if inside || rare { DECISION } else { 1 });
            }
            if let Some(mention) = mentions.next_if(|m| inside && m.span.end <= bytes.end) {
                inside = false;
                self.decided(vocabulary.close, DECISION);
                if let Some(entity) = entity_of(mention.thing) {
                    self.queries.push((self.ids.len() as u32, entity));
                }
                self.ids.extend([vocabulary.query, continues]);
            }
        }
        self.decided(vocabulary.end, 1);
        self.ends.push(self.ids.len());
        Ok(())
    }

    /// Appends `id` as a trained target that counts `times` times.
    fn decided(&mut self, id: u32, times: usize) {
        let before = self.ids.len();
        self.predicted(&[id]);
        for _ in 1..times {
            self.predict.push(before as u32 - 1);
            self.targets.push(id);
            self.groups.extend(self.groups.last().copied());
        }
    }
}

impl Curriculum for Course<'_> {
    fn batch(&self, _: Stage, tokens: usize, seed: u64) -> Result<Batch> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut batch = Batch::default();
        while batch.ids.len() < tokens {
            let found = rng.random_bool(FOUND);
            // Finding needs a text that makes sense, because only the context shows which thing is
            // meant.
            let scrambled = self.scrambled && !found && rng.random_bool(SCRAMBLED);
            let lesson = self.lesson(&mut rng, scrambled);
            let mut one = Batch::default();
            for entity in lesson.entities.iter().filter(|_| found) {
                one.push_passage(self.vocabulary, entity)?;
            }
            let start = one.ids.len();
            one.push_linked(self.vocabulary, &lesson.text, |thing| {
                found.then_some(thing)
            })?;
            if one.ids.len() - start <= self.longest {
                batch.append(one);
            }
        }
        Ok(batch)
    }

    /// Measures how many mentions are marked exactly, how many have their thing as the nearest of the
    /// batch, and how many marks begin where there is no mention. The right copy is given.
    fn measure(&self, model: &Model, temperature: f64) -> Result<String> {
        let (mut mentions, mut exact, mut wrong) = (0, 0, 0);
        let mut found = Vec::new();
        for seed in 0..4 {
            let batch = self.batch(Stage::Target, 8000, seed)?;
            found.extend(losses(model, &batch, temperature, None)?.found);
            let (m, e, w) = self.marks(model, &batch)?;
            (mentions, exact, wrong) = (mentions + m, exact + e, wrong + w);
        }
        let share = |part: usize, all: usize| part as f64 / all.max(1) as f64;
        Ok(format!(
            "held out: {mentions} mentions, marked {:.3}, marked wrongly {:.3}, found {:.3}",
            share(exact, mentions),
            share(wrong, mentions),
            share(found.iter().filter(|found| **found).count(), found.len())
        ))
    }
}

impl Course<'_> {
    /// The number of mentions, of those marked exactly, and of marks that begin where there is no mention.
    fn marks(&self, model: &Model, batch: &Batch) -> Result<(usize, usize, usize)> {
        let (open, close) = (self.vocabulary.open, self.vocabulary.close);
        let mut decisions: Vec<(u32, u32)> = batch
            .predict
            .iter()
            .copied()
            .zip(batch.targets.iter().copied())
            .collect();
        decisions.dedup();
        let positions: Vec<u32> = decisions.iter().map(|(at, _)| *at).collect();
        let logits = model
            .forward(&batch.ids, &batch.ends, &batch.blocks)?
            .index_select(&Tensor::new(positions.as_slice(), &Device::Cpu)?, 0)?
            .matmul(&model.embedding().t()?)?
            .to_vec2::<f32>()?;
        let (mut mentions, mut exact, mut wrong) = (0, 0, 0);
        let mut mention_right = None;
        for ((at, target), logits) in decisions.iter().zip(&logits) {
            let over = |this: u32, other: u32| logits[this as usize] > logits[other as usize];
            // The decision is the same as in the engine: a mention begins where its mark is the likeliest
            // of all tokens, and ends where the closing mark is likelier than the text's next token.
            let opens = logits.iter().all(|logit| *logit <= logits[open as usize]);
            if *target == open {
                mention_right = Some(opens);
            } else if *target == close {
                let after = batch.ids[*at as usize + 4];
                mentions += 1;
                exact += usize::from(mention_right.take() == Some(true) && over(close, after));
            } else if let Some(right) = &mut mention_right {
                *right &= over(*target, close);
            } else if *target != self.vocabulary.end {
                wrong += usize::from(opens);
            }
        }
        Ok((mentions, exact, wrong))
    }
}
