//! Computes the figures of a set's records, each with its interval.

use super::interval::{Estimate, bootstrap};
use super::linking::LinkingFigures;
use super::sitting::{Ranks, Reading, Record};
use super::small_talk::SmallTalkRecord;

/// One figure of one model over one set.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// The set.
    pub set: String,
    /// What was measured.
    pub measure: String,
    /// `None` if there was nothing to measure.
    pub value: Option<Estimate>,
    /// Whether it is a share, which is shown in per cent, or a plain number.
    pub share: bool,
}

/// Collects the figures of one set, with intervals from one seed.
struct Figures {
    set: String,
    seed: u64,
    figures: Vec<Figure>,
}

impl Figures {
    fn push(&mut self, measure: &str, values: impl IntoIterator<Item = f64>, share: bool) {
        let values: Vec<f64> = values.into_iter().collect();
        if let Some(value) = bootstrap(&values, self.seed) {
            self.figures.push(Figure {
                set: self.set.clone(),
                measure: measure.to_owned(),
                value: Some(value),
                share,
            });
        }
    }

    /// A share; one without values is left out.
    fn share(&mut self, measure: &str, values: impl IntoIterator<Item = f64>) {
        self.push(measure, values, true);
    }

    fn hits(&mut self, measure: &str, hits: impl IntoIterator<Item = bool>) {
        self.share(measure, hits.into_iter().map(one));
    }

    /// Exact match and F1 of the questions that have right answers.
    fn answers<'a>(
        &mut self,
        condition: &str,
        readings: impl Iterator<Item = &'a Reading> + Clone,
    ) {
        self.share(
            &format!("EM, {condition}"),
            readings.clone().map(|reading| reading.exact),
        );
        self.share(
            &format!("F1, {condition}"),
            readings.map(|reading| reading.f1),
        );
    }

    /// Recall@1, @5 and @20.
    fn recall<'a>(&mut self, who: &str, ranks: impl Iterator<Item = &'a Ranks> + Clone) {
        for k in [1, 5, 20] {
            self.share(
                &format!("Recall@{k}{who}"),
                ranks.clone().map(|ranks| recall(ranks, k)),
            );
        }
    }

    /// Precision and recall of abstaining: how often the model abstains where it must, and where it
    /// must not.
    fn abstention(&mut self, condition: &str, readings: &[(bool, &Reading)]) {
        let of = |answerable: bool| {
            let chosen = readings.iter().filter(move |(of, _)| *of == answerable);
            chosen.map(|(_, reading)| reading.abstained)
        };
        self.hits(&format!("abstains where it must, {condition}"), of(false));
        self.hits(&format!("abstains wrongly, {condition}"), of(true));
        let abstained = readings.iter().filter(|(_, reading)| reading.abstained);
        self.hits(
            &format!("abstention right (precision), {condition}"),
            abstained.map(|(answerable, _)| !answerable),
        );
    }
}

fn one(hit: bool) -> f64 {
    f64::from(u8::from(hit))
}

/// The share of gold passages among the first `k`. For a question with one gold passage it is 0 or
/// 1.
fn recall(ranks: &Ranks, k: usize) -> f64 {
    let found = ranks.iter().flatten().filter(|rank| **rank <= k).count();
    found as f64 / ranks.len().max(1) as f64
}

/// The figures of the records of one model over one set. Exact match and F1 are over questions with right
/// answers; questions from which the model must abstain have their own figures.
pub fn of_records(records: &[Record], seed: u64) -> Vec<Figure> {
    let Some(first) = records.first() else {
        return vec![];
    };
    let mut figures = Figures {
        set: first.set.clone(),
        seed,
        figures: vec![],
    };
    let all = records.iter();
    figures.hits("began with a retrieval", all.clone().map(|r| r.retrieved));
    figures.recall("", all.clone().map(|r| &r.ranks));
    if first.set.starts_with("squad") {
        let naming = all.clone().filter(|r| r.names_title);
        figures.share(
            "Recall@1, questions that share a word with the title",
            naming.map(|r| recall(&r.ranks, 1)),
        );
    }
    let follow_ups = all.clone().filter(|r| r.earlier_turns > 0);
    if follow_ups.clone().count() > 0 {
        figures.share(
            "Recall@1, follow-ups",
            follow_ups.map(|r| recall(&r.ranks, 1)),
        );
    }
    figures.recall(
        ", BM25 on the last message",
        all.clone().map(|r| &r.bm25_ranks),
    );
    figures.recall(
        ", BM25 on the human rewrite",
        all.clone().filter_map(|r| r.bm25_rewrite_ranks.as_ref()),
    );
    figures.recall(
        ", separate retriever",
        all.clone().filter_map(|r| r.retriever_ranks.as_ref()),
    );
    let answered = all.clone().filter(|r| !r.answers.is_empty());
    type Condition = (&'static str, fn(&Record) -> Option<&Reading>);
    let conditions: [Condition; 6] = [
        ("gold passage given", |r| r.gold_given.as_ref()),
        ("end to end", |r| Some(&r.end_to_end)),
        ("one retrieval at most", |r| r.single_pass.as_ref()),
        ("no retrieval", |r| r.no_retrieval.as_ref()),
        ("BM25's passage given", |r| r.bm25_given.as_ref()),
        ("separate retriever's passage given (pipeline)", |r| {
            r.retriever_given.as_ref()
        }),
    ];
    for (condition, reading) in conditions {
        figures.answers(condition, answered.clone().filter_map(reading));
    }
    if records.iter().any(|r| !r.answerable) {
        for (condition, reading) in &conditions[..2] {
            let decided = all
                .clone()
                .filter(|r| !r.answerable || !r.answers.is_empty());
            let readings = decided.filter_map(|r| Some((r.answerable, reading(r)?)));
            figures.abstention(condition, &readings.collect::<Vec<_>>());
        }
    }
    if first.single_pass.is_some() {
        let read = |r: &Record| {
            let read = r.gold.iter().filter(|id| r.end_to_end.read.contains(id));
            read.count() as f64 / r.gold.len() as f64
        };
        figures.share("gold passages read, end to end", all.clone().map(read));
        let searches = all.clone().map(|r| r.searches as f64);
        figures.push("retrievals, end to end", searches, false);
    }
    let too_long = |r: &Record| {
        let gold = r.gold_given.as_ref();
        r.end_to_end.too_long || gold.is_some_and(|reading| reading.too_long)
    };
    if records.iter().any(too_long) {
        figures.hits(
            "too long for the context (counted as wrong)",
            all.map(too_long),
        );
    }
    figures.figures
}

/// The figures of small talk: how often a model retrieves although nothing was asked.
pub fn of_small_talk(records: &[SmallTalkRecord], seed: u64) -> Vec<Figure> {
    let mut figures = Figures {
        set: "small talk".to_owned(),
        seed,
        figures: vec![],
    };
    let all = records.iter();
    figures.hits("retrieves wrongly", all.clone().map(|r| r.retrieved));
    let with_system = all.filter(|r| r.system.is_some());
    figures.hits(
        "retrieves wrongly, with a system message",
        with_system.map(|r| r.retrieved),
    );
    figures.figures
}

/// The figures of entity linking, with intervals over documents.
pub fn of_linking(linking: &LinkingFigures, seed: u64) -> Vec<Figure> {
    let figure = |(measure, value): (String, Option<Estimate>)| Figure {
        set: linking.set.clone(),
        measure,
        value,
        share: true,
    };
    linking.measures(seed).into_iter().map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(exact: f64, abstained: bool) -> Reading {
        Reading {
            text: String::new(),
            read: vec!["b".into()],
            exact,
            f1: exact,
            abstained,
            too_long: false,
        }
    }

    fn record(rank: Option<usize>, answerable: bool, gold: Reading) -> Record {
        Record {
            model: "model".into(),
            set: "set".into(),
            id: String::new(),
            question: String::new(),
            answers: if answerable { vec!["x".into()] } else { vec![] },
            answerable,
            earlier_turns: 0,
            gold: vec!["a".into()],
            names_title: false,
            retrieved: true,
            searches: 1,
            ranks: vec![rank],
            bm25_ranks: vec![None],
            bm25_rewrite_ranks: None,
            retriever_ranks: None,
            end_to_end: reading(0.0, false),
            single_pass: None,
            gold_given: Some(gold),
            no_retrieval: None,
            bm25_given: None,
            retriever_given: None,
        }
    }

    #[test]
    fn each_figure_counts_the_questions_that_it_is_about() {
        let records = [
            record(Some(1), true, reading(1.0, false)),
            record(Some(4), true, reading(0.0, true)),
            record(None, false, reading(1.0, true)),
            record(Some(6), false, reading(0.0, false)),
        ];
        let figures = of_records(&records, 1);
        let mean = |measure: &str| {
            let found = figures.iter().find(|figure| figure.measure == measure);
            found
                .and_then(|figure| figure.value)
                .map(|value| (value.mean, value.count))
        };
        assert_eq!(mean("Recall@1"), Some((0.25, 4)));
        assert_eq!(mean("Recall@5"), Some((0.5, 4)));
        assert_eq!(mean("Recall@20"), Some((0.75, 4)));
        assert_eq!(mean("EM, gold passage given"), Some((0.5, 2)));
        assert_eq!(mean("EM, no retrieval"), None);
        assert_eq!(
            mean("abstains where it must, gold passage given"),
            Some((0.5, 2))
        );
        assert_eq!(mean("abstains wrongly, gold passage given"), Some((0.5, 2)));
        assert_eq!(
            mean("abstention right (precision), gold passage given"),
            Some((0.5, 2))
        );
    }
}
