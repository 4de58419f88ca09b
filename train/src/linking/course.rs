//! Lessons in linking as batches, and what the log says of them.

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

/// Marks are rare, and what matters: a token where one is written, or could be in earnest, counts so often.
const DECISION: usize = 4;

/// The share of lessons in which things are found as well as marked: descriptions are most of a lesson's
/// tokens, and marking is the half that is hard to learn.
const FOUND: f64 = 0.4;

/// The share of the other lessons whose texts make no sense.
const SCRAMBLED: f64 = 0.65;

/// Draws lessons in linking.
pub struct Course<'a> {
    /// The tokenizer
    pub vocabulary: &'a Vocabulary,
    /// Lower-cased names that are never given: the almanac's
    pub reserved: &'a HashSet<String>,
    /// Which names
    pub split: Split,
    /// Which sentences
    pub wording: Wording,
    /// Whether some texts make no sense: they teach what a name looks like, and are no exam
    pub scrambled: bool,
    /// The longest sequence
    pub longest: usize,
}

/// A text and everything that it could mention.
pub struct Lesson {
    /// The text
    pub text: Text,
    /// Names and descriptions
    pub entities: Vec<Entity>,
}

impl Course<'_> {
    /// One lesson; the text of a `scrambled` one makes no sense.
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
    /// Adds a text and its copy with marks. `entity_of` gives the place of a thing's description among
    /// the passages, if it is there to be found. The token after `[LK]` is given, never trained.
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

    /// Appends `id` as a trained target that counts `times`.
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
            // What is meant, only a sentence that makes sense tells.
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

    /// Of the mentions, those begun and ended where they should be and those whose thing was the nearest
    /// of the batch; and how many were begun where there is none. The right copy is given.
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
    /// How many mentions there are, how many are marked exactly, and how many marks begin where none does.
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
            .forward(&batch.ids, &batch.ends)?
            .index_select(&Tensor::new(positions.as_slice(), &Device::Cpu)?, 0)?
            .matmul(&model.embedding().t()?)?
            .to_vec2::<f32>()?;
        let (mut mentions, mut exact, mut wrong) = (0, 0, 0);
        let mut mention_right = None;
        for ((at, target), logits) in decisions.iter().zip(&logits) {
            let over = |this: u32, other: u32| logits[this as usize] > logits[other as usize];
            // As the engine decides: a mention begins where its mark is the likeliest of all tokens, and
            // ends where its mark is likelier than what the text goes on with, after [LK] and [_CONTINUE_].
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
