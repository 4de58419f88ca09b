//! Fair shares: what goes first where there is no room for all that several owners have.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::admission::Owner;

/// Of the owner who has most, what is oldest; if several have equally many, the oldest of all theirs. So no owner
/// loses anything while another has more. Each thing comes with its owner and its age, lower for what is older. One
/// without an age counts and cannot go.
pub(crate) fn first_to_go<'o, Age: Ord, Thing>(
    things: impl Iterator<Item = (&'o Owner, Option<Age>, Thing)> + Clone,
) -> Option<Thing> {
    let mut counts: HashMap<&Owner, usize> = HashMap::new();
    for (owner, ..) in things.clone() {
        *counts.entry(owner).or_default() += 1;
    }
    let can_go = things.filter_map(|(owner, age, thing)| {
        let count = counts.get(owner).copied().unwrap_or_default();
        Some((Reverse(count), age?, thing))
    });
    let first = can_go.min_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    first.map(|(.., thing)| thing)
}
