//! Entity linking over real texts: KORE50 and OKE-2015 with spans and Wikidata ids, over entities whose
//! names and types are all that is known of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use onegen_engine::{Engine, EngineOptions, LoadOptions, Model, Passage};
use serde::{Deserialize, Serialize};

use super::data;
use super::interval::{Estimate, resampled};
use super::pool::{Pool, nearest_row};
use crate::linking::evaluate::{Counts, marked};

/// Texts with the mentions that should be linked.
pub struct LinkingSet {
    /// The file's name without its ending.
    pub name: String,
    texts: Vec<TextLine>,
}

#[derive(Deserialize)]
struct TextLine {
    id: String,
    text: String,
    /// In characters. Mentions outside of this span do not count.
    evaluation_span: (usize, usize),
    mentions: Vec<MentionLine>,
}

#[derive(Deserialize)]
struct MentionLine {
    /// In characters.
    span: (usize, usize),
    entity_id: String,
    /// The candidates that public linkers propose for the mention.
    #[serde(default)]
    candidates: Vec<String>,
}

/// An entity to link to.
#[derive(Deserialize)]
pub struct EntityLine {
    id: String,
    name: String,
    #[serde(default)]
    types: Vec<String>,
}

impl EntityLine {
    /// Reads a file of entities.
    ///
    /// # Errors
    /// The file cannot be read, or holds no entity.
    pub fn read(path: &Path) -> Result<Vec<Self>> {
        let entities: Vec<Self> = data::lines(path)?;
        ensure!(!entities.is_empty(), "{} holds no entities", path.display());
        Ok(entities)
    }

    /// The entity's types as a sentence, the form in which models learn descriptions.
    fn description(&self) -> String {
        let types = self.types.join(" and ").to_lowercase();
        let article = if types.starts_with(['a', 'e', 'i', 'o', 'u']) {
            "an"
        } else {
            "a"
        };
        if types.is_empty() {
            format!("{}.", self.name)
        } else {
            format!("{} is {article} {types}.", self.name)
        }
    }
}

/// A mention that was linked.
#[derive(Debug, Clone, Serialize)]
pub struct Link {
    /// Its range in characters.
    pub span: (usize, usize),
    /// The nearest entity.
    pub id: String,
    /// The nearest of the candidates that public linkers propose, if the mention is marked rightly.
    pub among_candidates: Option<String>,
    /// Cosine of the mention and the nearest entity.
    pub score: f32,
}

/// The result for one text.
#[derive(Debug, Clone, Serialize)]
pub struct LinkingRecord {
    /// The model.
    pub model: String,
    /// The set.
    pub set: String,
    /// The text's id.
    pub id: String,
    /// The text.
    pub text: String,
    /// The mentions that were linked.
    pub links: Vec<Link>,
    /// The right mentions: their ranges in characters and their ids.
    pub right: Vec<((usize, usize), String)>,
}

/// The counts of a set's records, text by text.
#[derive(Default)]
pub struct LinkingFigures {
    /// The set.
    pub set: String,
    texts: Vec<TextFigures>,
}

/// Counts of one text.
#[derive(Debug, Clone, Copy, Default)]
struct TextFigures {
    /// Right in offsets and id
    linked: Counts,
    /// Right in offsets
    marked: Counts,
    /// Right in id, counting only mentions that are marked rightly
    found: Counts,
    /// The same if only the proposed candidates may be found, counting only mentions that have some
    found_among: Counts,
}

/// A model that links, and the entities that it links to.
pub struct Linker {
    engine: Engine,
    ids: Vec<String>,
    at: HashMap<String, usize>,
    pool: Pool,
}

impl LinkingSet {
    /// Reads a file of texts.
    ///
    /// # Errors
    /// It cannot be read, or a span is outside its text.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.trim_end_matches(".gz").trim_end_matches(".jsonl");
        let texts: Vec<TextLine> = data::lines(path)?;
        for text in &texts {
            let length = text.text.chars().count();
            for MentionLine { span, .. } in &text.mentions {
                ensure!(
                    span.0 < span.1 && span.1 <= length,
                    "{name}: {} has a mention at {span:?}, but {length} characters",
                    text.id
                );
            }
        }
        Ok(Self {
            name: name.to_owned(),
            texts,
        })
    }
}

impl Linker {
    /// Loads a model that links, and embeds the entities with their names as titles and their types
    /// as sentences. Calls `on_progress` with the number done.
    ///
    /// # Errors
    /// The model cannot be loaded, or does not link entities.
    pub fn load(
        directory: &Path,
        options: &LoadOptions,
        entities: Vec<EntityLine>,
        on_progress: impl FnMut(usize),
    ) -> Result<Self> {
        let model = Model::load(directory, options);
        let model = model.with_context(|| format!("cannot load {}", directory.display()))?;
        model.tokens().linking_config()?;
        let passages: Vec<Passage> = entities
            .iter()
            .map(|entity| Passage {
                id: entity.id.clone(),
                title: entity.name.clone(),
                text: entity.description(),
                url: None,
                score: 0.0,
            })
            .collect();
        let pool = Pool::embed(&model, &passages, on_progress)?;
        let ids: Vec<String> = entities.into_iter().map(|entity| entity.id).collect();
        let at = ids.iter().cloned().zip(0..).collect();
        Ok(Self {
            engine: Engine::start(Arc::new(model), None, EngineOptions::default())?,
            ids,
            at,
            pool,
        })
    }

    /// Links every text, `concurrent` at once. Links with a score below `min_score` are dropped.
    ///
    /// # Errors
    /// The engine failed.
    pub async fn sit(
        &self,
        name: &str,
        set: &LinkingSet,
        min_score: f32,
        concurrent: usize,
    ) -> Result<Vec<LinkingRecord>> {
        let sat = stream::iter(&set.texts).map(|text| self.record(name, set, text, min_score));
        sat.buffered(concurrent.max(1)).try_collect().await
    }

    async fn record(
        &self,
        name: &str,
        set: &LinkingSet,
        text: &TextLine,
        min_score: f32,
    ) -> Result<LinkingRecord> {
        let within = |span: (usize, usize)| {
            text.evaluation_span.0 <= span.0 && span.1 <= text.evaluation_span.1
        };
        let right = text.mentions.iter().filter(|mention| within(mention.span));
        let right: BTreeMap<(usize, usize), &MentionLine> =
            right.map(|mention| (mention.span, mention)).collect();
        let mut links = Vec::new();
        for (span, embedding) in self.mentions(&text.id, &text.text).await? {
            let nearest = self.pool.nearest(&embedding, 1).into_iter().next();
            let (at, score) = nearest.context("there are no entities")?;
            if score < min_score || !within(span) {
                continue;
            }
            let candidates = right.get(&span).map(|mention| {
                let places = mention.candidates.iter().filter_map(|id| self.at.get(id));
                nearest_row(&self.pool, &embedding, places.copied())
            });
            links.push(Link {
                span,
                id: self.ids[at].clone(),
                among_candidates: candidates.flatten().map(|at| self.ids[at].clone()),
                score,
            });
        }
        Ok(LinkingRecord {
            model: name.to_owned(),
            set: set.name.clone(),
            id: text.id.clone(),
            text: text.text.clone(),
            links,
            right: right
                .into_iter()
                .map(|(span, mention)| (span, mention.entity_id.clone()))
                .collect(),
        })
    }

    /// The mentions of a text with their embeddings and offsets in characters. The text is linked in parts
    /// that end where sentences end. Each part has at most as many tokens as the model links at once.
    async fn mentions(&self, name: &str, text: &str) -> Result<Vec<((usize, usize), Vec<f32>)>> {
        let tokens = self.engine.model().tokens();
        let most = tokens.linking_config()?.max_text_tokens.get();
        let mut mentions = Vec::new();
        let mut start = 0;
        while !text[start..].trim().is_empty() {
            let part = part(&text[start..], |part| tokens.count(part) <= most);
            let (found, linked) = marked(&self.engine, name, part).await?;
            let characters = |byte: usize| text[..start + byte].chars().count();
            for mention in found {
                let span = (characters(mention.start), characters(mention.end));
                mentions.push((span, mention.embedding));
            }
            // If the context is full before a part's end, the rest begins the next part. White space at
            // the end counts as linked.
            let whole = linked >= part.trim_end().len() || linked == 0;
            start += if whole { part.len() } else { linked };
        }
        Ok(mentions)
    }
}

/// The longest beginning of a text that ends where a sentence ends and that `fits`, but at least one
/// sentence.
fn part(text: &str, fits: impl Fn(&str) -> bool) -> &str {
    let sentence = |end: &(usize, &str)| text[..end.0].ends_with(['.', '!', '?']);
    let ends = text.match_indices(char::is_whitespace).filter(sentence);
    let ends: Vec<usize> = ends.map(|(at, _)| at).chain([text.len()]).collect();
    let fitting = ends.iter().take_while(|end| fits(&text[..**end]));
    let end = fitting.last().or(ends.first());
    &text[..end.copied().unwrap_or(text.len())]
}

impl LinkingFigures {
    /// Compares the links with the right ones.
    pub fn new(records: &[LinkingRecord]) -> Self {
        Self {
            set: records
                .first()
                .map_or(String::new(), |record| record.set.clone()),
            texts: records.iter().map(TextFigures::new).collect(),
        }
    }

    /// Precision, recall and F1, micro-averaged, with intervals over texts.
    pub fn measures(&self, seed: u64) -> Vec<(String, Option<Estimate>)> {
        type Part = fn(&TextFigures) -> Counts;
        let parts: [(&str, Part); 2] = [
            ("offsets and entity", |text| text.linked),
            ("offsets", |text| text.marked),
        ];
        let sum = |texts: &[TextFigures], part: Part| {
            texts.iter().map(part).fold(Counts::default(), Counts::and)
        };
        type Share = fn(Counts) -> f64;
        let shares: [(&str, Share); 3] = [
            ("micro precision", Counts::precision),
            ("micro recall", Counts::recall),
            ("micro F1", Counts::f1),
        ];
        let measured = |part: Part, share: Share| {
            resampled(&self.texts, seed, |texts| share(sum(texts, part)))
        };
        let mut measures = Vec::new();
        for (what, part) in parts {
            for (name, share) in shares {
                measures.push((format!("{name}, {what}"), measured(part, share)));
            }
        }
        let found: [(&str, Part); 2] = [
            ("right entity, of mentions marked rightly", |text| {
                text.found
            }),
            (
                "right entity among the proposed candidates, of mentions marked rightly",
                |text| text.found_among,
            ),
        ];
        for (what, part) in found {
            measures.push((what.to_owned(), measured(part, Counts::recall)));
        }
        measures
    }
}

impl TextFigures {
    fn new(record: &LinkingRecord) -> Self {
        let mut figures = Self::default();
        let links = || record.links.iter();
        let given: BTreeSet<_> = links().map(|link| (link.span, link.id.clone())).collect();
        let right: BTreeSet<_> = record.right.iter().cloned().collect();
        figures.linked.compare(&given, &right);
        let spans = |of: &BTreeSet<((usize, usize), String)>| -> BTreeSet<_> {
            of.iter().map(|(span, _)| *span).collect()
        };
        figures.marked.compare(&spans(&given), &spans(&right));
        for (span, id) in &record.right {
            if let Some(link) = links().find(|link| link.span == *span) {
                figures.found.add(link.id == *id);
                if let Some(chosen) = &link.among_candidates {
                    figures.found_among.add(chosen == id);
                }
            }
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_where_sentences_end() {
        let text = "One two. Three four! Five";
        assert_eq!(part(text, |part| part.len() < 12), "One two.");
        assert_eq!(part(text, |part| part.len() < 22), "One two. Three four!");
        assert_eq!(part(text, |_| true), text);
        assert_eq!(part(text, |_| false), "One two.");
    }

    #[test]
    fn links_count_by_offset_and_id() {
        let link = |span, id: &str| Link {
            span,
            id: id.into(),
            among_candidates: None,
            score: 1.0,
        };
        let record = LinkingRecord {
            model: String::new(),
            set: "set".into(),
            id: String::new(),
            text: String::new(),
            links: vec![link((0, 3), "Q1"), link((4, 7), "Q3"), link((9, 12), "Q4")],
            right: vec![
                ((0, 3), "Q1".into()),
                ((4, 7), "Q2".into()),
                ((9, 13), "Q4".into()),
                ((20, 24), "Q5".into()),
            ],
        };
        let measures = LinkingFigures::new(&[record]).measures(1);
        let mean = |measure: &str| {
            let found = measures.iter().find(|(name, _)| name == measure);
            found.and_then(|(_, value)| value.map(|value| value.mean))
        };
        assert_eq!(mean("micro precision, offsets and entity"), Some(1.0 / 3.0));
        assert_eq!(mean("micro recall, offsets and entity"), Some(0.25));
        assert_eq!(mean("micro F1, offsets and entity"), Some(2.0 / 7.0));
        assert_eq!(mean("micro precision, offsets"), Some(2.0 / 3.0));
        assert_eq!(mean("right entity, of mentions marked rightly"), Some(0.5));
    }
}
