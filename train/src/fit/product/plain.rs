//! The tile product for any processor, with which the others are compared.

use super::tile::{PANEL, TILE, Tile};

/// Multiplies a tile.
///
/// # Safety
/// The tile's pointers are valid for its sizes.
pub(super) unsafe fn multiply(tile: &Tile<f32>) {
    let mut sums = [[0.0f32; PANEL]; TILE];
    for at in 0..tile.inner {
        for (row, sums) in sums.iter_mut().enumerate().take(tile.count) {
            // SAFETY: the row has `inner` numbers, by the caller's promise.
            let x = unsafe { *tile.rows.add(row * tile.row_stride + at) };
            for (lane, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a panel has `inner` times `PANEL` numbers, by the caller's promise.
                *sum += x * unsafe { *tile.panel.add(at * PANEL + lane) };
            }
        }
    }
    for (row, sums) in sums.iter().enumerate().take(tile.count) {
        for (column, sum) in sums.iter().enumerate().take(tile.columns) {
            // SAFETY: the results have this place, by the caller's promise.
            let out = unsafe { &mut *tile.out.add(row * tile.out_stride + column) };
            *out = if tile.add { *out + sum } else { *sum };
        }
    }
}
