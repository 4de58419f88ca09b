//! The tile product for any processor, with which the others are compared.

use super::tile::{Element, PANEL, TILE, Tile};

/// Multiplies a tile.
///
/// # Safety
/// The tile's pointers are valid for its sizes.
pub(super) unsafe fn multiply<E: Element>(tile: &Tile<E>) {
    let mut sums = [[0.0f32; PANEL]; TILE];
    for group in 0..tile.inner / E::GROUP {
        for (row, sums) in sums.iter_mut().enumerate().take(tile.count) {
            for within in 0..E::GROUP {
                let at = group * E::GROUP + within;
                // SAFETY: the row has `inner` numbers, by the caller's promise.
                let x = unsafe { (*tile.rows.add(row * tile.row_stride + at)).to_f32() };
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let place = (group * PANEL + lane) * E::GROUP + within;
                    // SAFETY: a panel has `inner` times `PANEL` numbers, by the caller's promise.
                    *sum += x * unsafe { (*tile.panel.add(place)).to_f32() };
                }
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
