//! Training data: data sets become runs of passages with dialogues, and runs become packs.

pub mod config;
pub mod dialogue;
pub mod neighbours;
pub mod records;

mod published;
mod sets;
mod spellings;
mod unanswerable;

use anyhow::Result;
use onegen_engine::Tokens;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::fit::pack::Pack;
use config::{CourseConfig, DataConfig};
use published::{PublishedOptions, PublishedSet};
use sets::{QaSet, TalkSet};

/// All data, in an order that is determined by a seed.
pub struct Course {
    sets: Vec<Set>,
    seed: u64,
}

enum Set {
    Questions(QaSet),
    Talk(TalkSet),
    Published(PublishedSet),
}

/// The position of a training run in its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoursePosition {
    /// Completed epochs
    pub epoch: usize,
    /// Runs of this epoch that were trained
    pub run: usize,
}

/// A run of one set.
#[derive(Clone, Debug)]
struct Run {
    set: usize,
    members: Vec<usize>,
}

impl Course {
    /// Reads all data, for a model with these tokens.
    ///
    /// # Errors
    /// A file cannot be read, or a line of it is invalid. The error names both.
    pub fn load(
        config: &CourseConfig,
        data: &[DataConfig],
        seed: u64,
        tokens: &Tokens,
    ) -> Result<Self> {
        let extras = sets::Extras::load(config)?;
        let mut first_key = 0;
        let mut sets = Vec::with_capacity(data.len());
        for data in data {
            sets.push(match data {
                DataConfig::Questions {
                    questions,
                    passages,
                    repeat,
                    standalone,
                    neighbours,
                } => {
                    let groups = records::read_groups(passages, questions)?;
                    let near = match neighbours {
                        Some(source) => source.find(&groups)?,
                        None => vec![],
                    };
                    let set = QaSet {
                        first_key,
                        groups,
                        near,
                        repeat: *repeat,
                        standalone: *standalone,
                        config: config.clone(),
                        extras: extras.clone(),
                    };
                    first_key += set.groups.len() as u32;
                    Set::Questions(set)
                }
                DataConfig::Talk {
                    conversations,
                    repeat,
                } => Set::Talk(TalkSet {
                    conversations: records::read_lines(conversations)?,
                    repeat: *repeat,
                    extras: extras.clone(),
                }),
                DataConfig::Onegen {
                    records,
                    documents,
                    negatives,
                    anchors,
                    longest,
                    framing,
                    repeat,
                } => {
                    let options = PublishedOptions {
                        repeat: *repeat,
                        negatives: *negatives,
                        anchors: *anchors,
                        longest: *longest,
                        framing: *framing,
                        passes: config.passes,
                    };
                    let set = PublishedSet::load(records, documents, options, first_key, tokens)?;
                    first_key = set.end_key();
                    Set::Published(set)
                }
            });
        }
        Ok(Self { sets, seed })
    }

    /// How many passages and questions there are.
    pub fn counts(&self) -> (usize, usize) {
        let counts = self.sets.iter().map(|set| match set {
            Set::Questions(set) => {
                let asked = set.groups.iter().map(|group| group.questions.len()).sum();
                (set.groups.len(), asked)
            }
            Set::Published(set) => set.counts(),
            Set::Talk(_) => (0, 0),
        });
        counts.fold((0, 0), |(passages, questions), (more, asked)| {
            (passages + more, questions + asked)
        })
    }

    /// The runs of an epoch, in its order.
    fn runs(&self, epoch: usize) -> Vec<Run> {
        let mut rng = self.rng(epoch, u64::MAX);
        let mut runs = Vec::new();
        for (number, set) in self.sets.iter().enumerate() {
            let members = match set {
                Set::Questions(set) => set.runs(&mut rng),
                Set::Talk(set) => set.runs(),
                Set::Published(set) => set.runs(),
            };
            runs.extend(members.into_iter().map(|members| Run {
                set: number,
                members,
            }));
        }
        runs.shuffle(&mut rng);
        runs
    }

    fn rng(&self, epoch: usize, run: u64) -> StdRng {
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (epoch as u64) << 40 ^ run;
        StdRng::seed_from_u64(seed)
    }

    /// The packs from `place` on.
    pub fn from<'a>(&'a self, place: CoursePosition, tokens: &'a Tokens) -> Lessons<'a> {
        Lessons {
            runs: self.runs(place.epoch),
            course: self,
            tokens,
            place,
        }
    }

    /// Packs of a run.
    fn pack(&self, run: &Run, tokens: &Tokens, rng: &mut StdRng) -> Result<Option<Pack>> {
        match &self.sets[run.set] {
            Set::Questions(set) => set.pack(&run.members, tokens, rng),
            Set::Talk(set) => set.pack(&run.members, tokens, rng).map(Some),
            // A run consists of one record.
            Set::Published(set) => set.pack(run.members[0], tokens, rng),
        }
    }
}

/// An iterator over the batches of a course.
pub struct Lessons<'a> {
    course: &'a Course,
    tokens: &'a Tokens,
    runs: Vec<Run>,
    place: CoursePosition,
}

impl Lessons<'_> {
    /// Where the next batch begins.
    pub fn place(&self) -> CoursePosition {
        self.place
    }

    /// The share of the epoch that was trained.
    pub fn share(&self) -> f64 {
        self.place.run as f64 / self.runs.len().max(1) as f64
    }

    /// Packs with at least `tokens` tokens in total.
    ///
    /// # Errors
    /// The tokenizer or the chat template failed.
    pub fn batch(&mut self, tokens: usize) -> Result<Vec<Pack>> {
        let mut batch = Vec::new();
        let mut sum = 0;
        while sum < tokens {
            if self.place.run >= self.runs.len() {
                self.place = CoursePosition {
                    epoch: self.place.epoch + 1,
                    run: 0,
                };
                self.runs = self.course.runs(self.place.epoch);
            }
            let mut rng = self.course.rng(self.place.epoch, self.place.run as u64);
            let run = &self.runs[self.place.run];
            self.place.run += 1;
            if let Some(pack) = self.course.pack(run, self.tokens, &mut rng)? {
                sum += pack.tokens();
                batch.push(pack);
            }
        }
        Ok(batch)
    }
}
