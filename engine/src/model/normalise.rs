//! Scales embeddings to length 1, so that their inner product is their cosine.

/// A state scaled to length 1.
pub(crate) fn normalised(mut state: Vec<f32>) -> Vec<f32> {
    let length = state.iter().map(|x| x * x).sum::<f32>().sqrt();
    // A state of zeros has no direction; it stays as it is and matches nothing.
    if length > 0.0 {
        state.iter_mut().for_each(|x| *x /= length);
    }
    state
}
