//! The product of vectors of bits with a vector of whole numbers below 16, in which scans of sketches
//! spend their time.
//!
//! The numbers are taken apart into four planes of bits, so that a product is `and` and counting ones.
//! Eight vectors lie together, a word of each beside the same word of the others: they fill the lanes of
//! an AVX-512 register, and no lanes need to be added up at the end.

/// Vectors that lie together.
pub(crate) const LANES: usize = 8;
/// Bits of the whole numbers.
pub(crate) const PLANES: usize = 4;

/// One word, which is 64 dimensions, of each of the vectors that lie together.
pub(crate) type Lanes = [u64; LANES];
/// The bits of 64 whole numbers: first the lowest bit of each, last the highest.
pub(crate) type Planes = [u64; PLANES];

/// Σ bᵢ·uᵢ of each vector with the whole numbers u. `groups` is (groups, words), `numbers` is (words),
/// and `products` has a place for each group.
pub(crate) fn bit_products(groups: &[Lanes], numbers: &[Planes], products: &mut [[u32; LANES]]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vpopcntdq") {
            // SAFETY: the processor has been asked.
            return unsafe { vpopcnt(groups, numbers, products) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt") {
            // SAFETY: the processor has been asked.
            return unsafe { avx2(groups, numbers, products) };
        }
    }
    plain(groups, numbers, products);
}

#[inline(always)]
fn plain(groups: &[Lanes], numbers: &[Planes], products: &mut [[u32; LANES]]) {
    for (group, product) in groups.chunks_exact(numbers.len()).zip(products) {
        let mut sums = [[0u32; LANES]; PLANES];
        for (words, planes) in group.iter().zip(numbers) {
            for (sums, plane) in sums.iter_mut().zip(planes) {
                for (sum, word) in sums.iter_mut().zip(words) {
                    *sum += (word & plane).count_ones();
                }
            }
        }
        *product = [0; LANES];
        for (bit, sums) in sums.iter().enumerate() {
            for (product, sum) in product.iter_mut().zip(sums) {
                *product += sum << bit;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,popcnt")]
fn avx2(groups: &[Lanes], numbers: &[Planes], products: &mut [[u32; LANES]]) {
    plain(groups, numbers, products);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vpopcntdq")]
fn vpopcnt(groups: &[Lanes], numbers: &[Planes], products: &mut [[u32; LANES]]) {
    use std::arch::x86_64::*;
    for (group, product) in groups.chunks_exact(numbers.len()).zip(products) {
        let mut sums = [_mm512_setzero_si512(); PLANES];
        for (words, planes) in group.iter().zip(numbers) {
            // SAFETY: the reference points to 64 bytes, and 64 bytes are read.
            let words = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
            for (sum, plane) in sums.iter_mut().zip(planes) {
                let both = _mm512_and_si512(words, _mm512_set1_epi64(plane.cast_signed()));
                *sum = _mm512_add_epi64(*sum, _mm512_popcnt_epi64(both));
            }
        }
        let [ones, twos, fours, eights] = sums;
        let low = _mm512_add_epi64(ones, _mm512_slli_epi64::<1>(twos));
        let high = _mm512_add_epi64(fours, _mm512_slli_epi64::<1>(eights));
        let sum = _mm512_add_epi64(low, _mm512_slli_epi64::<2>(high));
        // SAFETY: the reference points to 32 bytes, and 32 bytes are written.
        unsafe { _mm256_storeu_si256(product.as_mut_ptr().cast(), _mm512_cvtepi64_epi32(sum)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Version = fn(&[Lanes], &[Planes], &mut [[u32; LANES]]);

    fn every_version() -> Vec<Version> {
        let mut versions: Vec<Version> = vec![plain, bit_products];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt") {
                versions.push(|a, b, c| unsafe { avx2(a, b, c) });
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vpopcntdq") {
                versions.push(|a, b, c| unsafe { vpopcnt(a, b, c) });
            }
        }
        versions
    }

    /// The products, bit by bit.
    fn wanted(groups: &[Lanes], numbers: &[Planes]) -> Vec<[u32; LANES]> {
        let bit = |word: u64, at: usize| (word >> at & 1) as u32;
        let products = groups.chunks_exact(numbers.len()).map(|group| {
            std::array::from_fn(|lane| {
                let words = group.iter().zip(numbers);
                let products = words.flat_map(|(words, planes)| {
                    (0..64).map(move |at| {
                        let number: u32 = (0..PLANES).map(|p| bit(planes[p], at) << p).sum();
                        bit(words[lane], at) * number
                    })
                });
                products.sum()
            })
        });
        products.collect()
    }

    #[test]
    fn the_largest_products_do_not_overflow() {
        let words = (1 << 17) / 64;
        for version in every_version() {
            let mut products = [[0; LANES]];
            version(
                &vec![[u64::MAX; LANES]; words],
                &vec![[u64::MAX; PLANES]; words],
                &mut products,
            );
            assert_eq!(products, [[15 << 17; LANES]]);
        }
    }

    proptest! {
        #[test]
        fn every_version_gives_the_same_numbers(
            numbers in prop::collection::vec(any::<Planes>(), 1..20),
            words in prop::collection::vec(any::<Lanes>(), 60),
        ) {
            let groups = words.len() / numbers.len();
            let words = &words[..groups * numbers.len()];
            for version in every_version() {
                let mut products = vec![[9; LANES]; groups];
                version(words, &numbers, &mut products);
                prop_assert_eq!(&products, &wanted(words, &numbers));
            }
        }
    }
}
