//! Keys and values of one sequence as tensors, one pair a layer.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use crate::config::ModelConfig;
use crate::error::ForwardError;
use crate::model::BLOCK;
use crate::model::decoder::KvStore;

/// Each layer's keys and values with room for `capacity` positions.
#[derive(Debug)]
pub(super) struct KvTensors {
    /// None until the first positions are reserved.
    layers: Vec<Option<LayerKv>>,
    blocks: usize,
    shape: KvShape,
}

/// One layer's keys and values, each `(kv_heads, capacity, head_dim)` and contiguous.
#[derive(Debug, Clone)]
struct LayerKv {
    keys: Tensor,
    values: Tensor,
}

/// The shape that all layers have in common.
#[derive(Debug, Clone)]
struct KvShape {
    kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    device: Device,
}

impl KvTensors {
    pub(super) fn new(config: &ModelConfig, dtype: DType, device: &Device) -> Self {
        Self {
            layers: (0..config.num_hidden_layers).map(|_| None).collect(),
            blocks: 0,
            shape: KvShape {
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
                dtype,
                device: device.clone(),
            },
        }
    }

    /// Makes room for `blocks` blocks in total; the first `len` positions are kept.
    fn grow(&mut self, blocks: usize, len: usize) -> Result<()> {
        // New tensors are made for all layers before any is replaced, so that after an error
        // nothing has changed.
        let grown = self
            .layers
            .iter()
            .map(|layer| {
                self.shape
                    .grown(layer.as_ref(), len, blocks * BLOCK)
                    .map(Some)
            })
            .collect::<Result<_>>()?;
        self.layers = grown;
        self.blocks = blocks;
        Ok(())
    }

    /// Writes the keys and values of new positions, `(kv_heads, new, head_dim)`, after the first
    /// `past`, and returns all of them: `(kv_heads, past + new, head_dim)` each.
    pub(super) fn write(
        &self,
        layer: usize,
        past: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let kv = self.layer(layer)?;
        let len = past + keys.dim(1)?;
        kv.keys.slice_set(keys, 1, past)?;
        kv.values.slice_set(values, 1, past)?;
        self.held(layer, len)
    }

    /// What [`KvStore::layer_rows`] gave of `len` positions: keys and values, `(kv_heads, len, head_dim)` each.
    pub(super) fn tensors(&self, rows: &[u8], len: usize) -> Result<(Tensor, Tensor)> {
        let KvShape {
            kv_heads,
            head_dim,
            dtype,
            device,
        } = &self.shape;
        let (keys, values) = rows.split_at(rows.len() / 2);
        let tensor = |rows: &[u8]| {
            let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(rows);
            Tensor::from_vec(numbers, (*kv_heads, len, *head_dim), device)?.to_dtype(*dtype)
        };
        Ok((tensor(keys)?, tensor(values)?))
    }

    /// Keys and values of the first `len` positions: `(kv_heads, len, head_dim)` each.
    pub(super) fn held(&self, layer: usize, len: usize) -> Result<(Tensor, Tensor)> {
        let kv = self.layer(layer)?;
        Ok((kv.keys.narrow(1, 0, len)?, kv.values.narrow(1, 0, len)?))
    }

    fn layer(&self, layer: usize) -> Result<&LayerKv> {
        match self.layers.get(layer) {
            Some(Some(kv)) => Ok(kv),
            _ => candle_core::bail!("layer {layer} has no room reserved in the KV-cache"),
        }
    }
}

impl KvStore for KvTensors {
    fn blocks(&self) -> usize {
        self.blocks
    }

    fn block_bytes(&self) -> usize {
        let row = self.shape.kv_heads * self.shape.head_dim * self.shape.dtype.size_in_bytes();
        2 * self.layers.len() * row * BLOCK
    }

    fn resize(&mut self, blocks: usize, len: usize) -> std::result::Result<(), ForwardError> {
        if blocks == 0 {
            self.clear();
            return Ok(());
        }
        Ok(self.grow(blocks, len)?)
    }

    fn clear(&mut self) {
        self.layers.fill_with(|| None);
        self.blocks = 0;
    }

    fn fork(
        &self,
        blocks: usize,
        len: usize,
    ) -> std::result::Result<Box<dyn KvStore>, ForwardError> {
        let mut fork = Self {
            layers: self.layers.clone(),
            blocks,
            shape: self.shape.clone(),
        };
        // Growing copies the tensors, so none is shared.
        fork.grow(blocks, len)?;
        Ok(Box::new(fork))
    }

    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn layer_bytes(&self) -> usize {
        self.layer_row_count() * self.shape.head_dim * size_of::<f32>()
    }

    fn layer_row_count(&self) -> usize {
        2 * self.shape.kv_heads
    }

    fn layer_rows(
        &self,
        layer: usize,
        positions: Range<usize>,
    ) -> std::result::Result<Vec<u8>, ForwardError> {
        let kv = self.layer(layer)?;
        let rows = |all: &Tensor| {
            all.narrow(1, positions.start, positions.len())?
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()
        };
        let rows = [rows(&kv.keys)?, rows(&kv.values)?].concat();
        Ok(bytemuck::cast_slice(&rows).to_vec())
    }

    fn set_layer_rows(
        &mut self,
        layer: usize,
        positions: Range<usize>,
        rows: &[u8],
    ) -> std::result::Result<(), ForwardError> {
        let kv = self.layer(layer)?;
        let (keys, values) = self.tensors(rows, positions.len())?;
        kv.keys.slice_set(&keys, 1, positions.start)?;
        kv.values.slice_set(&values, 1, positions.start)?;
        Ok(())
    }

    fn fits(&self, config: &ModelConfig) -> bool {
        self.layers.len() == config.num_hidden_layers
            && self.shape.kv_heads == config.num_key_value_heads
            && self.shape.head_dim == config.head_dim
    }
}

impl KvShape {
    /// Room for `capacity` positions, the first `len` copied from `old`.
    fn grown(&self, old: Option<&LayerKv>, len: usize, capacity: usize) -> Result<LayerKv> {
        let room = |old: Option<&Tensor>| -> Result<Tensor> {
            let new = Tensor::zeros(
                (self.kv_heads, capacity, self.head_dim),
                self.dtype,
                &self.device,
            )?;
            if let Some(old) = old.filter(|_| len > 0) {
                new.slice_set(&old.narrow(1, 0, len)?.contiguous()?, 1, 0)?;
            }
            Ok(new)
        };
        Ok(LayerKv {
            keys: room(old.map(|kv| &kv.keys))?,
            values: room(old.map(|kv| &kv.values))?,
        })
    }
}
