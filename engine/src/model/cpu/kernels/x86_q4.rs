//! The products with 4-bit weights for AVX-512 (with VNNI) and AVX2.

#![expect(
    clippy::needless_range_loop,
    reason = "rows of a tile are registers, named by their numbers"
)]

use std::arch::x86_64::*;

use half::f16;

use super::panel::{BLOCK, LANES, Lanes, Q8Row};
use super::q4::{Factor, Q4Block};
use super::x86::{Q4_AHEAD, fetch_ahead, in_row_tiles, lanes, lanes_of_halves};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn q4_products(
    panel: &[impl Q4Block],
    xs: &[Q8Row<'_>],
    each: &mut impl FnMut(usize, &Lanes),
) {
    in_row_tiles!(q4_tile, panel, xs, each; 8 4 2);
}

/// Here the weights are the unsigned operand of `vpdpbusd`, and the instruction itself broadcasts
/// four activations.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn q4_tile<const ROWS: usize>(
    panel: &[impl Q4Block],
    xs: &[Q8Row<'_>],
    m: usize,
    each: &mut impl FnMut(usize, &Lanes),
) -> usize {
    let x: [Q8Row<'_>; ROWS] = std::array::from_fn(|r| xs[m + r]);
    let low = _mm512_set1_epi8(15);
    let mut sums = [_mm512_setzero_ps(); ROWS];
    for (b, block) in panel.iter().enumerate() {
        fetch_ahead::<Q4_AHEAD>(block);
        for part in 0..block.parts() {
            let at = b * block.parts() + part;
            // There are two sums a row, so that one need not wait for the other.
            let mut exact = [[_mm512_setzero_si512(); 2]; ROWS];
            // SAFETY: of each row four values at a time and one scale and sum are read within part `at`,
            // which the caller has checked to be there.
            unsafe {
                for (p, pair) in block.quants(part).iter().enumerate() {
                    fetch_ahead::<Q4_AHEAD>(pair.as_ptr());
                    let pair = _mm512_loadu_si512(pair.as_ptr().cast());
                    let quants = [
                        _mm512_and_si512(pair, low),
                        _mm512_and_si512(_mm512_srli_epi16::<4>(pair), low),
                    ];
                    for r in 0..ROWS {
                        let values = x[r].values.as_ptr().add(at * BLOCK + p * 4);
                        for h in 0..2 {
                            let four = values.add(h * BLOCK / 2).cast::<i32>();
                            let four = _mm512_set1_epi32(four.read_unaligned());
                            exact[r][h] = _mm512_dpbusd_epi32(exact[r][h], quants[h], four);
                        }
                    }
                }
                let (scale, min) = (factors(block.scale(part)), factors(block.min(part)));
                let min = _mm512_mul_ps(min, _mm512_set1_ps(block.min_times()));
                for r in 0..ROWS {
                    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*x[r].scales.as_ptr().add(at)));
                    let exact = _mm512_cvtepi32_ps(_mm512_add_epi32(exact[r][0], exact[r][1]));
                    let sum = _mm512_set1_ps((*x[r].sums.as_ptr().add(at)).scaled);
                    sums[r] = _mm512_fmadd_ps(exact, scale, sums[r]);
                    sums[r] = _mm512_fnmadd_ps(min, sum, sums[r]);
                }
            }
        }
    }
    for r in 0..ROWS {
        each(m + r, &lanes(sums[r]));
    }
    ROWS
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn factors(factor: Factor<'_>) -> __m512 {
    // SAFETY: 16 numbers are read of 16.
    let wide = |units: &[f16; LANES]| unsafe {
        _mm512_cvtph_ps(_mm256_loadu_si256(units.as_ptr().cast()))
    };
    match factor {
        Factor::Units(units) => wide(units),
        Factor::Steps(units, steps) => {
            // SAFETY: as above.
            let steps = unsafe { _mm_loadu_si128(steps.as_ptr().cast()) };
            let steps = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(steps));
            _mm512_mul_ps(wide(units), steps)
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn q4_products_avx2(
    panel: &[impl Q4Block],
    xs: &[Q8Row<'_>],
    each: &mut impl FnMut(usize, &Lanes),
) {
    in_row_tiles!(q4_tile_avx2, panel, xs, each; 4 2);
}

/// `vpmaddubsw` gives at most 2 * 15 * 127, and the sum of the eight results of a part still fits
/// 16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q4_tile_avx2<const ROWS: usize>(
    panel: &[impl Q4Block],
    xs: &[Q8Row<'_>],
    m: usize,
    each: &mut impl FnMut(usize, &Lanes),
) -> usize {
    let x: [Q8Row<'_>; ROWS] = std::array::from_fn(|r| xs[m + r]);
    let (low, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    for (b, block) in panel.iter().enumerate() {
        fetch_ahead::<Q4_AHEAD>(block);
        for (part, half) in (0..block.parts()).flat_map(|part| [(part, 0), (part, 1)]) {
            let at = b * block.parts() + part;
            let mut exact = [_mm256_setzero_si256(); ROWS];
            // SAFETY: 32 bytes are read of the first or second 32 of 64, and of each row four values at a
            // time and one scale and sum within part `at`, which the caller has checked to be there.
            unsafe {
                for (p, pair) in block.quants(part).iter().enumerate() {
                    let pair = pair.as_ptr().add(half * 2 * LANES);
                    fetch_ahead::<Q4_AHEAD>(pair);
                    let pair = _mm256_loadu_si256(pair.cast());
                    let quants = [
                        _mm256_and_si256(pair, low),
                        _mm256_and_si256(_mm256_srli_epi16::<4>(pair), low),
                    ];
                    for r in 0..ROWS {
                        let values = x[r].values.as_ptr().add(at * BLOCK + p * 4);
                        for h in 0..2 {
                            let four = values.add(h * BLOCK / 2).cast::<i32>();
                            let four = _mm256_set1_epi32(four.read_unaligned());
                            let pairs = _mm256_maddubs_epi16(quants[h], four);
                            exact[r] = _mm256_add_epi16(exact[r], pairs);
                        }
                    }
                }
                let scale = half_of_factors(block.scale(part), half);
                let min = half_of_factors(block.min(part), half);
                let min = _mm256_mul_ps(min, _mm256_set1_ps(block.min_times()));
                for r in 0..ROWS {
                    let exact = _mm256_cvtepi32_ps(_mm256_madd_epi16(exact[r], ones));
                    let scale = _mm256_mul_ps(scale, _mm256_set1_ps(*x[r].scales.as_ptr().add(at)));
                    let sum = _mm256_set1_ps((*x[r].sums.as_ptr().add(at)).scaled);
                    sums[r][half] = _mm256_fmadd_ps(exact, scale, sums[r][half]);
                    sums[r][half] = _mm256_fnmadd_ps(min, sum, sums[r][half]);
                }
            }
        }
    }
    for r in 0..ROWS {
        each(m + r, &lanes_of_halves(sums[r]));
    }
    ROWS
}

/// The factors of the first or the second 8 rows.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn half_of_factors(factor: Factor<'_>, half: usize) -> __m256 {
    let first = half * (LANES / 2);
    let wide = |units: &[f16; LANES]| {
        let units = &units[first..][..LANES / 2];
        // SAFETY: 8 numbers are read of 8.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(units.as_ptr().cast()) })
    };
    match factor {
        Factor::Units(units) => wide(units),
        Factor::Steps(units, steps) => {
            let steps = &steps[first..][..LANES / 2];
            // SAFETY: as above.
            let steps = unsafe { _mm_loadl_epi64(steps.as_ptr().cast()) };
            let steps = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(steps));
            _mm256_mul_ps(wide(units), steps)
        }
    }
}
