//! Drafts from what was read: fewer steps, and the same text.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use crate::common::*;
use onegen_engine::{Completion, Constraint, EngineOptions, Grammar, Model, Request, SpanKind};

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
                let forwarded = summary.forwarded[SpanKind::Generated];
                let needed = plain.forwarded[SpanKind::Generated] + summary.wrong_drafts as u64;
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
