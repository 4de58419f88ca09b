//! The configuration of data: the sets, and how dialogues are made from them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::neighbours::NeighbourSource;

/// Which questions are specific enough to be searched for without their history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standalone {
    /// All
    #[default]
    All,
    /// Those that contain a name, a number or a word of the passage's title
    Named,
    /// None
    Never,
}

/// How a record's messages become one text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// Unchanged, one after the other, because the published records contain their prompts
    #[default]
    Raw,
    /// With the model's chat template
    Chat,
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
        /// How often it is used in an epoch
        #[serde(default = "one")]
        repeat: usize,
        /// Which questions are searched for on their own
        #[serde(default)]
        standalone: Standalone,
        /// Where neighbours come from, that is, passages that a search confuses; they are trained together.
        /// Without it passages of the same title are trained together.
        #[serde(default)]
        neighbours: Option<NeighbourSource>,
    },
    /// Conversations in which nothing is searched for, `{"messages":[{"role","content"}]}` a line
    Talk {
        /// The file of conversations
        conversations: PathBuf,
        /// How often it is used in an epoch
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
        /// Negatives of each retrieval token: those that its record names, and random ones if there
        /// are too few
        #[serde(default = "two")]
        negatives: usize,
        /// Retrieval tokens of a record that are trained at once, drawn anew each time
        #[serde(default = "two")]
        anchors: usize,
        /// The most tokens of a record or document; the rest is cut off
        #[serde(default = "longest")]
        longest: usize,
        /// `raw`: messages unchanged; `chat`: in the model's chat template
        #[serde(default)]
        framing: Framing,
        /// How often it is used in an epoch
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

/// Whether the written text and the query for a search share one forward pass, or use two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passes {
    /// One (OneGen): `[RQ]` is part of the text that the model writes, and its state is the query
    #[default]
    One,
    /// Two (GritLM): the query is a text of its own that ends with `[RQ]`, which the written text does not
    /// contain
    Two,
}

impl Passes {
    fn is_one(&self) -> bool {
        *self == Self::One
    }
}

/// How dialogues are made from questions, and what is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CourseConfig {
    /// Passages of one title that are trained together, each the others' hardest negative
    pub run: usize,
    /// Passages with more tokens are left out
    pub passage_tokens: usize,
    /// Answers with more tokens are left out
    pub answer_tokens: usize,
    /// Questions of a passage that are trained together
    pub questions: usize,
    /// The most turns of a dialogue; older ones are left out
    pub turns: usize,
    /// Wordings of "the passage does not say", one a line; the first is the most frequent
    pub abstain: Option<PathBuf>,
    /// System messages without effect on the answers, one a line
    pub system: Option<PathBuf>,
    /// Turns that may follow any answer, `{"user","assistant"}` a line
    pub after_answer: Option<PathBuf>,
    /// Share of questions that are also asked about a passage without the answer
    pub unanswerable: f64,
    /// Share of dialogues with a system message
    pub with_system: f64,
    /// Share of questions that become the follow-up of another one
    pub follow_up: f64,
    /// Share of dialogues that continue with a turn that may follow any answer
    pub with_after_answer: f64,
    /// Share of histories whose passages are gone
    pub bare_history: f64,
    /// `one` or `two`. The default is not serialised, so that checkpoints of older runs stay valid
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
