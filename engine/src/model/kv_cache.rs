//! The KV-cache of one sequence: keys and values of every layer for the positions forwarded.

use candle_core::{DType, Device, Result, Tensor};

use crate::config::ModelConfig;

/// Positions are allocated in blocks of this many, so that a decoding sequence rarely moves.
const BLOCK: usize = 128;

/// Keys and values of one sequence. Rebuildable from the token log by forwarding it again.
#[derive(Debug)]
pub struct KvCache {
    /// None until the first positions are reserved.
    layers: Vec<Option<LayerKv>>,
    len: usize,
    capacity: usize,
    shape: KvShape,
}

/// One layer's keys and values, each `(kv_heads, capacity, head_dim)` and contiguous.
#[derive(Debug)]
struct LayerKv {
    keys: Tensor,
    values: Tensor,
}

/// What all layers have in common.
#[derive(Debug, Clone)]
struct KvShape {
    kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    device: Device,
}

impl KvCache {
    pub(crate) fn new(config: &ModelConfig, dtype: DType, device: &Device) -> Self {
        Self {
            layers: (0..config.num_hidden_layers).map(|_| None).collect(),
            len: 0,
            capacity: 0,
            shape: KvShape {
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
                dtype,
                device: device.clone(),
            },
        }
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.bytes_for(self.capacity)
    }

    /// Bytes allocated once `positions` are held, rounded up to whole blocks.
    pub fn bytes_for(&self, positions: usize) -> usize {
        let row = self.shape.kv_heads * self.shape.head_dim * self.shape.dtype.size_in_bytes();
        2 * self.layers.len() * row * positions.next_multiple_of(BLOCK)
    }

    /// How many positions `bytes` are enough for, in whole blocks.
    pub(crate) fn positions_in(&self, bytes: usize) -> usize {
        bytes / self.bytes_for(BLOCK) * BLOCK
    }

    /// Forgets all positions from `len` on; their memory stays for what comes instead.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Forgets all positions and gives the memory back.
    pub fn clear(&mut self) {
        self.layers.fill_with(|| None);
        self.len = 0;
        self.capacity = 0;
    }

    /// Makes room for `positions` in all.
    pub(crate) fn reserve(&mut self, positions: usize) -> Result<()> {
        if positions <= self.capacity {
            return Ok(());
        }
        let capacity = positions.next_multiple_of(BLOCK);
        // All layers first, then the swap: after an error the cache is as it was.
        let grown = self
            .layers
            .iter()
            .map(|layer| {
                self.shape
                    .grown(layer.as_ref(), self.len, capacity)
                    .map(Some)
            })
            .collect::<Result<_>>()?;
        self.layers = grown;
        self.capacity = capacity;
        Ok(())
    }

    /// Writes the new positions' keys and values `(kv_heads, new, head_dim)` behind those held,
    /// and gives all: `(kv_heads, len + new, head_dim)` each. They count as held after [`Self::grow`].
    pub(crate) fn write(
        &self,
        layer: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let Some(Some(kv)) = self.layers.get(layer) else {
            candle_core::bail!("layer {layer} has no room reserved in the KV-cache");
        };
        let len = self.len + keys.dim(1)?;
        kv.keys.slice_set(keys, 1, self.len)?;
        kv.values.slice_set(values, 1, self.len)?;
        Ok((kv.keys.narrow(1, 0, len)?, kv.values.narrow(1, 0, len)?))
    }

    /// Counts `new` more positions as held, once every layer has written them.
    pub(crate) fn grow(&mut self, new: usize) {
        self.len += new;
    }

    /// Whether this cache was made for such a model.
    pub(crate) fn fits(&self, config: &ModelConfig) -> bool {
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
