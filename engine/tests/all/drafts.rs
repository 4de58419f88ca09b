//! Drafts from what was read: fewer steps, and the same text.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use crate::common::*;
use onegen_engine::{
    Completion, Constraint, Engine, EngineOptions, ForwardedTokens, Grammar, Model, Request,
    Retriever, SpanKind,
};

/// Requests that write with and without drafts, in many ways. A random model soon repeats itself, so there are drafts,
/// right ones and wrong ones.
fn requests(model: &Arc<Model>, name: &str) -> Vec<Request> {
    let plain = || request(model, name, "Lima is on the coast of Peru, is Lima.", 60);
    let mut sampled = plain();
    sampled.sampling.temperature = 0.7;
    sampled.sampling.seed = Some(7);
    let mut penalised = plain();
    penalised.sampling.repetition_penalty = 1.05;
    let mut with_logprobs = plain();
    with_logprobs.sampling.logprobs = Some(2);
    let mut constrained = plain();
    let text = Constraint::Regex("(Lima, )+Peru[a-z]{30}".to_owned());
    constrained.grammar = Some(Grammar::compile(&text, model.tokens()).unwrap());
    constrained.sampling.max_tokens = Some(200);
    let mut stopped = plain();
    stopped.sampling.stop = vec!["e".to_owned()];
    vec![
        plain(),
        sampled,
        penalised,
        with_logprobs,
        constrained,
        stopped,
        retrieving(model, name, 60, 2),
    ]
}

fn with(model: &Arc<Model>, drafting: bool, steps: usize) -> Vec<(Completion, Vec<u32>, u64)> {
    let mut done = Vec::new();
    for request in requests(model, "a") {
        let options = EngineOptions {
            max_step_tokens: steps,
            ..EngineOptions::default()
        };
        let shelf = Shelf::new(vec![peru()]);
        let engine = onegen_engine::Engine::start(model.clone(), Some(shelf), options).unwrap();
        let request = Request {
            drafting,
            ..request
        };
        let completion = run(&engine, request);
        let steps = engine.counters().stats().steps;
        done.push((completion, log_ids(&engine, "a"), steps));
    }
    done
}

#[test]
fn a_text_with_drafts_is_the_text_without_them() {
    let mut right = 0;
    for (name, model) in models() {
        let without = with(&model, false, 512);
        for step_tokens in [512, 3] {
            let drafted = with(&model, true, step_tokens);
            for (at, (with, without)) in drafted.iter().zip(&without).enumerate() {
                assert_eq!(with.0.text, without.0.text, "{name} {at}");
                assert_eq!(with.1, without.1, "{name} {at}");
                assert_eq!(with.0.logprobs, without.0.logprobs, "{name} {at}");
                let (summary, plain) = (&with.0.summary, &without.0.summary);
                assert_eq!(summary.usage, plain.usage, "{name} {at}");
                assert_eq!(summary.finish_reason, plain.finish_reason);
                assert_eq!(plain.wrong_drafts, 0);
                // The end of a turn may have been forwarded as a draft.
                let written = |forwarded: ForwardedTokens| {
                    forwarded[SpanKind::Generated] + forwarded[SpanKind::Retrieval]
                };
                let forwarded = written(summary.forwarded);
                let needed = written(plain.forwarded) + summary.wrong_drafts as u64;
                assert!(
                    (needed..=needed + 1).contains(&forwarded),
                    "{name} {at}: {forwarded} {needed}"
                );
                if step_tokens == 512 {
                    right += without.2.saturating_sub(with.2);
                }
            }
        }
    }
    assert!(right > 20, "{right} steps were saved");
}

#[test]
fn a_query_that_begins_an_answer_takes_no_step_of_its_own() {
    for (name, model) in models() {
        let prompt = question(&model, "What is the capital of Peru?").len();
        let ask = |drafting: bool, forced: bool, step_tokens: usize| {
            let options = EngineOptions {
                max_step_tokens: step_tokens,
                ..EngineOptions::default()
            };
            let shelf = Shelf::new(vec![peru()]);
            let retriever = Some(shelf.clone() as Arc<dyn Retriever>);
            let engine = Engine::start(model.clone(), retriever, options).unwrap();
            let mut request = retrieving(&model, "a", 2, 1);
            request.drafting = drafting;
            request.retrieval.forced = forced;
            let done = run(&engine, request);
            // The step thread answers when the turn's last step is counted.
            let ids = log_ids(&engine, "a");
            let steps = engine.counters().stats().steps;
            let queries = shelf.queries.lock().unwrap().clone();
            ((done.text, queries, done.summary.forwarded, ids), steps)
        };
        let (wanted, steps) = ask(false, false, 512);
        assert_eq!(wanted.1.len(), 1, "{name}");
        // Where a step ends with the prompt, the query is left for the next.
        for (drafting, forced, step_tokens, saved) in [
            (true, false, 512, 1),
            (false, true, 512, 1),
            (true, true, 512, 1),
            (true, false, prompt, 0),
        ] {
            let (done, taken) = ask(drafting, forced, step_tokens);
            assert_eq!(done, wanted, "{name} {drafting} {forced} {step_tokens}");
            if step_tokens == 512 {
                assert_eq!(taken + saved, steps, "{name} {drafting} {forced}");
            }
        }
    }
}

#[test]
fn a_query_that_is_not_sampled_leaves_nothing_behind() {
    for (name, model) in models() {
        let engine = engine(&model, Some(Shelf::new(vec![peru()])));
        let mut request = request(&model, "a", "Hello.", 4);
        let query = model.tokens().query_id();
        request.sampling.logit_bias.insert(query, -100.0);
        let mut plain = request.clone();
        plain.conversation = "b".into();
        plain.retrieval.enabled = false;
        let (done, plain) = (run(&engine, request), run(&engine, plain));
        assert_eq!(done.text, plain.text, "{name}");
        assert_eq!(log_ids(&engine, "a"), log_ids(&engine, "b"), "{name}");
        assert_eq!(done.summary.usage.completion_tokens, 4, "{name}");
        let retrieval = [done, plain].map(|done| done.summary.forwarded[SpanKind::Retrieval]);
        assert_eq!(retrieval, [1, 0], "{name}");
    }
}

#[test]
fn a_conversation_goes_on_after_drafts_that_were_cut_off() {
    for family in [Family::Llama, Family::Qwen3] {
        let model = family.model();
        let turns = |drafting| {
            let engine = engine(&model, Some(Shelf::new(vec![peru()])));
            let first = Request {
                drafting,
                ..retrieving(&model, "a", 40, 1)
            };
            let first = run(&engine, first);
            let next = Request {
                drafting,
                ..next_turn(&engine, "a", "And its coast?")
            };
            let second = run(&engine, next);
            (first.text, second.text, log_ids(&engine, "a"))
        };
        assert_eq!(turns(true), turns(false), "{family:?}");
    }
}
