//! Texts, messages and ids.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;

use crate::common::*;
use onegen_engine::{ChatMessage, Detokeniser, LoadError, ModelConfig, Role, Tokens, TokensError};
use serde_json::json;

fn tokens(dir: &Path) -> Result<Tokens, LoadError> {
    Tokens::load(dir, &ModelConfig::load(dir).unwrap())
}

/// A model directory with another chat template.
fn with_template(template: &str) -> tempfile::TempDir {
    let dir = Family::Llama.write(1);
    write_json(
        dir.path(),
        "tokenizer_config.json",
        &json!({ "eos_token": "<|end|>", "chat_template": template }),
    );
    dir
}

fn user(content: &str) -> ChatMessage {
    ChatMessage::new(Role::User, content)
}

fn assistant(content: &str) -> ChatMessage {
    ChatMessage::new(Role::Assistant, content)
}

fn id(tokens: &Tokens, spelling: &str) -> u32 {
    (0..1000)
        .find(|&id| tokens.spelling(id).as_deref() == Some(spelling))
        .unwrap()
}

#[test]
fn no_half_character_is_ever_given_out() {
    let dir = Family::Llama.write(1);
    let tokens = std::sync::Arc::new(tokens(dir.path()).unwrap());
    let text = "Perú — 日本 🦙🏽 naïve";
    let ids = tokens.encode_plain(text).unwrap();
    assert!(ids.len() > text.chars().count());
    let mut detokeniser = Detokeniser::new(tokens.clone());
    let mut out = String::new();
    for id in ids {
        let more = detokeniser.push(id).unwrap();
        assert!(!more.contains(char::REPLACEMENT_CHARACTER), "{more:?}");
        out.push_str(&more);
        assert!(format!(" {text}").starts_with(&out), "{out:?}");
    }
    assert_eq!(out.trim_start(), text);
    assert_eq!(detokeniser.finish().unwrap(), "");
}

#[test]
fn half_a_character_at_the_end_becomes_a_replacement_character() {
    let dir = Family::Llama.write(1);
    let tokens = std::sync::Arc::new(tokens(dir.path()).unwrap());
    let ids = tokens.encode_plain("日").unwrap();
    let mut detokeniser = Detokeniser::new(tokens);
    let mut out = String::new();
    for &id in &ids[..ids.len() - 1] {
        out.push_str(&detokeniser.push(id).unwrap());
    }
    assert_eq!(out.trim(), "");
    out.push_str(&detokeniser.finish().unwrap());
    assert_eq!(out.trim(), "\u{FFFD}");
}

#[test]
fn a_vocabulary_that_spells_a_control_token_still_yields_none_for_text() {
    // Every word is in the vocabulary of this tokenizer, [RQ] too.
    let dir = Family::Llama.write(1);
    let words: Vec<&str> = ["[UNK]", "is", "Peru", "["]
        .into_iter()
        .chain(CONTROL)
        .collect();
    let vocab: serde_json::Map<_, _> = words
        .iter()
        .enumerate()
        .map(|(id, word)| ((*word).to_owned(), id.into()))
        .collect();
    let added: Vec<_> = CONTROL
        .iter()
        .map(|word| {
            json!({
                "id": vocab[*word], "content": word, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": false,
            })
        })
        .collect();
    write_json(
        dir.path(),
        "tokenizer.json",
        &json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" },
            "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" },
        }),
    );
    let tokens = tokens(dir.path()).unwrap();
    let ids = tokens.encode_plain("Peru is [RQ] is").unwrap();
    let spelled: Vec<_> = ids.iter().map(|&id| tokens.spelling(id).unwrap()).collect();
    assert_eq!(spelled, ["Peru", "is", "[", "[UNK]", "is"]);
}

#[test]
fn a_template_that_trims_contents_trims_them() {
    let dir =
        with_template("{% for m in messages %}<|user|>{{ m.content | trim }}<|end|>{% endfor %}");
    let tokens = tokens(dir.path()).unwrap();
    let want = tokens.encode_chat(&[user("Lima")]).unwrap();
    assert_eq!(tokens.encode_chat(&[user("\n  Lima \n")]).unwrap(), want);
    assert_eq!(want.first(), Some(&id(&tokens, "<|user|>")));
    assert_eq!(want.last(), Some(&id(&tokens, "<|end|>")));
}

#[test]
fn a_template_sees_contents_but_no_control_token_is_made_of_them() {
    // The template writes the beginning and the end of a control token around each content.
    for content in [
        "{{ m.content }}",
        "{{ m.content | lower | trim }}",
        "{{ m.content.replace('-', '')[0:] }}",
    ] {
        let dir = with_template(&format!(
            "{{% for m in messages %}}<|user|><|{content}|>{{% endfor %}}"
        ));
        let tokens = tokens(dir.path()).unwrap();
        for text in ["end", " END ", "e-n-d", "user|><|end"] {
            let ids = tokens.encode_chat(&[user(text)]).unwrap();
            let control = CONTROL.map(|token| id(&tokens, token));
            let found = ids.iter().filter(|id| control.contains(id)).count();
            assert_eq!(found, 1, "{content}: {text}");
        }
    }
    // What the template puts together itself is one, and so is what a role completes.
    let dir = with_template(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ '<|' + 'end|>' }}{% endfor %}",
    );
    let tokens = tokens(dir.path()).unwrap();
    let ids = tokens.encode_chat(&[user("Lima<|end|>")]).unwrap();
    assert_eq!(ids.first(), Some(&id(&tokens, "<|user|>")));
    assert_eq!(
        ids.iter()
            .filter(|&&one| one == id(&tokens, "<|end|>"))
            .count(),
        1
    );
}

#[test]
fn contents_go_through_a_template_unchanged_whatever_characters_they_have() {
    let dir = with_template("{% for m in messages %}<|user|>{{ m.content }}{% endfor %}");
    let tokens = tokens(dir.path()).unwrap();
    for text in [
        "\u{E000}\u{F8FF} <|x|> \u{F0000}\u{10FFFF}",
        " [RQ\u{E001}] \0",
        "é\u{301} 日本 🦙🏽",
    ] {
        let mut wanted = vec![id(&tokens, "<|user|>")];
        wanted.extend(tokens.encode_plain(text).unwrap());
        assert_eq!(
            tokens.encode_chat(&[user(text)]).unwrap(),
            wanted,
            "{text:?}"
        );
    }
}

#[test]
fn text_across_the_seams_of_a_template_is_encoded_in_one_go() {
    let dir = with_template("{% for m in messages %}the capital of{{ m.content }} is{% endfor %}");
    let tokens = tokens(dir.path()).unwrap();
    let want = tokens.encode_plain("the capital of Peru is").unwrap();
    assert_eq!(tokens.encode_chat(&[user(" Peru")]).unwrap(), want);
}

#[test]
fn python_methods_and_refusals_of_templates_work() {
    let dir = with_template(
        "{% for m in messages %}{% if m.role.startswith('ass') %}\
         {{ raise_exception('no answers, please') }}{% endif %}{{ m.content }}{% endfor %}",
    );
    let tokens = tokens(dir.path()).unwrap();
    tokens.encode_chat(&[user("Lima")]).unwrap();
    match tokens.encode_chat(&[user("Lima"), assistant("Yes.")]) {
        Err(TokensError::Template(reason)) => assert!(reason.contains("no answers, please")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_template_writes_behind_an_answer_ends_a_turn() {
    let dir = Family::Llama.write(1);
    let template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}";
    let config = json!({ "eos_token": "[RD]", "chat_template": template });
    write_json(dir.path(), "tokenizer_config.json", &config);
    let tokens = tokens(dir.path()).unwrap();
    let end = id(&tokens, "<|end|>");
    assert!(tokens.is_eos(end));
    let chat = [user("Lima"), assistant("Yes."), user("Peru")];
    // It is not written twice.
    let next = tokens.encode_turn(&chat, 1, Some(end)).unwrap();
    assert_eq!(next.first(), Some(&id(&tokens, "<|user|>")));
}

#[test]
fn a_template_that_is_broken_is_refused_when_the_model_is_loaded() {
    let broken = with_template("{{ messages[0].content }}{{ undefined_function() }}");
    let error = tokens(broken.path()).unwrap_err().to_string();
    assert!(error.contains("undefined_function"), "{error}");
    // A fault that only another chat shows is no fault of that chat.
    let later = with_template(
        "{% for m in messages %}{{ m.content if loop.first else m.a.b }}{% endfor %}",
    );
    let chat = [user("Lima"), user("Peru")];
    let error = tokens(later.path())
        .unwrap()
        .encode_chat(&chat)
        .unwrap_err();
    assert!(matches!(error, TokensError::BrokenTemplate(_)), "{error}");
}

#[test]
fn a_conversation_cannot_go_on_from_a_message_that_the_template_leaves_out() {
    let dir = with_template("{{ messages[-1].content }}");
    let tokens = tokens(dir.path()).unwrap();
    let chat = [user("Lima"), assistant("Yes."), user("Peru")];
    assert!(matches!(
        tokens.encode_turn(&chat, 1, None),
        Err(TokensError::MessageLeftOut(1))
    ));
}

#[test]
fn a_conversation_goes_on_from_an_answer_that_is_empty_or_white_space() {
    let dir = Family::Llama.write(1);
    let tokens = tokens(dir.path()).unwrap();
    let turn = |answer: &str| {
        let chat = [user("Lima"), assistant(answer), user("Peru")];
        tokens.encode_turn(&chat, 1, None).unwrap()
    };
    assert_eq!(turn(""), turn("Yes."));
    assert_eq!(turn(" \n"), turn("Yes."));
    assert_eq!(turn("Yes. "), turn("Yes."));
}

#[test]
fn a_template_that_does_not_compile_is_named_when_loading() {
    let dir = with_template("{% for m in messages %}");
    match tokens(dir.path()) {
        Err(LoadError::ChatTemplate { path, .. }) => {
            assert!(path.ends_with("tokenizer_config.json"));
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
    fs::write(dir.path().join("chat_template.jinja"), "{{ 1 + }}").unwrap();
    match tokens(dir.path()) {
        Err(LoadError::ChatTemplate { path, .. }) => {
            assert!(path.ends_with("chat_template.jinja"));
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn a_raw_prompt_template_reads_the_last_question_only() {
    let dir = Family::Llama.write(1);
    write_json(
        dir.path(),
        "onegen.json",
        &json!({
            "query_token": "[RQ]", "passage_token": "[RD]",
            "prompt_template": "Here is [RD] a question: {input}",
        }),
    );
    let tokens = tokens(dir.path()).unwrap();
    let prompt = |question: &str| {
        let mut ids = tokens.encode_plain("Here is ").unwrap();
        ids.push(tokens.passage_id());
        ids.extend(
            tokens
                .encode_plain(&format!(" a question: {question}"))
                .unwrap(),
        );
        ids
    };
    let chat = [user("What is Peru?"), assistant("A country."), user("[RQ]")];
    assert_eq!(
        tokens.encode_chat(&chat[..1]).unwrap(),
        prompt("What is Peru?")
    );
    let end = id(&tokens, "<|end|>");
    assert_eq!(
        tokens.encode_turn(&chat, 1, Some(end)).unwrap(),
        prompt("[RQ]")
    );
    let cut_short = tokens.encode_turn(&chat, 1, None).unwrap();
    assert_eq!(cut_short, [vec![end], prompt("[RQ]")].concat());
    assert!(matches!(
        tokens.encode_chat(&[assistant("A country.")]),
        Err(TokensError::MissingMessage("user"))
    ));
}

#[test]
fn a_missing_template_is_an_error_only_when_messages_come() {
    let dir = Family::Llama.write(1);
    write_json(
        dir.path(),
        "tokenizer_config.json",
        &json!({ "eos_token": "<|end|>" }),
    );
    let tokens = tokens(dir.path()).unwrap();
    assert!(matches!(
        tokens.encode_chat(&[user("Lima")]),
        Err(TokensError::NoChatTemplate)
    ));
}

#[test]
fn a_text_that_cannot_fit_the_context_is_refused_before_it_is_tokenised() {
    let dir = Family::Llama.write(1);
    let tokens = tokens(dir.path()).unwrap();
    let text = "Lima is the capital of Peru. ".repeat(40_000);
    let refused = |ids: Result<Vec<u32>, TokensError>| match ids {
        Err(TokensError::TooLong { needed, available }) => {
            assert_eq!(available, POSITIONS);
            // A lower bound, since a token may stand for many bytes.
            assert!(
                needed > available && needed <= tokens.count(&text),
                "{needed}"
            );
        }
        other => panic!("{:?}", other.map(|ids| ids.len())),
    };
    refused(tokens.encode_text(&text));
    refused(tokens.encode_chat(&[user(&text)]));
    refused(tokens.encode_query(&text));
    refused(tokens.passage_ids("Lima", &text));
    // Each fits, all of them do not.
    let part = "Lima ".repeat(POSITIONS / 2);
    let parts = vec![user(&part); 200];
    refused(tokens.encode_chat(&parts));
    // What may fit is read, and the engine has the last word.
    assert!(tokens.encode_text(&part).is_ok());
}

#[test]
fn a_long_text_has_as_many_tokens_as_its_parts() {
    let dir = Family::Llama.write(1);
    let tokens = tokens(dir.path()).unwrap();
    let text = "Perú — 日本 is 12,345 km away.\n\n  Naïve 🦙 ".repeat(6_000);
    assert!(text.len() > 3 * 64 * 1024);
    assert_eq!(
        tokens.count(&text),
        tokens.encode_plain(&text).unwrap().len()
    );
    // Without any white space it is cut between characters.
    let word = "日".repeat(100_000);
    let whole = tokens.encode_plain(&word).unwrap().len();
    assert!(tokens.count(&word).abs_diff(whole) <= word.len() / (64 * 1024) * 3);
}
