//! Makes `tokenizer.ggml.*` from a `tokenizer.json` with a byte-level vocabulary like GPT-2's.

use anyhow::{Context, Result, anyhow, bail};
use onegen_engine::{GgufPreTokenizer, gguf_pre_tokenizers};
use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::file::Entries;
use crate::convert::Source;

/// A text that different pre-tokenizers cut differently: sequences of digits, contractions in both cases,
/// spaces and lines, punctuation, scripts, and characters in composed and decomposed form.
const PROBE: &str = "It's 1 12 123 1234 12345, I'LL say; we'Ve   three  spaces\n\nand \r\n lines.\t\tTabs\n \n \
    x=y*(z+1); a_b-c/d \"quoted\" ... !? #!/bin e\u{301}te\u{301} été straße ЯЗЫК язык 東京都 ไทย हिन्दी ١٢٣ Ⅷ \u{1F600}\u{1F680} \
    'twas $5.00 100% <|x|> CamelCaseWord ALLCAPS word1word2 \u{a0}nbsp   ";

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    vocab: Value,
    #[serde(default)]
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Text(String),
}

#[derive(Deserialize)]
struct AddedToken {
    content: String,
    special: bool,
}

/// llama.cpp's kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Replaces the entries that describe how text becomes ids.
///
/// # Errors
/// The tokenizer is of another kind, or its pre-tokenizer is unknown.
pub(super) fn set(entries: &mut Entries, source: &Source) -> Result<()> {
    let json: Value = serde_json::from_slice(&source.tokenizer.json)?;
    let file: File = serde_json::from_value(json.clone()).context("tokenizer.json is damaged")?;
    let kind = file.model.kind.as_deref().unwrap_or("BPE");
    let Value::Object(vocab) = &file.model.vocab else {
        bail!("{}", other_kind(kind));
    };
    if kind != "BPE" || file.model.byte_fallback {
        bail!("{}", other_kind(kind));
    }
    let rules = rules(&json)?;
    let rows = source.config().vocab_size;
    let mut tokens: Vec<(String, i32)> =
        (0..rows).map(|id| (format!("[PAD{id}]"), UNUSED)).collect();
    let mut put = |id: usize, token: &str, kind| {
        let place = tokens.get_mut(id).with_context(|| {
            format!("{token:?} has the id {id}, but the vocabulary has the size {rows}")
        })?;
        *place = (token.to_owned(), kind);
        anyhow::Ok(())
    };
    for (token, id) in vocab {
        let id = id.as_u64().context("an id is no number")?;
        put(id as usize, token, NORMAL)?;
    }
    for added in &file.added_tokens {
        let kind = if added.special { CONTROL } else { USER_DEFINED };
        // The tokenizer library may assign an id other than the file's.
        let id = source.tokens.id_of(&added.content);
        let id = id.with_context(|| format!("the tokenizer does not know {:?}", added.content))?;
        put(id as usize, &added.content, kind)?;
    }
    entries.remove_all("tokenizer.ggml.");
    entries.set_text("tokenizer.ggml.model", "gpt2");
    entries.set_text("tokenizer.ggml.pre", rules.name);
    entries.set_texts(
        "tokenizer.ggml.tokens",
        tokens.iter().map(|(token, _)| token.as_str()),
    );
    entries.set_i32s(
        "tokenizer.ggml.token_type",
        tokens.iter().map(|(_, kind)| *kind),
    );
    let merges: Vec<String> = (file.model.merges.into_iter())
        .map(|merge| match merge {
            Merge::Pair(left, right) => format!("{left} {right}"),
            Merge::Text(text) => text,
        })
        .collect();
    entries.set_texts("tokenizer.ggml.merges", merges.iter().map(String::as_str));
    entries.set_bool(
        "tokenizer.ggml.add_bos_token",
        source.tokens.onegen().add_bos,
    );
    let spelled = &source.tokenizer.eos_token;
    let eos = spelled
        .as_ref()
        .and_then(|token| source.tokens.id_of(token));
    let eos = eos.or(source.tokens.end_of_turn());
    let eos = eos.context("no token ends a turn")?;
    entries.set_u32("tokenizer.ggml.eos_token_id", eos);
    if let Some(other) = source.tokens.eos_ids().find(|id| *id != eos) {
        entries.set_u32("tokenizer.ggml.eot_token_id", other);
    }
    if let Some(bos) = source.config().bos_token_id {
        entries.set_u32("tokenizer.ggml.bos_token_id", bos);
    }
    Ok(())
}

fn other_kind(kind: &str) -> String {
    format!(
        "the tokenizer is of the kind {kind}, with which no GGUF file is written here: begin with a GGUF file of \
         the same base, whose vocabulary is kept, or with a model whose tokenizer.json is a BPE of bytes"
    )
}

/// The known pre-tokenizer that gives the same ids as this tokenizer.
fn rules(json: &Value) -> Result<GgufPreTokenizer> {
    let own = encode(json, None)?;
    for rules in gguf_pre_tokenizers() {
        if encode(json, Some(&rules))? == own {
            return Ok(rules);
        }
    }
    let names: Vec<_> = gguf_pre_tokenizers()
        .iter()
        .map(|rules| rules.name)
        .collect();
    bail!(
        "the tokenizer cuts text in a way that llama.cpp is told of by none of the names {}: a GGUF file would \
         give other ids than the model has learned from",
        names.join(", ")
    )
}

/// The ids of the probe text, cut by the tokenizer's own rules or by others.
fn encode(json: &Value, rules: Option<&GgufPreTokenizer>) -> Result<Vec<u32>> {
    let mut json = json.clone();
    json["post_processor"] = Value::Null;
    json["truncation"] = Value::Null;
    json["padding"] = Value::Null;
    // Added tokens are removed, because the pre-tokenizer does not cut them.
    json["added_tokens"] = json!([]);
    if let Some(rules) = rules {
        json["normalizer"] = rules.normalizer.clone();
        json["pre_tokenizer"] = rules.pre_tokenizer.clone();
        json["model"]["ignore_merges"] = rules.ignore_merges.into();
    }
    let failed = |error| anyhow!("the tokenizer failed: {error}");
    let tokenizer = Tokenizer::from_bytes(serde_json::to_vec(&json)?).map_err(failed)?;
    let encoding = tokenizer.encode_fast(PROBE, false).map_err(failed)?;
    Ok(encoding.get_ids().to_vec())
}
