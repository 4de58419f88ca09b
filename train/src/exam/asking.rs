//! Questions to a model and its answers, the same for a model in this process and for a server.

use super::data::Exchange;

/// Where the passages of a turn come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// The model decides whether to retrieve, from the whole pool.
    Own,
    /// The same, but the turn begins with a retrieval.
    OwnForced,
    /// The turn begins with a retrieval, and its searches give these passages, one after another.
    Given(Vec<usize>),
    /// Nothing may be retrieved.
    Nothing,
}

/// One turn to be answered.
#[derive(Debug, Clone)]
pub struct TurnRequest<'a> {
    /// The system message before the conversation.
    pub system: Option<&'a str>,
    /// Earlier turns, with their answers as given. Each of them retrieved its passage of
    /// `history_reads`.
    pub history: &'a [Exchange],
    /// The passage that each earlier turn read.
    pub history_reads: &'a [usize],
    /// The last message.
    pub message: &'a str,
    /// Where its passages come from.
    pub source: Source,
    /// The most tokens of the answer.
    pub max_tokens: usize,
    /// The most retrievals of the turn.
    pub max_retrievals: usize,
}

/// The answer to one turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The text after the last retrieval. If the turn began with its only retrieval, this is the whole
    /// text.
    pub text: String,
    /// Whether the turn began with a retrieval.
    pub began_with_retrieval: bool,
    /// How many searches there were.
    pub searches: usize,
    /// The pool's passages nearest to the first search, if the source searched it.
    pub ranking: Vec<usize>,
    /// The passages that were read, in order.
    pub read: Vec<usize>,
    /// Whether the conversation with its passages was too long for the context. The text is then cut off
    /// or empty.
    pub too_long: bool,
}
