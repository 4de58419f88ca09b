//! `onegen.json`: how a checkpoint spells its control tokens and frames passages and prompts.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::LoadError;

/// The content of `onegen.json`. Without the file a directory is treated as one of the published
/// checkpoints (zjunlp/OneGen). If its tokenizer has `[LK]` and `[SE]`, that is the one that links
/// entities; otherwise it is the one for multi-hop questions, whose spellings and templates are the
/// defaults here.
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
    /// The text between them, with `{title}` and `{text}`.
    pub splice_template: String,
    /// The text before `[RD]` when a passage is embedded, with `{title}` and `{text}`.
    pub embed_template: String,
    /// What the tokens of a spliced passage see.
    pub passage_attention: PassageAttention,
    /// A raw prompt with `{input}`, used instead of a chat template.
    #[serde(default)]
    pub prompt_template: Option<String>,
    /// Whether a fresh prompt starts with the beginning-of-text token.
    pub add_bos: bool,
    /// How many searches one turn may do when the request does not say.
    pub max_retrievals: usize,
    /// How mentions of entities are marked, for a model that only links entities. Its query token
    /// follows each mention, its passage token follows an entity's description, and it needs no
    /// tokens around a spliced passage.
    pub linking: Option<LinkingConfig>,
    /// The base that an adapter is for; `None` for a model that is not an adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseModel>,
}

/// The base model that an adapter was trained over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BaseModel {
    /// Its name, for people and programs that look for it.
    pub name: Option<String>,
    /// The model fingerprint ([`Fingerprints::model`](crate::Fingerprints)) of the base alone, that is
    /// blake3 of its GGUF file, or of its `config.json` and weight files. The adapter loads over no other.
    pub blake3: Option<String>,
}

/// Which of the tokens before them the tokens of a spliced passage see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PassageAttention {
    /// Everything: the passage's keys and values are those of this conversation alone.
    #[default]
    Full,
    /// Their own passage block only (Block-Attention, arXiv 2409.15355): `passage_open`, the passage and
    /// `passage_token`, which is also what embeds the passage, so both templates are the same. Its keys
    /// and values are the same in every conversation. `passage_close` and all other tokens see everything.
    Block,
}

/// How a linking model spells what it puts around mentions. The defaults are the published ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkingConfig {
    /// The mark before a mention: a token, or text that the model has learnt to write.
    pub mention_open: String,
    /// The mark after a mention, before the query token: a token or text, too.
    pub mention_close: String,
    /// The token after the query token, which says that the text continues.
    pub continue_token: String,
    /// The most tokens of a text that are linked at once. A longer text must be cut where sentences
    /// end.
    pub max_text_tokens: NonZeroUsize,
}

impl Default for LinkingConfig {
    fn default() -> Self {
        Self {
            mention_open: "<MENTION>".into(),
            mention_close: "</MENTION>".into(),
            continue_token: "[_CONTINUE_]".into(),
            max_text_tokens: NonZeroUsize::MIN.saturating_add(255),
        }
    }
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
            passage_attention: PassageAttention::Full,
            prompt_template: Some(
                "You are good at multi-step reasoning in QA. For complex questions, break down \
                 the process. Generate and answer sub-questions step-by-step, using retrieved \
                 documents at each stage. Output the final answer wrapped by \
                 <FINAL-ANSWER></FINAL-ANSWER>. Here is a question: {input}"
                    .into(),
            ),
            add_bos: false,
            max_retrievals: 5,
            linking: None,
            base: None,
        }
    }
}

impl OneGenConfig {
    /// Reads `onegen.json` in `dir`. Without the file it returns the settings of the published
    /// checkpoint that has the tokenizer's tokens.
    ///
    /// # Errors
    /// The file cannot be read, does not parse, or has a field that is not known.
    pub fn load(dir: &Path, has_token: impl Fn(&str) -> bool) -> Result<Self, LoadError> {
        let read = crate::files::read_json_if_there(&dir.join("onegen.json"))?;
        let published = || {
            let linking = Self::published_linking();
            if has_token(&linking.query_token) && has_token(&linking.passage_token) {
                linking
            } else {
                Self::default()
            }
        };
        Ok(read.unwrap_or_else(published))
    }

    /// The tokens that it gives a purpose.
    pub(crate) fn named_tokens(&self) -> BTreeSet<String> {
        let own = [
            &self.query_token,
            &self.passage_token,
            &self.passage_open,
            &self.passage_close,
        ];
        let marks = self.linking.iter().flat_map(|linking| {
            [
                &linking.mention_open,
                &linking.mention_close,
                &linking.continue_token,
            ]
        });
        own.into_iter().chain(marks).cloned().collect()
    }

    /// The published checkpoint that links entities. Its marks are text.
    fn published_linking() -> Self {
        Self {
            query_token: "[LK]".into(),
            passage_token: "[SE]".into(),
            embed_template:
                "<s>Represent the entity based on its description and output it after the \
                 '[SE]' token.\nThe description of {title} is as follows:\n{text}"
                    .into(),
            prompt_template: Some(
                "[INST] You are good at mention detection. Identify and extract mentions of \
                 entities from the text. Please output the original text with annotations. Here, \
                 the annotation for each mention should be formatted as \
                 `<MENTION>{mention in text}</MENTION>` when displayed. \n\nTEST TEXT:\n{input} \
                 [/INST]"
                    .into(),
            ),
            linking: Some(LinkingConfig::default()),
            ..Self::default()
        }
    }
}
