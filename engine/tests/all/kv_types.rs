//! Keys and values in 8 and 16 bits: results differ from those of f32 only a little, and not at all between
//! what is computed and what was kept.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use onegen_engine::{KvType, SequenceInput, SpanKind};

use crate::common::*;

/// A head of the widest shape is no whole number of the 32 numbers that share a scale.
fn families_and_types() -> impl Iterator<Item = (Family, KvType)> {
    let types = |family| KvType::ALL.map(|kv| (family, kv));
    FAMILIES.into_iter().flat_map(types)
}

#[test]
fn logits_and_embeddings_stay_near_those_of_f32() {
    let f32 = load_kept_in(&shipped(), KvType::F32);
    let ids = question(
        &f32,
        "What is the capital of Peru, and who is its neighbour?",
    );
    let passage = f32
        .tokens()
        .passage_ids(
            "Peru",
            "Peru is a country in South America. Its capital is Lima.",
        )
        .unwrap();
    let (states, logits) = clean_forward(&f32, &ids);
    let embedding = f32.embed_passages(std::slice::from_ref(&passage)).unwrap();
    for (kv, most_apart, least_cosine) in [
        (KvType::F16, 0.002, 0.999_999),
        (KvType::Q8_0, 0.05, 0.9995),
    ] {
        let model = load_kept_in(&shipped(), kv);
        let (kept_states, kept_logits) = clean_forward(&model, &ids);
        let apart = logits
            .iter()
            .zip(&kept_logits)
            .map(|(a, b)| difference(a, b));
        let apart = apart.fold(0f32, f32::max);
        assert!(apart < most_apart, "{kv}: {apart}");
        assert!(apart > 0.0, "{kv} changes nothing");
        let kept_embedding = model
            .embed_passages(std::slice::from_ref(&passage))
            .unwrap();
        let pairs = states.iter().zip(&kept_states);
        for (a, b) in pairs.chain(embedding.iter().zip(&kept_embedding)) {
            let cosine = cosine(a, b);
            assert!(cosine > least_cosine, "{kv}: {cosine}");
        }
    }
}

#[test]
fn in_every_type_a_text_gives_the_same_bits_however_it_is_cut_and_its_passages_kept() {
    for (family, kv) in families_and_types() {
        let dir = family.write(7);
        set_block_attention(dir.path());
        let model = load_kept_in(dir.path(), kv);
        let text = "Lima is on the coast of Peru. ".repeat(12);
        let mut ids = question(&model, "What is the capital?");
        ids.push(model.tokens().query_id());
        let passage = model.tokens().passage_ids("Peru", &text).unwrap();
        let (start, end) = (ids.len(), ids.len() + passage.len());
        ids.extend(&passage);
        ids.extend(question(&model, "And its coast?"));
        let whole = clean_forward(&model, &ids).1;
        let forward = |cache: &mut onegen_engine::KvCache, ids: &[u32]| {
            let input = SequenceInput {
                ids,
                kinds: &vec![SpanKind::Prompt; ids.len()],
                cache,
                hidden_at: &[],
                logits_at: &(0..ids.len()).collect::<Vec<_>>(),
            };
            model.forward(&mut [input]).unwrap().remove(0).logits
        };
        let mut cut = model.new_cache();
        let parts: Vec<_> = ids
            .chunks(7)
            .flat_map(|part| forward(&mut cut, part))
            .collect();
        assert!(parts == whole, "{family:?} in {kv}");
        let mut spliced = model.new_cache();
        forward(&mut spliced, &ids[..start]);
        let kept = model.passage_kv(&[passage]).unwrap().remove(0);
        model.splice(&mut spliced, &kept).unwrap();
        assert!(
            forward(&mut spliced, &ids[end..]) == whole[end..],
            "{family:?} in {kv}"
        );
    }
}

#[test]
fn eight_bits_take_less_than_three_tenths_of_f32() {
    let dir = Family::Qwen2.write_sized(WIDE, 7);
    let bytes = |kv| load_kept_in(dir.path(), kv).new_cache().bytes_for(100) as f64;
    let of_f32 = bytes(KvType::F32);
    assert_eq!(bytes(KvType::F16) / of_f32, 0.5);
    assert!(bytes(KvType::Q8_0) / of_f32 < 0.3);
}
