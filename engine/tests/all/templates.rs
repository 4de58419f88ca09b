//! The chat templates of known families, against the ids that Hugging Face transformers gives.
//!
//! `tests/templates/make.py` wrote the golden files; `tests/templates/README.md` says where the templates come from.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::*;
use onegen_engine::{ChatMessage, ModelConfig, Role, Tokens, TokensError};
use serde::Deserialize;
use serde_json::{Value, json};

const FAMILIES: [&str; 10] = [
    "gemma-3",
    "llama-2",
    "llama-3.1",
    "methods",
    "mistral-tekken",
    "mistral-v0.3",
    "phi-3",
    "qwen2.5",
    "qwen3",
    "smollm2",
];

#[derive(Deserialize)]
struct Golden {
    title: String,
    messages: Vec<GoldenMessage>,
    /// `None` where the template refuses the messages.
    ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct GoldenMessage {
    role: Role,
    content: String,
}

fn directory(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/templates")
        .join(family)
}

fn golden(family: &str) -> Vec<Golden> {
    serde_json::from_slice(&fs::read(directory(family).join("golden.json")).unwrap()).unwrap()
}

fn chat(golden: &Golden) -> Vec<ChatMessage> {
    let messages = golden.messages.iter();
    messages
        .map(|message| ChatMessage::new(message.role, message.content.clone()))
        .collect()
}

/// The spellings of the family's added tokens.
fn added(family: &str) -> Vec<String> {
    let tokenizer = fs::read(directory(family).join("tokenizer.json")).unwrap();
    let tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
    let added = tokenizer["added_tokens"].as_array().unwrap().iter();
    added
        .map(|token| token["content"].as_str().unwrap().to_owned())
        .collect()
}

/// The family's tokenizer and template. What only OneGen needs is named after other tokens.
fn tokens(family: &str) -> Tokens {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ] {
        fs::copy(directory(family).join(file), dir.path().join(file)).unwrap();
    }
    write_json(dir.path(), "config.json", &Family::Llama.config(SMALL));
    let [one, other] = &added(family)[..2] else {
        panic!("{family} has no two added tokens");
    };
    write_json(
        dir.path(),
        "onegen.json",
        &json!({
            "query_token": one, "passage_token": other, "passage_open": one, "passage_close": other,
            "prompt_template": null,
        }),
    );
    Tokens::load(dir.path(), &ModelConfig::load(dir.path()).unwrap()).unwrap()
}

fn spelt(tokens: &Tokens, ids: &[u32]) -> Vec<String> {
    ids.iter()
        .map(|&id| tokens.spelling(id).unwrap_or_default())
        .collect()
}

#[test]
fn chats_have_the_ids_that_transformers_gives_them() {
    let mut wrong = Vec::new();
    for family in FAMILIES {
        let tokens = tokens(family);
        for golden in golden(family) {
            match (tokens.encode_chat(&chat(&golden)), &golden.ids) {
                (Ok(ids), Some(wanted)) if ids == *wanted => {}
                (Err(TokensError::Template(_)), None) => {}
                (Ok(ids), Some(wanted)) => wrong.push(format!(
                    "{family}, {}:\n  {:?}\n  {:?}",
                    golden.title,
                    spelt(&tokens, &ids),
                    spelt(&tokens, wanted)
                )),
                (ids, _) => wrong.push(format!("{family}, {}: {ids:?}", golden.title)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_conversation_goes_on_with_the_end_of_the_whole_chat() {
    for family in FAMILIES {
        let tokens = tokens(family);
        for golden in golden(family) {
            let chat = chat(&golden);
            let answer = chat
                .iter()
                .rposition(|message| message.role == Role::Assistant);
            // A template that joins two messages, or leaves one out, has no such end.
            let (Some(answer), Some(whole)) = (answer, &golden.ids) else {
                continue;
            };
            match tokens.encode_turn(&chat, answer, None) {
                Ok(next) => {
                    assert!(next.len() > 1, "{family}, {}", golden.title);
                    let (next, whole) = (spelt(&tokens, &next), spelt(&tokens, whole));
                    assert!(
                        whole.ends_with(&next),
                        "{family}, {}: {next:?} in {whole:?}",
                        golden.title
                    );
                }
                Err(TokensError::MessageLeftOut(_)) => assert_eq!(family, "methods"),
                Err(error) => panic!("{family}, {}: {error}", golden.title),
            }
        }
    }
}

#[test]
fn what_ends_an_answer_ends_a_turn() {
    for (family, end) in [
        ("gemma-3", "<end_of_turn>"),
        ("llama-2", "</s>"),
        ("llama-3.1", "<|eot_id|>"),
        ("mistral-tekken", "</s>"),
        ("mistral-v0.3", "</s>"),
        ("phi-3", "<|end|>"),
        ("qwen3", "<|im_end|>"),
        ("smollm2", "<|im_end|>"),
    ] {
        let tokens = tokens(family);
        assert!(tokens.is_eos(tokens.id_of(end).unwrap()), "{family}");
    }
}

#[test]
fn no_content_becomes_a_control_token_in_any_family() {
    for family in FAMILIES {
        let tokens = tokens(family);
        let is_word = |text: &str| text.chars().all(|c| c.is_whitespace() || c == '▁');
        let control: Vec<_> = added(family).into_iter().filter(|t| !is_word(t)).collect();
        let ids: Vec<_> = control
            .iter()
            .map(|token| tokens.id_of(token).unwrap())
            .collect();
        let count = |content: &str| {
            let messages = [
                ChatMessage::new(Role::User, content),
                ChatMessage::new(Role::Assistant, content),
                ChatMessage::new(Role::User, content),
            ];
            let encoded = tokens.encode_chat(&messages).unwrap();
            encoded.iter().filter(|id| ids.contains(id)).count()
        };
        let harmless = count("Why?");
        assert!(harmless > 2, "{family}");
        assert_eq!(
            count(&format!("Why {}?", control.join(" "))),
            harmless,
            "{family}"
        );
        for token in &control {
            // Cut in two, and put together again by a template that trims, splits or replaces.
            let half = token.len() / 2;
            if !token.is_char_boundary(half) || token == "</think>" {
                continue;
            }
            let (before, after) = token.split_at(half);
            for content in [
                token.clone(),
                format!("{before}short{after}"),
                format!("{before}\n{after} {token}?"),
            ] {
                assert_eq!(count(&content), harmless, "{family}: {content:?}");
            }
        }
    }
}
