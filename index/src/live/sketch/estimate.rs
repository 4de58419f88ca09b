//! Sketches and what they say about scores: RaBitQ's estimator of a product and its error.
//!
//! A rotated vector o with centre c has the residual r = o − c in D dimensions, and its sketch is the
//! signs of r, ±1 each. For a query q, ⟨o, q⟩ = ⟨c, q⟩ + ⟨r, c⟩ + ⟨r, q − c⟩. The first two products are
//! known. The last is estimated by ⟨signs, q − c⟩·‖r‖²/Σ|rᵢ|, which is right in the mean, since the error
//! of the signs has a random direction. With x = Σ|rᵢ|/(‖r‖·√D), the cosine of r and its signs, its
//! standard deviation is at most ‖r‖·‖q − c‖·√(1 − x²)/(x·√(D − 1)).
//!
//! Vectors whose residuals share a direction share an error, so a centre is that of few vectors, and there
//! are many. Preparing a query takes longer than the product with a sketch. It is therefore prepared with an
//! *origin* p that many centres share: ⟨signs, q − c⟩ = ⟨signs, q − p⟩ − ⟨signs, c − p⟩, of which the last
//! is known.
//!
//! q − p is rounded to 16 steps. Each rounding error meets a random sign, so they add ‖error‖·‖r‖²/Σ|rᵢ| to
//! the deviation.
//!
//! The signs of the first m dimensions are a sketch as well, a *coarse* one. Where sums of signs and of |rᵢ|
//! go over these m only, all of the above holds, with the variance ‖q − c‖²·(m·s² − ‖r‖²)/(D − 1) for
//! s = ‖r‖²/Σ|rᵢ|; with m = D it is the one above.

use crate::live::sketch::bit_product::{LANES, PLANES, Planes};
use crate::segment::codes::Estimate;
use crate::segment::search::score::dot;

/// Standard deviations within which an estimate is expected. On 100,000 vectors of 896 dimensions recall@10
/// is .997 to 1; with 2.5 deviations it is no better, and twice as many codes are compared for queries
/// that have no near vector.
const DEVIATIONS: f32 = 2.0;
/// The same for coarse sketches. They are asked first and lose hardly any of what the others would find.
const COARSE_DEVIATIONS: f32 = 3.0;
// What sums of f32 may be off, of products of unit vectors.
const ROUNDING: f32 = 1e-5;

/// The highest of the steps that a query's residual is rounded to.
const HIGHEST: f32 = ((1 << PLANES) - 1) as f32;

/// Words of the coarse sketch, of all the words of a sketch.
pub(crate) fn coarse_words(words: usize) -> usize {
    words.div_ceil(4)
}

/// The bits of a vector and its factors.
pub(crate) struct Sketch {
    /// A bit for each dimension, set where the residual is not negative.
    pub(crate) words: Vec<u64>,
    pub(crate) factors: Factors,
    /// Those of the coarse sketch, which is the first words.
    pub(crate) coarse: Factors,
}

/// What an estimate needs to know of a vector beside its bits: `T` is a number, or those of vectors that
/// lie together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Factors<T = f32> {
    /// ⟨r, c⟩ − ⟨signs, c − p⟩·‖r‖²/Σ|rᵢ|.
    offset: T,
    /// ‖r‖²/Σ|rᵢ|.
    scale: T,
    /// The variance for a query residual of length 1.
    variance: T,
    /// The number of bits that are set.
    ones: T,
}

impl Factors<[f32; LANES]> {
    pub(crate) fn get(&self, lane: usize) -> Factors {
        Factors {
            offset: self.offset[lane],
            scale: self.scale[lane],
            variance: self.variance[lane],
            ones: self.ones[lane],
        }
    }

    pub(crate) fn set(&mut self, lane: usize, factors: Factors) {
        self.offset[lane] = factors.offset;
        self.scale[lane] = factors.scale;
        self.variance[lane] = factors.variance;
        self.ones[lane] = factors.ones;
    }
}

impl Sketch {
    /// Sketches a rotated vector, for queries that are prepared with an origin.
    pub(crate) fn new(rotated: &[f32], centre: &[f32], origin: &[f32]) -> Self {
        let residual = difference(rotated, centre);
        let words = residual.chunks(64).map(|part| {
            let bits = part.iter().enumerate();
            bits.fold(0, |word, (n, x)| word | u64::from(*x >= 0.0) << n)
        });
        let words: Vec<u64> = words.collect();
        let square = dot(&residual, &residual);
        let centre_product = dot(&residual, centre);
        let apart = difference(centre, origin);
        let signs = residual.iter().map(|x| if *x >= 0.0 { 1.0 } else { -1.0 });
        let signs: Vec<f32> = signs.collect();
        let factors = |words: &[u64]| {
            let bits = residual.len().min(64 * words.len());
            // Σ|rᵢ|
            let sum = dot(&signs[..bits], &residual[..bits]);
            let others = (residual.len() as f32 - 1.0).max(1.0);
            let (scale, variance) = if sum > 0.0 {
                let scale = square / sum;
                let lost = (bits as f32 * scale * scale - square).max(0.0);
                (scale, lost / others)
            } else {
                // A vector that is the centre has no residual, and what is known of it is exact. Where only
                // these bits have none, nothing is known of the residual but its length.
                (0.0, square)
            };
            Factors {
                offset: centre_product - scale * dot(&signs[..bits], &apart[..bits]),
                scale,
                variance,
                ones: words.iter().map(|word| word.count_ones()).sum::<u32>() as f32,
            }
        };
        Self {
            factors: factors(&words),
            coarse: factors(&words[..coarse_words(words.len())]),
            words,
        }
    }
}

/// A query as sketches with one origin need it.
pub(crate) struct RoundedQuery {
    pub(crate) fine: RoundedBits,
    pub(crate) coarse: RoundedBits,
}

/// q − p in as many dimensions as a sketch has bits, rounded.
pub(crate) struct RoundedBits {
    /// The steps: (words).
    pub(crate) planes: Vec<Planes>,
    step: f32,
    /// HIGHEST/2·bits − Σ steps
    shift: f32,
    /// The square of the length of what rounding has lost.
    lost_square: f32,
    /// How many standard deviations an estimate may be off.
    deviations: f32,
}

/// A query as sketches with one centre need it.
pub(crate) struct CentredQuery<'q> {
    pub(crate) rounded: &'q RoundedQuery,
    /// ⟨c, q⟩.
    centre_product: f32,
    /// ‖q − c‖².
    square: f32,
}

impl RoundedQuery {
    pub(crate) fn new(rotated: &[f32], origin: &[f32]) -> Self {
        let residual = difference(rotated, origin);
        let coarse = 64 * coarse_words(residual.len().div_ceil(64));
        Self {
            coarse: RoundedBits::new(&residual[..coarse.min(residual.len())], COARSE_DEVIATIONS),
            fine: RoundedBits::new(&residual, DEVIATIONS),
        }
    }
}

impl RoundedBits {
    fn new(residual: &[f32], deviations: f32) -> Self {
        let largest = residual.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let step = if largest > 0.0 {
            2.0 * largest / HIGHEST
        } else {
            1.0
        };
        let (mut sum, mut lost_square) = (0.0, 0.0);
        let mut planes = vec![[0; PLANES]; residual.len().div_ceil(64)];
        for (part, planes) in residual.chunks(64).zip(&mut planes) {
            for (n, x) in part.iter().enumerate() {
                // The cast rounds down, and all are positive.
                let steps = (x / step + HIGHEST / 2.0 + 0.5).min(HIGHEST) as u32;
                sum += steps as f32;
                lost_square += (x - (steps as f32 - HIGHEST / 2.0) * step).powi(2);
                for (bit, plane) in planes.iter_mut().enumerate() {
                    *plane |= u64::from(steps >> bit & 1) << n;
                }
            }
        }
        Self {
            planes,
            step,
            shift: HIGHEST / 2.0 * residual.len() as f32 - sum,
            lost_square,
            deviations,
        }
    }
}

impl<'q> CentredQuery<'q> {
    /// `centre_square` is ‖c‖².
    pub(crate) fn new(
        rounded: &'q RoundedQuery,
        rotated: &[f32],
        centre: &[f32],
        centre_square: f32,
    ) -> Self {
        let centre_product = dot(rotated, centre);
        // A query is a unit vector.
        let square = (1.0 - 2.0 * centre_product + centre_square).max(0.0);
        Self {
            rounded,
            centre_product,
            square,
        }
    }

    /// The estimated product of the query and a vector. `product` is that of the sketch's bits and the
    /// query's steps for them. With a fine sketch the true product is within the bound for all but about
    /// one in 20 vectors, and one in 40 is above it; with a coarse one, one in 700 is above it.
    #[inline(always)]
    pub(crate) fn estimate(&self, bits: &RoundedBits, vector: Factors, product: u32) -> Estimate {
        // Σ signᵢ·(stepsᵢ − HIGHEST/2), where a sign is twice a bit less one.
        let RoundedBits {
            step,
            shift,
            lost_square,
            deviations,
            ..
        } = bits;
        let signed = 2.0 * product as i32 as f32 - HIGHEST * vector.ones + shift;
        let variance = vector.variance * self.square + vector.scale * vector.scale * lost_square;
        Estimate {
            score: self.centre_product + vector.offset + vector.scale * step * signed,
            within: deviations * variance.sqrt() + ROUNDING,
        }
    }

    /// The highest scores that are to be expected of vectors that lie together.
    #[inline(always)]
    pub(crate) fn at_most(
        &self,
        bits: &RoundedBits,
        vectors: &Factors<[f32; LANES]>,
        products: &[u32; LANES],
    ) -> [f32; LANES] {
        std::array::from_fn(|lane| {
            let estimate = self.estimate(bits, vectors.get(lane), products[lane]);
            estimate.at_most()
        })
    }
}

fn difference(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::sketch::bit_product::bit_products;
    use crate::live::sketch::rotation::Rotation;
    use crate::segment::vectors::normalised;
    use crate::testing::clustered;

    /// What the coarse sketch and the whole one say of a vector.
    fn estimates(sketch: &Sketch, query: &CentredQuery<'_>) -> [Estimate; 2] {
        let RoundedQuery { fine, coarse } = query.rounded;
        [(coarse, sketch.coarse), (fine, sketch.factors)].map(|(bits, factors)| {
            let words = &sketch.words[..bits.planes.len()];
            let group: Vec<_> = words.iter().map(|&word| [word; LANES]).collect();
            let mut products = [[0; LANES]];
            bit_products(&group, &bits.planes, &mut products);
            query.estimate(bits, factors, products[0][0])
        })
    }

    /// What was seen of all pairs of vectors and queries.
    #[derive(Debug, Default)]
    struct Errors {
        mean: f64,
        usual: f64,
        /// The share of estimates that are not within their bounds.
        outside: f64,
    }

    /// Those of coarse sketches and of whole ones.
    fn errors(dimension: usize, centres: usize, with_centre: bool) -> [Errors; 2] {
        let rotation = Rotation::new(dimension);
        let vectors: Vec<_> = clustered(3, 620, dimension, centres)
            .iter()
            .map(|v| rotation.rotate(&normalised(v, dimension).unwrap()))
            .collect();
        let mut centre = vec![0.0; rotation.width()];
        if with_centre {
            for (n, c) in centre.iter_mut().enumerate() {
                *c = vectors.iter().map(|v| v[n]).sum::<f32>() / vectors.len() as f32;
            }
        }
        let (queries, vectors) = vectors.split_at(20);
        // Any point may be the origin; this one is as far from the centre as that of a topic from all.
        let origin: Vec<f32> = vectors[0].iter().map(|x| 0.5 * x).collect();
        let sketch = |vector: &Vec<f32>| Sketch::new(vector, &centre, &origin);
        let sketches: Vec<_> = vectors.iter().map(sketch).collect();
        let mut errors = [Errors::default(), Errors::default()];
        let share = 1.0 / (queries.len() * vectors.len()) as f64;
        for query in queries {
            let rounded = RoundedQuery::new(query, &origin);
            let centred = CentredQuery::new(&rounded, query, &centre, dot(&centre, &centre));
            for (sketch, vector) in sketches.iter().zip(vectors) {
                for (errors, estimate) in errors.iter_mut().zip(estimates(sketch, &centred)) {
                    let error = estimate.score - dot(query, vector);
                    errors.mean += share * f64::from(error);
                    errors.usual += share * f64::from(error).powi(2);
                    errors.outside += share * f64::from(error.abs() > estimate.within);
                }
            }
        }
        errors.map(|errors| Errors {
            usual: errors.usual.sqrt(),
            ..errors
        })
    }

    #[test]
    fn estimates_are_right_in_the_mean_and_mostly_within_their_bounds() {
        for dimension in [24, 100, 384, 896] {
            for (centres, with_centre) in [(1, false), (1, true), (20, true), (600, true)] {
                let case = format!("{dimension} dimensions, {centres} centres, {with_centre}");
                let [coarse, fine] = errors(dimension, centres, with_centre);
                println!("{case}: {coarse:?}, {fine:?}");
                // Without a centre all these vectors share one direction, and so one error.
                let is_random = with_centre || centres > 1;
                for Errors { mean, usual, .. } in [&coarse, &fine] {
                    assert!(
                        !is_random || mean.abs() < 0.1 * usual,
                        "{case}: {mean} of {usual}"
                    );
                }
                // A normal error is outside of two deviations in .0455 of all cases, of three in .0027.
                assert!(fine.outside < 0.055, "{case}: {fine:?}");
                assert!(!with_centre || fine.outside > 0.03, "{case}: {fine:?}");
                assert!(coarse.outside < 0.006, "{case}: {coarse:?}");
                // A quarter of 896 bits and a bit more is off by 2.8 times as much.
                let times = coarse.usual / fine.usual;
                assert!(!with_centre || times < 3.0, "{case}: {times}");
            }
        }
    }

    #[test]
    fn a_vector_of_one_dimension_is_estimated_within_its_bound() {
        let rotation = Rotation::new(1);
        let centre = vec![0.0; rotation.width()];
        for (a, b) in [(1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)] {
            let sketch = Sketch::new(&rotation.rotate(&[a]), &centre, &centre);
            let rotated = rotation.rotate(&[b]);
            let rounded = RoundedQuery::new(&rotated, &centre);
            let query = CentredQuery::new(&rounded, &rotated, &centre, 0.0);
            for estimate in estimates(&sketch, &query) {
                let error = (estimate.score - a * b).abs();
                assert!(error <= estimate.within, "{estimate:?}");
                assert!(estimate.within < 0.75, "{estimate:?}");
            }
        }
    }

    #[test]
    fn a_vector_that_is_the_centre_is_estimated_exactly() {
        let rotation = Rotation::new(100);
        let vectors = clustered(4, 2, 100, 1);
        let [centre, query] = [0, 1].map(|n| {
            let unit = normalised(&vectors[n], 100).unwrap();
            rotation.rotate(&unit)
        });
        let sketch = Sketch::new(&centre, &centre, &centre);
        let rounded = RoundedQuery::new(&query, &centre);
        let centred = CentredQuery::new(&rounded, &query, &centre, dot(&centre, &centre));
        for estimate in estimates(&sketch, &centred) {
            assert!((estimate.score - dot(&centre, &query)).abs() <= 1e-6);
            assert_eq!(estimate.within, ROUNDING);
        }
    }
}
