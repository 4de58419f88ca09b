//! Tiles in AVX-512: 24 sums of 16 lanes stay in registers.

use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512bh, __mmask16, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps,
};
use std::mem::transmute;

use half::bf16;

use super::tile::{PANEL, Tile};

/// Lanes of a register.
const LANES: usize = 16;

/// Calls the kernel of exactly as many rows as the tile has.
macro_rules! by_rows {
    ($kernel:ident, $tile:expr, $($rows:literal),*) => {
        match $tile.count {
            $($rows => $kernel::<$rows>($tile),)*
            _ => {}
        }
    };
}

/// Keeps the compiler from loading the numbers of many rows at once: the sums fill the registers, and would be
/// spilled to the stack in the inner loop. It costs no instruction.
#[inline(always)]
fn stay_in_order() {
    // SAFETY: it does nothing.
    unsafe { asm!("", options(nostack, preserves_flags)) }
}

/// Multiplies a tile of f32.
///
/// # Safety
/// The tile's pointers are valid for what its sizes say.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply_f32(tile: &Tile<f32>) {
    // SAFETY: as promised by the caller.
    unsafe { by_rows!(rows_f32, tile, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12) }
}

/// Multiplies a tile of bf16.
///
/// # Safety
/// The tile's pointers are valid for what its sizes say.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn multiply_bf16(tile: &Tile<bf16>) {
    // SAFETY: as promised by the caller.
    unsafe { by_rows!(rows_bf16, tile, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12) }
}

#[target_feature(enable = "avx512f")]
unsafe fn rows_f32<const ROWS: usize>(tile: &Tile<f32>) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for at in 0..tile.inner {
        // SAFETY: a panel has `inner` times `PANEL` numbers and a row `inner`, by the caller's promise.
        unsafe {
            let weights = tile.panel.add(at * PANEL);
            let (low, high) = (
                _mm512_loadu_ps(weights),
                _mm512_loadu_ps(weights.add(LANES)),
            );
            for (row, sums) in sums.iter_mut().enumerate() {
                stay_in_order();
                let x = _mm512_set1_ps(*tile.rows.add(row * tile.row_stride + at));
                sums[0] = _mm512_fmadd_ps(x, low, sums[0]);
                sums[1] = _mm512_fmadd_ps(x, high, sums[1]);
            }
        }
    }
    // SAFETY: as promised by the caller.
    unsafe { write(tile, &sums) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows_bf16<const ROWS: usize>(tile: &Tile<bf16>) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for pair in 0..tile.inner / 2 {
        // SAFETY: a panel has `inner` times `PANEL` numbers and a row `inner`, by the caller's promise.
        unsafe {
            let weights = tile.panel.add(pair * 2 * PANEL);
            let low: __m512bh = transmute(_mm512_loadu_si512(weights.cast()));
            let high: __m512bh = transmute(_mm512_loadu_si512(weights.add(2 * LANES).cast()));
            for (row, sums) in sums.iter_mut().enumerate() {
                stay_in_order();
                let x = tile.rows.add(row * tile.row_stride + 2 * pair);
                let x: __m512bh = transmute(_mm512_set1_epi32(x.cast::<i32>().read_unaligned()));
                sums[0] = _mm512_dpbf16_ps(sums[0], x, low);
                sums[1] = _mm512_dpbf16_ps(sums[1], x, high);
            }
        }
    }
    // SAFETY: as promised by the caller.
    unsafe { write(tile, &sums) }
}

/// Writes a tile's sums.
#[target_feature(enable = "avx512f")]
unsafe fn write<E, const ROWS: usize>(tile: &Tile<E>, sums: &[[__m512; 2]; ROWS]) {
    for (row, halves) in sums.iter().enumerate() {
        for (half, sum) in halves.iter().enumerate() {
            let left = tile.columns.saturating_sub(half * LANES).min(LANES);
            if left == 0 {
                continue;
            }
            let mask = (u32::MAX >> (32 - left)) as __mmask16;
            // SAFETY: the mask keeps to the tile's results, by the caller's promise.
            unsafe {
                let out = tile.out.add(row * tile.out_stride + half * LANES);
                let sum = if tile.add {
                    _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), *sum)
                } else {
                    *sum
                };
                _mm512_mask_storeu_ps(out, mask, sum);
            }
        }
    }
}
