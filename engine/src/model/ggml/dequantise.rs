//! The numbers that stored blocks mean.

use half::{bf16, f16};

use super::{GgmlType, scale_and_min};

impl GgmlType {
    /// Writes the numbers of a row, which is whole blocks, to `row`.
    pub(in crate::model) fn dequantise(self, stored: &[u8], row: &mut [f32]) {
        match self {
            Self::F32 => each(stored, row, |bytes| f32::from_le_bytes(*bytes)),
            Self::F16 => each(stored, row, |bytes| f16::from_le_bytes(*bytes).to_f32()),
            Self::BF16 => each(stored, row, |bytes| bf16::from_le_bytes(*bytes).to_f32()),
            Self::Q4_0 => blocks(stored, row, q4_0),
            Self::Q4_1 => blocks(stored, row, q4_1),
            Self::Q5_0 => blocks(stored, row, q5_0),
            Self::Q5_1 => blocks(stored, row, q5_1),
            Self::Q8_0 => blocks(stored, row, q8_0),
            Self::Q2_K => blocks(stored, row, q2_k),
            Self::Q3_K => blocks(stored, row, q3_k),
            Self::Q4_K => blocks(stored, row, q4_k),
            Self::Q5_K => blocks(stored, row, q5_k),
            Self::Q6_K => blocks(stored, row, q6_k),
        }
    }
}

/// Reads numbers of `BYTES` bytes each.
fn each<const BYTES: usize>(stored: &[u8], row: &mut [f32], read: impl Fn(&[u8; BYTES]) -> f32) {
    for (number, bytes) in row.iter_mut().zip(stored.as_chunks().0) {
        *number = read(bytes);
    }
}

/// Reads blocks of `BYTES` bytes, which hold `LEN` numbers each.
fn blocks<const BYTES: usize, const LEN: usize>(
    stored: &[u8],
    row: &mut [f32],
    read: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (numbers, block) in row.as_chunks_mut().0.iter_mut().zip(stored.as_chunks().0) {
        read(block, numbers);
    }
}

/// The f16 at a byte of a block.
fn unit(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Column `k` of 32 that have 4 bits each: the first 16 in the lower halves of the bytes.
fn four_bits(quants: &[u8], k: usize) -> u8 {
    quants[k % 16] >> (k / 16 * 4) & 15
}

/// The fifth bit of column `k` of 32.
fn fifth_bit(bits: &[u8], k: usize) -> u8 {
    (bits[k / 8] >> (k % 8) & 1) << 4
}

fn q4_0(block: &[u8; 18], numbers: &mut [f32; 32]) {
    let d = unit(block, 0);
    for (k, number) in numbers.iter_mut().enumerate() {
        *number = (f32::from(four_bits(&block[2..], k)) - 8.0) * d;
    }
}

fn q4_1(block: &[u8; 20], numbers: &mut [f32; 32]) {
    let (d, min) = (unit(block, 0), unit(block, 2));
    for (k, number) in numbers.iter_mut().enumerate() {
        *number = f32::from(four_bits(&block[4..], k)) * d + min;
    }
}

fn q5_0(block: &[u8; 22], numbers: &mut [f32; 32]) {
    let d = unit(block, 0);
    for (k, number) in numbers.iter_mut().enumerate() {
        let quant = four_bits(&block[6..], k) | fifth_bit(&block[2..6], k);
        *number = (f32::from(quant) - 16.0) * d;
    }
}

fn q5_1(block: &[u8; 24], numbers: &mut [f32; 32]) {
    let (d, min) = (unit(block, 0), unit(block, 2));
    for (k, number) in numbers.iter_mut().enumerate() {
        let quant = four_bits(&block[8..], k) | fifth_bit(&block[4..8], k);
        *number = f32::from(quant) * d + min;
    }
}

fn q8_0(block: &[u8; 34], numbers: &mut [f32; 32]) {
    let d = unit(block, 0);
    for (number, quant) in numbers.iter_mut().zip(&block[2..]) {
        *number = f32::from(*quant as i8) * d;
    }
}

/// 16 bytes of scales and minima, 64 of quants, the units of scales and minima.
fn q2_k(block: &[u8; 84], numbers: &mut [f32; 256]) {
    let (d, min_unit) = (unit(block, 80), unit(block, 82));
    for (part, numbers) in numbers.chunks_exact_mut(16).enumerate() {
        let (scale, min) = (block[part] & 15, block[part] >> 4);
        let (scale, min) = (d * f32::from(scale), min_unit * f32::from(min));
        // 32 bytes hold 128 columns, the first 32 of them in the lowest two bits.
        let quants = &block[16 + part / 8 * 32 + part % 2 * 16..][..16];
        for (number, quant) in numbers.iter_mut().zip(quants) {
            *number = scale * f32::from(quant >> (part % 8 / 2 * 2) & 3) - min;
        }
    }
}

/// 32 bytes of third bits, 64 of the lower two, 12 of scales, their unit.
fn q3_k(block: &[u8; 110], numbers: &mut [f32; 256]) {
    let (third, scales, unit) = (&block[..32], &block[96..108], unit(block, 108));
    for (part, numbers) in numbers.chunks_exact_mut(16).enumerate() {
        // The first eight bytes hold the lower 4 bits of two scales, the last four the upper 2 bits of four.
        let low = scales[part % 8] >> (part / 8 * 4) & 15;
        let high = scales[8 + part % 4] >> (part / 4 * 2) & 3;
        let scale = unit * (f32::from(low | high << 4) - 32.0);
        let at = part % 2 * 16;
        let quants = &block[32 + part / 8 * 32 + at..][..16];
        for (k, (number, quant)) in numbers.iter_mut().zip(quants).enumerate() {
            let below = if third[at + k] >> (part / 2) & 1 == 1 {
                0.0
            } else {
                4.0
            };
            *number = scale * (f32::from(quant >> (part % 8 / 2 * 2) & 3) - below);
        }
    }
}

/// The units of scales and minima, 12 bytes of these, 128 of quants.
fn q4_k(block: &[u8; 144], numbers: &mut [f32; 256]) {
    parts_of_32(block, numbers, |part, k| {
        block[16 + part / 2 * 32 + k] >> (part % 2 * 4) & 15
    });
}

/// The units of scales and minima, 12 bytes of these, 32 of fifth bits, 128 of the lower four.
fn q5_k(block: &[u8; 176], numbers: &mut [f32; 256]) {
    parts_of_32(block, numbers, |part, k| {
        let low = block[48 + part / 2 * 32 + k] >> (part % 2 * 4) & 15;
        low | (block[16 + k] >> part & 1) << 4
    });
}

/// The numbers of a block that begins as `Q4_K` does, given the quant of each part's columns.
fn parts_of_32(block: &[u8], numbers: &mut [f32; 256], quant: impl Fn(usize, usize) -> u8) {
    let (d, min_unit) = (unit(block, 0), unit(block, 2));
    let Some(steps) = block[4..].first_chunk() else {
        return;
    };
    for (part, numbers) in numbers.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(steps, part);
        let (scale, min) = (d * f32::from(scale), min_unit * f32::from(min));
        for (k, number) in numbers.iter_mut().enumerate() {
            *number = scale * f32::from(quant(part, k)) - min;
        }
    }
}

/// 128 bytes of the lower four bits, 64 of the upper two, 16 of scales, their unit.
fn q6_k(block: &[u8; 210], numbers: &mut [f32; 256]) {
    let d = unit(block, 208);
    for (part, numbers) in numbers.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(block[192 + part] as i8);
        // Each half of the block, 128 columns, has 64 bytes of lower bits and 32 of upper ones.
        let (half, quarter, at) = (part / 8, part % 8 / 2, part % 2 * 16);
        let low = &block[half * 64 + quarter % 2 * 32 + at..][..16];
        let high = &block[128 + half * 32 + at..][..16];
        for (number, (low, high)) in numbers.iter_mut().zip(low.iter().zip(high)) {
            let low = low >> (quarter / 2 * 4) & 15;
            let high = high >> (quarter * 2) & 3;
            *number = scale * (f32::from(low | high << 4) - 32.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ggml::random_blocks;
    use candle_core::Device;
    use candle_core::quantized::GgmlDType;
    use candle_core::quantized::ggml_file::qtensor_from_ggml;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn in_candle(ggml: GgmlType) -> GgmlDType {
        match ggml {
            GgmlType::F32 => GgmlDType::F32,
            GgmlType::F16 => GgmlDType::F16,
            GgmlType::BF16 => GgmlDType::BF16,
            GgmlType::Q4_0 => GgmlDType::Q4_0,
            GgmlType::Q4_1 => GgmlDType::Q4_1,
            GgmlType::Q5_0 => GgmlDType::Q5_0,
            GgmlType::Q5_1 => GgmlDType::Q5_1,
            GgmlType::Q8_0 => GgmlDType::Q8_0,
            GgmlType::Q2_K => GgmlDType::Q2K,
            GgmlType::Q3_K => GgmlDType::Q3K,
            GgmlType::Q4_K => GgmlDType::Q4K,
            GgmlType::Q5_K => GgmlDType::Q5K,
            GgmlType::Q6_K => GgmlDType::Q6K,
        }
    }

    #[test]
    fn every_type_has_the_numbers_that_candle_reads() {
        let mut rng = StdRng::seed_from_u64(11);
        for ggml in GgmlType::ALL {
            let candle = in_candle(ggml);
            assert_eq!(ggml.block_len(), candle.block_size(), "{ggml:?}");
            assert_eq!(ggml.block_bytes(), candle.type_size(), "{ggml:?}");
            if ggml.block_len() == 1 {
                continue;
            }
            let columns = 5 * 256;
            let blocks = random_blocks(ggml, columns, &mut rng);
            let mut numbers = vec![0.0; columns];
            ggml.dequantise(&blocks, &mut numbers);
            let tensor = qtensor_from_ggml(candle, &blocks, vec![columns], &Device::Cpu).unwrap();
            let wanted = tensor.dequantize(&Device::Cpu).unwrap();
            assert_eq!(numbers, wanted.to_vec1::<f32>().unwrap(), "{ggml:?}");
        }
    }

    #[test]
    fn plain_numbers_are_read_as_they_are() {
        let numbers = [1.0, -0.5, 3.0, 0.0];
        let mut row = [9.0; 4];
        let bytes = numbers.map(f32::to_le_bytes);
        GgmlType::F32.dequantise(bytes.as_flattened(), &mut row);
        assert_eq!(row, numbers);
        let bytes = numbers.map(|number| f16::from_f32(number).to_le_bytes());
        GgmlType::F16.dequantise(bytes.as_flattened(), &mut row);
        assert_eq!(row, numbers);
        let bytes = numbers.map(|number| bf16::from_f32(number).to_le_bytes());
        GgmlType::BF16.dequantise(bytes.as_flattened(), &mut row);
        assert_eq!(row, numbers);
    }
}
