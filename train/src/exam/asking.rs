//! What a model is asked, and what came of it: the same for a model in this process and for a server.

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
    /// A message of the system's before the conversation.
    pub system: Option<&'a str>,
    /// Earlier turns, taken as they are written: each of them retrieved `history_reads`.
    pub history: &'a [Exchange],
    /// What each earlier turn read.
    pub history_reads: &'a [usize],
    /// The last message.
    pub message: &'a str,
    /// Where its passages come from.
    pub source: Source,
    /// Tokens of the answer at most.
    pub max_tokens: usize,
    /// Retrievals of the turn at most.
    pub max_retrievals: usize,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The text after the last retrieval, which is the whole text where the turn began with the only one.
    pub text: String,
    /// Whether the turn began with a retrieval.
    pub began_with_retrieval: bool,
    /// How many searches there were.
    pub searches: usize,
    /// The pool's passages nearest to the first search, if the source searched it.
    pub ranking: Vec<usize>,
    /// The passages that were read, in order.
    pub read: Vec<usize>,
    /// Whether the conversation with its passages did not fit the context; the text is then cut or empty.
    pub too_long: bool,
}
