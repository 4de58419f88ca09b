//! Keys and values of one head in one block of positions.
//!
//! Keys stand in groups of 16 positions whose numbers are interleaved, so that 16 scores are summed at once, and
//! values stand one position after another. Scales, where the type has them, are arranged alike: those of 16 keys
//! are adjacent, and so are those of all the block's values.

use half::bf16;

use super::kernels::LANES;
use super::kv_number::{KvNumber, SCALED, scale_of};
use crate::model::BLOCK;

/// The numbers of one head that all positions have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeadShape {
    pub(super) head_dim: usize,
}

impl HeadShape {
    /// Values are kept in whole lanes.
    pub(super) fn value_width(self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Numbers of a block.
    pub(super) fn numbers(self) -> usize {
        BLOCK * (self.head_dim + self.value_width())
    }

    /// Scales of one key or value, if its type has any.
    pub(super) fn parts(self) -> usize {
        self.head_dim.div_ceil(SCALED)
    }

    /// Scales of a block, if its type has any.
    pub(super) fn scales(self) -> usize {
        2 * BLOCK * self.parts()
    }

    fn key_number(self, position: usize, d: usize) -> usize {
        (position / LANES * self.head_dim + d) * LANES + position % LANES
    }

    fn key_scale(self, position: usize, part: usize) -> usize {
        (position / LANES * self.parts() + part) * LANES + position % LANES
    }

    fn value_number(self, position: usize, d: usize) -> usize {
        BLOCK * self.head_dim + position * self.value_width() + d
    }

    fn value_scale(self, position: usize, part: usize) -> usize {
        BLOCK * (self.parts() + part) + position
    }

    /// Where number `d` and scale `part` of a key or a value are.
    fn places(
        self,
        which: Which,
        position: usize,
    ) -> (impl Fn(usize) -> usize, impl Fn(usize) -> usize) {
        let number = move |d| match which {
            Which::Key => self.key_number(position, d),
            Which::Value => self.value_number(position, d),
        };
        let scale = move |part| match which {
            Which::Key => self.key_scale(position, part),
            Which::Value => self.value_scale(position, part),
        };
        (number, scale)
    }
}

/// A key or a value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    Key,
    Value,
}

/// One head of a block, to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a, N> {
    pub(super) shape: HeadShape,
    pub(super) numbers: &'a [N],
    /// Empty if the type has no scales.
    pub(super) scales: &'a [bf16],
}

impl<'a, N: KvNumber> Head<'a, N> {
    /// `(BLOCK / 16, head_dim, 16)`
    pub(super) fn keys(&self) -> &'a [N] {
        &self.numbers[..BLOCK * self.shape.head_dim]
    }

    /// `(BLOCK / 16, parts, 16)`
    pub(super) fn key_scales(&self) -> &'a [bf16] {
        &self.scales[..self.scales.len() / 2]
    }

    /// `(BLOCK, value_width)`
    pub(super) fn values(&self) -> &'a [N] {
        &self.numbers[BLOCK * self.shape.head_dim..]
    }

    /// `(parts, BLOCK)`
    pub(super) fn value_scales(&self) -> &'a [bf16] {
        &self.scales[self.scales.len() / 2..]
    }

    /// Reads a key or a value, `head_dim` numbers.
    pub(super) fn read(&self, which: Which, position: usize, out: &mut [f32]) {
        let (number, scale) = self.shape.places(which, position);
        for (part, out) in out.chunks_mut(SCALED).enumerate() {
            let scale = if N::HAS_SCALES {
                self.scales[scale(part)].to_f32()
            } else {
                1.0
            };
            for (d, out) in (part * SCALED..).zip(out) {
                *out = self.numbers[number(d)].widen() * scale;
            }
        }
    }

    /// Appends a key or a value as it is kept: its numbers, then its scales.
    pub(super) fn append_bytes(&self, which: Which, position: usize, out: &mut Vec<u8>) {
        let (number, scale) = self.shape.places(which, position);
        for d in 0..self.shape.head_dim {
            out.extend_from_slice(bytemuck::bytes_of(&self.numbers[number(d)]));
        }
        if N::HAS_SCALES {
            for part in 0..self.shape.parts() {
                out.extend_from_slice(&self.scales[scale(part)].to_le_bytes());
            }
        }
    }
}

/// One head of a block, to write.
#[derive(Debug)]
pub(super) struct HeadMut<'a, N> {
    pub(super) shape: HeadShape,
    pub(super) numbers: &'a mut [N],
    pub(super) scales: &'a mut [bf16],
}

impl<N: KvNumber> HeadMut<'_, N> {
    /// Writes a key or a value, `head_dim` numbers.
    pub(super) fn write(&mut self, which: Which, position: usize, from: &[f32]) {
        let (number, scale) = self.shape.places(which, position);
        for (part, from) in from.chunks(SCALED).enumerate() {
            let mut inverse = 1.0;
            if N::HAS_SCALES {
                (self.scales[scale(part)], inverse) = scale_of(from);
            }
            for (d, x) in (part * SCALED..).zip(from) {
                self.numbers[number(d)] = N::narrow(x * inverse);
            }
        }
    }

    /// Copies a key or a value as it is kept.
    pub(super) fn copy(&mut self, which: Which, to: usize, (head, from): (Head<'_, N>, usize)) {
        let (number, scale) = self.shape.places(which, to);
        let (from_number, from_scale) = self.shape.places(which, from);
        for d in 0..self.shape.head_dim {
            self.numbers[number(d)] = head.numbers[from_number(d)];
        }
        if N::HAS_SCALES {
            for part in 0..self.shape.parts() {
                self.scales[scale(part)] = head.scales[from_scale(part)];
            }
        }
    }

    /// Writes back what [`Head::append_bytes`] gave.
    pub(super) fn write_bytes(&mut self, which: Which, position: usize, row: &[u8]) {
        let (number, scale) = self.shape.places(which, position);
        let (numbers, scales) = row.split_at(self.shape.head_dim * size_of::<N>());
        for (d, bytes) in numbers.chunks_exact(size_of::<N>()).enumerate() {
            self.numbers[number(d)] = bytemuck::pod_read_unaligned(bytes);
        }
        for (part, bytes) in scales.as_chunks().0.iter().enumerate() {
            self.scales[scale(part)] = bf16::from_le_bytes(*bytes);
        }
    }
}

/// Reads a row that [`Head::append_bytes`] gave, `head_dim` numbers.
pub(super) fn read_bytes<N: KvNumber>(row: &[u8], out: &mut [f32]) {
    let (numbers, scales) = row.split_at(out.len() * size_of::<N>());
    let scales = scales.as_chunks().0;
    for (part, (out, numbers)) in out
        .chunks_mut(SCALED)
        .zip(numbers.chunks(SCALED * size_of::<N>()))
        .enumerate()
    {
        let scale = if N::HAS_SCALES {
            bf16::from_le_bytes(scales[part]).to_f32()
        } else {
            1.0
        };
        for (out, bytes) in out.iter_mut().zip(numbers.chunks_exact(size_of::<N>())) {
            *out = bytemuck::pod_read_unaligned::<N>(bytes).widen() * scale;
        }
    }
}
