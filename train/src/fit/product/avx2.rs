//! Tiles in AVX2: twelve sums of 8 lanes stay in registers, those of six rows and half a panel.

use std::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_storeu_ps,
};

use super::tile::{PANEL, Tile};

/// Lanes of a register.
const LANES: usize = 8;
/// Outputs whose sums are in registers at once.
const HALF: usize = 2 * LANES;
/// Rows whose sums are in registers at once.
const ROWS: usize = 6;

/// Multiplies a tile.
///
/// # Safety
/// The tile's pointers are valid for its sizes.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn multiply(tile: &Tile<f32>) {
    for first in (0..tile.count).step_by(ROWS) {
        for column in (0..tile.columns).step_by(HALF) {
            // SAFETY: as promised by the caller; the part lies within the tile.
            unsafe {
                match tile.count - first {
                    1 => part::<1>(tile, first, column),
                    2 => part::<2>(tile, first, column),
                    3 => part::<3>(tile, first, column),
                    4 => part::<4>(tile, first, column),
                    5 => part::<5>(tile, first, column),
                    _ => part::<ROWS>(tile, first, column),
                }
            }
        }
    }
}

/// Multiplies `COUNT` rows from row `first` on by the half panel that begins at `column`.
#[target_feature(enable = "avx2,fma")]
unsafe fn part<const COUNT: usize>(tile: &Tile<f32>, first: usize, column: usize) {
    let mut sums = [[_mm256_setzero_ps(); 2]; COUNT];
    for at in 0..tile.inner {
        // SAFETY: a panel has `inner` times `PANEL` numbers and a row `inner`, by the caller's promise.
        unsafe {
            let weights = tile.panel.add(at * PANEL + column);
            let (low, high) = (
                _mm256_loadu_ps(weights),
                _mm256_loadu_ps(weights.add(LANES)),
            );
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*tile.rows.add((first + row) * tile.row_stride + at));
                sums[0] = _mm256_fmadd_ps(x, low, sums[0]);
                sums[1] = _mm256_fmadd_ps(x, high, sums[1]);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: the results have these places, by the caller's promise.
        unsafe {
            let out = tile.out.add((first + row) * tile.out_stride + column);
            write(sums, out, HALF.min(tile.columns - column), tile.add);
        }
    }
}

/// Writes the first `count` sums of a row, or adds them.
#[target_feature(enable = "avx2,fma")]
unsafe fn write(sums: &[__m256; 2], out: *mut f32, count: usize, add: bool) {
    if count == HALF {
        for (half, sum) in sums.iter().enumerate() {
            // SAFETY: there are `count` results, by the caller's promise.
            unsafe {
                let out = out.add(half * LANES);
                let sum = if add {
                    _mm256_add_ps(_mm256_loadu_ps(out), *sum)
                } else {
                    *sum
                };
                _mm256_storeu_ps(out, sum);
            }
        }
        return;
    }
    let mut whole = [0.0; HALF];
    for (half, sum) in sums.iter().enumerate() {
        // SAFETY: `whole` has place for both.
        unsafe { _mm256_storeu_ps(whole.as_mut_ptr().add(half * LANES), *sum) };
    }
    for (at, sum) in whole.iter().enumerate().take(count) {
        // SAFETY: there are `count` results, by the caller's promise.
        let out = unsafe { &mut *out.add(at) };
        *out = if add { *out + sum } else { *sum };
    }
}
