//! Measures a run on questions that are never trained: whether the passage is found among all, and whether
//! the answer is right token for token if the passage is given.

use anyhow::Result;
use onegen_engine::Tokens;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::config::{ExamConfig, FitConfig};
use super::data::dialogue::{Dialogue, Layout, Reading, Text, Turn};
use super::data::records::read_groups;
use super::decoder::Decoder;
use super::loss::{self, EmbeddedQuery, LossPositions, LossRule, Queue};
use super::pack::Pack;
use super::product::Element;
use super::step::on_threads;

/// An exam.
pub(super) struct Exam {
    /// Steps between two measurements
    pub(super) every: usize,
    packs: Vec<Pack>,
}

/// Packs that are forwarded at once.
const BATCH: usize = 8;

impl Exam {
    /// Reads the questions and lays them out, one pack a passage.
    pub(super) fn load(config: &ExamConfig, tokens: &Tokens, fit: &FitConfig) -> Result<Self> {
        let mut groups = read_groups(&config.passages, &config.questions)?;
        groups.retain(|group| {
            tokens.count(&group.passage.text) <= fit.course.passage_tokens
                && !group.questions.is_empty()
        });
        groups.shuffle(&mut StdRng::seed_from_u64(7));
        groups.truncate(config.limit);
        let mut packs = Vec::with_capacity(groups.len());
        for (key, group) in groups.iter().enumerate() {
            let key = key as u32;
            let text = Text {
                key,
                title: &group.passage.title,
                text: &group.passage.text,
            };
            let mut layout = Layout::new(tokens, &[text])?;
            let question = &group.questions[0];
            let past = question.history.iter().map(|turn| Turn {
                user: turn.q.clone(),
                answer: turn.a.clone(),
                ..Turn::default()
            });
            let asked = Turn {
                user: question.question.clone(),
                reading: Some(Reading {
                    shown: 0,
                    positives: vec![key],
                    negatives: vec![],
                }),
                answer: question.answers.first().cloned().unwrap_or_default(),
                learnt: true,
            };
            layout.dialogue(&Dialogue {
                system: None,
                turns: past.chain([asked]).collect(),
            })?;
            packs.push(layout.finish());
        }
        Ok(Self {
            every: config.every,
            packs,
        })
    }

    /// Forwards all questions and returns a line with the results.
    pub(super) fn sit<E: Element>(&self, decoder: &Decoder<E>, threads: usize) -> Result<String> {
        let share = self.packs.len().div_ceil(threads.max(1)).max(1);
        let sat = on_threads(self.packs.chunks(share), |packs| -> Vec<AnsweredQuestion> {
            let batches = packs.chunks(BATCH);
            batches.flat_map(|packs| sit(decoder, packs)).collect()
        })?;
        let sat: Vec<&AnsweredQuestion> = sat.iter().flatten().collect();
        let passages: Vec<(u32, &[f32])> = (sat.iter())
            .map(|sat| (sat.key, sat.passage.as_slice()))
            .collect();
        let asked: Vec<EmbeddedQuery<'_>> = (sat.iter())
            .map(|sat| EmbeddedQuery {
                state: &sat.query,
                positives: std::slice::from_ref(&sat.key),
                negatives: &[],
            })
            .collect();
        let rule = LossRule {
            language: 1.0,
            retrieval: 1.0,
            contrast: loss::Contrast::InfoNce,
            temperature: 0.05,
        };
        let found = loss::contrastive(&asked, &passages, &Queue::default(), &rule, 0.0).score;
        let all = sat.len().max(1) as f64;
        let decided = sat.iter().filter(|sat| sat.decided).count();
        let right = sat.iter().filter(|sat| sat.right).count();
        Ok(format!(
            "exam: {} questions, retrieved {:.3}, Recall@1 {:.3}, answered token for token {:.3}",
            sat.len(),
            decided as f64 / all,
            found.found as f64 / all,
            right as f64 / all
        ))
    }
}

/// A question that was answered.
struct AnsweredQuestion {
    key: u32,
    query: Vec<f32>,
    passage: Vec<f32>,
    /// Whether `[RQ]` was the likeliest token
    decided: bool,
    /// Whether every token of the answer was the likeliest
    right: bool,
}

fn sit<E: Element>(decoder: &Decoder<E>, packs: &[Pack]) -> Vec<AnsweredQuestion> {
    let tape = decoder.forward(packs);
    let places = LossPositions::new(packs);
    let hidden = decoder.config().hidden_size;
    let tokens: Vec<usize> = places.predict.iter().map(|(token, _)| *token).collect();
    let logits = decoder.logits(&decoder.finish(&tape, &tokens));
    let likeliest = logits.chunks_exact(decoder.config().vocab_size).map(|row| {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.map_or(0, |(id, _)| id as u32)
    });
    let right = likeliest
        .zip(&places.predict)
        .map(|(best, (_, id))| best == *id);
    let mut right = right.collect::<Vec<_>>().into_iter();
    let queries = decoder.finish(&tape, &places.queries);
    let passages = decoder.finish(&tape, &places.passages);
    let states = queries
        .chunks_exact(hidden)
        .zip(passages.chunks_exact(hidden));
    (packs.iter().zip(states))
        .map(|(pack, (query, passage))| {
            let targets: Vec<bool> = right.by_ref().take(pack.predict.len()).collect();
            AnsweredQuestion {
                key: pack.passages[0].key,
                query: query.to_vec(),
                passage: passage.to_vec(),
                decided: targets.first().copied().unwrap_or(false),
                right: targets.iter().all(|right| *right),
            }
        })
        .collect()
}
