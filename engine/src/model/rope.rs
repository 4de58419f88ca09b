//! Rotary frequencies.

use crate::config::{ModelConfig, RopeScaling};

/// The angle per position of each pair, computed as in transformers.
pub(super) fn frequencies(config: &ModelConfig) -> Vec<f32> {
    let plain = (0..config.head_dim / 2).map(|i| {
        let exponent = 2.0 * i as f32 / config.head_dim as f32;
        1.0 / config.rope_theta.powf(exponent)
    });
    match &config.rope_scaling {
        RopeScaling::Default => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|plain| plain / factor).collect(),
        RopeScaling::Factors(factors) => plain.zip(factors.iter()).map(|(p, f)| p / f).collect(),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: positions,
        } => plain
            .map(|plain| {
                let turns = *positions as f32 * plain / (2.0 * std::f32::consts::PI);
                if turns < *low {
                    plain / factor
                } else if turns > *high {
                    plain
                } else {
                    let smooth = (turns - low) / (high - low);
                    (1.0 - smooth) * plain / factor + smooth * plain
                }
            })
            .collect(),
    }
}
