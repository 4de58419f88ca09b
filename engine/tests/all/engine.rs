//! The engine as its callers see it: turns, conversations, limits, and its end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::*;
use onegen_engine::{
    ConversationError, Engine, EngineError, EngineOptions, Event, FinishReason, Passage, Request,
    RetrieveError, Retriever, StartError, SubmitError, Turn,
};

/// Holds every search until it is let through.
struct Gate {
    asked: Mutex<Sender<()>>,
    answers: Mutex<Receiver<Result<Vec<Passage>, RetrieveError>>>,
}

type Answer = Result<Vec<Passage>, RetrieveError>;

impl Gate {
    fn new() -> (Arc<Self>, Receiver<()>, Sender<Answer>) {
        let (asked, hears) = channel();
        let (answer, answers) = channel();
        let gate = Self {
            asked: Mutex::new(asked),
            answers: Mutex::new(answers),
        };
        (Arc::new(gate), hears, answer)
    }
}

impl Retriever for Gate {
    fn retrieve(&self, _: &[f32], _: usize) -> Answer {
        let _ = self.asked.lock().unwrap().send(());
        let answers = self.answers.lock().unwrap();
        answers
            .recv()
            .unwrap_or_else(|_| Err(RetrieveError::new("the gate is gone")))
    }
}

fn submit(engine: &Engine, request: Request) -> Turn {
    block_on(engine.submit(request)).unwrap()
}

fn refused(engine: &Engine, request: Request) -> SubmitError {
    block_on(engine.submit(request)).unwrap_err()
}

/// Waits until the step thread has received everything that was sent so far.
fn settle(engine: &Engine) {
    block_on(engine.conversation(&"nobody".into()));
}

#[test]
fn batched_sequences_get_the_tokens_that_each_gets_alone() {
    let texts = [
        "What is the capital of Peru?",
        "Lima",
        "Is the coast of a country its capital? What is on the coast?",
        "the the the the",
        "Peru is",
    ];
    for (name, model) in models() {
        let engine = engine(&model, Some(Shelf::new(vec![peru()])));
        let requests = |prefix: &str| -> Vec<Request> {
            let each = texts.iter().enumerate();
            each.map(|(i, text)| {
                let conversation = format!("{prefix} {i}");
                // Every other one retrieves.
                if i % 2 == 0 {
                    retrieving(&model, &conversation, 16, 1)
                } else {
                    request(&model, &conversation, text, 16)
                }
            })
            .collect()
        };
        let alone: Vec<_> = requests("alone")
            .into_iter()
            .map(|r| run(&engine, r).text)
            .collect();
        let turns: Vec<_> = requests("together")
            .into_iter()
            .map(|r| submit(&engine, r))
            .collect();
        for (i, turn) in turns.into_iter().enumerate() {
            assert_eq!(block_on(turn.collect()).unwrap().text, alone[i], "{name}");
            assert_eq!(
                log_ids(&engine, &format!("together {i}")),
                log_ids(&engine, &format!("alone {i}")),
                "{name}"
            );
        }
    }
}

#[test]
fn a_prompt_read_in_chunks_gives_the_same_tokens() {
    for (name, model) in models() {
        let text = "What is the capital of Peru? ".repeat(6);
        let whole = engine(&model, None);
        let options = EngineOptions {
            max_step_tokens: 7,
            ..EngineOptions::default()
        };
        let chunked = Engine::start(model.clone(), None, options).unwrap();
        let want = run(&whole, request(&model, "c", &text, 12));
        let got = run(&chunked, request(&model, "c", &text, 12));
        assert_eq!(got.text, want.text, "{name}");
        assert_eq!(got.summary.forwarded, want.summary.forwarded, "{name}");
        settle(&whole);
        settle(&chunked);
        let chunks = want.summary.usage.prompt_tokens.div_ceil(7) as u64;
        assert_eq!(whole.counters().stats().steps, 1 + 11, "{name}");
        assert_eq!(chunked.counters().stats().steps, chunks + 11, "{name}");
    }
}

#[test]
fn a_retrieving_sequence_holds_no_other_back() {
    let model = Family::Qwen3.model();
    let (gate, asked, answer) = Gate::new();
    let engine = engine(&model, Some(gate));
    let parked = submit(&engine, retrieving(&model, "parked", 8, 1));
    asked.recv().unwrap();
    assert_eq!(
        run(&engine, request(&model, "other", "Lima", 8))
            .summary
            .usage
            .completion_tokens,
        8
    );
    settle(&engine);
    assert_eq!(engine.counters().stats().retrieving, 1);
    answer.send(Ok(vec![peru()])).unwrap();
    let done = block_on(parked.collect()).unwrap().summary;
    assert_eq!(done.retrievals.len(), 1);
    assert_eq!(done.retrievals[0].query_tokens_reencoded, 0);
}

#[test]
fn a_cancelled_turn_leaves_the_conversation_as_it_was() {
    let model = Family::Qwen3.model();
    let (gate, asked, answer) = Gate::new();
    let engine = engine(&model, Some(gate));
    run(
        &engine,
        request(&model, "c", "What is the capital of Peru?", 6),
    );
    let before = block_on(engine.conversation(&"c".into())).unwrap();

    // In the middle of decoding.
    let mut turn = submit(&engine, request(&model, "c", "Lima", 400));
    assert!(matches!(block_on(turn.next()), Some(Event::Text(_))));
    drop(turn);
    settle(&engine);
    let after = block_on(engine.conversation(&"c".into())).unwrap();
    assert_eq!(after.log, before.log);
    assert!(!after.busy);

    // While its search is under way; the answer comes too late.
    let turn = submit(&engine, retrieving(&model, "c", 8, 1));
    asked.recv().unwrap();
    drop(turn);
    settle(&engine);
    answer.send(Ok(vec![peru()])).unwrap();
    let after = block_on(engine.conversation(&"c".into())).unwrap();
    assert_eq!(after.log, before.log);

    // The conversation continues as if the cancelled turn had not existed.
    let again = run(&engine, request(&model, "c", "the coast", 6));
    let fresh = crate::common::engine(&model, None);
    run(
        &fresh,
        request(&model, "c", "What is the capital of Peru?", 6),
    );
    let want = run(&fresh, request(&model, "c", "the coast", 6));
    assert_eq!(again.text, want.text);
    assert_eq!(log_ids(&engine, "c"), log_ids(&fresh, "c"));
}

#[test]
fn a_first_turn_that_is_cancelled_leaves_no_conversation() {
    let model = Family::Llama.model();
    let engine = engine(&model, None);
    drop(submit(&engine, request(&model, "c", "Lima", 400)));
    settle(&engine);
    assert!(block_on(engine.conversation(&"c".into())).is_none());
    // The step thread publishes its counts after its next step.
    run(&engine, request(&model, "d", "Lima", 1));
    settle(&engine);
    let stats = engine.counters().stats();
    assert_eq!(
        (stats.running, stats.waiting, stats.conversations),
        (0, 0, 1)
    );
}

#[test]
fn a_failing_retriever_fails_its_turn_and_no_other() {
    let model = Family::Qwen2.model();
    let (gate, asked, answer) = Gate::new();
    let engine = engine(&model, Some(gate));
    run(&engine, request(&model, "c", "Lima", 4));
    let before = log_ids(&engine, "c");
    let turn = submit(&engine, retrieving(&model, "c", 8, 1));
    asked.recv().unwrap();
    answer
        .send(Err(RetrieveError::new("the shelf fell over")))
        .unwrap();
    match block_on(turn.collect()) {
        Err(EngineError::Retrieval(message)) => assert_eq!(message, "the shelf fell over"),
        other => panic!("{other:?}"),
    }
    assert_eq!(log_ids(&engine, "c"), before);
    assert_eq!(
        run(&engine, request(&model, "d", "Lima", 4))
            .summary
            .usage
            .completion_tokens,
        4
    );
}

#[test]
fn each_turn_is_answered_by_the_retriever_that_its_request_brings() {
    let model = Family::Qwen3.model();
    let chile = passage("Chile", "Its capital is Santiago.");
    let gold = passage("Gold", "Gold is an element.");
    let shelf =
        |found: &Passage| -> Option<Arc<dyn Retriever>> { Some(Shelf::new(vec![found.clone()])) };
    let engine = engine(&model, shelf(&peru()));
    let asked = |conversation: &str, retriever: Option<Arc<dyn Retriever>>| {
        let mut request = retrieving(&model, conversation, 8, 1);
        request.retriever = retriever;
        request
    };
    // All at once, then the first conversation goes on with another one.
    let turns = [
        submit(&engine, asked("a", shelf(&chile))),
        submit(&engine, asked("b", shelf(&gold))),
        submit(&engine, asked("c", None)),
    ];
    for (turn, want) in turns.into_iter().zip(["Chile", "Gold", "Peru"]) {
        let done = block_on(turn.collect()).unwrap().summary;
        assert_eq!(done.retrievals[0].passages[0].title, want);
    }
    let next = run(&engine, asked("a", shelf(&gold))).summary;
    assert_eq!(next.retrievals[0].passages[0].title, "Gold");

    // An engine without a retriever never searches, unless a request has its own.
    let bare = crate::common::engine(&model, None);
    assert!(run(&bare, asked("a", None)).summary.retrievals.is_empty());
    let brought = run(&bare, asked("b", shelf(&gold))).summary;
    assert_eq!(brought.retrievals.len(), 1);
}

#[test]
fn a_forced_turn_begins_with_one_retrieval_however_little_the_model_wants_it() {
    let model = Family::Qwen3.model();
    let engine = engine(&model, Some(Shelf::new(vec![peru()])));
    let unwilling = |conversation: &str| {
        let mut request = request(&model, conversation, "Hello!", 8);
        let query = model.tokens().query_id();
        request.sampling.logit_bias.insert(query, -100.0);
        request
    };
    let by_itself = run(&engine, unwilling("a")).summary;
    assert!(by_itself.retrievals.is_empty());

    let mut forced = unwilling("b");
    forced.retrieval.forced = true;
    let done = run(&engine, forced.clone()).summary;
    assert_eq!(done.retrievals.len(), 1);
    assert_eq!(done.retrievals[0].at_token, 0);
    assert_eq!(done.usage.completion_tokens, 8);

    // Nothing found: the turn goes on as if it had not been forced.
    forced.conversation = "c".into();
    forced.retriever = Some(Shelf::new(vec![]));
    let nothing = run(&engine, forced.clone()).summary;
    assert!(nothing.retrievals.is_empty());
    assert_eq!(log_ids(&engine, "c"), log_ids(&engine, "a"));

    forced.retrieval.max_retrievals = Some(0);
    match refused(&engine, forced) {
        SubmitError::OutOfRange { field, .. } => assert_eq!(field, "forced"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_panicking_retriever_fails_its_turn_only() {
    struct Panics;
    impl Retriever for Panics {
        fn retrieve(&self, _: &[f32], _: usize) -> Answer {
            panic!("on purpose")
        }
    }
    let model = Family::Llama.model();
    let engine = engine(&model, Some(Arc::new(Panics)));
    for conversation in ["a", "b", "c"] {
        let turn = submit(&engine, retrieving(&model, conversation, 8, 1));
        assert!(matches!(
            block_on(turn.collect()),
            Err(EngineError::Retrieval(_))
        ));
    }
}

#[test]
fn a_dropped_kv_cache_is_rebuilt_from_the_log_and_gives_the_same_tokens() {
    for (name, model) in models() {
        let roomy = engine(&model, Some(Shelf::new(vec![peru()])));
        // Room for two small conversations, not for three.
        let block = model.new_cache().bytes_for(1);
        let options = EngineOptions {
            kv_bytes: 2 * block + block / 2,
            ..EngineOptions::default()
        };
        let shelf = Shelf::new(vec![peru()]);
        let tight = Engine::start(model.clone(), Some(shelf), options).unwrap();
        for engine in [&roomy, &tight] {
            for conversation in ["a", "b", "c"] {
                run(engine, retrieving(&model, conversation, 8, 1));
            }
        }
        let dropped = block_on(tight.conversation(&"a".into())).unwrap();
        assert_eq!((dropped.cached_tokens, dropped.kv_bytes), (0, 0), "{name}");
        let want = run(&roomy, request(&model, "a", "And its coast?", 8));
        let got = run(&tight, request(&model, "a", "And its coast?", 8));
        assert_eq!(got.text, want.text, "{name}");
        assert_eq!(got.summary.usage.cached_tokens, 0, "{name}");
        assert_eq!(log_ids(&tight, "a"), log_ids(&roomy, "a"), "{name}");
        settle(&tight);
        let stats = tight.counters().stats();
        assert!(stats.kv_bytes <= stats.kv_budget_bytes, "{name}");
        assert!(stats.kv_dropped >= 2, "{name}");
    }
}

#[test]
fn more_turns_than_the_kv_budget_holds_all_end_with_the_tokens_each_gets_alone() {
    let model = Family::Qwen3.model();
    let shelf = Shelf::new(vec![peru()]);
    let roomy = engine(&model, Some(shelf.clone()));
    let block = model.new_cache().bytes_for(1);
    let options = EngineOptions {
        kv_bytes: 2 * block,
        ..EngineOptions::default()
    };
    let tight = Engine::start(model.clone(), Some(shelf), options).unwrap();
    let requests: Vec<_> = (0..6)
        .map(|i| retrieving(&model, &format!("c{i}"), 10 + 15 * i, 1))
        .collect();
    let turns: Vec<_> = requests.iter().map(|r| submit(&tight, r.clone())).collect();
    for (request, turn) in requests.into_iter().zip(turns) {
        let got = block_on(turn.collect()).unwrap();
        assert_eq!(got.text, run(&roomy, request).text);
    }
    settle(&tight);
    let stats = tight.counters().stats();
    assert!(stats.kv_bytes <= stats.kv_budget_bytes);
    assert_eq!((stats.running, stats.waiting, stats.retrieving), (0, 0, 0));
}

#[test]
fn a_waiting_turn_gives_up_its_kv_cache_to_one_that_runs() {
    let model = Family::Qwen3.model();
    let block = model.new_cache().bytes_for(1);
    let options = EngineOptions {
        kv_bytes: 2 * block,
        max_sequences: 1,
        ..EngineOptions::default()
    };
    let engine = Engine::start(model.clone(), None, options).unwrap();
    for conversation in ["a", "b"] {
        run(&engine, request(&model, conversation, "Lima", 4));
    }
    // Each conversation has one block. The first to continue needs both blocks, while the second
    // waits with its own.
    let long = submit(&engine, request(&model, "a", "Lima", 150));
    let waits = submit(&engine, request(&model, "b", "Lima", 4));
    assert_eq!(
        block_on(long.collect())
            .unwrap()
            .summary
            .usage
            .completion_tokens,
        150
    );
    let waited = block_on(waits.collect()).unwrap().summary;
    assert_eq!(
        (waited.usage.completion_tokens, waited.usage.cached_tokens),
        (4, 0)
    );
}

#[test]
fn two_turns_of_one_conversation_do_not_run_at_once() {
    let model = Family::Mistral.model();
    let (gate, asked, _answer) = Gate::new();
    let engine = engine(&model, Some(gate));
    // This turn never ends, because the gate is never opened.
    let turn = submit(&engine, retrieving(&model, "c", 8, 1));
    asked.recv().unwrap();
    assert!(matches!(
        refused(&engine, request(&model, "c", "Lima", 4)),
        SubmitError::Busy(_)
    ));
    let busy = block_on(engine.delete(&"c".into()));
    assert_eq!(busy, Err(ConversationError::Busy("c".into())));
    drop(turn);
    let mut next = request(&model, "c", "Lima", 4);
    next.retrieval.enabled = false;
    assert_eq!(run(&engine, next).summary.usage.completion_tokens, 4);
    assert_eq!(block_on(engine.delete(&"c".into())), Ok(()));
    let unknown = block_on(engine.delete(&"c".into()));
    assert_eq!(unknown, Err(ConversationError::Unknown("c".into())));
}

#[test]
fn a_request_that_expects_another_log_is_refused() {
    let model = Family::Llama31.model();
    let engine = engine(&model, None);
    let expecting = |conversation: &str, expected| {
        let mut request = request(&model, conversation, "Lima", 4);
        request.expected_log_len = Some(expected);
        request
    };
    assert!(matches!(
        refused(&engine, expecting("c", 5)),
        SubmitError::UnknownConversation(_)
    ));
    let len = run(&engine, expecting("c", 0)).summary.log_len;
    assert!(matches!(
        refused(&engine, expecting("c", 0)),
        SubmitError::LogLength { expected: 0, got, .. } if got == len
    ));
    run(&engine, expecting("c", len));
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_before_any_forward() {
    let model = Family::Llama.model();
    let engine = engine(&model, None);
    let mut request = request(&model, "c", "Lima", 4);
    request.prompt = vec![request.prompt[0]; POSITIONS];
    match refused(&engine, request.clone()) {
        SubmitError::ContextLength { needed, available } => {
            assert_eq!((needed, available), (POSITIONS + 1, POSITIONS));
        }
        other => panic!("{other}"),
    }
    assert_eq!(engine.counters().forwarded().total(), 0);
    // One token fewer fits, and one is generated.
    request.prompt.pop();
    let done = run(&engine, request).summary;
    assert_eq!(done.finish_reason, FinishReason::Length);
    assert_eq!((done.usage.completion_tokens, done.log_len), (1, POSITIONS));
}

#[test]
fn a_passage_that_does_not_fit_is_left_out_and_the_turn_goes_on() {
    let model = Family::Llama.model();
    let long = passage("Peru", &"Peru is a country. ".repeat(200));
    let fits = passage("Chile", "Chile is a country.");
    // The next one is read if it fits.
    for (shelf, left_out, read) in [
        (vec![long.clone()], 1, None),
        (vec![long.clone(), long.clone()], 2, None),
        (vec![long.clone(), fits], 1, Some("Chile")),
    ] {
        let k = shelf.len();
        let engine = engine(&model, Some(Shelf::new(shelf)));
        let mut turn = retrieving(&model, "c", 8, 3);
        turn.retrieval.k = k;
        if read.is_some() {
            turn.retrieval.max_retrievals = Some(1);
        }
        let done = run(&engine, turn);
        assert_eq!(done.summary.usage.completion_tokens, 8);
        let [receipt] = done.summary.retrievals.as_slice() else {
            panic!("{:?}", done.summary.retrievals);
        };
        assert_eq!(receipt.too_long, left_out);
        assert_eq!(receipt.passages.first().map(|p| p.title.as_str()), read);
        assert_eq!(receipt.splice_tokens > 0, read.is_some());
        let asked = log_ids(&engine, "c").contains(&model.tokens().query_id());
        assert_eq!(asked, read.is_some());
        // The conversation is still good.
        run(&engine, request(&model, "c", "Lima", 4));
    }
}

#[test]
fn sampling_with_a_seed_gives_the_same_text_whatever_else_runs() {
    let model = Family::Qwen2.model();
    let engine = engine(&model, None);
    let seeded = |conversation: &str, seed| {
        let mut request = request(&model, conversation, "Lima", 24);
        request.sampling.temperature = 1.0;
        request.sampling.top_p = 0.9;
        request.sampling.seed = Some(seed);
        request
    };
    let alone = run(&engine, seeded("a", 1)).text;
    let others: Vec<_> = (0..4)
        .map(|i| submit(&engine, request(&model, &format!("o{i}"), "Peru", 40)))
        .collect();
    assert_eq!(run(&engine, seeded("b", 1)).text, alone);
    drop(others);
    assert_ne!(run(&engine, seeded("c", 2)).text, alone);
}

#[test]
fn a_stop_string_ends_the_turn_and_is_not_shown() {
    let model = Family::Qwen3.model();
    let engine = engine(&model, None);
    let whole = run(&engine, request(&model, "a", "Lima", 24)).text;
    let chars: Vec<char> = whole.chars().collect();
    let stop: String = chars[chars.len() / 2..][..2].iter().collect();
    let before = whole.find(&stop).unwrap();
    let mut request = request(&model, "b", "Lima", 24);
    request.sampling.stop = vec![stop, "never said".into()];
    let done = run(&engine, request);
    assert_eq!(done.text, whole[..before]);
    assert_eq!(done.summary.finish_reason, FinishReason::Stop);
}

#[test]
fn a_stop_id_ends_the_turn_but_not_before_min_tokens() {
    let model = Family::Llama.model();
    let engine = engine(&model, None);
    let prompt = question(&model, "Lima").len();
    run(&engine, request(&model, "a", "Lima", 12));
    let generated = log_ids(&engine, "a").split_off(prompt);
    let stop = generated[5];
    let first = generated.iter().position(|&id| id == stop).unwrap();
    let mut stopped = request(&model, "b", "Lima", 12);
    stopped.sampling.stop_token_ids = vec![stop];
    let done = run(&engine, stopped);
    assert_eq!(done.summary.finish_reason, FinishReason::Stop);
    assert_eq!(log_ids(&engine, "b")[prompt..], generated[..=first]);

    // The end wins wherever it is not masked.
    let vocabulary = model.config().vocab_size as u32;
    let end = (0..vocabulary)
        .find(|&id| model.tokens().is_eos(id))
        .unwrap();
    let mut eager = request(&model, "c", "Lima", 12);
    eager.sampling.logit_bias = [(end, 100.0)].into();
    eager.sampling.min_tokens = 4;
    let done = run(&engine, eager);
    assert_eq!(done.summary.usage.completion_tokens, 5);
    assert_eq!(log_ids(&engine, "c")[prompt..prompt + 4], generated[..4]);
}

#[test]
fn the_streamed_text_is_the_decoding_of_the_generated_ids() {
    // Random models write bytes at random, so characters are often spread over tokens.
    for (name, model) in models() {
        let engine = engine(&model, None);
        let request = request(&model, "c", "Lima", 64);
        let prompt = request.prompt.len();
        let text = run(&engine, request).text;
        let ids = log_ids(&engine, "c");
        let want = model.tokens().decode(&ids[prompt..]).unwrap();
        // It is cut off before half a character.
        let want = want.trim_start();
        let want = want.trim_end_matches(char::REPLACEMENT_CHARACTER);
        assert_eq!(text, want, "{name}");
    }
}

#[test]
fn a_receipt_says_where_in_the_text_the_passage_came() {
    let model = Family::Llama31.model();
    let engine = engine(
        &model,
        Some(Shelf::new(vec![peru(), passage("Lima", "A city.")])),
    );
    let mut request = retrieving(&model, "c", 12, 2);
    request.retrieval.k = 2;
    let mut turn = submit(&engine, request);
    let (mut text, mut receipts) = (String::new(), Vec::new());
    while let Some(event) = block_on(turn.next()) {
        match event {
            Event::Text(more) => text.push_str(&more.text),
            Event::Retrieval(receipt) => {
                assert_eq!(receipt.char_offset, text.chars().count());
                receipts.push(receipt);
            }
            Event::Finished(_) => {}
            Event::Mention(mention) => panic!("{mention:?}"),
            Event::Failed(error) => panic!("{error}"),
        }
    }
    assert_eq!(receipts.len(), 2);
    assert_eq!((receipts[0].index, receipts[0].at_token), (0, 0));
    assert_eq!((receipts[1].index, receipts[1].at_token), (1, 1));
    assert_eq!(receipts[0].passages.len(), 2);
}

#[test]
fn what_is_out_of_range_is_refused_by_name() {
    let model = Family::Llama.model();
    let engine = engine(&model, None);
    let mut hot = request(&model, "c", "Lima", 4);
    hot.sampling.temperature = f32::NAN;
    assert!(matches!(
        refused(&engine, hot),
        SubmitError::OutOfRange {
            field: "temperature",
            ..
        }
    ));
    let mut late = request(&model, "c", "Lima", 4);
    late.sampling.min_tokens = 5;
    assert!(matches!(
        refused(&engine, late),
        SubmitError::OutOfRange {
            field: "min_tokens",
            ..
        }
    ));
    let mut alien = request(&model, "c", "Lima", 4);
    alien.prompt.push(1_000_000);
    assert!(matches!(
        refused(&engine, alien),
        SubmitError::UnknownId { id: 1_000_000, .. }
    ));
    let mut empty = request(&model, "c", "Lima", 4);
    empty.prompt.clear();
    assert!(matches!(refused(&engine, empty), SubmitError::EmptyPrompt));
    let mut query = request(&model, "c", "Lima", 4);
    query.prompt.push(model.tokens().query_id());
    assert!(matches!(refused(&engine, query), SubmitError::QueryAtEnd));
    let mut none = request(&model, "c", "Lima", 4);
    none.retrieval.k = 0;
    assert!(matches!(
        refused(&engine, none),
        SubmitError::OutOfRange { field: "k", .. }
    ));
    let nothing = EngineOptions {
        kv_bytes: 1,
        ..EngineOptions::default()
    };
    let error = Engine::start(model, None, nothing).unwrap_err();
    assert!(matches!(error, StartError::KvBudget { bytes: 1, .. }));
}

#[test]
fn more_requests_than_may_wait_are_refused_at_once() {
    let model = Family::Llama.model();
    let (gate, asked, _answer) = Gate::new();
    let options = EngineOptions {
        max_sequences: 1,
        max_waiting: 1,
        ..EngineOptions::default()
    };
    let engine = Engine::start(model.clone(), Some(gate), options).unwrap();
    let _running = submit(&engine, retrieving(&model, "a", 8, 1));
    asked.recv().unwrap();
    let _waiting = submit(&engine, request(&model, "b", "Lima", 8));
    assert!(matches!(
        refused(&engine, request(&model, "c", "Lima", 8)),
        SubmitError::Overloaded { waiting: 1 }
    ));
}

#[test]
fn the_least_recently_used_conversation_is_forgotten_first() {
    let model = Family::Llama.model();
    let options = EngineOptions {
        max_conversations: 2,
        ..EngineOptions::default()
    };
    let engine = Engine::start(model.clone(), None, options).unwrap();
    for conversation in ["a", "b", "a", "c"] {
        run(&engine, request(&model, conversation, "Lima", 2));
    }
    let held = |id: &str| block_on(engine.conversation(&id.into())).is_some();
    assert_eq!((held("a"), held("b"), held("c")), (true, false, true));
}

#[test]
fn whose_idle_caches_hold_most_gives_up_the_first() {
    let model = Family::Llama.model();
    let asked = |salt: &str, n: usize| {
        let mut request = request(&model, &format!("{salt}{n}"), &format!("{salt} {n}"), 2);
        request.cache_salt = Some(salt.into());
        request
    };
    let one = model.new_cache().bytes_for(asked("a", 0).prompt.len() + 2);
    let options = EngineOptions {
        kv_bytes: 4 * one,
        ..EngineOptions::default()
    };
    let engine = Engine::start(model.clone(), None, options).unwrap();
    run(&engine, asked("b", 0));
    for n in 0..9 {
        run(&engine, asked("a", n));
    }
    let cached = |id: &str| {
        let info = block_on(engine.conversation(&id.into())).unwrap();
        info.cached_tokens > 0
    };
    // The oldest cache of this owner is dropped, and none of another's.
    assert!(cached("b0"));
    let kept: Vec<_> = (0..9).filter(|n| cached(&format!("a{n}"))).collect();
    assert_eq!(kept, [6, 7, 8]);
}

#[test]
fn turns_under_way_when_the_engine_is_dropped_fail_once() {
    let model = Family::Llama.model();
    let (gate, asked, answer) = Gate::new();
    let engine = engine(&model, Some(gate));
    let decoding = submit(&engine, request(&model, "a", "Lima", 480));
    let mut parked = submit(&engine, retrieving(&model, "b", 8, 1));
    asked.recv_timeout(Duration::from_secs(10)).unwrap();
    drop(engine);
    assert!(matches!(
        block_on(parked.next()),
        Some(Event::Failed(EngineError::Stopped))
    ));
    assert!(block_on(parked.next()).is_none());
    // Decoding may have been done just before.
    let _ = block_on(decoding.collect());
    drop(answer);
}
