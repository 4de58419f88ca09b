//! The token log: all ids of a conversation and the kind of each. Everything else about a
//! conversation can be rebuilt from it.

/// What a token in the log is, and under which kind its forward is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SpanKind {
    /// Sent with a request.
    Prompt,
    /// Sampled from the model, the end-of-turn token included.
    Generated,
    /// The query token `[RQ]`.
    Retrieval,
    /// A splice: the open marker, a passage's tokens, `[RD]` (only with block attention), and the
    /// close marker.
    Passage,
}

impl SpanKind {
    /// All kinds, in the order of the counters.
    pub const ALL: [SpanKind; 4] = [
        SpanKind::Prompt,
        SpanKind::Generated,
        SpanKind::Retrieval,
        SpanKind::Passage,
    ];

    /// The kind's name: `prompt`, `generated`, `retrieval` or `passage`.
    pub fn as_str(self) -> &'static str {
        match self {
            SpanKind::Prompt => "prompt",
            SpanKind::Generated => "generated",
            SpanKind::Retrieval => "retrieval",
            SpanKind::Passage => "passage",
        }
    }
}

/// A run of tokens of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// What these tokens are.
    pub kind: SpanKind,
    /// Where the run starts in the log.
    pub start: usize,
    /// How many tokens it holds.
    pub len: usize,
}

/// Token ids and the kind of each. It only grows at its end, or is cut back to its beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenLog {
    ids: Vec<u32>,
    kinds: Vec<SpanKind>,
}

impl TokenLog {
    /// How many tokens the log holds.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True when the log holds no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// All ids, in order.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The kind of each id, in order.
    pub fn kinds(&self) -> &[SpanKind] {
        &self.kinds
    }

    /// The last id and its kind.
    pub fn last(&self) -> Option<(u32, SpanKind)> {
        Some((*self.ids.last()?, *self.kinds.last()?))
    }

    /// The log as runs of one kind each.
    pub fn spans(&self) -> Vec<Span> {
        let mut start = 0;
        self.kinds
            .chunk_by(|a, b| a == b)
            .map(|run| {
                let span = Span {
                    kind: run[0],
                    start,
                    len: run.len(),
                };
                start += run.len();
                span
            })
            .collect()
    }

    /// Whether the log can be cut back to its first `len` tokens. `[RQ]` and its splice must stay
    /// together.
    pub(crate) fn can_be_cut(&self, len: usize) -> bool {
        let before = len.checked_sub(1).and_then(|at| self.kinds.get(at));
        match (before, self.kinds.get(len)) {
            (_, None) => len == self.len(),
            (Some(SpanKind::Retrieval | SpanKind::Passage), Some(SpanKind::Passage)) => false,
            _ => true,
        }
    }

    /// The first `len` tokens.
    pub(crate) fn prefix(&self, len: usize) -> Self {
        Self {
            ids: self.ids[..len].to_vec(),
            kinds: self.kinds[..len].to_vec(),
        }
    }

    /// The length of the longest common prefix with `ids`.
    pub(crate) fn common_prefix(&self, ids: &[u32]) -> usize {
        let pairs = self.ids.iter().zip(ids);
        pairs.take_while(|(a, b)| a == b).count()
    }

    /// How many tokens both logs begin with, the same in ids and kinds.
    pub(crate) fn common_beginning(&self, other: &Self) -> usize {
        let (ids, kinds) = (&other.ids, &other.kinds);
        let pairs = self.ids.iter().zip(&self.kinds).zip(ids.iter().zip(kinds));
        pairs.take_while(|(ours, theirs)| ours == theirs).count()
    }

    pub(crate) fn push(&mut self, id: u32, kind: SpanKind) {
        self.extend(&[id], kind);
    }

    pub(crate) fn extend(&mut self, ids: &[u32], kind: SpanKind) {
        self.ids.extend_from_slice(ids);
        self.kinds.resize(self.ids.len(), kind);
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.ids.truncate(len);
        self.kinds.truncate(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_the_log_in_order() {
        let mut log = TokenLog::default();
        log.extend(&[5, 6, 7], SpanKind::Prompt);
        log.push(1, SpanKind::Retrieval);
        log.extend(&[8, 9], SpanKind::Passage);
        let spans: Vec<_> = log
            .spans()
            .iter()
            .map(|s| (s.kind, s.start, s.len))
            .collect();
        assert_eq!(
            spans,
            [
                (SpanKind::Prompt, 0, 3),
                (SpanKind::Retrieval, 3, 1),
                (SpanKind::Passage, 4, 2)
            ]
        );
    }

    #[test]
    fn a_log_is_not_cut_between_a_retrieval_and_the_end_of_its_splice() {
        let mut log = TokenLog::default();
        log.extend(&[5, 6], SpanKind::Prompt);
        log.push(1, SpanKind::Retrieval);
        log.extend(&[8, 9], SpanKind::Passage);
        log.push(7, SpanKind::Generated);
        let places: Vec<_> = (0..8).filter(|len| log.can_be_cut(*len)).collect();
        assert_eq!(places, [0, 1, 2, 5, 6]);
    }

    #[test]
    fn a_truncated_log_is_the_log_it_was() {
        let mut log = TokenLog::default();
        log.extend(&[5, 6, 7], SpanKind::Prompt);
        let before = log.clone();
        log.push(1, SpanKind::Generated);
        log.truncate(before.len());
        assert_eq!(log, before);
    }
}
