//! safetensors files, written row by row.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use half::{bf16, f16};
use onegen_engine::Tensors;
use serde_json::{Map, json};

use super::write_json;

/// The type that numbers are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NumberType {
    /// 16 bits, IEEE
    F16,
    /// 16 bits, the upper half of an f32
    Bf16,
    /// 32 bits
    F32,
}

impl NumberType {
    /// transformers' name of the type.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
        }
    }

    fn in_safetensors(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F32 => "F32",
        }
    }

    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// Writes numbers, little-endian.
    pub(super) fn write(self, numbers: &[f32], to: &mut impl Write) -> std::io::Result<()> {
        for number in numbers {
            match self {
                Self::F16 => to.write_all(&f16::from_f32(*number).to_le_bytes())?,
                Self::Bf16 => to.write_all(&bf16::from_f32(*number).to_le_bytes())?,
                Self::F32 => to.write_all(&number.to_le_bytes())?,
            }
        }
        Ok(())
    }
}

/// A tensor to be written.
type PlannedTensor = (String, Vec<usize>);

/// Writes tensors of `source` into `directory`, as one file or as several of at most `most_bytes` with their index.
///
/// # Errors
/// Writing failed, or a tensor cannot be read.
pub(super) fn write(
    directory: &Path,
    tensors: Vec<PlannedTensor>,
    number: NumberType,
    most_bytes: u64,
    source: &Tensors,
) -> Result<()> {
    let size = |shape: &[usize]| shape.iter().product::<usize>() as u64 * number.bytes();
    let total: u64 = tensors.iter().map(|(_, shape)| size(shape)).sum();
    let mut shards: Vec<Vec<PlannedTensor>> = vec![vec![]];
    let mut held = 0;
    for (name, shape) in tensors {
        if held > 0 && held + size(&shape) > most_bytes {
            shards.push(vec![]);
            held = 0;
        }
        held += size(&shape);
        if let Some(last) = shards.last_mut() {
            last.push((name, shape));
        }
    }
    let mut weight_map = Map::new();
    let count = shards.len();
    for (at, shard) in shards.iter().enumerate() {
        let file = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", at + 1),
        };
        let names = shard.iter().map(|(name, _)| name.clone());
        weight_map.extend(names.map(|name| (name, file.clone().into())));
        let path = directory.join(&file);
        write_shard(&path, shard, number, source)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if count > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        write_json(&directory.join("model.safetensors.index.json"), &index)?;
    }
    Ok(())
}

fn write_shard(
    path: &Path,
    tensors: &[PlannedTensor],
    number: NumberType,
    source: &Tensors,
) -> Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() as u64 * number.bytes();
        let entry = json!({
            "dtype": number.in_safetensors(), "shape": shape, "data_offsets": [start, end],
        });
        header.insert(name.clone(), entry);
    }
    let mut header = serde_json::to_string(&header)?;
    // The numbers begin at a multiple of eight bytes.
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for (name, shape) in tensors {
        let mut written = 0;
        let mut rows = source.rows(name)?;
        while let Some(row) = rows.next_row()? {
            number.write(row, &mut file)?;
            written += row.len();
        }
        let wanted = shape.iter().product::<usize>();
        ensure!(
            written == wanted,
            "{name} has {written} numbers where its shape asks for {wanted}"
        );
    }
    file.flush()?;
    file.get_ref().sync_all()?;
    Ok(())
}
