//! Passage blocks: their keys lie unturned in caches of their own, and are turned to where they are seen.

use rayon::prelude::*;

use super::kv_blocks::{BlockShape, KvBlocks};
use crate::model::BLOCK;
use crate::model::span::{Landing, Span, SpanCache};

/// Angle by angle (cosine, sine) of the pairs of a head, position after position.
pub(super) type Angles = Vec<(f32, f32)>;

/// Angles at some positions. `frequencies` are a pair's angle per position each.
pub(super) fn angles(
    frequencies: &[f32],
    positions: impl Iterator<Item = usize>,
) -> impl Iterator<Item = (f32, f32)> {
    positions.flat_map(move |position| {
        frequencies.iter().map(move |frequency| {
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            (cos, sin)
        })
    })
}

/// A passage span of a batch, as one layer after another sees it.
pub(super) struct PassageSpan {
    span: Span,
    /// The layer's keys turned to their positions in the passage, and its values.
    turned: KvBlocks,
    /// At the passage's own positions.
    own: Angles,
    landing: Option<(Landing, Angles)>,
}

impl PassageSpan {
    /// What the layers need of a span; none for a span of a text.
    pub(super) fn new(span: &Span, shape: BlockShape, frequencies: &[f32]) -> Option<Self> {
        let SpanCache::Passage { lands } = span.of else {
            return None;
        };
        let len = span.end();
        let mut turned = KvBlocks::new(BlockShape { layers: 1, ..shape });
        turned.set_blocks(len.div_ceil(BLOCK));
        let at = |first: usize| angles(frequencies, first..first + len).collect();
        Some(Self {
            span: *span,
            turned,
            own: at(0),
            landing: lands.map(|landing| (landing, at(landing.at))),
        })
    }

    /// The layer that was turned last, as the only one of its blocks.
    pub(super) fn turned(&self) -> &KvBlocks {
        &self.turned
    }
}

/// Turns what the passages' caches hold of a layer, and lands those that are complete.
pub(super) fn turn(layer: usize, passages: &mut [PassageSpan], caches: &mut [&mut KvBlocks]) {
    passages.par_iter_mut().for_each(|passage| {
        let cache = &*caches[passage.span.cache];
        passage.turned.land((0, 0), (cache, layer), &passage.own);
    });
    for passage in passages {
        if let Some((landing, angles)) = &passage.landing {
            // A text stands before its passages.
            let (before, own) = caches.split_at_mut(passage.span.cache);
            before[landing.cache].land((layer, landing.at), (own[0], layer), angles);
        }
    }
}
