//! Checksums that can be verified a block at a time.
//!
//! blake3 is a tree. The hashes of a file's blocks (subtrees of 64 KiB) are stored beside the file.
//! Together they must give the file's own blake3; each block can then be verified alone, when it is
//! first read. So a file of gigabytes opens at once, and yet no byte is used unverified.

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

/// Bytes of a block: a power of two, so that a block is a subtree.
pub(crate) const BLOCK: usize = 64 << 10;

/// Hash of one block.
pub(crate) type BlockHash = ChainingValue;

/// Number of blocks of a file.
pub(crate) fn count(length: u64) -> u64 {
    length.div_ceil(BLOCK as u64)
}

/// Hash of the block with a number from 0.
pub(crate) fn hash(number: u64, block: &[u8]) -> BlockHash {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(number * BLOCK as u64);
    hasher.update(block);
    hasher.finalize_non_root()
}

/// blake3 of a file of more than one block, from the hashes of all its blocks.
pub(crate) fn root(blocks: &[BlockHash], length: u64) -> blake3::Hash {
    let (left, right) = blocks.split_at(left_blocks(length));
    let left_length = left_subtree_len(length);
    merge_subtrees_root(
        &subtree(left, left_length),
        &subtree(right, length - left_length),
        Mode::Hash,
    )
}

fn subtree(blocks: &[BlockHash], length: u64) -> BlockHash {
    if let [only] = blocks {
        return *only;
    }
    let (left, right) = blocks.split_at(left_blocks(length));
    let left_length = left_subtree_len(length);
    merge_subtrees_non_root(
        &subtree(left, left_length),
        &subtree(right, length - left_length),
        Mode::Hash,
    )
}

fn left_blocks(length: u64) -> usize {
    left_subtree_len(length) as usize / BLOCK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_give_the_files_own_blake3() {
        let bytes: Vec<u8> = (0..BLOCK * 9 + 17).map(|n| (n % 251) as u8).collect();
        for length in [
            BLOCK + 1,
            2 * BLOCK - 1,
            2 * BLOCK,
            2 * BLOCK + 1,
            3 * BLOCK,
            5 * BLOCK + 1000,
            8 * BLOCK,
            9 * BLOCK + 17,
        ] {
            let file = &bytes[..length];
            let blocks: Vec<_> = file
                .chunks(BLOCK)
                .enumerate()
                .map(|(number, block)| hash(number as u64, block))
                .collect();
            assert_eq!(blocks.len() as u64, count(length as u64));
            assert_eq!(
                root(&blocks, length as u64),
                blake3::hash(file),
                "{length} bytes"
            );
        }
    }
}
