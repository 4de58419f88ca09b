//! ggml's types of numbers, as GGUF files store them: alone, or in blocks of 32 or 256 that share scales.
//!
//! The layouts are those of ggml's `ggml-common.h`. The tests hold them against candle, which has them, too;
//! the engine reads them itself so that a server for the CPU is built without candle.

mod dequantise;
mod quantise;

pub(super) use quantise::{quantise_q4_0, quantise_q4_1, quantise_q4_k};

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "ggml calls them so")]
pub enum GgmlType {
    /// 32 bits
    F32,
    /// 16 bits, IEEE
    F16,
    /// 16 bits, the upper half of an f32
    BF16,
    /// 4 bits, and a scale for each 32 numbers
    Q4_0,
    /// 4 bits, a scale and a minimum for each 32
    Q4_1,
    /// 5 bits, and a scale for each 32
    Q5_0,
    /// 5 bits, a scale and a minimum for each 32
    Q5_1,
    /// 8 bits, and a scale for each 32
    Q8_0,
    /// 2 bits, a 4-bit scale and minimum for each 16, and units of these for each 256
    Q2_K,
    /// 3 bits, a 6-bit scale for each 16, and a unit of these for each 256
    Q3_K,
    /// 4 bits, a 6-bit scale and minimum for each 32, and units of these for each 256
    Q4_K,
    /// 5 bits, else as `Q4_K`
    Q5_K,
    /// 6 bits, an 8-bit scale for each 16, and a unit of these for each 256
    Q6_K,
}

impl GgmlType {
    /// All types that are read.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// ggml's number of the type, the numbers of a block, and the block's bytes.
    const fn facts(self) -> (u32, usize, usize) {
        match self {
            Self::F32 => (0, 1, 4),
            Self::F16 => (1, 1, 2),
            Self::BF16 => (30, 1, 2),
            Self::Q4_0 => (2, 32, 18),
            Self::Q4_1 => (3, 32, 20),
            Self::Q5_0 => (6, 32, 22),
            Self::Q5_1 => (7, 32, 24),
            Self::Q8_0 => (8, 32, 34),
            Self::Q2_K => (10, 256, 84),
            Self::Q3_K => (11, 256, 110),
            Self::Q4_K => (12, 256, 144),
            Self::Q5_K => (13, 256, 176),
            Self::Q6_K => (14, 256, 210),
        }
    }

    /// The type of a number that ggml gives it; `None` for one that is not read.
    pub(super) fn of_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.number() == number)
    }

    /// The number that ggml gives the type, as GGUF files name it.
    pub const fn number(self) -> u32 {
        self.facts().0
    }

    /// How many numbers a block holds.
    pub const fn block_len(self) -> usize {
        self.facts().1
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.facts().2
    }

    /// Bytes of `count` numbers, which are whole blocks.
    pub const fn bytes(self, count: usize) -> usize {
        count / self.block_len() * self.block_bytes()
    }
}

/// Scale and minimum of part `j`, of eight, of a `Q4_K` or `Q5_K` block. Those of the first four parts are the
/// lower 6 bits of a byte each. For the other parts, the lower 4 bits of scale and minimum share a byte, and
/// their upper 2 bits are the two unused bits in the bytes of the first four.
pub(super) fn scale_and_min(steps: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (steps[j] & 63, steps[j + 4] & 63)
    } else {
        (
            steps[j + 4] & 15 | steps[j - 4] >> 6 << 4,
            steps[j + 4] >> 4 | steps[j] >> 6 << 4,
        )
    }
}

/// Blocks of random bits whose units are numbers between -1 and 1, for tests.
#[cfg(test)]
pub(super) fn random_blocks(ggml: GgmlType, columns: usize, rng: &mut impl rand::Rng) -> Vec<u8> {
    let mut blocks = vec![0; ggml.bytes(columns)];
    rng.fill(&mut blocks[..]);
    for block in blocks.chunks_exact_mut(ggml.block_bytes()) {
        let units: &[usize] = match ggml {
            GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => &[],
            GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => &[0],
            GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
            GgmlType::Q2_K => &[80, 82],
            GgmlType::Q3_K => &[108],
            GgmlType::Q6_K => &[208],
        };
        for at in units {
            let unit = half::f16::from_f32(rng.random_range(-1.0..1.0));
            block[*at..][..2].copy_from_slice(&unit.to_le_bytes());
        }
    }
    blocks
}
