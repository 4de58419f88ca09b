//! Which token follows in the copy of a text.

use super::copy::{MarkedCopy, Progress};
use super::words::Words;
use crate::tokens::marks::Mark;

/// What may follow.
#[derive(Default)]
struct Allowed {
    /// Tokens of the text.
    text: Vec<u32>,
    /// Tokens that are marks, or parts of one.
    marks: Vec<u32>,
}

impl MarkedCopy {
    /// The token that follows, by the logits for it: the likeliest of all if it may. If not, the model
    /// expects another text than this one, which is no sign that a mention begins, even if its mark is the
    /// likeliest that may follow: the text goes on with the tokenizer's own token. None where no logit is
    /// finite.
    pub(crate) fn choose(&self, logits: &[f32]) -> Option<u32> {
        let mut allowed = Allowed::default();
        self.spell(&self.readings, self.words(), &mut allowed);
        for reading in &self.readings {
            if let Some(Mark::Token(id)) = self.mark_at(reading) {
                allowed.marks.push(*id);
            }
        }
        let Allowed { text, marks } = allowed;
        let best = likeliest(logits, 0..logits.len() as u32)?;
        if text.contains(&best) || marks.contains(&best) {
            return Some(best);
        }
        // Nothing where a mark has been begun, or a mention must end.
        let text = self.likely(1).next().or_else(|| likeliest(logits, text));
        let is_mention_open = self
            .readings
            .iter()
            .any(|reading| reading.mention.is_some());
        if text.is_some() && !is_mention_open {
            return text;
        }
        likeliest(logits, text.into_iter().chain(marks))
    }

    /// Collects the tokens of `words` that can be written with what led there and goes on from `readings`.
    fn spell(&self, readings: &[Progress], words: Words<'_>, found: &mut Allowed) {
        let goes_on = |reading: &Progress| {
            let within = |before: &Progress| before.mention == reading.mention;
            reading.mark == 0 && reading.closed.is_none() && self.readings.iter().any(within)
        };
        if readings.iter().any(goes_on) {
            found.text.extend(words.whole())
        } else {
            found.marks.extend(words.whole())
        }
        let mut steps: Vec<_> = readings
            .iter()
            .flat_map(|reading| self.steps(reading))
            .collect();
        steps.sort_by_key(|step| step.0);
        for same in steps.chunk_by(|a, b| a.0 == b.0) {
            let longer = words.then(same[0].0);
            if !longer.is_empty() {
                let readings: Vec<_> = same.iter().map(|step| step.1).collect();
                self.spell(&readings, longer, found);
            }
        }
    }
}

/// The id with the highest logit, the lowest of several.
fn likeliest(logits: &[f32], ids: impl IntoIterator<Item = u32>) -> Option<u32> {
    let with_logit = |id: u32| Some((id, *logits.get(id as usize)?));
    let each = ids.into_iter().filter_map(with_logit);
    let finite = each.filter(|(_, logit)| logit.is_finite());
    let likeliest = finite.max_by(|(a, x), (b, y)| x.total_cmp(y).then(b.cmp(a)));
    likeliest.map(|(id, _)| id)
}
