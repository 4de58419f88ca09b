//! Passage blocks: their keys are stored without rotation in caches of their own, and are rotated to the
//! positions where they are read.

use super::crew;
use super::kv_blocks::{BlockShape, KvBlocks};
use crate::model::span::{Landing, Span, SpanCache};
use crate::model::{BLOCK, KvType};

/// (cosine, sine) of the angle of each pair of a head, position after position.
pub(super) type Angles = Vec<(f32, f32)>;

/// The angles at some positions. `frequencies` holds each pair's angle per position.
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

/// A passage span of a batch, with buffers that each layer fills in turn.
pub(super) struct PassageSpan {
    span: Span,
    /// The current layer's keys, rotated to their positions in the passage, and its values.
    turned: KvBlocks,
    /// At the passage's own positions.
    own: Angles,
    landing: Option<(Landing, Angles)>,
}

impl PassageSpan {
    /// What the layers need for a span; `None` for a span of a text.
    pub(super) fn new(span: &Span, shape: BlockShape, frequencies: &[f32]) -> Option<Self> {
        let SpanCache::Passage { lands } = span.of else {
            return None;
        };
        let len = span.end();
        let mut turned = KvBlocks::new(BlockShape {
            layers: 1,
            kv_type: KvType::F32,
            ..shape
        });
        turned.set_blocks(len.div_ceil(BLOCK));
        let at = |first: usize| angles(frequencies, first..first + len).collect();
        Some(Self {
            span: *span,
            turned,
            own: at(0),
            landing: lands.map(|landing| (landing, at(landing.at))),
        })
    }

    /// The layer that was rotated last, as the only layer of these blocks.
    pub(super) fn turned(&self) -> &KvBlocks {
        &self.turned
    }
}

/// Rotates one layer of the passages' caches, and lands the passages that are complete.
pub(super) fn turn(layer: usize, passages: &mut [PassageSpan], caches: &mut [&mut KvBlocks]) {
    let seen = &*caches;
    crew::each_mut(passages, |passage| {
        let cache = &*seen[passage.span.cache];
        passage.turned.land((0, 0), (cache, layer), &passage.own);
    });
    for passage in passages {
        if let Some((landing, angles)) = &passage.landing {
            // A text's cache comes before those of its passages.
            let (before, own) = caches.split_at_mut(passage.span.cache);
            before[landing.cache].land((layer, landing.at), (own[0], layer), angles);
        }
    }
}
