//! How likely the tokens of an answer were.
#![allow(clippy::unwrap_used)]

use crate::common::*;
use onegen_engine::{Event, Model, SubmitError, TokenLogprob};

/// What a text without leading white space is made of.
fn text_of(logprobs: &[TokenLogprob]) -> String {
    let bytes = logprobs
        .iter()
        .flat_map(|token| token.sampled.bytes.clone().unwrap());
    let text = String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned();
    text.trim_start().to_owned()
}

/// The text of tokens up to the end of an answer, which is cut off before half a character.
fn answer_of(tokens: &[TokenLogprob]) -> String {
    let text = text_of(tokens);
    text.trim_end_matches(char::REPLACEMENT_CHARACTER)
        .to_owned()
}

fn close(a: f32, b: f32) -> bool {
    (a - b).abs() < 1e-4
}

/// The log-softmax of one position.
fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|l| (l - highest).exp()).sum();
    logits.iter().map(|l| l - highest - sum.ln()).collect()
}

/// A lively request, so that what is sampled is seldom the likeliest.
fn lively(model: &Model, conversation: &str, seed: u64) -> onegen_engine::Request {
    let mut request = request(model, conversation, "What is the capital of Peru?", 40);
    let query = model.tokens().query_id();
    request.sampling.logit_bias.insert(query, -100.0);
    request.sampling.temperature = 1.5;
    request.sampling.seed = Some(seed);
    request.sampling.logprobs = Some(3);
    request
}

#[test]
fn logprobs_are_those_of_one_clean_forward_before_temperature_and_bias() {
    for (name, model) in models() {
        let engine = engine(&model, None);
        let request = lively(&model, "c", 1);
        let start = request.prompt.len();
        let done = run(&engine, request);
        let ids = log_ids(&engine, "c");
        let (_, logits) = clean_forward(&model, &ids);
        assert_eq!(done.logprobs.len(), ids.len() - start, "{name}");
        for (at, token) in done.logprobs.iter().enumerate() {
            let clean = log_softmax(&logits[start + at - 1]);
            assert_eq!(token.sampled.id, ids[start + at], "{name}");
            let of = |id: u32| clean[id as usize];
            assert!(close(token.sampled.logprob, of(token.sampled.id)), "{name}");
            assert_eq!(token.top.len(), 3);
            assert!(token.top.iter().all(|t| close(t.logprob, of(t.id))));
            // Nothing else is likelier than the third.
            let likelier = clean.iter().filter(|&&l| l > token.top[2].logprob + 1e-4);
            assert!(likelier.count() <= 2, "{name}");
        }
    }
}

#[test]
fn bytes_of_the_tokens_are_the_text_in_every_event() {
    for (name, model) in models() {
        let engine = engine(&model, None);
        for seed in 0..5 {
            let mut turn = block_on(engine.submit(lively(&model, "c", seed))).unwrap();
            let (mut whole, mut all, mut ended) = (String::new(), Vec::new(), false);
            while let Some(event) = block_on(turn.next()) {
                if let Event::Text(more) = event {
                    assert!(!ended && !more.logprobs.is_empty(), "{name}");
                    // Only tokens that make no whole character at the end have no text.
                    ended = more.text.is_empty();
                    whole.push_str(&more.text);
                    all.extend(more.logprobs);
                    assert_eq!(answer_of(&all), whole, "{name}");
                }
            }
            assert!(!whole.is_empty(), "{name}");
        }
    }
}

#[test]
fn a_stop_string_takes_its_tokens_along_and_cuts_the_one_it_begins_in() {
    for (name, model) in models() {
        let engine = engine(&model, None);
        let whole = run(&engine, lively(&model, "whole", 2));
        let chars: Vec<char> = whole.text.chars().collect();
        for at in 1..chars.len().saturating_sub(3) {
            let stop: String = chars[at..at + 3].iter().collect();
            if stop.contains(char::REPLACEMENT_CHARACTER) {
                continue;
            }
            let mut request = lively(&model, &format!("stop {at}"), 2);
            request.sampling.stop = vec![stop.clone()];
            let stopped = run(&engine, request);
            let before = whole.text.find(&stop).unwrap();
            assert_eq!(stopped.text, whole.text[..before], "{name}");
            assert_eq!(text_of(&stopped.logprobs), stopped.text, "{name} {stop:?}");
        }
    }
}

#[test]
fn the_query_token_has_no_logprob_but_may_be_among_the_likeliest() {
    let model = Family::Qwen3.model();
    let engine = engine(&model, Some(Shelf::new(vec![peru()])));
    let mut request = retrieving(&model, "c", 12, 2);
    request.sampling.logprobs = Some(20);
    let done = run(&engine, request);
    assert_eq!(done.summary.retrievals.len(), 2);
    assert_eq!(answer_of(&done.logprobs), done.text);
    assert_eq!(
        done.logprobs.len(),
        done.summary.usage.completion_tokens - 2
    );
    let tops = done.logprobs.iter().flat_map(|token| &token.top);
    for control in tops.filter(|token| token.bytes.is_none()) {
        assert!(CONTROL.contains(&control.text.as_str()) || control.text.is_empty());
    }
}

#[test]
fn logprobs_come_only_when_asked_for_and_twenty_at_most() {
    let model = Family::Qwen3.model();
    let engine = engine(&model, None);
    assert_eq!(run(&engine, request(&model, "c", "Lima", 4)).logprobs, []);
    let mut greedy = request(&model, "c", "Lima", 4);
    greedy.sampling.logprobs = Some(0);
    let done = run(&engine, greedy.clone());
    assert!(done.logprobs.iter().all(|token| token.top.is_empty()));
    assert!(!done.logprobs.is_empty());
    greedy.sampling.logprobs = Some(21);
    let refused = block_on(engine.submit(greedy)).unwrap_err();
    assert!(matches!(
        refused,
        SubmitError::OutOfRange {
            field: "top_logprobs",
            ..
        }
    ));
}
