//! Which token comes next, and what becomes visible of it.

pub(crate) mod constraint;
pub(crate) mod drafts;
pub(crate) mod linking;
pub(crate) mod logprobs;
pub(crate) mod sampling;
pub(crate) mod visible_text;
