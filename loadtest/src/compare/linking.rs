//! Entity linking by the number of mentions: each mention's own state searches, or each mention is embedded apart.

use std::time::Instant;

use onegen_proto::LinkedEntities;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use reqwest::Method as HttpMethod;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::counters::forwarded;
use super::{Round, Rounds};
use crate::client::Client;
use crate::plan::dataset::Dataset;

/// How a text's mentions are linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkingMethod {
    /// Marking and searching are one pass: the state behind each mention searches.
    OnePass,
    /// The marked mentions are embedded afterwards, each with its text, all in one request. Their searches are left out,
    /// which flatters this method.
    TwoPasses,
}

impl LinkingMethod {
    /// Its name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnePass => "one pass",
            Self::TwoPasses => "two passes, same engine",
        }
    }
}

/// A method at a number of mentions. A round is a text; its first text is its whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkingPoint {
    /// How the texts were linked.
    pub method: LinkingMethod,
    /// Mentions of each text.
    pub mentions: usize,
    /// What the texts cost.
    pub rounds: Rounds,
}

/// A text, and how many mentions the server marks in it.
struct Marked {
    text: String,
    mentions: usize,
}

/// Links so many texts (`repetitions`) of each number of mentions by both methods, in turn. The texts are joined from
/// those of the dataset. `see` gets both methods' points as soon as they are measured.
///
/// # Errors
/// What went wrong, in words.
pub async fn compare_linking(
    server: &Client,
    dataset: &Dataset,
    mentions: &[usize],
    repetitions: usize,
    mut see: impl FnMut(&[LinkingPoint]),
) -> Result<Vec<LinkingPoint>, String> {
    let mut sentences = Vec::new();
    for text in dataset.texts() {
        let mentions = link(server, text).await?.len();
        let text = text.to_owned();
        sentences.push(Marked { text, mentions });
    }
    let mut rng = StdRng::seed_from_u64(1);
    let mut points = Vec::new();
    for &wanted in mentions {
        let mut measured = [LinkingMethod::OnePass, LinkingMethod::TwoPasses].map(|method| {
            let rounds = Rounds::default();
            LinkingPoint {
                method,
                mentions: wanted,
                rounds,
            }
        });
        for repetition in 0..repetitions {
            sentences.shuffle(&mut rng);
            let text = joined(&sentences, wanted).ok_or_else(|| {
                format!("the texts for linking have no {wanted} mentions together")
            })?;
            for turn in 0..measured.len() {
                // Whoever begins has no advantage.
                let point = &mut measured[(turn + repetition) % 2];
                let before = forwarded(server).await?;
                let began = Instant::now();
                let found = link(server, &text).await?;
                if point.method == LinkingMethod::TwoPasses {
                    embed(server, &text, &found).await?;
                }
                let total_ms = began.elapsed().as_secs_f64() * 1e3;
                let forwarded = forwarded(server).await? - before;
                point.rounds.0.push(Round {
                    total_ms,
                    ttft_ms: total_ms,
                    forwarded,
                });
            }
        }
        see(&measured);
        points.extend(measured);
    }
    Ok(points)
}

/// A text of sentences that have so many mentions together.
fn joined(sentences: &[Marked], wanted: usize) -> Option<String> {
    let (mut texts, mut missing) = (Vec::new(), wanted);
    for sentence in sentences {
        if (1..=missing).contains(&sentence.mentions) {
            texts.push(sentence.text.as_str());
            missing -= sentence.mentions;
        }
    }
    (missing == 0).then(|| texts.join(" "))
}

/// The names that the server marks in a text.
async fn link(server: &Client, text: &str) -> Result<Vec<String>, String> {
    let path = "/v1/entities/link";
    let body = json!({"model": server.model(), "input": text});
    let answer = server.send(HttpMethod::POST, path, &body).await?;
    let linked: LinkedEntities = serde_json::from_value(answer)
        .map_err(|error| format!("{path} answered something else: {error}"))?;
    let mentions = linked.data.into_iter().flat_map(|one| one.mentions);
    Ok(mentions.map(|mention| mention.text).collect())
}

/// Embeds each mention with its text.
async fn embed(server: &Client, text: &str, mentions: &[String]) -> Result<(), String> {
    let queries: Vec<String> = mentions
        .iter()
        .map(|name| format!("{name}: {text}"))
        .collect();
    let body = json!({"model": server.model(), "input": queries, "input_type": "query"});
    let answer = server
        .send(HttpMethod::POST, "/v1/embeddings", &body)
        .await?;
    let found = answer["data"].as_array().map(Vec::len);
    if found == Some(mentions.len()) {
        return Ok(());
    }
    Err(format!(
        "{} mentions gave {found:?} embeddings",
        mentions.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_joined_until_their_mentions_are_as_many_as_wanted() {
        let marked = |text: &str, mentions| Marked {
            text: text.to_owned(),
            mentions,
        };
        let sentences = [
            marked("None.", 0),
            marked("Three.", 3),
            marked("Two.", 2),
            marked("One.", 1),
        ];
        let joined = |wanted| joined(&sentences, wanted);
        assert_eq!(joined(2).as_deref(), Some("Two."));
        assert_eq!(joined(4).as_deref(), Some("Three. One."));
        assert_eq!(joined(6).as_deref(), Some("Three. Two. One."));
        assert_eq!(joined(7), None);
    }
}
