//! The shipped model's tokenizer: byte-level BPE trained on the invented world's own text.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::{NFC, Prepend, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, DecoderWrapper, PostProcessorWrapper, SplitDelimiterBehavior, Tokenizer,
    TokenizerBuilder,
};

/// The control tokens, in the order of their ids.
pub const CONTROL: [&str; 7] = [
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "[RQ]",
    "[RD]",
    "<paragraph>",
    "</paragraph>",
];

/// The control tokens of a linking model. The first seven have the ids of [`CONTROL`]'s; the last
/// is new.
pub const LINKING_CONTROL: [&str; 8] = [
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "[LK]",
    "[SE]",
    "<MENTION>",
    "</MENTION>",
    "[_CONTINUE_]",
];

/// Capitals and digits are single pieces, so that "Peru" and "peru" share their tail, and numbers
/// are spelt digit by digit.
const PATTERN: &str =
    r"(?: ?\p{Lu})|(?: ?[^\s\p{Lu}\p{N}\p{P}\p{S}]+)|(?: ?\p{N})|(?: ?[\p{P}\p{S}])|\s+";

/// The tokenizer with the ids of its control tokens.
pub struct Vocabulary {
    tokenizer: Tokenizer,
    /// Ends a turn
    pub end: u32,
    /// Opens a user's message
    pub user: u32,
    /// Opens the model's turn
    pub assistant: u32,
    /// `[RQ]`, or `[LK]` in linking
    pub query: u32,
    /// `[RD]`, or `[SE]` in linking
    pub passage: u32,
    /// Opens a spliced passage, or a mention in linking
    pub open: u32,
    /// Closes it
    pub close: u32,
    /// `[_CONTINUE_]`, which follows `[LK]` in linking
    pub continues: Option<u32>,
}

impl Vocabulary {
    /// Trains a vocabulary of `size` tokens on `texts`.
    pub fn train(texts: &[String], size: usize) -> Result<Self> {
        let mut trainer = BpeTrainerBuilder::new()
            .vocab_size(size)
            .show_progress(false)
            .special_tokens(
                CONTROL
                    .iter()
                    .map(|token| AddedToken::from(*token, true))
                    .collect(),
            )
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let byte_level = ByteLevel::default()
            .add_prefix_space(false)
            .use_regex(false);
        let split = Split::new(
            SplitPattern::Regex(PATTERN.to_owned()),
            SplitDelimiterBehavior::Isolated,
            false,
        )
        .map_err(|e| anyhow!(e))?;
        let mut tokenizer = TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(Some(Normalizers::new(vec![
                NFC.into(),
                Prepend::new(" ".to_owned()).into(),
            ])))
            .with_pre_tokenizer(Some(PreTokenizers::new(vec![
                split.into(),
                byte_level.into(),
            ])))
            .with_post_processor(None::<PostProcessorWrapper>)
            .with_decoder(Some(DecoderWrapper::from(byte_level)))
            .build()
            .map_err(|e| anyhow!(e))?;
        tokenizer
            .train(&mut trainer, texts.iter().map(String::as_str))
            .map_err(|e| anyhow!(e))?;
        let json = serde_json::to_string(&tokenizer)?;
        Self::from_json(json.as_bytes())
    }

    /// Reads `tokenizer.json`.
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_json(
            &std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
        )
    }

    fn from_json(json: &[u8]) -> Result<Self> {
        let tokenizer = Tokenizer::from_bytes(json).map_err(|e| anyhow!(e))?;
        let id = |token: &str| {
            tokenizer
                .token_to_id(token)
                .with_context(|| format!("the tokenizer has no {token}"))
        };
        let continues = tokenizer.token_to_id(LINKING_CONTROL[7]);
        let control: &[&str] = match continues {
            Some(_) => &LINKING_CONTROL,
            None => &CONTROL,
        };
        Ok(Self {
            end: id(control[0])?,
            user: id(control[1])?,
            assistant: id(control[2])?,
            query: id(control[3])?,
            passage: id(control[4])?,
            open: id(control[5])?,
            close: id(control[6])?,
            continues,
            tokenizer,
        })
    }

    /// The same tokens with the control tokens of linking.
    pub fn for_linking(&self) -> Result<Self> {
        let mut json = serde_json::to_value(&self.tokenizer)?;
        let (mut vocab, mut added) = (json["model"]["vocab"].take(), json["added_tokens"].take());
        let (vocab_of, added_of) = vocab
            .as_object_mut()
            .zip(added.as_array_mut())
            .context("the tokenizer is no BPE with added tokens")?;
        for (old, new) in CONTROL.iter().zip(LINKING_CONTROL) {
            let id = vocab_of
                .remove(*old)
                .with_context(|| format!("the tokenizer has no {old}"))?;
            let token = added_of.iter_mut().find(|token| token["content"] == *old);
            token.with_context(|| format!("{old} is no control token"))?["content"] = new.into();
            vocab_of.insert(new.to_owned(), id);
        }
        (json["model"]["vocab"], json["added_tokens"]) = (vocab, added);
        let mut tokenizer =
            Tokenizer::from_bytes(serde_json::to_vec(&json)?).map_err(|e| anyhow!(e))?;
        tokenizer.add_special_tokens(&[AddedToken::from(LINKING_CONTROL[7], true)]);
        Self::from_json(&serde_json::to_vec(&tokenizer)?)
    }

    /// Writes `tokenizer.json`.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.tokenizer
            .save(path, false)
            .map_err(|e| anyhow!(e))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// How many tokens there are.
    pub fn size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The ids of `text`, which contains no control token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self
            .tokenizer
            .encode(text, false)
            .map_err(|e| anyhow!(e))?
            .get_ids()
            .to_vec())
    }

    /// The text of `ids`.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, false).map_err(|e| anyhow!(e))
    }

    /// The range in the text of each token of [`Self::encode`], in bytes. The space that the tokenizer
    /// puts before a text is in no range.
    pub fn spans(&self, ids: &[u32]) -> Vec<std::ops::Range<usize>> {
        let mut end = 0;
        let span = |id: &u32| {
            let start = end;
            // In byte-level BPE every character of a token spells one byte.
            let token = self.tokenizer.id_to_token(*id);
            end += token.map_or(0, |token| token.chars().count());
            start.saturating_sub(1)..end.saturating_sub(1)
        };
        ids.iter().map(span).collect()
    }
}
