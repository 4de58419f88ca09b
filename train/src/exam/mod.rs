//! The evaluator: what a model reads, finds, withholds and links over data that it was never trained on.
//!
//! A [set](data) of questions and passages is [sat](sitting) by an [examinee](asking), a model in this
//! process ([`local`]) or a server that runs ([`remote`]). Each question leaves a record: whether the model
//! retrieved, where its query put the gold passage, and what it answered as it is served, with the gold
//! passage given, and with what other retrievers found given. Answers are marked by the rules of SQuAD and
//! HotpotQA ([`score`]); records become [`figures`] with [intervals](interval) and a table for the model's
//! [`card`]. [`small_talk`] and [entity linking](linking) have records and figures of their own.

pub mod asking;
pub mod card;
pub mod data;
pub mod examinee;
pub mod figures;
pub mod interval;
pub mod linking;
pub mod local;
pub mod pool;
pub mod remote;
pub mod score;
pub mod sitting;
pub mod small_talk;
pub mod titles;
pub mod vectors;
