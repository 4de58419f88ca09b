//! `onegen.json`: how a checkpoint spells its control tokens and frames what it reads.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::LoadError;

/// What `onegen.json` may say. Without the file a directory is taken for one of the published
/// multi-hop checkpoints (zjunlp/OneGen), whose spellings and templates are the defaults here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OneGenConfig {
    /// The token whose hidden state is the query embedding, `[RQ]` for short.
    pub query_token: String,
    /// The token whose hidden state is a passage embedding, `[RD]` for short.
    pub passage_token: String,
    /// The token before a spliced passage.
    pub passage_open: String,
    /// The token after a spliced passage.
    pub passage_close: String,
    /// What stands between them, with `{title}` and `{text}`.
    pub splice_template: String,
    /// What stands before `[RD]` when a passage is embedded, with `{title}` and `{text}`.
    pub embed_template: String,
    /// A raw prompt with `{input}`, used instead of a chat template.
    #[serde(default)]
    pub prompt_template: Option<String>,
    /// Whether a fresh prompt starts with the beginning-of-text token.
    pub add_bos: bool,
    /// How many searches one turn may do when the request does not say.
    pub max_retrievals: usize,
}

impl Default for OneGenConfig {
    fn default() -> Self {
        Self {
            query_token: "[Question Representation]".into(),
            passage_token: "[Document Fragment Representation]".into(),
            passage_open: "<paragraph>".into(),
            passage_close: "</paragraph>".into(),
            splice_template: "wiki title: {title}\ncontent: {text}".into(),
            embed_template: "Represent the following document fragment and output it after the \
                 '[Document Fragment Representation]' token. \nHere are document fragment:\n\
                 wiki title: {title}\ncontent: {text}"
                .into(),
            prompt_template: Some(
                "You are good at multi-step reasoning in QA. For complex questions, break down \
                 the process. Generate and answer sub-questions step-by-step, using retrieved \
                 documents at each stage. Output the final answer wrapped by \
                 <FINAL-ANSWER></FINAL-ANSWER>. Here is a question: {input}"
                    .into(),
            ),
            add_bos: false,
            max_retrievals: 5,
        }
    }
}

impl OneGenConfig {
    /// Reads `onegen.json` in `dir`, or gives the defaults when there is none.
    ///
    /// # Errors
    /// The file cannot be read, does not parse, or has a field that is not known.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        Ok(crate::files::read_json_if_there(&dir.join("onegen.json"))?.unwrap_or_default())
    }
}
