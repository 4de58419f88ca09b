use std::collections::{BTreeSet, HashSet};

use anyhow::Result;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::course::{Course, Lesson};
use super::{Mention, Text, gazetteer, kinds, lesson_entities};
use crate::almanac;
use crate::batch::Batch;
use crate::loss::losses;
use crate::model::{Model, Shape};
use crate::optimiser::Rates;
use crate::phrases::Wording;
use crate::tokenizer::{CONTROL, LINKING_CONTROL, Vocabulary};
use crate::trainer::{Curriculum, Plan, Run, Stage};
use crate::world::{Split, names};

fn vocabulary() -> Result<Vocabulary> {
    let nothing_reserved = HashSet::new();
    Vocabulary::train(&crate::lessons::texts(&nothing_reserved, 200), 400)?.for_linking()
}

fn course<'a>(vocabulary: &'a Vocabulary, reserved: &'a HashSet<String>) -> Course<'a> {
    Course {
        vocabulary,
        reserved,
        split: Split::Train,
        wording: Wording::Known,
        scrambled: true,
        longest: 900,
    }
}

/// Lessons of both splits and wordings.
fn lessons(vocabulary: &Vocabulary, reserved: &HashSet<String>, each: usize) -> Vec<Lesson> {
    let teacher = course(vocabulary, reserved);
    let examiner = Course {
        split: Split::HeldOut,
        wording: Wording::Unknown,
        ..teacher
    };
    let mut rng = StdRng::seed_from_u64(3);
    (0..each)
        .flat_map(|_| {
            [
                teacher.lesson(&mut rng, false),
                teacher.lesson(&mut rng, true),
                examiner.lesson(&mut rng, false),
            ]
        })
        .collect()
}

/// The ids of a text and its copy, and where its queries are.
fn pushed(vocabulary: &Vocabulary, text: &Text) -> Result<Batch> {
    let mut batch = Batch::default();
    batch.push_linked(vocabulary, text, Some)?;
    Ok(batch)
}

#[test]
fn mentions_are_names_of_their_things_in_order_and_apart() -> Result<()> {
    let reserved = HashSet::new();
    let mut mentions = 0;
    for Lesson { text, entities } in lessons(&vocabulary()?, &reserved, 400) {
        let mut done = 0;
        for Mention { span, thing } in &text.mentions {
            assert!(done <= span.start && span.start < span.end, "{text:?}");
            done = span.end;
            let entity = &entities[*thing];
            let (full, short) = (
                &entity.name,
                lesson_entities::short(entity.kind, &entity.name),
            );
            let called = &text.text[span.clone()];
            let is = |name: &str| {
                [
                    name.to_owned(),
                    names::capitalised(name),
                    name.to_lowercase(),
                ]
                .contains(&called.to_owned())
            };
            assert!(
                is(full) || short.is_some_and(|short| is(&short)),
                "{called:?} is no name of {full:?}: {text:?}"
            );
            mentions += 1;
        }
        assert!(!text.text.contains(['{', '}']), "{text:?}");
    }
    assert!(mentions > 1500);
    Ok(())
}

#[test]
fn the_copy_without_its_marks_is_the_text() -> Result<()> {
    let vocabulary = vocabulary()?;
    let reserved = HashSet::new();
    let continues = vocabulary.continues.unwrap_or_default();
    for Lesson { text, .. } in lessons(&vocabulary, &reserved, 200) {
        let batch = pushed(&vocabulary, &text)?;
        let ids = vocabulary.encode(&text.text)?;
        let copy = &batch.ids[ids.len() + 2..batch.ids.len() - 1];
        let marks = [
            vocabulary.open,
            vocabulary.close,
            vocabulary.query,
            continues,
        ];
        let plain: Vec<u32> = copy
            .iter()
            .copied()
            .filter(|id| !marks.contains(id))
            .collect();
        assert_eq!(plain, ids, "{text:?}");

        let marked = copy.split(|id| *id == vocabulary.open).skip(1);
        let marked = marked.map(|rest| {
            let end = rest.iter().position(|id| *id == vocabulary.close);
            vocabulary.decode(&rest[..end.unwrap_or(0)])
        });
        let marked: Vec<String> = marked.collect::<Result<_>>()?;
        let wanted = text.mentions.iter().map(|m| &text.text[m.span.clone()]);
        assert!(marked.iter().map(|name| name.trim()).eq(wanted), "{text:?}");
    }
    Ok(())
}

#[test]
fn the_tokens_after_a_mention_are_given_and_the_one_after_them_is_trained() -> Result<()> {
    let vocabulary = vocabulary()?;
    let reserved = HashSet::new();
    let mut seen = 0;
    for Lesson { text, .. } in lessons(&vocabulary, &reserved, 100) {
        let batch = pushed(&vocabulary, &text)?;
        let trained: HashSet<u32> = batch.predict.iter().copied().collect();
        let prompt = vocabulary.encode(&text.text)?.len() as u32;
        assert!(
            trained.iter().all(|at| *at > prompt),
            "the prompt is trained"
        );
        assert_eq!(batch.queries.len(), text.mentions.len());
        for (at, _) in &batch.queries {
            assert_eq!(batch.ids[*at as usize], vocabulary.query);
            assert!(!trained.contains(&(at - 1)), "[LK] is trained");
            assert!(!trained.contains(at), "[_CONTINUE_] is trained");
            assert!(trained.contains(&(at + 1)), "what follows is not trained");
            seen += 1;
        }
        for (at, target) in batch.predict.iter().zip(&batch.targets) {
            assert_eq!(batch.ids[*at as usize + 1], *target);
        }
    }
    assert!(seen > 300);
    Ok(())
}

#[test]
fn no_entity_that_is_shipped_is_ever_taught() -> Result<()> {
    let listed = gazetteer::entities()?;
    let shipped: HashSet<String> = listed
        .iter()
        .map(|l| l.entity.name.to_lowercase())
        .collect();
    let ids: HashSet<&String> = listed.iter().map(|l| &l.id).collect();
    assert_eq!(ids.len(), listed.len(), "an id is given twice");
    let reserved = almanac::reserved();
    for lesson in lessons(&vocabulary()?, &reserved, 500) {
        for entity in lesson.entities {
            let name = entity.name.to_lowercase();
            assert!(!shipped.contains(&name), "{name} is shipped");
        }
    }
    Ok(())
}

#[test]
fn namesakes_are_there_and_a_description_tells_them_apart() -> Result<()> {
    let reserved = HashSet::new();
    let mut rivals = BTreeSet::new();
    for Lesson { text, entities } in lessons(&vocabulary()?, &reserved, 500) {
        let mentioned: BTreeSet<usize> = text.mentions.iter().map(|m| m.thing).collect();
        for at in mentioned {
            let this = &entities[at];
            for (other_at, other) in entities.iter().enumerate() {
                if other_at == at || !other.name.eq_ignore_ascii_case(&this.name) {
                    continue;
                }
                assert_ne!(this.text, other.text, "{text:?}");
                rivals.insert((this.kind.name, other.kind.name));
            }
        }
    }
    let same = rivals.iter().filter(|(a, b)| a == b).count();
    assert!(same > 5 && rivals.len() > 100, "{rivals:?}");
    Ok(())
}

#[test]
fn linking_renames_control_tokens_and_changes_no_other() -> Result<()> {
    let reserved = HashSet::new();
    let almanac = Vocabulary::train(&crate::lessons::texts(&reserved, 200), 400)?;
    let linking = almanac.for_linking()?;
    assert_eq!(linking.size(), almanac.size() + 1);
    for (at, spelling) in LINKING_CONTROL.iter().enumerate().take(CONTROL.len()) {
        assert_eq!(linking.decode(&[at as u32])?, *spelling);
    }
    assert_eq!(linking.continues, Some(almanac.size() as u32));
    let text = "Qu\u{e9}ll's \u{2014} 12 riv\u{ea}rs";
    let ids = almanac.encode(text)?;
    assert_eq!(linking.encode(text)?, ids);
    let spans = linking.spans(&ids);
    assert!(spans.windows(2).all(|two| two[0].end == two[1].start));
    assert_eq!(spans.last().map(|span| span.end), Some(text.len()));
    Ok(())
}

#[test]
fn every_attribute_that_names_things_leads_to_a_kind() {
    for kind in kinds::all() {
        for attribute in kind.attributes {
            if let Some(named) = kinds::named_by(kind, attribute) {
                assert!(kinds::kind(named.name).is_some());
            }
            let text = attribute.statements.iter().all(|s| s.contains("{v}"));
            assert!(text, "{} of {} is not told", attribute.key, kind.name);
        }
    }
}

#[test]
fn a_tiny_model_learns_to_mark_and_to_find() -> Result<()> {
    let vocabulary = vocabulary()?;
    let reserved = HashSet::new();
    let teacher = course(&vocabulary, &reserved);
    let shape = Shape {
        vocab_size: vocabulary.size() - 1,
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        head_dim: 16,
        max_position_embeddings: 512,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
    };
    let model = Model::new(shape, 5)?.widened(vocabulary.size())?;
    let plan = Plan {
        steps: 50,
        copying_goal: 1.0,
        copying_steps: 0,
        reading_steps: 0,
        copying_tokens: 0,
        tokens: 1600,
        rates: Rates {
            muon: 0.02,
            adam: 0.004,
        },
        temperature: 0.05,
        retrieval_weight: (1.0, 1.0),
        threads: 2,
        seed: 3,
    };
    let exam = |model: &Model| -> Result<(f32, f32)> {
        let batch = teacher.batch(Stage::Target, 3000, 77)?;
        let losses = losses(model, &batch, plan.temperature, None)?;
        Ok((losses.language.to_scalar()?, losses.retrieval.to_scalar()?))
    };
    let directory = tempfile::tempdir()?;
    let mut run = Run::open_after(directory.path(), model)?;
    let (language, retrieval) = exam(&run.model)?;
    run.train(&plan, &teacher, &teacher)?;
    let (language_after, retrieval_after) = exam(&run.model)?;
    assert!(
        language_after < language - 0.5,
        "writing went from {language} to {language_after}"
    );
    assert!(
        retrieval_after < retrieval - 0.2,
        "finding went from {retrieval} to {retrieval_after}"
    );
    let again = Run::open_after(directory.path(), Model::new(run.model.shape.clone(), 1)?)?;
    assert_eq!(again.state.step, plan.steps, "it went on from nothing");
    Ok(())
}
