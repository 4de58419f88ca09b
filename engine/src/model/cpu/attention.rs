//! Attention of a few queries that share a key head, over the blocks of one sequence.
//!
//! Softmax is computed block by block (Milakov & Gimelshein 2018). Blocks begin at fixed positions,
//! and positions that a query may not see contribute an exact zero.
//!
//! **Invariant:** a query's result has the same bits whatever other queries are computed with it.

use half::bf16;

use super::kernels::{LANES, Lanes};
use super::kv_blocks::{AnyHead, KvBlocks, with_head};
use super::kv_head::Head;
use super::kv_number::{KvNumber, SCALED};
use super::ops::exp;
use crate::model::kv_cache::BLOCK;

/// Lanes of values that share their scales.
const PARTS_SCALED: usize = SCALED / LANES;

/// One query and the positions that it may see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a> {
    /// `head_dim` numbers, scaled.
    pub(super) query: &'a [f32],
    /// The first position that it sees.
    pub(super) from: usize,
    /// The end of the positions that it sees.
    pub(super) to: usize,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    scores: Vec<[Lanes; BLOCK / LANES]>,
    /// Weights times the scales of the values that they multiply.
    scaled: Vec<[Lanes; BLOCK / LANES]>,
    sums: Vec<Vec<Lanes>>,
}

/// Computes attention for queries of `head` in `layer`, up to eight together. It calls `each(i, sums,
/// total)` with the weighted sum of the values that query `i` sees, `value_width` numbers, and the
/// sum of the weights.
pub(super) fn attend(
    kv: &KvBlocks,
    (layer, head): (usize, usize),
    queries: &[Query<'_>],
    scratch: &mut Scratch,
    mut each: impl FnMut(usize, &[Lanes], f32),
) {
    let mut at = 0;
    while at < queries.len() {
        let left = &queries[at..];
        let each = |i: usize, sums: &[Lanes], total: f32| each(at + i, sums, total);
        at += match left.len() {
            8.. => tile::<8>(kv, (layer, head), left, scratch, each),
            7 => tile::<7>(kv, (layer, head), left, scratch, each),
            4.. => tile::<4>(kv, (layer, head), left, scratch, each),
            3 => tile::<3>(kv, (layer, head), left, scratch, each),
            2 => tile::<2>(kv, (layer, head), left, scratch, each),
            _ => tile::<1>(kv, (layer, head), left, scratch, each),
        };
    }
}

fn tile<const N: usize>(
    kv: &KvBlocks,
    (layer, head): (usize, usize),
    queries: &[Query<'_>],
    scratch: &mut Scratch,
    mut each: impl FnMut(usize, &[Lanes], f32),
) -> usize {
    let width = kv.head_shape().value_width() / LANES;
    let queries: [Query<'_>; N] = std::array::from_fn(|i| queries[i]);
    let from = queries.iter().map(|q| q.from).min().unwrap_or(0);
    let to = queries.iter().map(|q| q.to).max().unwrap_or(0);
    let mut most = [f32::NEG_INFINITY; N];
    let mut totals = [[0f32; LANES]; N];
    for weights in [&mut scratch.scores, &mut scratch.scaled] {
        weights.resize(N.max(weights.len()), [[0.0; LANES]; BLOCK / LANES]);
    }
    scratch
        .sums
        .resize_with(N.max(scratch.sums.len()), Vec::new);
    for sums in &mut scratch.sums {
        sums.clear();
        sums.resize(width, [0.0; LANES]);
    }
    for block in from / BLOCK..to.div_ceil(BLOCK) {
        let kept = kv.head(block, layer, head);
        let first = block * BLOCK;
        let sixteens = (to - first).min(BLOCK).div_ceil(LANES);
        let scores = &mut scratch.scores[..N];
        with_head!(AnyHead, kept, kept => score::<_, N>(kept, &queries, sixteens, scores));
        for (i, query) in queries.iter().enumerate() {
            let scores = &mut scores[i][..sixteens];
            let rescale = weigh(scores, first, query, &mut most[i], &mut totals[i]);
            if rescale != 1.0 {
                for sums in &mut scratch.sums[i] {
                    sums.iter_mut().for_each(|sum| *sum *= rescale);
                }
            }
        }
        let positions = (to - first).min(BLOCK);
        let (scaled, sums) = (&mut scratch.scaled[..N], &mut *scratch.sums);
        with_head!(AnyHead, kept, kept => add_values::<_, N>(kept, scores, scaled, positions, sums));
    }
    for (i, (sums, total)) in scratch.sums.iter().zip(&totals).enumerate() {
        each(i, sums, total.iter().sum());
    }
    N
}

/// Scores of the first `sixteens * 16` positions of a block.
fn score<K: KvNumber, const N: usize>(
    kept: Head<'_, K>,
    queries: &[Query<'_>; N],
    sixteens: usize,
    scores: &mut [[Lanes; BLOCK / LANES]],
) {
    let (head_dim, parts) = (kept.shape.head_dim, kept.shape.parts());
    let add = |keys: &[K], from: usize, sums: &mut [Lanes; N]| {
        for (d, key) in (from..).zip(keys.as_chunks().0) {
            let key = K::widen_lanes(key);
            for i in 0..N {
                let part = queries[i].query[d];
                for (sum, key) in sums[i].iter_mut().zip(key) {
                    *sum = key.mul_add(part, *sum);
                }
            }
        }
    };
    for at in 0..sixteens {
        let keys = &kept.keys()[at * head_dim * LANES..][..head_dim * LANES];
        let mut sums = [[0f32; LANES]; N];
        if K::HAS_SCALES {
            let scales = &kept.key_scales()[at * parts * LANES..][..parts * LANES];
            let scales = scales.as_chunks().0;
            for (part, (keys, scales)) in keys.chunks(SCALED * LANES).zip(scales).enumerate() {
                let mut exact = [[0f32; LANES]; N];
                add(keys, part * SCALED, &mut exact);
                let scales: Lanes = scales.map(bf16::to_f32);
                for (sums, exact) in sums.iter_mut().zip(&exact) {
                    for ((sum, exact), scale) in sums.iter_mut().zip(exact).zip(&scales) {
                        *sum = exact.mul_add(*scale, *sum);
                    }
                }
            }
        } else {
            add(keys, 0, &mut sums);
        }
        for (scores, sums) in scores.iter_mut().zip(sums) {
            scores[at] = sums;
        }
    }
}

/// Turns scores into weights. Returns the factor by which the sums of earlier blocks must be
/// multiplied.
fn weigh(
    scores: &mut [Lanes],
    first: usize,
    query: &Query<'_>,
    most: &mut f32,
    totals: &mut Lanes,
) -> f32 {
    let end = first + scores.len() * LANES;
    if query.from > first || query.to < end {
        for (position, score) in (first..).zip(scores.iter_mut().flatten()) {
            if position < query.from || position >= query.to {
                *score = f32::NEG_INFINITY;
            }
        }
    }
    let mut lanes = [*most; LANES];
    for score in scores.iter() {
        for (most, score) in lanes.iter_mut().zip(score) {
            *most = most.max(*score);
        }
    }
    let larger = lanes.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    if larger == f32::NEG_INFINITY {
        scores.fill([0.0; LANES]);
        return 1.0;
    }
    // For the first visible block there are no sums to rescale.
    let rescale = if *most == f32::NEG_INFINITY || *most == larger {
        1.0
    } else {
        exp(*most - larger)
    };
    *most = larger;
    totals.iter_mut().for_each(|total| *total *= rescale);
    for score in scores {
        for (score, total) in score.iter_mut().zip(totals.iter_mut()) {
            let weight = exp(*score - larger);
            *score = if *score == f32::NEG_INFINITY {
                0.0
            } else {
                weight
            };
            *total += *score;
        }
    }
    rescale
}

/// Adds the values of a block's first positions, each multiplied by its weight. `scaled` is a buffer.
#[expect(
    clippy::needless_range_loop,
    reason = "all queries' sums of a part are registers while the positions are read"
)]
fn add_values<K: KvNumber, const N: usize>(
    kept: Head<'_, K>,
    weights: &[[Lanes; BLOCK / LANES]],
    scaled: &mut [[Lanes; BLOCK / LANES]],
    positions: usize,
    sums: &mut [Vec<Lanes>],
) {
    let (width, parts) = (kept.shape.value_width(), sums[0].len());
    for part in 0..parts {
        let weights = if K::HAS_SCALES {
            let (scales_from, begins) = (part / PARTS_SCALED, part.is_multiple_of(PARTS_SCALED));
            if begins {
                let scales = &kept.value_scales()[scales_from * BLOCK..][..BLOCK];
                multiply(weights, scales, scaled);
            }
            &*scaled
        } else {
            weights
        };
        let mut added: [Lanes; N] = std::array::from_fn(|i| sums[i][part]);
        let values = kept.values().chunks_exact(width).take(positions);
        for (position, values) in values.enumerate() {
            let values = K::widen_lanes(&values.as_chunks().0[part]);
            for i in 0..N {
                let weight = weights[i][position / LANES][position % LANES];
                for (sum, value) in added[i].iter_mut().zip(values) {
                    *sum = value.mul_add(weight, *sum);
                }
            }
        }
        for i in 0..N {
            sums[i][part] = added[i];
        }
    }
}

/// Multiplies each query's weights by the positions' scales.
fn multiply(
    weights: &[[Lanes; BLOCK / LANES]],
    scales: &[bf16],
    scaled: &mut [[Lanes; BLOCK / LANES]],
) {
    for (weights, scaled) in weights.iter().zip(scaled) {
        let weights = weights.as_flattened().iter().zip(scales);
        for (scaled, (weight, scale)) in scaled.as_flattened_mut().iter_mut().zip(weights) {
            *scaled = weight * scale.to_f32();
        }
    }
}
