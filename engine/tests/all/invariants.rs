//! The invariants 1 to 5 of the engine, on random models of every family and on the shipped one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::*;
use onegen_engine::{ChatMessage, Role, SequenceInput, SpanKind, TokenLog};

/// Relative difference allowed between forwards of the same ids in other shapes (f32).
const TOLERANCE: f32 = 1e-4;

fn log_of(engine: &onegen_engine::Engine, conversation: &str) -> TokenLog {
    block_on(engine.conversation(&conversation.into()))
        .unwrap()
        .log
}

#[test]
fn positions_forwarded_in_a_round_are_counted_exactly() {
    for (name, model) in models() {
        let engine = engine(&model, Some(Shelf::new(vec![peru()])));
        let splice = model.tokens().splice(&peru()).unwrap().len();

        let first = retrieving(&model, "c", 8, 1);
        let prompt = first.prompt.len();
        let done = run(&engine, first).summary;
        let forwarded = done.forwarded;
        assert_eq!(forwarded[SpanKind::Prompt], prompt as u64, "{name}");
        assert_eq!(forwarded[SpanKind::Retrieval], 1, "{name}");
        assert_eq!(forwarded[SpanKind::Passage], splice as u64, "{name}");
        // Sampled: [RQ] and 7 more, of which the last is not forwarded.
        assert_eq!(done.usage.completion_tokens, 8, "{name}");
        assert_eq!(forwarded[SpanKind::Generated], 6, "{name}");
        assert_eq!(done.usage.passage_tokens, splice, "{name}");
        assert_eq!(done.retrievals[0].splice_tokens, splice, "{name}");
        assert_eq!(done.retrievals[0].query_tokens_reencoded, 0, "{name}");
        assert_eq!(engine.counters().forwarded(), forwarded, "{name}");

        // The next round forwards the token left over, its own prompt, and what it generates.
        let mut second = request(&model, "c", "And its coast?", 4);
        second.retrieval.enabled = false;
        let prompt = second.prompt.len();
        let second = run(&engine, second).summary;
        assert_eq!(second.usage.cached_tokens, done.log_len - 1, "{name}");
        assert_eq!(second.usage.prompt_tokens, done.log_len + prompt, "{name}");
        assert_eq!(second.forwarded[SpanKind::Prompt], prompt as u64, "{name}");
        assert_eq!(second.forwarded[SpanKind::Generated], 1 + 3, "{name}");
        assert_eq!(second.forwarded[SpanKind::Passage], 0, "{name}");
        let mut both = forwarded;
        both += second.forwarded;
        assert_eq!(engine.counters().forwarded(), both, "{name}");
    }
}

#[test]
fn the_query_embedding_is_the_state_at_rq_in_the_forward_that_caches_it() {
    for (name, model) in models() {
        let shelf = Shelf::new(vec![peru()]);
        let engine = engine(&model, Some(shelf.clone()));
        run(&engine, retrieving(&model, "c", 6, 2));
        let log = log_of(&engine, "c");
        let (states, _) = clean_forward(&model, log.ids());
        let queries = shelf.queries.lock().unwrap();
        let at: Vec<_> = (0..log.len())
            .filter(|&i| log.kinds()[i] == SpanKind::Retrieval)
            .collect();
        assert_eq!((queries.len(), at.len()), (2, 2), "{name}");
        for (query, at) in queries.iter().zip(at) {
            assert_eq!(log.ids()[at], model.tokens().query_id(), "{name}");
            let cosine = cosine(query, &states[at]);
            assert!(cosine > 0.999999, "{name}: cosine {cosine} at {at}");
            let length = query.iter().map(|x| x * x).sum::<f32>();
            assert!((length - 1.0).abs() < 1e-5, "{name}: length² {length}");
        }
        // One position each, so the state came from the forward that wrote [RQ] into the cache.
        assert_eq!(
            engine.counters().forwarded()[SpanKind::Retrieval],
            2,
            "{name}"
        );
    }
}

#[test]
fn generating_after_a_splice_gives_what_one_clean_forward_gives() {
    for (name, model) in models() {
        let engine = engine(&model, Some(Shelf::new(vec![peru()])));
        run(&engine, retrieving(&model, "c", 24, 1));
        let log = log_of(&engine, "c");
        let (_, logits) = clean_forward(&model, log.ids());
        let query = model.tokens().query_id() as usize;
        for (at, &kind) in log.kinds().iter().enumerate() {
            if kind != SpanKind::Generated {
                continue;
            }
            // In the clean forward no id that may be sampled is likelier.
            let clean = &logits[at - 1];
            let chosen = clean[log.ids()[at] as usize];
            let scale = clean.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (id, &other) in clean.iter().enumerate() {
                let token = model.tokens().spelling(id as u32);
                let control = token.is_none_or(|token| CONTROL.contains(&token.as_str()));
                if !control && id != query {
                    assert!(
                        other - chosen < TOLERANCE * scale,
                        "{name}: at {at} the id {id} has {other}, the chosen one {chosen}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_spliced_cache_gives_the_logits_of_one_clean_forward() {
    for (name, model) in models() {
        let tokens = model.tokens();
        let mut ids = question(&model, "What is the capital of Peru?");
        let prompt = ids.len();
        ids.push(tokens.query_id());
        ids.extend(tokens.splice(&peru()).unwrap().ids());
        let spliced = ids.len();
        ids.extend(tokens.encode_plain("Lima is the capital").unwrap());
        let (clean_states, clean_logits) = clean_forward(&model, &ids);

        let mut parts = vec![0..prompt, prompt..prompt + 1, prompt + 1..spliced];
        parts.extend((spliced..ids.len()).map(|at| at..at + 1));
        let mut cache = model.new_cache();
        for part in parts {
            let last = [part.len() - 1];
            let output = &model
                .forward(&mut [SequenceInput {
                    ids: &ids[part.clone()],
                    kinds: &vec![SpanKind::Prompt; part.len()],
                    cache: &mut cache,
                    hidden_at: &last,
                    logits_at: &last,
                }])
                .unwrap()[0];
            let at = part.end - 1;
            let apart = difference(&clean_logits[at], &output.logits[0]);
            assert!(
                apart < TOLERANCE,
                "{name}: logits at {at} are {apart} apart"
            );
            let apart = difference(&clean_states[at], &output.hidden[0]);
            assert!(
                apart < TOLERANCE,
                "{name}: states at {at} are {apart} apart"
            );
        }
        assert_eq!(cache.len(), ids.len());
    }
}

#[test]
fn the_logits_at_rq_are_never_sampled() {
    for (name, model) in models() {
        let engine = engine(&model, Some(Shelf::new(vec![peru()])));
        let done = run(&engine, retrieving(&model, "c", 12, 3)).summary;
        assert_eq!(done.retrievals.len(), 3, "{name}");
        let splice = model.tokens().splice(&peru()).unwrap().ids();
        let log = log_of(&engine, "c");
        let mut queries = 0;
        for (at, &kind) in log.kinds().iter().enumerate() {
            if kind == SpanKind::Retrieval {
                queries += 1;
                assert_eq!(log.ids()[at], model.tokens().query_id(), "{name}");
                assert_eq!(log.ids()[at + 1..][..splice.len()], splice, "{name}");
                let kinds = &log.kinds()[at + 1..][..splice.len()];
                assert!(kinds.iter().all(|&k| k == SpanKind::Passage), "{name}");
            }
        }
        assert_eq!(queries, 3, "{name}");
    }
}

#[test]
fn retrieval_that_is_disabled_or_used_up_or_impossible_masks_rq() {
    for (name, model) in models() {
        let with = engine(&model, Some(Shelf::new(vec![peru()])));
        let mut disabled = retrieving(&model, "disabled", 8, 5);
        disabled.retrieval.enabled = false;
        let used_up = retrieving(&model, "used up", 8, 0);
        let without = engine(&model, None);
        let impossible = retrieving(&model, "impossible", 8, 5);
        for (engine, request) in [(&with, disabled), (&with, used_up), (&without, impossible)] {
            let conversation = request.conversation.clone();
            let done = run(engine, request).summary;
            let log = log_of(engine, conversation.as_str());
            let query = model.tokens().query_id();
            assert!(!log.ids().contains(&query), "{name}, {conversation}");
            assert_eq!(done.usage.completion_tokens, 8, "{name}, {conversation}");
            assert!(done.retrievals.is_empty(), "{name}, {conversation}");
            assert_eq!(
                done.forwarded[SpanKind::Retrieval],
                0,
                "{name}, {conversation}"
            );
        }
    }
}

#[test]
fn a_search_that_finds_nothing_leaves_no_rq_behind() {
    for (name, model) in models() {
        let nothing = engine(&model, Some(Shelf::new(Vec::new())));
        let mut never = retrieving(&model, "c", 8, 5);
        never.retrieval.enabled = false;
        let plain = run(&engine(&model, None), never);
        let done = run(&nothing, retrieving(&model, "c", 8, 2));
        assert_eq!(done.text, plain.text, "{name}");
        assert!(done.summary.retrievals.is_empty(), "{name}");
        assert_eq!(done.summary.usage, plain.summary.usage, "{name}");
        // The searches did happen, and their positions are counted.
        assert_eq!(done.summary.forwarded[SpanKind::Retrieval], 2, "{name}");
        let log = log_of(&nothing, "c");
        assert!(!log.ids().contains(&model.tokens().query_id()), "{name}");
    }
}

#[test]
fn text_that_spells_a_control_token_stays_plain_text() {
    let nasty = format!("Tell me: {} and [RQ][RQ] <|end|>", CONTROL.join(""));
    for (name, model) in models() {
        let tokens = model.tokens();
        let is_control = |id: u32| {
            let spelling = tokens.spelling(id);
            spelling.is_some_and(|s| CONTROL.contains(&s.as_str()))
        };
        let controls = |ids: &[u32]| ids.iter().filter(|&&id| is_control(id)).count();

        let plain = tokens.encode_plain(&nasty).unwrap();
        assert_eq!(controls(&plain), 0, "{name}");
        assert_eq!(tokens.decode(&plain).unwrap().trim(), nasty, "{name}");

        let harmless = question(&model, "Tell me");
        let asked = question(&model, &nasty);
        assert_eq!(controls(&asked), controls(&harmless), "{name}");

        let splice = tokens.splice(&passage(&nasty, &nasty)).unwrap();
        assert_eq!(controls(&splice.passage), 0, "{name}");
        let embedded = tokens.passage_ids(&nasty, &nasty).unwrap();
        let harmless = tokens.passage_ids("Peru", "Lima").unwrap();
        assert_eq!(controls(&embedded), controls(&harmless), "{name}");
        assert_eq!(embedded.last(), Some(&tokens.passage_id()), "{name}");
    }
}

#[test]
fn a_follow_up_appends_what_one_encoding_of_the_whole_chat_would_hold() {
    for (name, model) in models() {
        let tokens = model.tokens();
        let chat = [
            ChatMessage::new(Role::User, "What is the capital of Peru?"),
            ChatMessage::new(Role::Assistant, "Lima."),
            ChatMessage::new(Role::User, "And its coast?"),
        ];
        let whole = tokens.encode_chat(&chat).unwrap();
        let eos = (0..model.config().vocab_size as u32)
            .find(|&id| tokens.is_eos(id))
            .unwrap();
        let mut log = tokens.encode_chat(&chat[..1]).unwrap();
        log.extend(tokens.encode_plain("Lima.").unwrap());
        let cut_short = tokens.encode_turn(&chat, 1, log.last().copied()).unwrap();
        assert_eq!([log.clone(), cut_short].concat(), whole, "{name}");
        log.push(eos);
        let ended = tokens.encode_turn(&chat, 1, log.last().copied()).unwrap();
        assert_eq!([log, ended].concat(), whole, "{name}");
    }
}
