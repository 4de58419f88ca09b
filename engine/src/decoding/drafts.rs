//! Tokens that are likely to come next, because the same tokens came before: an answer often quotes what it has
//! read.
//!
//! They are forwarded together with the last token. Each stays only where the model then chooses it, so a turn
//! writes what it would write token by token.

use std::ops::Range;

use crate::tokens::token_log::{SpanKind, TokenLog};

/// How many of the last tokens must have come before. Two are often the same by chance.
const SAME: usize = 3;
/// Drafts at first, and at most. A step over two more positions takes a few per cent longer than a step over one, so
/// that wrong ones cost a short answer little; a step over eight takes less than twice as long.
const FIRST: usize = 2;
const MOST: usize = 8;
/// Tokens without drafts after a wrong one, at first and at most.
const SHORT_PAUSE: usize = 4;
const LONG_PAUSE: usize = 64;

/// Proposes drafts, the more the more of the last ones were right.
#[derive(Debug)]
pub(crate) struct Drafts {
    enabled: bool,
    most: usize,
    /// Tokens until the next proposal.
    pause: usize,
    next_pause: usize,
    /// How many were proposed last, and how many of them the model has chosen.
    proposed: usize,
    right: usize,
}

impl Drafts {
    pub(crate) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            most: FIRST,
            pause: 0,
            next_pause: SHORT_PAUSE,
            proposed: 0,
            right: 0,
        }
    }

    /// The model has chosen the next of the tokens that were proposed.
    pub(crate) fn confirm(&mut self) {
        self.right += 1;
    }

    /// Up to `room` tokens that may follow the log's last one, once none of those before is left. None of them is one
    /// that `usable` is false for.
    pub(crate) fn propose(
        &mut self,
        log: &TokenLog,
        room: usize,
        usable: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        if self.proposed > 0 {
            self.learn(self.proposed, self.right);
        }
        let most = self.most.min(room);
        if !self.enabled || most == 0 {
            return Vec::new();
        }
        if self.pause > 0 {
            self.pause -= 1;
            return Vec::new();
        }
        let Some(next) = continuation(log) else {
            return Vec::new();
        };
        let next = next.start..next.end.min(next.start + most);
        let ids = log.ids()[next].iter().copied();
        let drafts: Vec<_> = ids.take_while(|id| usable(*id)).collect();
        self.proposed = drafts.len();
        drafts
    }

    /// Takes in how many of the proposed tokens the model has chosen.
    fn learn(&mut self, proposed: usize, right: usize) {
        if right == proposed {
            self.most = (self.most * 2).min(MOST);
            self.next_pause = SHORT_PAUSE;
        } else if right > 0 {
            self.most = right + 1;
            self.next_pause = SHORT_PAUSE;
        } else {
            self.most = (self.most / 2).max(1);
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(LONG_PAUSE);
        }
        (self.proposed, self.right) = (0, 0);
    }
}

/// What followed where the log's last tokens stood before: in a passage if they stand in one, the latest first.
fn continuation(log: &TokenLog) -> Option<Range<usize>> {
    let (ids, kinds) = (log.ids(), log.kinds());
    let len = ids.len();
    let last = ids.get(len.checked_sub(SAME)?..)?;
    let ends = |at: &usize| ids[at - SAME..*at] == *last;
    let in_passage =
        |at: &usize| kinds[at - 1] == SpanKind::Passage && kinds[*at] == SpanKind::Passage;
    let places = || (SAME..len).rev();
    let at = places()
        .find(|at| in_passage(at) && ends(at))
        .or_else(|| places().find(ends))?;
    let same_kind = kinds[at..].iter().take_while(|kind| **kind == kinds[at]);
    Some(at..at + same_kind.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(parts: &[(&[u32], SpanKind)]) -> TokenLog {
        let mut log = TokenLog::default();
        for (ids, kind) in parts {
            log.extend(ids, *kind);
        }
        log
    }

    #[test]
    fn what_followed_the_last_tokens_in_a_passage_is_proposed_before_what_followed_elsewhere() {
        use SpanKind::{Generated, Passage, Prompt};
        let read = log(&[
            (&[1, 2, 3, 9, 9], Prompt),
            (&[7, 1, 2, 3, 4, 5, 6, 8], Passage),
            (&[1, 2, 3], Generated),
        ]);
        let drafts = || Drafts {
            most: 4,
            ..Drafts::new(true)
        };
        let proposed = |room, usable: fn(u32) -> bool| drafts().propose(&read, room, usable);
        assert_eq!(proposed(9, |_| true), [4, 5, 6, 8]);
        assert_eq!(proposed(2, |_| true), [4, 5]);
        assert_eq!(proposed(9, |id| id != 6), [4, 5]);
        assert!(proposed(0, |_| true).is_empty());
        assert!(Drafts::new(false).propose(&read, 9, |_| true).is_empty());
        let said = log(&[(&[1, 2, 3, 4, 5, 1, 2, 3], Prompt)]);
        assert_eq!(drafts().propose(&said, 9, |_| true), [4, 5, 1, 2]);
        for short in [&[][..], &[1, 2], &[1, 2, 3], &[1, 2, 3, 1, 2]] {
            let short = log(&[(short, Prompt)]);
            assert!(Drafts::new(true).propose(&short, 9, |_| true).is_empty());
        }
    }

    #[test]
    fn drafts_grow_while_they_are_right_and_rest_longer_and_longer_while_they_are_wrong() {
        let again: Vec<u32> = (0..40).chain(0..3).collect();
        let log = log(&[(&again, SpanKind::Prompt)]);
        let mut drafts = Drafts::new(true);
        let count = |drafts: &mut Drafts| drafts.propose(&log, 99, |_| true).len();
        assert_eq!(count(&mut drafts), 2);
        drafts.learn(2, 2);
        assert_eq!(count(&mut drafts), 4);
        drafts.learn(4, 4);
        assert_eq!(count(&mut drafts), 8);
        drafts.learn(8, 2);
        assert_eq!(count(&mut drafts), 3);
        for pause in [4, 8, 16, 32, 64, 64] {
            drafts.learn(3, 0);
            let rests = (0..100).take_while(|_| count(&mut drafts) == 0).count();
            assert_eq!(rests, pause);
        }
        drafts.learn(1, 1);
        drafts.learn(2, 0);
        let rests = (0..100).take_while(|_| count(&mut drafts) == 0).count();
        assert_eq!(rests, 4);
    }
}
