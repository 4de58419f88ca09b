//! The types of a GGUF file's tensors.

use anyhow::Result;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use onegen_engine::GgmlType;

/// How numbers are stored: alone, or in ggml's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Element {
    /// 32 bits
    F32,
    /// 16 bits, IEEE
    F16,
    /// 16 bits, the upper half of an f32
    Bf16,
    /// 8 bits and a scale for each 32 numbers
    #[value(name = "q8_0")]
    Q8_0,
    /// 6 bits, blocks of 256
    #[value(name = "q6_k")]
    Q6K,
    /// 5 bits, blocks of 256
    #[value(name = "q5_k")]
    Q5K,
    /// 5 bits, a scale and a minimum for each 32
    #[value(name = "q5_1")]
    Q5_1,
    /// 5 bits and a scale for each 32
    #[value(name = "q5_0")]
    Q5_0,
    /// 4 bits, blocks of 256
    #[value(name = "q4_k")]
    Q4K,
    /// 4 bits, a scale and a minimum for each 32
    #[value(name = "q4_1")]
    Q4_1,
    /// 4 bits and a scale for each 32
    #[value(name = "q4_0")]
    Q4_0,
}

impl Element {
    /// All types, in order of falling precision.
    pub(super) const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q6K,
        Self::Q5K,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4K,
        Self::Q4_1,
        Self::Q4_0,
    ];

    pub(super) fn ggml(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::Bf16 => GgmlType::BF16,
            Self::Q8_0 => GgmlType::Q8_0,
            Self::Q6K => GgmlType::Q6_K,
            Self::Q5K => GgmlType::Q5_K,
            Self::Q5_1 => GgmlType::Q5_1,
            Self::Q5_0 => GgmlType::Q5_0,
            Self::Q4K => GgmlType::Q4_K,
            Self::Q4_1 => GgmlType::Q4_1,
            Self::Q4_0 => GgmlType::Q4_0,
        }
    }

    /// candle's name of the type, which quantises for all of them.
    fn in_candle(self) -> GgmlDType {
        match self {
            Self::F32 => GgmlDType::F32,
            Self::F16 => GgmlDType::F16,
            Self::Bf16 => GgmlDType::BF16,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q6K => GgmlDType::Q6K,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q5_1 => GgmlDType::Q5_1,
            Self::Q5_0 => GgmlDType::Q5_0,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q4_1 => GgmlDType::Q4_1,
            Self::Q4_0 => GgmlDType::Q4_0,
        }
    }

    pub(super) fn number(self) -> u32 {
        self.ggml().number()
    }

    /// The number of a file that mostly has this type (`llama_ftype`).
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 32,
            Self::Q8_0 => 7,
            Self::Q6K => 18,
            Self::Q5K => 16,
            Self::Q5_1 => 9,
            Self::Q5_0 => 8,
            Self::Q4K => 14,
            Self::Q4_1 => 3,
            Self::Q4_0 => 2,
        }
    }

    /// The more precise of two types.
    pub(super) fn finer(self, other: Self) -> Self {
        let place = |one| Self::ALL.into_iter().position(|each| each == one);
        if place(self) <= place(other) {
            self
        } else {
            other
        }
    }

    /// This type, or the next more precise one for which rows of `columns` columns are whole
    /// blocks.
    pub(super) fn fitting(self, columns: usize) -> Self {
        let fits = |one: Self| columns.is_multiple_of(one.ggml().block_len());
        match self {
            whole if fits(whole) => whole,
            _ if fits(Self::Q8_0) => Self::Q8_0,
            _ => Self::F32,
        }
    }

    /// Bytes of `count` numbers, which must be whole blocks.
    pub(super) fn bytes(self, count: usize) -> usize {
        self.ggml().bytes(count)
    }

    /// Appends a row of numbers, which must be whole blocks.
    pub(super) fn encode(self, row: &[f32], to: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::F32 => to.extend(row.iter().flat_map(|x| x.to_le_bytes())),
            Self::F16 => to.extend(row.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes())),
            Self::Bf16 => to.extend(row.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
            blocks => {
                let row = Tensor::from_slice(row, row.len(), &Device::Cpu)?;
                to.extend_from_slice(&QTensor::quantize(&row, blocks.in_candle())?.data()?);
            }
        }
        Ok(())
    }
}
