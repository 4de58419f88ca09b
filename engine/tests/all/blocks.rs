//! Block attention: what is computed for a passage has the same bits in every conversation, wherever it
//! lands.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;

use crate::common::*;
use onegen_engine::{
    EngineOptions, ForwardError, Kernels, KvCache, LoadError, LoadOptions, Model, Request,
    SequenceInput, SpanKind, StoreOptions, SubmitError,
};
use serde_json::json;

/// Passages of a few tokens, of most of a block of a KV-cache and of more than one.
fn texts() -> Vec<String> {
    [1, 6, 20]
        .map(|n| "Lima is on the coast of Peru. ".repeat(n))
        .into()
}

fn candle_model(family: Family) -> Arc<Model> {
    let dir = family.write(7);
    set_block_attention(dir.path());
    let options = LoadOptions {
        kernels: Kernels::Candle,
        ..LoadOptions::default()
    };
    Arc::new(Model::load(dir.path(), &options).unwrap())
}

fn block(model: &Model, text: &str) -> Vec<u32> {
    model.tokens().passage_ids("Peru", text).unwrap()
}

/// A question, `[RQ]`, a passage block and its closing marker, and a few words.
fn conversation(model: &Model, before: &str, text: &str) -> Vec<u32> {
    let tokens = model.tokens();
    let mut ids = question(model, before);
    ids.push(tokens.query_id());
    ids.extend(tokens.splice(&passage("Peru", text)).unwrap().ids());
    ids.extend(tokens.encode_plain("Lima is the capital").unwrap());
    ids
}

fn forward(model: &Model, cache: &mut KvCache, ids: &[u32]) -> Vec<Vec<f32>> {
    let all: Vec<usize> = (0..ids.len()).collect();
    let input = SequenceInput {
        ids,
        kinds: &vec![SpanKind::Prompt; ids.len()],
        cache,
        hidden_at: &[],
        logits_at: &all,
    };
    model.forward(&mut [input]).unwrap().remove(0).logits
}

fn normalised(state: &[f32]) -> Vec<f32> {
    let length = state.iter().map(|x| x * x).sum::<f32>().sqrt();
    state.iter().map(|x| x / length).collect()
}

#[test]
fn the_state_at_rd_in_a_conversation_is_the_passage_embedding() {
    for family in FAMILIES {
        let (own, candle) = (family.block_model(), candle_model(family));
        for text in texts() {
            let ids = [block(&own, &text)];
            for (model, is_exact) in [(&own, true), (&candle, false)] {
                let embedding = model.embed_passages(&ids).unwrap().remove(0);
                for before in ["", "What is the capital of Peru, a country on the coast?"] {
                    let whole = conversation(model, before, &text);
                    let rd = model.tokens().passage_id();
                    let at = whole.iter().position(|id| *id == rd).unwrap();
                    let state = normalised(&clean_forward(model, &whole).0[at]);
                    let what = format!("{family:?} behind {before:?}");
                    assert!(difference(&state, &embedding) < 1e-5, "{what}");
                    assert!(!is_exact || state == embedding, "{what}");
                }
            }
        }
        // In a model without blocks the result depends on the text before the passage.
        let full = family.model();
        let text = &texts()[0];
        let states = ["", "What is it?"].map(|before| {
            let ids = conversation(&full, before, text);
            let close = *full
                .tokens()
                .splice(&passage("Peru", text))
                .unwrap()
                .ids()
                .last()
                .unwrap();
            let at = ids.iter().position(|id| *id == close).unwrap() - 1;
            clean_forward(&full, &ids).0.swap_remove(at)
        });
        assert!(difference(&states[0], &states[1]) > 1e-3, "{family:?}");
    }
}

#[test]
fn a_passage_that_was_kept_is_spliced_as_if_it_were_computed() {
    for family in FAMILIES {
        for (model, is_exact) in [(family.block_model(), true), (candle_model(family), false)] {
            for text in texts() {
                let ids = conversation(&model, "What is the capital?", &text);
                let passage = block(&model, &text);
                let start = ids
                    .windows(passage.len())
                    .position(|part| part == passage)
                    .unwrap();
                let end = start + passage.len();
                // The passage was computed together with another one.
                let kept = model
                    .passage_kv(&[block(&model, "A city."), passage])
                    .unwrap();
                let computed = clean_forward(&model, &ids).1;

                let mut cache = model.new_cache();
                forward(&model, &mut cache, &ids[..start]);
                model.splice(&mut cache, &kept[1]).unwrap();
                assert_eq!((cache.len(), kept[1].len()), (end, end - start));
                let spliced = forward(&model, &mut cache, &ids[end..]);
                assert!(
                    computed[end..]
                        .iter()
                        .zip(&spliced)
                        .all(|(a, b)| difference(a, b) < 1e-5),
                    "{family:?}"
                );
                assert!(!is_exact || computed[end..] == spliced, "{family:?}");

                // A passage block that a forward returns is the same, too.
                let mut other = model.new_cache();
                let kinds = vec![SpanKind::Prompt; ids.len()];
                let input = SequenceInput {
                    ids: &ids,
                    kinds: &kinds,
                    cache: &mut other,
                    hidden_at: &[],
                    logits_at: &[],
                };
                let handed_out = model.forward(&mut [input]).unwrap().remove(0).passages;
                assert_eq!(handed_out.len(), 1);
                let handed_out = handed_out[0].to_kv().unwrap();
                let mut again = model.new_cache();
                forward(&model, &mut again, &ids[..start]);
                model.splice(&mut again, &handed_out).unwrap();
                if is_exact {
                    assert!(handed_out.embedding() == kept[1].embedding(), "{family:?}");
                    let after = forward(&model, &mut again, &ids[end..]);
                    assert!(after == spliced, "{family:?}");
                }
            }
        }
    }
}

#[test]
fn however_a_text_is_cut_its_passages_give_the_same_bits() {
    for family in FAMILIES {
        let model = family.block_model();
        let mut ids = conversation(&model, "What is the capital?", &texts()[2]);
        ids.extend(conversation(&model, "And its coast?", &texts()[1]));
        let whole = clean_forward(&model, &ids).1;
        for chunk in [1, 3, 50, 200] {
            let mut cache = model.new_cache();
            let parts = ids
                .chunks(chunk)
                .flat_map(|part| forward(&model, &mut cache, part));
            let parts: Vec<_> = parts.collect();
            assert!(parts == whole, "{family:?} by {chunk}");
            assert_eq!(cache.len(), ids.len());
        }
    }
}

#[test]
fn a_cache_that_is_cut_back_within_a_passage_goes_on_from_its_beginning() {
    let model = Family::Qwen3.block_model();
    let ids = conversation(&model, "What is the capital?", &texts()[1]);
    let open = question(&model, "What is the capital?").len() + 1;
    let whole = clean_forward(&model, &ids).1;
    let mut cache = model.new_cache();
    forward(&model, &mut cache, &ids[..open + 9]);
    assert_eq!(cache.len(), open + 9);
    cache.truncate(open + 9);
    assert_eq!(cache.len(), open + 9);
    cache.truncate(open + 5);
    assert_eq!(cache.len(), open);
    assert!(forward(&model, &mut cache, &ids[open..]) == whole[open..]);
}

#[test]
fn passages_that_are_not_whole_are_refused() {
    let model = Family::Llama.block_model();
    let passage = block(&model, "A country.");
    let bad = |ids: &[u32]| {
        let mut cache = model.new_cache();
        forward(&model, &mut cache, &[5, 6]);
        let input = SequenceInput {
            ids,
            kinds: &vec![SpanKind::Prompt; ids.len()],
            cache: &mut cache,
            hidden_at: &[],
            logits_at: &[],
        };
        assert!(matches!(
            model.forward(&mut [input]),
            Err(ForwardError::Input(_))
        ));
        assert_eq!(cache.len(), 2);
    };
    let (open, end) = (passage[0], *passage.last().unwrap());
    bad(&[7, end]);
    bad(&[open, 7, open, 8, end]);
    for ids in [vec![7], vec![open, 7], [passage.clone(), vec![7]].concat()] {
        let error = model.embed_passages(&[ids]).unwrap_err();
        assert!(matches!(error, ForwardError::Input(_)), "{error}");
    }
    let engine = engine(&model, None);
    for prompt in [vec![7, open, 8], vec![7, end, 8]] {
        let refused = block_on(engine.submit(Request::new("c", prompt))).unwrap_err();
        assert!(matches!(refused, SubmitError::PassageBlock(_)), "{refused}");
    }
    assert!(Family::Llama.model().passage_kv(&[passage]).is_err());
}

#[test]
fn a_prompt_that_starts_like_another_shares_no_part_of_a_passage() {
    for family in FAMILIES {
        let model = family.block_model();
        // The passage stands across the end of the first block of the KV-cache.
        let prompt = conversation(&model, &"What is the capital? ".repeat(16), &texts()[1]);
        let asked = |name: &str| {
            let mut request = request(&model, name, "", 12);
            request.prompt = prompt.clone();
            request
        };
        let passage = block(&model, &texts()[1]);
        let start = prompt
            .windows(passage.len())
            .position(|part| part == passage)
            .unwrap();
        assert!(start < 128 && start + passage.len() > 128, "{start}");
        let engine = engine(&model, None);
        let first = run(&engine, asked("a"));
        let second = run(&engine, asked("b"));
        assert_eq!(second.text, first.text, "{family:?}");
        assert_eq!(second.summary.usage.cached_tokens, start, "{family:?}");
    }
}

#[test]
fn a_passage_longer_than_a_step_holds_nobody_up_and_stays_under_the_budget() {
    let model = Family::Mistral.block_model();
    let long = passage("Peru", &texts()[2]);
    let wanted = {
        let engine = engine(&model, Some(Shelf::new(vec![long.clone()])));
        run(&engine, retrieving(&model, "a", 12, 1))
    };
    let options = EngineOptions {
        max_step_tokens: 8,
        // Room for the conversation and, while its passage is not complete, little more.
        kv_bytes: model.new_cache().bytes_for(wanted.summary.log_len)
            + model.new_cache().bytes_for(1),
        ..EngineOptions::default()
    };
    let shelf = Shelf::new(vec![long]);
    let engine = onegen_engine::Engine::start(model.clone(), Some(shelf), options).unwrap();
    let turn = block_on(engine.submit(retrieving(&model, "a", 12, 1))).unwrap();
    let mut beside = block_on(engine.submit(request(&model, "b", "Lima?", 40))).unwrap();
    while block_on(beside.next()).is_some() {
        let stats = engine.counters().stats();
        assert!(stats.kv_bytes <= stats.kv_budget_bytes, "{stats:?}");
    }
    let done = block_on(turn.collect()).unwrap();
    assert_eq!(done.text, wanted.text);
    let splice = wanted.summary.forwarded[SpanKind::Passage];
    assert!(splice > 128 && done.summary.forwarded[SpanKind::Passage] >= splice);
}

#[test]
fn logs_from_before_block_attention_are_left_out() {
    let dir = Family::Llama.write(7);
    let kept = tempfile::tempdir().unwrap();
    let options = EngineOptions {
        store: Some(StoreOptions {
            dir: kept.path().to_owned(),
            kv_bytes: 1 << 30,
        }),
        ..EngineOptions::default()
    };
    let start = |dir: &Path| {
        let shelf = Shelf::new(vec![peru()]);
        onegen_engine::Engine::start(load(dir), Some(shelf), options.clone()).unwrap()
    };
    let engine = start(dir.path());
    let model = engine.model().clone();
    run(&engine, retrieving(&model, "with", 12, 1));
    run(&engine, retrieving(&model, "without", 12, 0));
    drop(engine);
    set_block_attention(dir.path());
    let engine = start(dir.path());
    assert!(block_on(engine.conversation(&"with".into())).is_none());
    // A conversation without a passage can continue, but its KV cache counts as another model's.
    let next = ask_on(&engine, "without", "And its coast?");
    assert_eq!(next.summary.usage.cached_tokens, 0);
}

#[test]
fn what_keeps_a_model_from_block_attention_is_said() {
    for (field, value, said) in [
        ("embed_template", "{text}", "make them equal"),
        ("passage_token", "L", "added to the tokenizer"),
        ("passage_token", "<paragraph>", "three different tokens"),
        ("passage_attention", "blocks", "block"),
    ] {
        let dir = Family::Llama.write(7);
        set_block_attention(dir.path());
        edit_json(dir.path(), "onegen.json", |onegen| {
            onegen[field] = value.into()
        });
        let error = Model::load(dir.path(), &LoadOptions::default()).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(said) && error.contains("onegen.json"),
            "{field}: {error}"
        );
    }
    let dir = Family::Llama.write(7);
    set_block_attention(dir.path());
    edit_json(dir.path(), "onegen.json", |onegen| {
        for template in ["embed_template", "splice_template"] {
            onegen[template] = "{title}[RD]{text}".into();
        }
    });
    let error = Model::load(dir.path(), &LoadOptions::default()).unwrap_err();
    assert!(matches!(error, LoadError::Inconsistent { .. }), "{error}");
    edit_json(dir.path(), "onegen.json", |onegen| {
        onegen["linking"] = json!({})
    });
    assert!(Model::load(dir.path(), &LoadOptions::default()).is_err());
}
