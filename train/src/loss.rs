//! The two losses of OneGen, both from one forward pass: cross-entropy where the model writes,
//! contrastive where it retrieves.

use anyhow::Result;
use candle_core::{D, Device, Tensor};
use candle_nn::loss::cross_entropy;

use crate::batch::Batch;
use crate::model::Model;

/// The losses of one batch, each a scalar, and what was right.
pub struct Losses {
    /// Mean cross-entropy over the trained targets
    pub language: Tensor,
    /// InfoNCE over the batch's passages (van den Oord et al. 2018); zero if nothing is retrieved
    pub retrieval: Tensor,
    /// For each group of targets, whether every one was the most likely token
    pub groups: Vec<bool>,
    /// For each query, whether its own passage was nearest
    pub found: Vec<bool>,
    /// The batch's passage embeddings without their gradients, (passages, hidden_size)
    pub passages: Option<Tensor>,
}

/// Runs the batch; `temperature` divides the cosines, `others` are embeddings of passages that are
/// negatives for every query of the batch, (others, hidden_size).
pub fn losses(
    model: &Model,
    batch: &Batch,
    temperature: f64,
    others: Option<&Tensor>,
) -> Result<Losses> {
    let states = model.forward(&batch.ids, &batch.ends, &batch.blocks)?;
    let at = |positions: &[u32]| -> Result<Tensor> {
        Ok(states.index_select(&Tensor::new(positions, &Device::Cpu)?, 0)?)
    };
    let logits = at(&batch.predict)?.matmul(&model.embedding().t()?)?;
    let language = cross_entropy(
        &logits,
        &Tensor::new(batch.targets.as_slice(), &Device::Cpu)?,
    )?;
    let best = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let mut groups = vec![true; batch.groups.last().map_or(0, |last| *last as usize + 1)];
    for ((best, target), group) in best.iter().zip(&batch.targets).zip(&batch.groups) {
        groups[*group as usize] &= best == target;
    }
    if batch.queries.is_empty() || batch.passages.is_empty() {
        return Ok(Losses {
            retrieval: language.zeros_like()?,
            language,
            groups,
            found: vec![],
            passages: None,
        });
    }
    let positions: Vec<u32> = batch
        .queries
        .iter()
        .map(|(position, _)| *position)
        .collect();
    let own: Vec<u32> = batch
        .queries
        .iter()
        .map(|(_, passage)| *passage as u32)
        .collect();
    let passages = unit(&at(&batch.passages)?)?;
    let against = match others {
        Some(others) => Tensor::cat(&[&passages, others], 0)?,
        None => passages.clone(),
    };
    let scores = unit(&at(&positions)?)?.matmul(&against.t()?)?;
    let found = scores
        .argmax(D::Minus1)?
        .to_vec1::<u32>()?
        .iter()
        .zip(&own)
        .map(|(best, own)| best == own)
        .collect();
    let retrieval = cross_entropy(&(scores / temperature)?, &Tensor::new(own, &Device::Cpu)?)?;
    Ok(Losses {
        language,
        retrieval,
        groups,
        found,
        passages: Some(passages.detach()),
    })
}

/// Rows scaled to unit length.
fn unit(rows: &Tensor) -> Result<Tensor> {
    Ok(rows.broadcast_div(&rows.sqr()?.sum_keepdim(1)?.sqrt()?)?)
}
