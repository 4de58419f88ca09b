//! The spellings of control tokens in published data, which may differ from the model's own.

use anyhow::{Context, Result};
use onegen_engine::Tokens;

/// The published spellings, and the model's tokens that they stand for.
#[derive(Debug)]
pub(super) struct Spellings {
    /// `[RQ]`, or the token after a mention
    pub(super) query: u32,
    /// `[RD]`, or the token after an entity's description
    pub(super) passage: u32,
    /// The tokens before and after a passage that is read
    around: Option<(u32, u32)>,
    /// Spellings that are not tokens of the model itself
    aliases: Vec<(&'static str, u32)>,
    query_spellings: Vec<String>,
    passage_spellings: Vec<String>,
}

impl Spellings {
    /// The spellings for a model that answers questions, or for one that links entities.
    ///
    /// # Errors
    /// The tokenizer lacks a token.
    pub(super) fn new(tokens: &Tokens) -> Result<Self> {
        let (query, passage) = (tokens.query_id(), tokens.passage_id());
        let around = tokens.splice_markers();
        let mut published = if tokens.links_entities() {
            vec![("[LK]", query), ("[SE]", passage)]
        } else {
            vec![
                ("[Question Representation]", query),
                ("[Document Fragment Representation]", passage),
            ]
        };
        if let Some((open, close)) = around {
            published.extend([("<paragraph>", open), ("</paragraph>", close)]);
        }
        if let Ok(linking) = tokens.linking_config() {
            let go_on = &linking.continue_token;
            let id = tokens.id_of(go_on);
            let id = id.with_context(|| format!("the tokenizer has no token {go_on:?}"))?;
            published.push(("[_CONTINUE_]", id));
        }
        // A spelling that the tokenizer knows needs no alias.
        published.retain(|(spelling, _)| tokens.id_of(spelling).is_none());
        let onegen = tokens.onegen();
        let spelt = |own: &str, id: u32| {
            let others = published.iter().filter(|(_, other)| *other == id);
            let others = others.map(|(spelling, _)| (*spelling).to_owned());
            std::iter::once(own.to_owned()).chain(others).collect()
        };
        Ok(Self {
            query,
            passage,
            around,
            query_spellings: spelt(&onegen.query_token, query),
            passage_spellings: spelt(&onegen.passage_token, passage),
            aliases: published,
        })
    }

    /// The ids of a published text, in which spellings of control tokens become control tokens.
    pub(super) fn encode(&self, text: &str, tokens: &Tokens) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut rest = text;
        while let Some((at, spelling, id)) = self.first_alias(rest) {
            ids.extend(tokens.encode_with_control(&rest[..at])?);
            ids.push(id);
            rest = &rest[at + spelling.len()..];
        }
        ids.extend(tokens.encode_with_control(rest)?);
        Ok(ids)
    }

    fn first_alias(&self, text: &str) -> Option<(usize, &'static str, u32)> {
        let found = self.aliases.iter().filter_map(|(spelling, id)| {
            let at = text.find(spelling)?;
            Some((at, *spelling, *id))
        });
        found.min_by_key(|(at, ..)| *at)
    }

    /// How many retrieval tokens a text contains.
    pub(super) fn count_queries(&self, text: &str) -> usize {
        count(text, &self.query_spellings)
    }

    /// How many passage tokens a text contains.
    pub(super) fn count_passages(&self, text: &str) -> usize {
        count(text, &self.passage_spellings)
    }

    /// The spellings of retrieval tokens, for error messages.
    pub(super) fn query_spellings(&self) -> String {
        self.query_spellings.join(" or ")
    }

    /// The spellings of passage tokens, for error messages.
    pub(super) fn passage_spellings(&self) -> String {
        self.passage_spellings.join(" or ")
    }

    /// Whether a token begins a passage that is read.
    pub(super) fn opens(&self, id: u32) -> bool {
        self.around.is_some_and(|(open, _)| open == id)
    }

    /// Whether a token ends one.
    pub(super) fn closes(&self, id: u32) -> bool {
        self.around.is_some_and(|(_, close)| close == id)
    }
}

fn count(text: &str, spellings: &[String]) -> usize {
    let counts = spellings
        .iter()
        .map(|spelling| text.matches(spelling.as_str()).count());
    counts.sum()
}
