//! The evaluator: measures how well a model reads, retrieves, abstains and links, on data that it was
//! never trained on.
//!
//! An [examinee](asking), which is a model in this process ([`local`]) or a running server ([`remote`]),
//! [answers](sitting) a [set](data) of questions over passages. Each question leaves a record: whether the
//! model retrieved, at which rank its query found the gold passage, and its answers under three conditions:
//! as it is served, with the gold passage given, and with the passages of other retrievers given. Answers
//! are marked by the rules of SQuAD and HotpotQA ([`score`]); records become [`figures`] with
//! [intervals](interval) and a table for the model's [`card`]. [`small_talk`] and [entity linking](linking)
//! have records and figures of their own.

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
