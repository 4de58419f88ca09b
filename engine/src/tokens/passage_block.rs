//! Finds passage blocks among ids, for a model with block attention.
//!
//! **Invariant:** the ids alone determine where a block begins and ends. Its control tokens enter by id
//! only, and no text encodes to them. So equal ids have equal blocks, and keys and values of equal ids
//! may be shared.

use crate::tokens::onegen_config::{OneGenConfig, PassageAttention};

/// The control tokens that a passage block begins and ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockMarks {
    /// `passage_open`, the block's first token.
    pub(crate) open: u32,
    /// `passage_token`, its last.
    pub(crate) end: u32,
}

/// Consecutive tokens that see the same kind of context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// A number of tokens that see everything before them.
    Text(usize),
    /// Tokens of one passage block, which see that block only.
    Passage {
        /// How many.
        len: usize,
        /// Whether the block's last token is among them.
        complete: bool,
    },
}

impl BlockMarks {
    /// The marks that `onegen.json` names, or `None` where passages see everything before them. `control_id`
    /// knows the tokens that no text yields.
    ///
    /// # Errors
    /// Says why the model cannot use block attention, and what would be correct.
    pub(crate) fn from_config(
        onegen: &OneGenConfig,
        control_id: impl Fn(&str) -> Option<u32>,
    ) -> Result<Option<Self>, String> {
        if onegen.passage_attention == PassageAttention::Full {
            return Ok(None);
        }
        let refused = |why: String| Err(format!("passage_attention is \"block\", but {why}"));
        if onegen.linking.is_some() {
            return refused(
                "a model with `linking` splices no passages; take out one of them".into(),
            );
        }
        let (embed, splice) = (&onegen.embed_template, &onegen.splice_template);
        if embed != splice {
            return refused(format!(
                "embed_template is {embed:?} and splice_template is {splice:?}: what is spliced is what was \
                 embedded, so make them equal"
            ));
        }
        let mut ids = Vec::new();
        for token in [
            &onegen.passage_open,
            &onegen.passage_token,
            &onegen.passage_close,
        ] {
            match control_id(token) {
                Some(id) if ids.contains(&id) => {
                    return refused(format!(
                        "{token:?} has two parts; name three different tokens"
                    ));
                }
                Some(id) => ids.push(id),
                None => {
                    return refused(format!(
                        "texts may hold {token:?}; name one of the tokens that were added to the tokenizer"
                    ));
                }
            }
        }
        Ok(Some(Self {
            open: ids[0],
            end: ids[1],
        }))
    }

    /// Cuts `ids` into runs. `within` says whether they begin inside a block.
    ///
    /// # Errors
    /// A block begins within another, or ends without a beginning; the text says which.
    pub(crate) fn runs(self, mut within: bool, ids: &[u32]) -> Result<Vec<Run>, String> {
        let mut runs = Vec::new();
        let mut rest = ids;
        while !rest.is_empty() {
            let inner = usize::from(!within && rest[0] == self.open);
            within |= inner == 1;
            let mark = |id: &u32| *id == self.open || *id == self.end;
            let next = rest[inner..].iter().position(mark).map(|at| inner + at);
            let at = ids.len() - rest.len() + next.unwrap_or_default();
            let (len, complete) = match next {
                None => (rest.len(), false),
                Some(next) if within && rest[next] == self.end => (next + 1, true),
                Some(next) if !within && rest[next] == self.open => (next, false),
                Some(_) if within => {
                    return Err(format!("a passage begins within another, at {at}"));
                }
                Some(_) => return Err(format!("a passage ends that has not begun, at {at}")),
            };
            runs.push(if within {
                Run::Passage { len, complete }
            } else {
                Run::Text(len)
            });
            within &= !complete;
            rest = &rest[len..];
        }
        Ok(runs)
    }

    /// The first whole block of `ids`, which begin outside of a block: where it begins, and its length.
    pub(crate) fn first_block(self, ids: &[u32]) -> Option<(usize, usize)> {
        let start = ids.iter().position(|id| *id == self.open)?;
        let end = ids[start..].iter().position(|id| *id == self.end)?;
        Some((start, end + 1))
    }

    /// Checks that every block of `ids` is whole.
    ///
    /// # Errors
    /// Says which block is not.
    pub(crate) fn check(self, ids: &[u32]) -> Result<(), String> {
        match self.runs(false, ids)?.last() {
            Some(Run::Passage {
                complete: false, ..
            }) => Err("a passage does not end".into()),
            _ => Ok(()),
        }
    }

    /// How many tokens of an incomplete block there are after `ids`, if there were `open` tokens of one
    /// before `ids`. In both cases 0 means that there is none.
    pub(crate) fn open_after(self, open: usize, ids: &[u32]) -> usize {
        let last = ids
            .iter()
            .rposition(|id| *id == self.open || *id == self.end);
        match last {
            Some(at) if ids[at] == self.open => ids.len() - at,
            Some(_) => 0,
            None if open > 0 => open + ids.len(),
            None => 0,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MARKS: BlockMarks = BlockMarks { open: 1, end: 2 };

    fn passage(len: usize, complete: bool) -> Run {
        Run::Passage { len, complete }
    }

    #[test]
    fn ids_are_cut_where_blocks_begin_and_end() {
        let runs = |within, ids: &[u32]| MARKS.runs(within, ids).unwrap();
        assert_eq!(runs(false, &[7, 8]), [Run::Text(2)]);
        assert_eq!(
            runs(false, &[7, 1, 8, 8, 2, 9, 1, 2, 1, 8]),
            [
                Run::Text(1),
                passage(4, true),
                Run::Text(1),
                passage(2, true),
                passage(2, false)
            ]
        );
        assert_eq!(runs(true, &[8, 2, 9]), [passage(2, true), Run::Text(1)]);
        assert_eq!(runs(true, &[2]), [passage(1, true)]);
        assert_eq!(runs(true, &[8, 8]), [passage(2, false)]);
    }

    #[test]
    fn however_ids_are_cut_the_same_tokens_are_in_blocks() {
        let ids = [7, 1, 8, 8, 2, 9, 1, 2, 1, 8, 2, 7];
        for cut in 0..=ids.len() {
            let open = MARKS.open_after(0, &ids[..cut]);
            let mut covered = 0;
            for part in [
                MARKS.runs(false, &ids[..cut]),
                MARKS.runs(open > 0, &ids[cut..]),
            ] {
                for run in part.unwrap() {
                    let (Run::Text(len) | Run::Passage { len, .. }) = run;
                    let text = matches!(run, Run::Text(_));
                    for at in covered..covered + len {
                        assert_eq!(text, [0, 5, 11].contains(&at), "{at} after a cut at {cut}");
                    }
                    covered += len;
                }
            }
            assert_eq!(MARKS.open_after(open, &ids[cut..]), 0, "cut at {cut}");
        }
    }

    #[test]
    fn blocks_within_one_another_and_ends_of_none_are_refused() {
        for (within, ids) in [(false, &[1, 8, 1][..]), (true, &[1, 2]), (false, &[8, 2])] {
            assert!(MARKS.runs(within, ids).is_err(), "{ids:?}");
        }
        assert!(MARKS.check(&[7, 1, 8, 2]).is_ok());
        assert!(MARKS.check(&[7, 1, 8]).is_err());
    }
}
