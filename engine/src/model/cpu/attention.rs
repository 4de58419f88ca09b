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
use super::wide::Wide;
use crate::model::kv_cache::BLOCK;

/// Queries that are computed together, so that a key or value is read once for all of them. Their sums must stay
/// in the processor's registers, with room for a key and a query's number: AVX-512 has 32 for sixteen numbers, AVX2
/// 16 for eight, of which a query's sums take two.
pub(super) const MOST_QUERIES: usize = if cfg!(target_feature = "avx512f") {
    16
} else {
    6
};
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
    /// The queries' numbers, those of one component after another.
    turned: Vec<f32>,
    /// The weighted sums of values, those of one query after another.
    sums: Vec<Lanes>,
}

/// Computes attention for queries of `head` in `layer`, up to [`MOST_QUERIES`] together. It calls `each(i, sums,
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
            16.. if MOST_QUERIES == 16 => tile::<16>(kv, (layer, head), left, scratch, each),
            8.. if MOST_QUERIES == 16 => tile::<8>(kv, (layer, head), left, scratch, each),
            7 if MOST_QUERIES == 16 => tile::<7>(kv, (layer, head), left, scratch, each),
            6.. => tile::<6>(kv, (layer, head), left, scratch, each),
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
    scratch.turned.resize(kv.head_shape().head_dim * N, 0.0);
    let (turned, _) = scratch.turned.as_chunks_mut::<N>();
    for (i, query) in queries.iter().enumerate() {
        for (turned, number) in turned.iter_mut().zip(query.query) {
            turned[i] = *number;
        }
    }
    let mut most = [f32::NEG_INFINITY; N];
    let mut totals = [[0f32; LANES]; N];
    let mut scores = [[[0.0; LANES]; BLOCK / LANES]; N];
    let mut scaled = scores;
    scratch.sums.clear();
    scratch.sums.resize(N * width, [0.0; LANES]);
    for block in from / BLOCK..to.div_ceil(BLOCK) {
        let kept = kv.head(block, layer, head);
        let first = block * BLOCK;
        let sixteens = (to - first).min(BLOCK).div_ceil(LANES);
        let turned = &scratch.turned;
        with_head!(AnyHead, kept, kept => score(kept, turned, sixteens, &mut scores));
        for (i, query) in queries.iter().enumerate() {
            let scores = &mut scores[i][..sixteens];
            let rescale = weigh(scores, first, query, &mut most[i], &mut totals[i]);
            if rescale != 1.0 {
                let sums = &mut scratch.sums[i * width..][..width];
                for sum in sums.as_flattened_mut() {
                    *sum *= rescale;
                }
            }
        }
        let positions = (to - first).min(BLOCK);
        let sums = &mut scratch.sums[..];
        with_head!(AnyHead, kept, kept => {
            add_values(kept, &scores, &mut scaled, positions, sums);
        });
    }
    for (i, (sums, total)) in scratch.sums.chunks_exact(width).zip(&totals).enumerate() {
        each(i, sums, total.iter().sum());
    }
    N
}

/// Scores of the first `sixteens * 16` positions of a block. `turned` holds the queries' numbers, `N` of each
/// component.
fn score<K: KvNumber, const N: usize>(
    kept: Head<'_, K>,
    turned: &[f32],
    sixteens: usize,
    scores: &mut [[Lanes; BLOCK / LANES]; N],
) {
    let (head_dim, parts) = (kept.shape.head_dim, kept.shape.parts());
    let (turned, _) = turned.as_chunks::<N>();
    let add = |keys: &[[K; LANES]], queries: &[[f32; N]], mut sums: [Wide; N]| {
        for (key, queries) in keys.iter().zip(queries) {
            let key = K::widen_all(key);
            for i in 0..N {
                sums[i] = key.mul_add(queries[i], sums[i]);
            }
        }
        sums
    };
    let (keys, _) = kept.keys().as_chunks();
    let (scales, _) = kept.key_scales().as_chunks();
    for at in 0..sixteens {
        let keys = &keys[at * head_dim..][..head_dim];
        let mut sums = [Wide::zero(); N];
        if K::HAS_SCALES {
            let keys = keys.chunks(SCALED).zip(turned.chunks(SCALED));
            for ((keys, queries), scales) in keys.zip(&scales[at * parts..][..parts]) {
                let exact = add(keys, queries, [Wide::zero(); N]);
                let scales = Wide::from_bf16(scales);
                for i in 0..N {
                    sums[i] = exact[i].mul_add_each(scales, sums[i]);
                }
            }
        } else {
            sums = add(keys, turned, sums);
        }
        for (scores, sums) in scores.iter_mut().zip(sums) {
            sums.store(&mut scores[at]);
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
    for (sixteen, first) in scores.iter_mut().zip((first..).step_by(LANES)) {
        if query.from > first || query.to < first + LANES {
            hide(sixteen, first, query);
        }
    }
    let largest = scores.iter().fold(Wide::splat(*most), |largest, sixteen| {
        Wide::load(sixteen).max(largest)
    });
    let larger = largest.largest();
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
    let mut sums = Wide::load(totals).mul(Wide::splat(rescale));
    for sixteen in scores {
        // What is hidden becomes an exact zero.
        let weights = Wide::load(sixteen).add(Wide::splat(-larger)).exp();
        sums = sums.add(weights);
        weights.store(sixteen);
    }
    sums.store(totals);
    rescale
}

/// Takes away the scores of positions that a query may not see.
fn hide(scores: &mut Lanes, first: usize, query: &Query<'_>) {
    // With 32 bits all lanes are compared at once.
    let lane = |position: usize| position.saturating_sub(first).min(LANES) as i32;
    let visible = lane(query.from)..lane(query.to);
    for (lane, score) in (0..).zip(scores) {
        if !visible.contains(&lane) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Adds the values of a block's first positions, each multiplied by its weight. `scaled` is a buffer.
fn add_values<K: KvNumber, const N: usize>(
    kept: Head<'_, K>,
    weights: &[[Lanes; BLOCK / LANES]; N],
    scaled: &mut [[Lanes; BLOCK / LANES]; N],
    positions: usize,
    sums: &mut [Lanes],
) {
    let parts = sums.len() / N;
    let (values, _) = kept.values().as_chunks();
    for part in 0..parts {
        let weights = if K::HAS_SCALES {
            if part.is_multiple_of(PARTS_SCALED) {
                let scales = &kept.value_scales()[part / PARTS_SCALED * BLOCK..][..BLOCK];
                multiply(weights, scales, positions.div_ceil(LANES), scaled);
            }
            &*scaled
        } else {
            weights
        };
        // A window begins with a position's weight of the first query, and those of the others are at known
        // places in it: with an address for each query the processor would run out of registers.
        let weights = weights.as_flattened().as_flattened();
        let windows = weights.windows((N - 1) * BLOCK + 1).take(positions);
        let mut added: [Wide; N] = std::array::from_fn(|i| Wide::load(&sums[i * parts + part]));
        for (weights, values) in windows.zip(values.chunks_exact(parts)) {
            let value = K::widen_all(&values[part]);
            for i in 0..N {
                added[i] = value.mul_add(weights[i * BLOCK], added[i]);
            }
        }
        for (i, added) in added.into_iter().enumerate() {
            added.store(&mut sums[i * parts + part]);
        }
    }
}

/// Multiplies each query's weights of the first `sixteens * 16` positions by the positions' scales.
fn multiply(
    weights: &[[Lanes; BLOCK / LANES]],
    scales: &[bf16],
    sixteens: usize,
    scaled: &mut [[Lanes; BLOCK / LANES]],
) {
    let (scales, _) = scales.as_chunks();
    for (at, scales) in scales[..sixteens].iter().enumerate() {
        let scales = Wide::from_bf16(scales);
        for (weights, scaled) in weights.iter().zip(&mut *scaled) {
            Wide::load(&weights[at]).mul(scales).store(&mut scaled[at]);
        }
    }
}
