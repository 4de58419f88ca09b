//! The figures of the linking model: things that it was never trained on, a pool of 2,000 of them, and
//! texts that are marked by the serving engine; also sentences written by hand over the shipped entities.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures::executor::block_on;
use onegen_engine::{Engine, EngineOptions, Event, LinkRequest, Model};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::course::Course;
use super::gazetteer::{self, ListedEntity};
use super::text::{Mention, Text};
use crate::batch::Batch;
use crate::phrases::Wording;
use crate::tokenizer::Vocabulary;
use crate::world::{Entity, Split};

const SENTENCES: &str = include_str!("../../linking/sentences.txt");

/// Texts with their right mentions, and the pool of entities.
struct Exam {
    texts: Vec<Text>,
    entities: Vec<Entity>,
}

/// The numbers of right answers, given answers and wanted answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) right: usize,
    pub(crate) given: usize,
    pub(crate) wanted: usize,
}

/// One row of the report.
#[derive(Default)]
pub struct Row {
    name: String,
    texts: usize,
    /// Exact offsets and the right entity
    linked: Counts,
    /// The right entity for the mention's words, without offsets, as in the published evaluation
    surfaces: Counts,
    /// Exact offsets
    marked: Counts,
    /// The right entity was the nearest, if the right marks are given
    found: Counts,
    /// The same, counting only names that several entities of the pool have
    namesakes: Counts,
    /// For every linked mention its cosine, and whether it is right
    scores: Vec<(f32, bool)>,
}

/// Runs every exam with the model, whose tokenizer is in `directory`, and calls `on_wrong` for every text that
/// was linked wrongly.
pub fn evaluate(
    model: &Arc<Model>,
    directory: &Path,
    reserved: &HashSet<String>,
    pool: usize,
    mut on_wrong: impl FnMut(&str),
) -> Result<Vec<Row>> {
    let vocabulary = Vocabulary::load(&directory.join("tokenizer.json"))?;
    let drawn = |wording| {
        let course = Course {
            vocabulary: &vocabulary,
            reserved,
            split: Split::HeldOut,
            wording,
            scrambled: false,
            longest: usize::MAX,
        };
        Exam::draw(&course, pool)
    };
    let exams = [
        ("known wordings", drawn(Wording::Known)),
        ("held-out wordings", drawn(Wording::Unknown)),
        ("real sentences", Exam::written()?),
    ];
    let engine = Engine::start(model.clone(), None, EngineOptions::default())?;
    let mut rows = Vec::new();
    for (name, exam) in exams {
        rows.push(exam.sit(&engine, &vocabulary, name, &mut on_wrong)?);
    }
    Ok(rows)
}

/// Writes the sentences written by hand as examples, one a line: text and mentions, offsets in
/// characters. Returns how many.
pub fn write_examples(path: &Path) -> Result<usize> {
    let listed = gazetteer::entities()?;
    let exam = Exam::written_over(listed.clone())?;
    let mut lines = String::new();
    for Text { text, mentions } in &exam.texts {
        let characters = |bytes: usize| text[..bytes].chars().count();
        let mentions: Vec<_> = mentions
            .iter()
            .map(|Mention { span, thing }| {
                serde_json::json!({
                    "start": characters(span.start),
                    "end": characters(span.end),
                    "id": listed[*thing].id,
                })
            })
            .collect();
        let line = serde_json::json!({ "text": text, "mentions": mentions });
        lines.push_str(&format!("{line}\n"));
    }
    std::fs::write(path, lines).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(exam.texts.len())
}

impl Exam {
    /// Draws lessons until there are `pool` entities.
    fn draw(course: &Course<'_>, pool: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(20_000);
        let (mut texts, mut entities) = (Vec::new(), Vec::new());
        while entities.len() < pool {
            let mut lesson = course.lesson(&mut rng, false);
            for mention in &mut lesson.text.mentions {
                mention.thing += entities.len();
            }
            entities.extend(lesson.entities);
            texts.push(lesson.text);
        }
        Self { texts, entities }
    }

    /// The sentences written by hand, over the entities that are shipped.
    fn written() -> Result<Self> {
        Self::written_over(gazetteer::entities()?)
    }

    fn written_over(listed: Vec<ListedEntity>) -> Result<Self> {
        let at: HashMap<&str, usize> = listed
            .iter()
            .enumerate()
            .map(|(at, listed)| (listed.id.as_str(), at))
            .collect();
        let lines = SENTENCES.lines().filter(|line| !line.starts_with('#'));
        let texts = lines.map(|line| read(line, &at)).collect::<Result<_>>()?;
        Ok(Self {
            texts,
            entities: listed.into_iter().map(|listed| listed.entity).collect(),
        })
    }

    fn sit(
        &self,
        engine: &Engine,
        vocabulary: &Vocabulary,
        name: &str,
        on_wrong: &mut impl FnMut(&str),
    ) -> Result<Row> {
        let model = engine.model();
        let pool = self.embed(model)?;
        let mut called = HashMap::<String, usize>::new();
        for entity in &self.entities {
            for name in names(entity) {
                *called.entry(name).or_default() += 1;
            }
        }
        let mut row = Row {
            name: name.to_owned(),
            texts: self.texts.len(),
            ..Row::default()
        };
        for text in &self.texts {
            let (linked, scores) = self.link(engine, &pool, text)?;
            row.add(text, &linked);
            let right = linked.iter().map(|mention| text.mentions.contains(mention));
            row.scores.extend(scores.into_iter().zip(right));
            if linked != text.mentions {
                on_wrong(&format!("{name}: {}", self.compared(text, &linked)));
            }
            for (mention, state) in text.mentions.iter().zip(states(model, vocabulary, text)?) {
                let right = nearest(&pool, &state).0 == mention.thing;
                row.found.add(right);
                let surface = text.text[mention.span.clone()].to_lowercase();
                if called.get(&surface).is_some_and(|things| *things > 1) {
                    row.namesakes.add(right);
                }
            }
        }
        Ok(row)
    }

    /// Links a text with the engine, and returns the cosine of each link, too.
    fn link(
        &self,
        engine: &Engine,
        pool: &[Vec<f32>],
        text: &Text,
    ) -> Result<(Vec<Mention>, Vec<f32>)> {
        let (mut mentions, mut scores) = (Vec::new(), Vec::new());
        for mention in block_on(marked(engine, "exam", &text.text))?.0 {
            let (thing, score) = nearest(pool, &mention.embedding);
            let span = mention.start..mention.end;
            mentions.push(Mention { span, thing });
            scores.push(score);
        }
        Ok((mentions, scores))
    }

    fn embed(&self, model: &Model) -> Result<Vec<Vec<f32>>> {
        let mut embeddings = Vec::new();
        for chunk in self.entities.chunks(32) {
            let ids = chunk
                .iter()
                .map(|entity| model.tokens().passage_ids(&entity.title(), &entity.text))
                .collect::<Result<Vec<_>, _>>()?;
            embeddings.extend(model.embed_passages(&ids)?);
        }
        Ok(embeddings)
    }

    /// A text with its links and with the right links, for printing.
    fn compared(&self, text: &Text, linked: &[Mention]) -> String {
        let shown = |mentions: &[Mention]| {
            let each = mentions.iter().map(|mention| {
                let entity = &self.entities[mention.thing];
                let (kind, title) = (entity.kind.name, entity.title());
                format!("{:?} {kind} {title}", &text.text[mention.span.clone()])
            });
            each.collect::<Vec<_>>().join(", ")
        };
        format!(
            "{:?}\n    got  {}\n    want {}",
            text.text,
            shown(linked),
            shown(&text.mentions)
        )
    }
}

/// The mentions that the engine marks in a text, in order, and how many of its bytes were read before the
/// context was full. `name` is the name of the turn.
pub(crate) async fn marked(
    engine: &Engine,
    name: &str,
    text: &str,
) -> Result<(Vec<onegen_engine::Mention>, usize)> {
    let request = LinkRequest::new(name, text, engine.model().tokens())?;
    let turn = engine.submit(request).await;
    let mut turn = turn.with_context(|| format!("{text:?} was refused"))?;
    let mut mentions = Vec::new();
    loop {
        match turn.next().await.context("the engine stopped")? {
            Event::Mention(mention) => mentions.push(mention),
            Event::Finished(summary) => return Ok((mentions, summary.linked_bytes)),
            Event::Failed(error) => bail!("{text:?} failed: {error}"),
            _ => {}
        }
    }
}

/// A line of the file: `[[Quito|city-quito]] is …`.
fn read(line: &str, at: &HashMap<&str, usize>) -> Result<Text> {
    let mut out = Text::default();
    let mut rest = line;
    while let Some((before, inner)) = rest.split_once("[[") {
        let (name, after) = inner
            .split_once("]]")
            .with_context(|| format!("a mention does not end in {line:?}"))?;
        let (name, id) = name
            .split_once('|')
            .with_context(|| format!("{name:?} has no id in {line:?}"))?;
        out.text.push_str(before);
        let start = out.text.len();
        out.text.push_str(name);
        out.mentions.push(Mention {
            span: start..out.text.len(),
            thing: *at.get(id).with_context(|| format!("no entity is {id}"))?,
        });
        rest = after;
    }
    out.text.push_str(rest);
    Ok(out)
}

/// Lower-cased names that a text may use for the entity.
fn names(entity: &Entity) -> BTreeSet<String> {
    let short = super::lesson_entities::short(entity.kind, &entity.name);
    short
        .into_iter()
        .chain([entity.name.clone()])
        .map(|name| name.to_lowercase())
        .collect()
}

/// The states at the `[LK]` of each mention, with the right marks given.
fn states(model: &Model, vocabulary: &Vocabulary, text: &Text) -> Result<Vec<Vec<f32>>> {
    let mut batch = Batch::default();
    batch.push_linked(vocabulary, text, Some)?;
    let prefixes: Vec<Vec<u32>> = batch
        .queries
        .iter()
        .map(|(at, _)| batch.ids[..=*at as usize].to_vec())
        .collect();
    Ok(model.embed_passages(&prefixes)?)
}

/// The entity whose embedding is nearest, and its cosine.
fn nearest(pool: &[Vec<f32>], state: &[f32]) -> (usize, f32) {
    let score = |entity: &[f32]| -> f32 { entity.iter().zip(state).map(|(a, b)| a * b).sum() };
    (0..pool.len())
        .map(|at| (at, score(&pool[at])))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or((0, 0.0))
}

impl Counts {
    /// The counts of two groups together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            right: self.right + other.right,
            given: self.given + other.given,
            wanted: self.wanted + other.wanted,
        }
    }

    /// Counts one decision.
    pub(crate) fn add(&mut self, right: bool) {
        self.right += usize::from(right);
        self.given += 1;
        self.wanted += 1;
    }

    /// Counts the common elements of two sets.
    pub(crate) fn compare<T: Ord>(&mut self, given: &BTreeSet<T>, wanted: &BTreeSet<T>) {
        self.right += given.intersection(wanted).count();
        self.given += given.len();
        self.wanted += wanted.len();
    }

    pub(crate) fn precision(self) -> f64 {
        self.right as f64 / self.given.max(1) as f64
    }

    pub(crate) fn recall(self) -> f64 {
        self.right as f64 / self.wanted.max(1) as f64
    }

    /// Micro-averaged F1.
    pub(crate) fn f1(self) -> f64 {
        2.0 * self.right as f64 / (self.given + self.wanted).max(1) as f64
    }
}

impl Row {
    fn add(&mut self, text: &Text, linked: &[Mention]) {
        let exact = |m: &Mention| (m.span.start, m.span.end, m.thing);
        let span = |m: &Mention| (m.span.start, m.span.end);
        let surface = |m: &Mention| (text.text[m.span.clone()].to_owned(), m.thing);
        let (got, want) = (|| linked.iter(), || text.mentions.iter());
        self.linked
            .compare(&got().map(exact).collect(), &want().map(exact).collect());
        self.marked
            .compare(&got().map(span).collect(), &want().map(span).collect());
        self.surfaces.compare(
            &got().map(surface).collect(),
            &want().map(surface).collect(),
        );
    }

    /// The name of the exam.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Precision, recall and F1 of links with exact offsets, without the links that score below `least`.
    pub fn linked_above(&self, least: f32) -> [f64; 3] {
        let kept = self.scores.iter().filter(|(score, _)| *score >= least);
        let counts = Counts {
            right: kept.clone().filter(|(_, right)| *right).count(),
            given: kept.count(),
            wanted: self.linked.wanted,
        };
        [counts.precision(), counts.recall(), counts.f1()]
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |share: f64| format!("{:.1}%", 100.0 * share);
        let all = |counts: Counts| {
            let of = [counts.precision(), counts.recall(), counts.f1()];
            of.map(cell).join(" / ")
        };
        write!(
            f,
            "| {} | {} | {} | {} | {} | {} | {} | {} ({}) |",
            self.name,
            self.texts,
            self.linked.wanted,
            all(self.linked),
            all(self.surfaces),
            all(self.marked),
            cell(self.found.recall()),
            cell(self.namesakes.recall()),
            self.namesakes.wanted,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mention(start: usize, end: usize, thing: usize) -> Mention {
        Mention {
            span: start..end,
            thing,
        }
    }

    #[test]
    fn offsets_count_where_surfaces_do_not() {
        let text = Text {
            text: "Orm and Orm".into(),
            mentions: vec![mention(0, 3, 7), mention(8, 11, 7)],
        };
        let mut row = Row::default();
        row.add(&text, &[mention(0, 3, 7)]);
        assert_eq!((row.linked.right, row.linked.wanted), (1, 2));
        assert_eq!((row.surfaces.right, row.surfaces.wanted), (1, 1));
        row.add(&text, &[mention(0, 3, 2), mention(8, 11, 7)]);
        assert_eq!((row.marked.right, row.linked.right), (3, 2));
    }

    #[test]
    fn every_sentence_names_entities_that_are_there() {
        let exam = Exam::written().expect("the sentences are well formed");
        assert!(exam.texts.len() > 60);
        for text in &exam.texts {
            for Mention { span, thing } in &text.mentions {
                let name = text.text[span.clone()].to_lowercase();
                let of_thing = names(&exam.entities[*thing]);
                assert!(of_thing.contains(&name), "{name} is none of {of_thing:?}");
            }
        }
    }
}
