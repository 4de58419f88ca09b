//! Embeddings of passages and questions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::*;
use onegen_engine::{ForwardError, TooLong};

#[test]
fn a_passage_embedding_is_the_normalised_state_at_rd_whatever_it_is_batched_with() {
    for (name, model) in models() {
        let tokens = model.tokens();
        let ids: Vec<_> = (1..40)
            .map(|i| {
                tokens
                    .passage_ids("Peru", &"Its capital is Lima. ".repeat(i % 7 + 1))
                    .unwrap()
            })
            .collect();
        let together = model.embed_passages(&ids).unwrap();
        assert_eq!(together.len(), ids.len(), "{name}");
        for (ids, embedding) in ids.iter().zip(&together).take(7) {
            assert_eq!(ids.last(), Some(&tokens.passage_id()), "{name}");
            let state = clean_forward(&model, ids).0.pop().unwrap();
            assert_eq!(embedding.len(), model.hidden_size(), "{name}");
            assert!(cosine(&state, embedding) > 0.999999, "{name}");
            let length = embedding.iter().map(|x| x * x).sum::<f32>();
            assert!((length - 1.0).abs() < 1e-5, "{name}: {length}");
        }
    }
}

#[test]
fn a_question_embeds_to_the_query_embedding_that_its_conversation_would_have() {
    for (name, model) in models() {
        let shelf = Shelf::new(vec![peru()]);
        let engine = engine(&model, Some(shelf.clone()));
        run(&engine, retrieving(&model, "c", 2, 1));
        let alone = model.embed_query("What is the capital of Peru?").unwrap();
        let query = shelf.queries.lock().unwrap()[0].clone();
        assert!(cosine(&alone, &query) > 0.999999, "{name}");
    }
}

#[test]
fn texts_that_fit_are_embedded_beside_one_that_does_not() {
    let model = Family::Qwen3.model();
    let long = "Peru is a country. ".repeat(POSITIONS);
    let texts = [
        ("Lima", "A city."),
        ("Peru", long.as_str()),
        ("Peru", "A country."),
    ];
    let embedded = model.embed_texts(&texts).unwrap();
    let ids: Vec<_> = [0, 2]
        .iter()
        .map(|&i| model.tokens().passage_ids(texts[i].0, texts[i].1).unwrap())
        .collect();
    let want = model.embed_passages(&ids).unwrap();
    assert_eq!(embedded[0].as_ref().unwrap(), &want[0]);
    assert!(matches!(
        embedded[1],
        Err(TooLong { needed, available: POSITIONS }) if needed > POSITIONS
    ));
    assert_eq!(embedded[2].as_ref().unwrap(), &want[1]);
}

#[test]
fn a_passage_longer_than_the_context_is_an_error_that_says_how_long() {
    let model = Family::Llama.model();
    let long = vec![1; POSITIONS + 5];
    match model.embed_passages(&[vec![1, 2], long]) {
        Err(ForwardError::ContextLength { needed, available }) => {
            assert_eq!((needed, available), (POSITIONS + 5, POSITIONS));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        model.embed_passages(&[Vec::new()]),
        Err(ForwardError::Input(_))
    ));
    assert!(model.embed_passages(&[]).unwrap().is_empty());
}
