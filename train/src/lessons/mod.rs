//! The order of lessons: first copying, then reading, then everything. If lessons are mixed from the
//! start, a model this small learns the right tokens in the wrong order.

mod measure;

use std::collections::HashSet;

use anyhow::Result;
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::batch::Batch;
use crate::dialogue::{self, Dialogue, Lesson, Mix, READING, TARGET, Turn};
use crate::model::Model;
use crate::phrases::Wording;
use crate::tokenizer::Vocabulary;
use crate::trainer::{Curriculum, Stage};
use crate::world::{Entity, Split, World, names};

/// A drawn batch with, for each dialogue, its turns' groups of targets.
pub struct Lessons {
    /// The tokens
    pub batch: Batch,
    /// The dialogues
    pub dialogues: Vec<Dialogue>,
    /// For each dialogue and turn: the groups of its decision, texts and end
    pub groups: Vec<Vec<Vec<u32>>>,
    /// How many queries came before each dialogue's own
    pub queries_before: Vec<usize>,
}

/// Draws lessons.
pub struct Teacher<'a> {
    /// The tokenizer
    pub vocabulary: &'a Vocabulary,
    /// Lower-cased names that are never used, those of the almanac
    pub reserved: &'a HashSet<String>,
    /// Which names and wordings
    pub split: Split,
    /// Which wordings
    pub wording: Wording,
    /// The longest sequence
    pub longest: usize,
}

impl Teacher<'_> {
    /// A batch of at least `tokens` tokens; the same seed gives the same batch.
    pub fn draw(&self, stage: Stage, tokens: usize, seed: u64) -> Result<Lessons> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut lessons = Lessons {
            batch: Batch::default(),
            dialogues: vec![],
            groups: vec![],
            queries_before: vec![],
        };
        while lessons.batch.ids.len() < tokens {
            match stage {
                Stage::Copying => self.push(&mut lessons, &[], repeat(&mut rng))?,
                Stage::Reading => self.push_world(&mut lessons, &READING, &mut rng)?,
                // Reading stays in the mix, because it is hard to learn and easy to unlearn.
                Stage::Target if rng.random_bool(0.15) => {
                    self.push_world(&mut lessons, &READING, &mut rng)?
                }
                Stage::Target => self.push_world(&mut lessons, &TARGET, &mut rng)?,
            }
        }
        Ok(lessons)
    }

    fn push_world(&self, lessons: &mut Lessons, mix: &Mix, rng: &mut StdRng) -> Result<()> {
        let mut world = World::new(rng, self.split, self.reserved);
        let dialogue = dialogue::dialogue(&mut world, mix, self.wording);
        let entities = std::mem::take(&mut world.entities);
        self.push(lessons, &entities, dialogue)
    }

    fn push(&self, lessons: &mut Lessons, entities: &[Entity], dialogue: Dialogue) -> Result<()> {
        let mut one = Batch::default();
        let groups = one.push_dialogue(self.vocabulary, entities, &dialogue)?;
        if one.longest() > self.longest {
            return Ok(());
        }
        lessons.queries_before.push(lessons.batch.queries.len());
        let first = lessons.batch.append(one);
        lessons.groups.push(
            groups
                .into_iter()
                .map(|turn| turn.into_iter().map(|group| group + first).collect())
                .collect(),
        );
        lessons.dialogues.push(dialogue);
        Ok(())
    }
}

impl Curriculum for Teacher<'_> {
    fn batch(&self, stage: Stage, tokens: usize, seed: u64) -> Result<Batch> {
        Ok(self.draw(stage, tokens, seed)?.batch)
    }

    fn measure(&self, model: &Model, temperature: f64) -> Result<String> {
        Ok(measure::teacher_forced(model, self, temperature)?.to_string())
    }
}

/// A random list that the model must repeat.
fn repeat(rng: &mut StdRng) -> Dialogue {
    let items: Vec<String> = (0..rng.random_range(1..=6))
        .map(|_| match rng.random_range(0..9) {
            0..3 => names::place(rng),
            3 => names::person(rng),
            4 => names::title(rng),
            5 => names::phrase(rng),
            6 => names::language(rng),
            7 => names::grouped(names::number(rng, 7)),
            _ => names::symbol(rng),
        })
        .collect();
    let list = items.join("; ");
    let user = format!(
        "{}: {list}.",
        ["Repeat", "Say", "Repeat this"]
            .choose(rng)
            .unwrap_or(&"Repeat")
    );
    vec![Turn {
        lesson: Lesson::SmallTalk,
        user,
        hops: vec![],
        reply: format!("{list}."),
    }]
}

/// Calls `each` with every name of `dialogues` training dialogues.
#[cfg(test)]
pub fn drawn_names(dialogues: usize, mut each: impl FnMut(&str)) {
    let reserved = crate::almanac::reserved();
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..dialogues {
        let mut world = World::new(&mut rng, Split::Train, &reserved);
        dialogue::dialogue(&mut world, &TARGET, Wording::Known);
        world.entities.iter().for_each(|entity| each(&entity.name));
    }
}

/// Passages, questions and lists of `dialogues` training dialogues, on which the tokenizer is
/// trained.
pub fn texts(reserved: &HashSet<String>, dialogues: usize) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(0);
    let mut texts = Vec::new();
    for _ in 0..dialogues {
        let mut world = World::new(&mut rng, Split::Train, reserved);
        let dialogue = dialogue::dialogue(&mut world, &TARGET, Wording::Known);
        texts.extend(world.entities.iter().map(crate::batch::passage_text));
        texts.extend(dialogue.into_iter().map(|turn| turn.user));
    }
    texts
}
