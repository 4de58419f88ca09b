//! The fingerprints of the model, tokenizer and template that made an index's vectors. Queries must
//! come from the same three.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names what embedded the passages. Queries must be embedded by the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprints {
    /// Name of the model, for people; not compared.
    pub name: String,
    /// Fingerprint of the weights.
    pub model: String,
    /// Fingerprint of the tokenizer.
    pub tokenizer: String,
    /// Fingerprint of the template that a passage is embedded with.
    pub template: String,
}

impl Fingerprints {
    /// Which fingerprints of the two differ, by name.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        [
            ("model", self.model != other.model),
            ("tokenizer", self.tokenizer != other.tokenizer),
            ("template", self.template != other.template),
        ]
        .into_iter()
        .filter_map(|(what, differs)| differs.then_some(what))
        .collect()
    }
}

impl fmt::Display for Fingerprints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Twelve digits are enough to tell two fingerprints apart; the manifest has all of them.
        let short = |s: &str| s.chars().take(12).collect::<String>();
        write!(
            f,
            "{:?} (model {}, tokenizer {}, template {})",
            self.name,
            short(&self.model),
            short(&self.tokenizer),
            short(&self.template)
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::fingerprints;

    #[test]
    fn the_name_of_a_model_is_not_compared() {
        let mut other = fingerprints("m");
        other.name = "renamed".into();
        assert!(fingerprints("m").differences(&other).is_empty());
        assert_eq!(fingerprints("m").differences(&fingerprints("n")), ["model"]);
    }
}
