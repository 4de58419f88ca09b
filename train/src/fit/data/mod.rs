//! What is learnt from: data sets become runs of passages with dialogues, and runs become packs.

pub mod dialogue;
pub mod neighbours;
pub mod records;

mod published;
mod sets;
mod spellings;
mod unanswerable;

use std::path::PathBuf;

use anyhow::Result;
use onegen_engine::Tokens;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::fit::pack::Pack;
use neighbours::NeighbourSource;
use published::{PublishedOptions, PublishedSet};
use sets::{QaSet, TalkSet};

pub use published::Framing;

/// Which questions say enough to be searched for on their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standalone {
    /// All
    #[default]
    All,
    /// Those that hold a name, a number or a word of the passage's title
    Named,
    /// None
    Never,
}

/// A data set, as a configuration names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DataConfig {
    /// Questions with passages, `{"id","question","answers","passage_id","history"?,"answerable"?}` and
    /// `{"id","title","text"}` a line
    Questions {
        /// The file of questions
        questions: PathBuf,
        /// The file of passages
        passages: PathBuf,
        /// How often an epoch goes through it
        #[serde(default = "one")]
        repeat: usize,
        /// Which questions are searched for on their own
        #[serde(default)]
        standalone: Standalone,
        /// Passages that are taken for one another: they are learnt together. Without it those of one title are.
        #[serde(default)]
        neighbours: Option<NeighbourSource>,
    },
    /// Conversations in which nothing is searched for, `{"messages":[{"role","content"}]}` a line
    Talk {
        /// The file of conversations
        conversations: PathBuf,
        /// How often an epoch goes through it
        #[serde(default = "one")]
        repeat: usize,
    },
    /// The form that OneGen published: records `{"messages":[{"role","content","positive"?,"negative"?}]}` with an
    /// entry for each retrieval token of an assistant's message, and documents `{"uid","messages"}` with a passage
    /// token behind every sentence. For models whose passages attend to everything before them
    Onegen {
        /// The file of records
        records: PathBuf,
        /// The file of documents
        documents: PathBuf,
        /// Negatives of each retrieval token: of those that its record names, else random ones
        #[serde(default = "two")]
        negatives: usize,
        /// Retrieval tokens of a record that are learnt at once, drawn anew each time
        #[serde(default = "two")]
        anchors: usize,
        /// Tokens of a record or document; what is behind is cut off
        #[serde(default = "longest")]
        longest: usize,
        /// `raw`: messages as they stand; `chat`: in the model's chat template
        #[serde(default)]
        framing: Framing,
        /// How often an epoch goes through it
        #[serde(default = "one")]
        repeat: usize,
    },
}

fn two() -> usize {
    2
}

fn longest() -> usize {
    1200
}

fn one() -> usize {
    1
}

/// Whether a text that is written and a query that is searched with are one forward pass or two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passes {
    /// One (OneGen): `[RQ]` is a part of the text, written by the model and searched with where it stands
    #[default]
    One,
    /// Two (GritLM): the query is a text of its own that ends with `[RQ]`, of which what is written holds nothing
    Two,
}

impl Passes {
    fn is_one(&self) -> bool {
        *self == Self::One
    }
}

/// How dialogues are made of questions, and what is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CourseConfig {
    /// Passages of one title that are learnt together, each the others' hardest negative
    pub run: usize,
    /// Passages of more tokens are left out
    pub passage_tokens: usize,
    /// Answers of more tokens are left out
    pub answer_tokens: usize,
    /// Questions of a passage that are learnt together
    pub questions: usize,
    /// Turns of a dialogue; older ones are left out
    pub turns: usize,
    /// Wordings of "the passage does not tell", one a line; the first is the usual one
    pub abstain: Option<PathBuf>,
    /// System messages that change nothing, one a line
    pub system: Option<PathBuf>,
    /// What may follow any answer, `{"user","assistant"}` a line
    pub after_answer: Option<PathBuf>,
    /// Share of questions that are asked once more of a passage that does not tell
    pub unanswerable: f64,
    /// Share of dialogues with a system message
    pub with_system: f64,
    /// Share of questions that become the follow-up of another one
    pub follow_up: f64,
    /// Share of dialogues that go on with something that may follow any answer
    pub with_after_answer: f64,
    /// Share of histories whose passages are not there any more
    pub bare_history: f64,
    /// `one` or `two`. Left out where it is the default, so that runs of before go on
    #[serde(skip_serializing_if = "Passes::is_one")]
    pub passes: Passes,
}

impl Default for CourseConfig {
    fn default() -> Self {
        Self {
            run: 4,
            passage_tokens: 400,
            answer_tokens: 60,
            questions: 8,
            turns: 4,
            abstain: None,
            system: None,
            after_answer: None,
            unanswerable: 0.15,
            with_system: 0.1,
            follow_up: 0.25,
            with_after_answer: 0.04,
            bare_history: 0.4,
            passes: Passes::One,
        }
    }
}

/// All data, in an order that a seed decides.
pub struct Course {
    sets: Vec<Set>,
    seed: u64,
}

enum Set {
    Questions(QaSet),
    Talk(TalkSet),
    Published(PublishedSet),
}

/// Where a run is in its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Times that everything was learnt
    pub epoch: usize,
    /// Runs of this epoch that were learnt
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
    /// A file cannot be read or a line of it is broken: the error names both.
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
    pub fn from<'a>(&'a self, place: Place, tokens: &'a Tokens) -> Lessons<'a> {
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
            // A run is one record.
            Set::Published(set) => set.pack(run.members[0], tokens, rng),
        }
    }
}

/// A course as it is learnt.
pub struct Lessons<'a> {
    course: &'a Course,
    tokens: &'a Tokens,
    runs: Vec<Run>,
    place: Place,
}

impl Lessons<'_> {
    /// Where the next batch begins.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The share of the epoch that was learnt.
    pub fn share(&self) -> f64 {
        self.place.run as f64 / self.runs.len().max(1) as f64
    }

    /// Packs of at least `tokens` tokens in all.
    ///
    /// # Errors
    /// The tokenizer or the chat template failed.
    pub fn batch(&mut self, tokens: usize) -> Result<Vec<Pack>> {
        let mut batch = Vec::new();
        let mut sum = 0;
        while sum < tokens {
            if self.place.run >= self.runs.len() {
                self.place = Place {
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

/// Whether something of this share happens.
fn happens(rng: &mut StdRng, share: f64) -> bool {
    rng.random_bool(share.clamp(0.0, 1.0))
}
