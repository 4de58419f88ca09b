//! What a configuration says of data: which sets, and how dialogues are made of them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::neighbours::NeighbourSource;

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

/// How a record's messages become one text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// As they stand, one behind the other: the published records hold their prompts
    #[default]
    Raw,
    /// By the model's chat template
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
