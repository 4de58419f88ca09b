//! How a step's tokens are shared out among the sequences.

/// The tokens of a sequence that wait for their forward.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) tokens: usize,
    /// How many of them are drafts.
    pub(crate) drafted: usize,
}

/// Shares out a step's positions over sequences in order of arrival. Gives each sequence's part.
///
/// A sequence that waits for one token, drafts aside, is decoding and comes first: nobody's next token is held up
/// by another's long prompt. What is left goes to the longer ones, first come first served, and one
/// that does not fit goes on in the next step.
pub(crate) fn plan(pending: &[Pending], budget: usize) -> Vec<usize> {
    let mut left = budget;
    let mut parts = vec![0; pending.len()];
    for decoding in [true, false] {
        for (part, Pending { tokens, drafted }) in parts.iter_mut().zip(pending) {
            if (tokens - drafted == 1) == decoding {
                *part = (*tokens).min(left);
                left -= *part;
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::Pending;

    fn plan(pending: &[usize], budget: usize) -> Vec<usize> {
        let pending = pending.iter().map(|&tokens| Pending { tokens, drafted: 0 });
        super::plan(&pending.collect::<Vec<_>>(), budget)
    }

    #[test]
    fn decoding_sequences_come_before_a_long_prompt() {
        assert_eq!(plan(&[4000, 1, 1], 256), [254, 1, 1]);
    }

    #[test]
    fn prompts_share_what_is_left_in_order_of_arrival() {
        assert_eq!(plan(&[100, 1, 100, 100], 151), [100, 1, 50, 0]);
    }

    #[test]
    fn drafts_make_a_decoding_sequence_no_prompt() {
        let long = Pending {
            tokens: 4000,
            drafted: 0,
        };
        let decoding = Pending {
            tokens: 5,
            drafted: 4,
        };
        assert_eq!(super::plan(&[long, decoding], 256), [251, 5]);
    }

    #[test]
    fn parked_sequences_get_nothing() {
        assert_eq!(plan(&[0, 1, 0], 8), [0, 1, 0]);
    }
}
