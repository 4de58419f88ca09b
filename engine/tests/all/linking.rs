//! Linking: a text is copied, its mentions come with exact offsets and the states at their `[LK]`s.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use crate::common::linking::*;
use crate::common::{
    FAMILIES, Family, block_on, clean_forward, difference, engine, load, request, write_json,
};
use onegen_engine::{
    Engine, EngineError, EngineOptions, Event, FinishReason, Kernels, LinkRequest, LoadOptions,
    Mention, Model, SpanKind, SubmitError, TokensError, Turn, TurnSummary,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const TEXTS: [&str; 4] = [
    "Lima is the capital of Peru, a country on the coast.",
    "  Peru's na\u{ef}ve \u{1f999} llamas:\n\n\tIs it Lima?  \u{3000}",
    "a",
    "the team is in peru \u{2014} the sea is in lima",
];

fn submit(engine: &Engine, name: &str, text: &str) -> Turn {
    let request = LinkRequest::new(name, text, engine.model().tokens()).unwrap();
    block_on(engine.submit(request)).unwrap()
}

fn end(mut turn: Turn) -> Result<(Vec<Mention>, TurnSummary), EngineError> {
    let mut mentions = Vec::new();
    loop {
        match block_on(turn.next()).unwrap() {
            Event::Mention(mention) => mentions.push(mention),
            Event::Finished(summary) => return Ok((mentions, summary)),
            Event::Failed(error) => return Err(error),
            other => panic!("{other:?}"),
        }
    }
}

fn link(engine: &Engine, text: &str) -> (Vec<Mention>, TurnSummary) {
    end(submit(engine, "link", text)).unwrap()
}

fn unit(mut state: Vec<f32>) -> Vec<f32> {
    let length = state.iter().map(|x| x * x).sum::<f32>().sqrt();
    state.iter_mut().for_each(|x| *x /= length);
    state
}

fn expected(model: &Model, text: &str) -> Vec<Mention> {
    let of_each = link_simply(model, text).into_iter();
    of_each
        .map(|(start, end, state)| Mention {
            start,
            end,
            embedding: unit(state),
        })
        .collect()
}

/// The results are equal bit for bit: nothing depends on how positions are grouped into forwards.
#[test]
fn mentions_and_their_states_are_those_of_a_token_by_token_decoder_over_the_whole_vocabulary() {
    let mut found = 0;
    for family in FAMILIES {
        for spelling in [
            Spelling::ByteLevel,
            Spelling::SentencePiece,
            Spelling::TextMarks,
        ] {
            let model = linking_model(family, spelling);
            let engine = engine(&model, None);
            for text in TEXTS {
                let expected = expected(&model, text);
                found += expected.len();
                let (mentions, summary) = link(&engine, text);
                assert_eq!(mentions, expected, "{family:?}, {spelling:?}, {text:?}");
                assert_eq!(summary.finish_reason, FinishReason::Stop);
                assert_eq!(summary.linked_bytes, text.trim_end().len());
            }
        }
    }
    assert!(found > 100, "only {found} mentions");
}

#[test]
fn any_schedule_and_little_memory_give_the_same_mentions_and_leave_nothing_behind() {
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(seed);
        let family = *FAMILIES.choose(&mut rng).unwrap();
        let spelling = *SPELLINGS[..3].choose(&mut rng).unwrap();
        let model = linking_model(family, spelling);
        let block = model.new_cache().bytes_for(1);
        let options = EngineOptions {
            max_step_tokens: rng.random_range(1..40),
            max_sequences: rng.random_range(1..5),
            kv_bytes: block * rng.random_range(3..7),
            ..EngineOptions::default()
        };
        let engine = Engine::start(model.clone(), None, options).unwrap();
        let turns: Vec<_> = (0..6)
            .map(|number| {
                let text = *TEXTS.choose(&mut rng).unwrap();
                let turn = submit(&engine, &format!("link-{number}"), text);
                (text, turn, rng.random_bool(0.3))
            })
            .collect();
        for (text, mut turn, leaves) in turns {
            if leaves {
                let _ = block_on(turn.next());
                continue;
            }
            let (mentions, summary) = end(turn).unwrap();
            assert_eq!(mentions, expected(&model, text), "seed {seed}: {text:?}");
            assert_eq!(summary.linked_bytes, text.trim_end().len(), "seed {seed}");
        }
        let stats = when_idle(&engine);
        assert_eq!((stats.conversations, stats.kv_bytes), (0, 0), "seed {seed}");
    }
}

/// What the engine publishes once nothing is running.
fn when_idle(engine: &Engine) -> onegen_engine::EngineStats {
    for _ in 0..5000 {
        let stats = engine.counters().stats();
        if stats.running + stats.waiting + stats.conversations == 0 {
            return stats;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("{:?}", engine.counters().stats());
}

#[test]
fn positions_are_counted_by_kind_and_a_mention_costs_no_forward_of_its_own() {
    let model = linking_model(Family::Qwen2, Spelling::ByteLevel);
    let engine = engine(&model, None);
    let (mentions, summary) = link(&engine, TEXTS[0]);
    assert!(!mentions.is_empty());
    let forwarded = summary.forwarded;
    assert_eq!(forwarded[SpanKind::Retrieval], mentions.len() as u64);
    assert_eq!(
        forwarded[SpanKind::Prompt],
        summary.usage.prompt_tokens as u64
    );
    assert_eq!(forwarded[SpanKind::Passage], 0);
    assert_eq!(engine.counters().forwarded(), forwarded);
    // Every token of the copy but the last one, and what was taken back.
    let written = summary.usage.completion_tokens - mentions.len();
    assert!(forwarded[SpanKind::Generated] + 1 >= written as u64);
}

/// A model that opens no mention needs far fewer steps than the text has tokens.
#[test]
fn text_that_is_likely_is_forwarded_several_tokens_at_a_time() {
    let dir = write_linking(Family::Llama, Spelling::ByteLevel, 7);
    let model = load(dir.path());
    let text = "the capital of Peru is the capital of ".repeat(6);
    let engine = engine(&model, None);
    let (_, summary) = link(&engine, &text);
    let steps = engine.counters().stats().steps as usize;
    assert!(
        steps < summary.usage.completion_tokens,
        "{steps} steps, {:?}",
        summary.usage
    );
}

#[test]
fn a_full_context_ends_the_turn_where_the_rest_can_be_linked_from() {
    for spelling in [Spelling::ByteLevel, Spelling::TextMarks] {
        let model = linking_model(Family::Mistral, spelling);
        let engine = engine(&model, None);
        let sentence = "Peru is the capital of Lima, a coast. ";
        let sentences = POSITIONS * 2 / 3 / model.tokens().count(sentence);
        let text = sentence.repeat(sentences);
        let (mentions, summary) = link(&engine, &text);
        assert_eq!(summary.finish_reason, FinishReason::Length, "{spelling:?}");
        assert!(summary.usage.prompt_tokens + summary.usage.completion_tokens <= POSITIONS);
        let linked = summary.linked_bytes;
        assert!(linked > 0 && linked < text.len() && text.is_char_boundary(linked));
        assert!(mentions.iter().all(|mention| mention.end <= linked));
    }
}

#[test]
fn a_text_of_white_space_holds_no_mention() {
    let model = linking_model(Family::Llama, Spelling::SentencePiece);
    let engine = engine(&model, None);
    for text in ["", " ", "\n\t \u{3000}"] {
        let (mentions, summary) = link(&engine, text);
        assert!(mentions.is_empty());
        assert_eq!(summary.finish_reason, FinishReason::Stop);
        assert_eq!(summary.usage.completion_tokens, 0);
    }
}

#[test]
fn a_linking_model_refuses_to_answer_and_another_one_to_link() {
    let model = linking_model(Family::Qwen3, Spelling::ByteLevel);
    let engine = engine(&model, None);
    let chat = request(&model, "chat", "What is the capital of Peru?", 4);
    let refused = block_on(engine.submit(chat)).unwrap_err();
    assert!(matches!(refused, SubmitError::OnlyLinks), "{refused}");
    let chats = Family::Qwen3.model();
    let refused = LinkRequest::new("link", "Peru", chats.tokens()).unwrap_err();
    assert!(
        matches!(&refused, TokensError::NoLinking { lacking } if lacking.len() == 3),
        "{refused}"
    );
}

#[test]
fn a_directory_whose_tokenizer_lacks_a_token_of_linking_is_refused_by_its_name() {
    for (field, token) in [("query_token", "[LINK]"), ("passage_token", "[ENTITY]")] {
        let dir = write_linking(Family::Llama, Spelling::ByteLevel, 7);
        write_json(
            dir.path(),
            "onegen.json",
            &serde_json::json!({
                "query_token": "[LK]", "passage_token": "[SE]", field: token, "linking": {},
            }),
        );
        let refused = Model::load(dir.path(), &LoadOptions::default())
            .unwrap_err()
            .to_string();
        assert!(refused.contains(token), "{refused}");
    }
    for (field, token) in [
        ("continue_token", "[GO_ON]"),
        ("mention_open", ""),
        ("mention_close", ""),
    ] {
        let dir = write_linking(Family::Llama, Spelling::ByteLevel, 7);
        write_json(
            dir.path(),
            "onegen.json",
            &serde_json::json!({
                "query_token": "[LK]", "passage_token": "[SE]", "linking": { field: token },
            }),
        );
        let refused = Model::load(dir.path(), &LoadOptions::default())
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains(token) && refused.contains("onegen.json"),
            "{refused}"
        );
    }
    // Its tokenizer has small letters only, so a mark that is text could not be written.
    let dir = write_linking(Family::Llama, Spelling::Letters, 7);
    let linking = serde_json::json!({
        "query_token": "[LK]", "passage_token": "[SE]", "linking": { "mention_open": "lima:" },
    });
    write_json(dir.path(), "onegen.json", &linking);
    let refused = Model::load(dir.path(), &LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("\":\""), "{refused}");
}

#[test]
fn a_published_checkpoint_links_without_a_file_that_says_so() {
    let dir = write_linking(Family::Llama, Spelling::TextMarks, 7);
    std::fs::remove_file(dir.path().join("onegen.json")).unwrap();
    let model = load(dir.path());
    assert!(model.tokens().links_entities());
    let (mentions, summary) = link(&engine(&model, None), "peru");
    assert!(
        summary.usage.prompt_tokens > 100,
        "the published prompt is long"
    );
    assert_eq!(mentions, expected(&model, "peru"));
    // Its instruction names [SE], too: as the token that it was in training.
    let entity = model.tokens().passage_ids("Peru", "A country.").unwrap();
    let markers = entity
        .iter()
        .filter(|id| **id == model.tokens().passage_id());
    assert_eq!(markers.count(), 2);
}

/// The last bits of this decoder's sums depend on the batch.
#[test]
fn the_reference_kernels_link_alike() {
    let dir = write_linking(Family::Qwen2, Spelling::ByteLevel, 7);
    let options = LoadOptions {
        kernels: Kernels::Candle,
        ..LoadOptions::default()
    };
    let model = Arc::new(Model::load(dir.path(), &options).unwrap());
    let (mentions, _) = link(&engine(&model, None), TEXTS[0]);
    let expected = expected(&model, TEXTS[0]);
    assert_eq!(mentions.len(), expected.len());
    for (mention, expected) in mentions.iter().zip(&expected) {
        assert_eq!((mention.start, mention.end), (expected.start, expected.end));
        assert!(difference(&mention.embedding, &expected.embedding) < 1e-3);
    }
}

#[test]
fn a_question_on_its_own_is_a_mention_of_itself() {
    for spelling in [Spelling::ByteLevel, Spelling::TextMarks] {
        let model = linking_model(Family::Llama, spelling);
        let tokens = model.tokens();
        let ids = tokens.encode_query("peru").unwrap();
        let spelt: String = ids.iter().filter_map(|id| tokens.spelling(*id)).collect();
        assert!(spelt.ends_with("<MENTION>peru</MENTION>[LK]"), "{spelt}");
        assert_eq!(tokens.query_id(), *ids.last().unwrap());
        let (states, _) = clean_forward(&model, &ids);
        assert_eq!(
            model.embed_query("peru").unwrap(),
            unit(states.last().unwrap().clone())
        );
    }
}

fn models_of_each_spelling() -> Vec<(Spelling, Arc<Model>, Engine)> {
    let each = SPELLINGS.into_iter().map(|spelling| {
        let model = linking_model(Family::Qwen2, spelling);
        let engine = engine(&model, None);
        (spelling, model, engine)
    });
    each.collect()
}

/// This holds for every text, also for one that contains spellings of marks.
#[test]
fn every_text_is_copied_and_every_mention_is_a_piece_of_it_between_characters() {
    let models = models_of_each_spelling();
    let nasty = "(<MENTION>|</MENTION>|\\[LK\\]|\\[_CONTINUE_\\]|<|</|<\\|end\\|>|[a-z]{1,4}| |\u{3000}|\\PC){0,24}";
    let texts = prop_oneof![
        nasty.prop_map(|text: String| text),
        "(?s).{0,40}".prop_map(|text: String| text)
    ];
    let config = ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(text in texts)| {
        for (spelling, _, engine) in &models {
            let (mentions, summary) = link(engine, &text);
            let full = summary.finish_reason == FinishReason::Length;
            prop_assert!(full || summary.linked_bytes == text.trim_end().len(), "{:?}: {:?}", spelling, summary);
            prop_assert_eq!(summary.forwarded[SpanKind::Retrieval], mentions.len() as u64);
            let mut last = 0;
            for mention in &mentions {
                prop_assert!(last <= mention.start && mention.start < mention.end, "{:?}: {:?}", spelling, mention);
                let piece = text.get(mention.start..mention.end);
                prop_assert!(piece.is_some_and(|piece| piece.trim() == piece), "{:?}: {:?}", spelling, mention);
                last = mention.end;
            }
            prop_assert!(last <= text.len());
        }
    });
}
