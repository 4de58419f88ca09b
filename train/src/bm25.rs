//! BM25, the word-based search with which retrievers are compared.

use std::collections::{BTreeMap, HashMap};

/// BM25 with k1 = 1.2, b = 0.75 over titles and texts (Robertson & Zaragoza 2009).
pub struct Bm25 {
    /// For each word the passages that contain it, and how often
    postings: HashMap<String, Vec<(usize, f64)>>,
    lengths: Vec<f64>,
    mean_length: f64,
}

/// The words of a text: its runs of letters and digits, in lower case.
pub fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

impl Bm25 {
    /// Counts the words of passages, each a title and a text.
    pub fn new<'a>(passages: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut postings = HashMap::<String, Vec<(usize, f64)>>::new();
        let mut lengths = Vec::new();
        for (at, (title, text)) in passages.into_iter().enumerate() {
            let mut counts = HashMap::<String, f64>::new();
            words(title)
                .chain(words(text))
                .for_each(|word| *counts.entry(word).or_default() += 1.0);
            lengths.push(counts.values().sum());
            counts
                .into_iter()
                .for_each(|(word, count)| postings.entry(word).or_default().push((at, count)));
        }
        let mean_length = lengths.iter().sum::<f64>() / lengths.len().max(1) as f64;
        Self {
            postings,
            lengths,
            mean_length,
        }
    }

    /// The `k` passages with the highest scores, the best first. Among equal scores the earlier passage
    /// comes first. Passages that share no word with the query are left out.
    pub fn rank(&self, query: &str, k: usize) -> Vec<usize> {
        let mut scores = BTreeMap::<usize, f64>::new();
        for postings in words(query).filter_map(|word| self.postings.get(&word)) {
            let (all, holding) = (self.lengths.len() as f64, postings.len() as f64);
            let rarity = (1.0 + (all - holding + 0.5) / (holding + 0.5)).ln();
            for (at, count) in postings {
                let length = 0.25 + 0.75 * self.lengths[*at] / self.mean_length;
                *scores.entry(*at).or_default() += rarity * count * 2.2 / (count + 1.2 * length);
            }
        }
        let mut ranking: Vec<_> = scores.into_iter().collect();
        ranking.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranking.truncate(k);
        ranking.into_iter().map(|(at, _)| at).collect()
    }

    /// The passage with the highest score, if any passage shares a word with the query.
    pub fn best(&self, query: &str) -> Option<usize> {
        self.rank(query, 1).first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rarest_word_decides() {
        let bm25 = Bm25::new([
            ("Orm", "a country in Vass"),
            ("Tell", "a country in Vass"),
            ("Quarn", "an element"),
        ]);
        assert_eq!(bm25.best("Which country is Tell?"), Some(1));
        assert_eq!(bm25.rank("Which country is Tell?", 5), [1, 0]);
        assert_eq!(bm25.best("And its capital?"), None);
    }
}
