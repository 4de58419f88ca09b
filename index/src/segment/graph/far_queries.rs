//! Queries that have nothing near them, made of what an index holds.

use crate::error::IndexError;
use crate::segment::codes::Code;
use crate::segment::vectors::{VectorStore, normalised};

/// Vectors that one query is made of.
const SOURCES: usize = 32;

/// Unit vectors that resemble no passage, the same ones for the same index. There are two kinds, since a
/// query may be foreign to an index in two ways:
/// - the mean of some vectors, and their differences with it, added up with signs that alternate: such a
///   query is of the space in which the passages vary, between their topics;
/// - each of its numbers is the same number of another vector: such a query is mostly outside of it.
pub(crate) fn far_queries(
    vectors: &VectorStore,
    queries: usize,
) -> Result<Vec<Vec<f32>>, IndexError> {
    let (count, dimension) = (vectors.count() as u64, vectors.dimension());
    // Multiples of the golden ratio are spread evenly over all vectors.
    let mut sources =
        (1u64..).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % count.max(1));
    let mut source = || sources.next().unwrap_or_default() as u32;
    let mut made = Vec::with_capacity(queries);
    for number in 0..queries {
        let mut query = vec![0.0; dimension];
        if number % 2 == 0 {
            // m + Σ ±(v − m)/√n, where as many signs are positive as negative, so that m leaves the sum.
            let (mean, sum) = (1.0 / SOURCES as f32, 1.0 / (SOURCES as f32).sqrt());
            for sign in [sum, -sum].into_iter().cycle().take(SOURCES) {
                let Code { numbers, scale } = vectors.codes().code(source())?;
                for (x, &number) in query.iter_mut().zip(numbers) {
                    *x += (mean + sign) * scale * f32::from(number);
                }
            }
        } else {
            for (place, x) in query.iter_mut().enumerate() {
                let Code { numbers, scale } = vectors.codes().code(source())?;
                *x = scale * f32::from(numbers[place]);
            }
        }
        // Of few vectors nothing may be left.
        made.extend(normalised(&query, dimension));
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::search::score::dot;
    use crate::testing::{clustered, singles, store};

    #[test]
    fn they_resemble_nothing_that_is_stored() {
        let (_home, vectors) = store(&singles(clustered(1, 2_000, 256, 20)));
        let queries = far_queries(&vectors, 100).unwrap();
        assert_eq!(queries.len(), 100);
        for query in &queries {
            assert!((dot(query, query) - 1.0).abs() < 1e-4);
            let scores = (0..2_000).map(|v| dot(query, vectors.row(v).unwrap()));
            // Vectors of one cluster have cosines of about .73.
            assert!(scores.fold(-1.0, f32::max) < 0.6);
        }
        assert_eq!(queries, far_queries(&vectors, 100).unwrap());
    }

    #[test]
    fn what_few_vectors_leave_nothing_of_is_left_out() {
        let axis = |n: usize| (0..4).map(|at| f32::from(u8::from(at == n))).collect();
        let (_home, vectors) = store(&singles((0..4).map(axis).collect()));
        let queries = far_queries(&vectors, 100).unwrap();
        assert!((50..100).contains(&queries.len()), "{}", queries.len());
        assert!(queries.iter().all(|q| (dot(q, q) - 1.0).abs() < 1e-4));
    }
}
