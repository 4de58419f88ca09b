//! The trainer's measurement while it runs: held-out names, the right passages given, one forward
//! pass. The figures of the model card come from `evaluate`, which generates through the engine.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;

use super::Teacher;
use crate::dialogue::Lesson;
use crate::loss::losses;
use crate::model::Model;
use crate::trainer::Stage;

/// The numbers of right turns and of all turns of one lesson.
#[derive(Clone, Copy, Default)]
struct Score {
    decided: usize,
    answered: usize,
    turns: usize,
    found: usize,
    queries: usize,
}

/// Teacher-forced figures by lesson.
pub(super) struct TeacherForced(BTreeMap<Lesson, Score>);

/// Draws eight batches from `examiner` and scores every turn: whether the decision to retrieve was
/// right, whether every token of the text was right, and whether the right passage was the nearest
/// of its batch.
pub(super) fn teacher_forced(
    model: &Model,
    examiner: &Teacher<'_>,
    temperature: f64,
) -> Result<TeacherForced> {
    let mut scores = BTreeMap::<Lesson, Score>::new();
    for seed in 0..8 {
        let lessons = examiner.draw(Stage::Target, 8000, seed)?;
        let losses = losses(model, &lessons.batch, temperature, None)?;
        let right = |group: &u32| losses.groups[*group as usize];
        for ((dialogue, groups), first_query) in lessons
            .dialogues
            .iter()
            .zip(&lessons.groups)
            .zip(&lessons.queries_before)
        {
            let mut query = *first_query;
            for (turn, groups) in dialogue.iter().zip(groups) {
                let score = scores.entry(turn.lesson).or_default();
                score.turns += 1;
                // The groups are decision, text, decision, text, …, end; small talk has only text
                // and end.
                let texts: Vec<&u32> = if turn.hops.is_empty() {
                    groups[..1].iter().collect()
                } else {
                    groups[..groups.len() - 1]
                        .iter()
                        .skip(1)
                        .step_by(2)
                        .collect()
                };
                score.answered += usize::from(texts.into_iter().all(right));
                score.decided += usize::from(groups.first().is_some_and(right));
                for _ in turn.hops.iter().filter(|hop| hop.gold) {
                    score.queries += 1;
                    score.found += usize::from(losses.found.get(query).copied().unwrap_or(false));
                    query += 1;
                }
            }
        }
    }
    Ok(TeacherForced(scores))
}

impl fmt::Display for TeacherForced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: usize, all: usize| part as f64 / all.max(1) as f64;
        write!(f, "held out:")?;
        for (lesson, score) in &self.0 {
            write!(
                f,
                " {lesson:?}({}) {:.2}/{:.2}/{:.2}",
                score.turns,
                share(score.decided, score.turns),
                share(score.found, score.queries),
                share(score.answered, score.turns)
            )?;
        }
        Ok(())
    }
}
