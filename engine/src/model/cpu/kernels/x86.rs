//! The products for AVX-512 (with VNNI) and AVX2.

#![expect(
    clippy::needless_range_loop,
    reason = "rows and panels of a tile are registers, named by their numbers"
)]

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::panel::{BLOCK, LANES, Lanes, Number, Q8Panel, Q8Row};
use super::plain;

const GROUP: usize = 4 * LANES;
/// How far ahead of a product weights are fetched, in bytes, by how they are kept: what was fastest of 1,024 to 8,192,
/// or near it, when SmolLM2 decoded on an Intel Xeon (Emerald Rapids). Half or twice as much costs up to a tenth.
const FLOATS_AHEAD: usize = 2048;
const Q8_AHEAD: usize = 4096;
pub(super) const Q4_AHEAD: usize = 8192;

/// Fetches the weights `AHEAD` bytes after these into the caches. The processor does so by itself, too, but it stops
/// at the end of a page and begins anew in the next one. Nothing happens where there is no memory.
#[inline(always)]
pub(super) fn fetch_ahead<const AHEAD: usize>(weights: *const impl Sized) {
    let ahead = weights.wrapping_byte_add(AHEAD);
    // SAFETY: the instruction is a hint, which reads nothing and never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.cast()) };
}

/// The plain version, compiled for AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn float_products_avx2<W: Number>(
    panels: &[&[W]],
    xs: &[&[f32]],
    each: &mut impl FnMut(usize, usize, &Lanes),
) {
    plain::float_products(panels, xs, each);
}

/// Cuts panels and rows into tiles that fill the registers, and runs `tile` on each.
macro_rules! in_tiles {
    ($tile:ident, $panels:expr, $xs:expr, $each:expr) => {{
        let (panels, xs) = ($panels, $xs);
        let mut m = 0;
        while m < xs.len() {
            let left = xs.len() - m;
            // A tile's rows and panels: at most 16 sums fit into the registers, and there should be
            // enough of them to hide latency.
            let (rows, width) = match left {
                8.. => (8, 2),
                4.. => (4, 4),
                2.. => (2, 4),
                _ => (1, 8),
            };
            let mut p = 0;
            while p < panels.len() {
                let (at, tiled) = ((p, m), panels.len() - p >= width);
                // SAFETY: `tile` reads `columns` of each panel and row, which the caller has checked.
                unsafe {
                    match (rows, tiled) {
                        (8, true) => $tile::<8, 2>(panels, xs, at, $each),
                        (8, false) => $tile::<8, 1>(panels, xs, at, $each),
                        (4, true) => $tile::<4, 4>(panels, xs, at, $each),
                        (4, false) => $tile::<4, 1>(panels, xs, at, $each),
                        (2, true) => $tile::<2, 4>(panels, xs, at, $each),
                        (2, false) => $tile::<2, 1>(panels, xs, at, $each),
                        (_, true) => $tile::<1, 8>(panels, xs, at, $each),
                        (_, false) => $tile::<1, 1>(panels, xs, at, $each),
                    }
                }
                p += if tiled { width } else { 1 };
            }
            m += rows;
        }
    }};
}

/// Cuts rows into tiles of the given heights and the remaining rows into tiles of one, and runs
/// `tile` on each.
macro_rules! in_row_tiles {
    ($tile:ident, $panel:expr, $xs:expr, $each:expr; $($rows:literal)*) => {{
        let mut m = 0;
        while m < $xs.len() {
            // SAFETY: the caller has checked the lengths.
            m += unsafe {
                match $xs.len() - m {
                    $($rows.. => $tile::<$rows>($panel, $xs, m, $each),)*
                    _ => $tile::<1>($panel, $xs, m, $each),
                }
            };
        }
    }};
}
pub(super) use in_row_tiles;

macro_rules! float_products {
    ($products:ident, $tile:ident, $weight:ty, $load:expr) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        pub(super) unsafe fn $products(
            panels: &[&[$weight]],
            xs: &[&[f32]],
            each: &mut impl FnMut(usize, usize, &Lanes),
        ) {
            in_tiles!($tile, panels, xs, each)
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        unsafe fn $tile<const ROWS: usize, const PANELS: usize>(
            panels: &[&[$weight]],
            xs: &[&[f32]],
            (p, m): (usize, usize),
            each: &mut impl FnMut(usize, usize, &Lanes),
        ) {
            let columns = xs[m].len();
            let panel: [*const $weight; PANELS] = std::array::from_fn(|i| panels[p + i].as_ptr());
            let x: [*const f32; ROWS] = std::array::from_fn(|i| xs[m + i].as_ptr());
            let mut sums = [[_mm512_setzero_ps(); PANELS]; ROWS];
            for k in 0..columns {
                // SAFETY: k is below the columns of every panel and row.
                unsafe {
                    let mut weights = [_mm512_setzero_ps(); PANELS];
                    for i in 0..PANELS {
                        let at = panel[i].add(k * LANES);
                        fetch_ahead::<FLOATS_AHEAD>(at);
                        weights[i] = $load(at);
                    }
                    for r in 0..ROWS {
                        let value = _mm512_set1_ps(*x[r].add(k));
                        for i in 0..PANELS {
                            sums[r][i] = _mm512_fmadd_ps(weights[i], value, sums[r][i]);
                        }
                    }
                }
            }
            for r in 0..ROWS {
                for i in 0..PANELS {
                    each(p + i, m + r, &lanes(sums[r][i]));
                }
            }
        }
    };
}

float_products!(f32_products, f32_tile, f32, |at: *const f32| {
    _mm512_loadu_ps(at)
});
float_products!(f16_products, f16_tile, f16, |at: *const f16| {
    _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()))
});
float_products!(bf16_products, bf16_tile, bf16, |at: *const bf16| {
    let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
});

#[target_feature(enable = "avx512f")]
pub(super) fn lanes(sums: __m512) -> Lanes {
    let mut lanes = [0f32; LANES];
    // SAFETY: 16 numbers fit.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sums) };
    lanes
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn q8_products(
    panel: Q8Panel<'_>,
    xs: &[Q8Row<'_>],
    each: &mut impl FnMut(usize, &Lanes),
) {
    in_row_tiles!(q8_tile, panel, xs, each; 8 4 2);
}

/// The weights are the unsigned operand of `vpdpbusd`, and the instruction itself broadcasts four activations. Of each
/// row ten instructions a block need the multipliers, where nine would be needed if a row had one scale.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn q8_tile<const ROWS: usize>(
    panel: Q8Panel<'_>,
    xs: &[Q8Row<'_>],
    m: usize,
    each: &mut impl FnMut(usize, &Lanes),
) -> usize {
    let blocks = panel.scales.len() / LANES;
    let x: [Q8Row<'_>; ROWS] = std::array::from_fn(|r| xs[m + r]);
    let mut sums = [_mm512_setzero_ps(); ROWS];
    for block in 0..blocks {
        // SAFETY: all reads are within this block of the panel and of the rows.
        unsafe {
            let mut exact = [_mm512_setzero_si512(); ROWS];
            for r in 0..ROWS {
                let correction = (*x[r].sums.as_ptr().add(block)).correction;
                exact[r] = _mm512_set1_epi32(correction);
            }
            let weights = panel.weights.as_ptr().add(block * BLOCK * LANES);
            for group in 0..BLOCK / 4 {
                let weights = weights.add(group * GROUP);
                fetch_ahead::<Q8_AHEAD>(weights);
                let weights = _mm512_loadu_si512(weights.cast());
                for r in 0..ROWS {
                    let four = x[r].values.as_ptr().add(block * BLOCK + group * 4);
                    let four = _mm512_set1_epi32(four.cast::<i32>().read_unaligned());
                    exact[r] = _mm512_dpbusd_epi32(exact[r], weights, four);
                }
            }
            let weight_scales = panel.scales.as_ptr().add(block * LANES);
            let weight_scales = _mm512_cvtph_ps(_mm256_loadu_si256(weight_scales.cast()));
            for r in 0..ROWS {
                let scale = _mm512_set1_ps(*x[r].scales.as_ptr().add(block));
                let scale = _mm512_mul_ps(weight_scales, scale);
                sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact[r]), scale, sums[r]);
            }
        }
    }
    for r in 0..ROWS {
        each(m + r, &lanes(sums[r]));
    }
    ROWS
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn q8_products_avx2(
    panel: Q8Panel<'_>,
    xs: &[Q8Row<'_>],
    each: &mut impl FnMut(usize, &Lanes),
) {
    in_row_tiles!(q8_tile_avx2, panel, xs, each; 4 2);
}

/// `vpmaddubsw` multiplies unsigned by signed numbers and saturates at 16 bits. With magnitudes up
/// to 128 and 127 it never saturates.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q8_tile_avx2<const ROWS: usize>(
    panel: Q8Panel<'_>,
    xs: &[Q8Row<'_>],
    m: usize,
    each: &mut impl FnMut(usize, &Lanes),
) -> usize {
    let blocks = panel.scales.len() / LANES;
    let (offset, ones) = (_mm256_set1_epi8(-128), _mm256_set1_epi16(1));
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    for block in 0..blocks {
        let mut exact = [[_mm256_setzero_si256(); 2]; ROWS];
        // SAFETY: all reads are within this block of the panel and of the rows.
        unsafe {
            let weights = panel.weights.as_ptr().add(block * BLOCK * LANES);
            for group in 0..BLOCK / 4 {
                let at = weights.add(group * GROUP);
                fetch_ahead::<Q8_AHEAD>(at);
                let mut levels = [_mm256_setzero_si256(); 2];
                for h in 0..2 {
                    let stored = _mm256_loadu_si256(at.add(h * GROUP / 2).cast());
                    levels[h] = _mm256_xor_si256(stored, offset);
                }
                for r in 0..ROWS {
                    let four = xs[m + r].values.as_ptr().add(block * BLOCK + group * 4);
                    let four = _mm256_set1_epi32(four.cast::<i32>().read_unaligned());
                    for h in 0..2 {
                        let magnitude = _mm256_abs_epi8(levels[h]);
                        let pairs =
                            _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(four, levels[h]));
                        exact[r][h] = _mm256_add_epi32(exact[r][h], _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
            let weight_scales = panel.scales.as_ptr().add(block * LANES);
            for h in 0..2 {
                let half = _mm_loadu_si128(weight_scales.add(h * LANES / 2).cast());
                let weight_scales = _mm256_cvtph_ps(half);
                for r in 0..ROWS {
                    let scale = _mm256_set1_ps(*xs[m + r].scales.as_ptr().add(block));
                    let scale = _mm256_mul_ps(weight_scales, scale);
                    sums[r][h] =
                        _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact[r][h]), scale, sums[r][h]);
                }
            }
        }
    }
    for r in 0..ROWS {
        each(m + r, &lanes_of_halves(sums[r]));
    }
    ROWS
}

#[target_feature(enable = "avx2")]
pub(super) fn lanes_of_halves(sums: [__m256; 2]) -> Lanes {
    let mut lanes = [0f32; LANES];
    // SAFETY: twice 8 numbers fit.
    unsafe {
        _mm256_storeu_ps(lanes.as_mut_ptr(), sums[0]);
        _mm256_storeu_ps(lanes.as_mut_ptr().add(LANES / 2), sums[1]);
    }
    lanes
}
