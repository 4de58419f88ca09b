//! The passages of the delta by their rows.

use std::sync::Arc;

use crate::live::change::DeltaPassage;

/// Rows in a block.
const BLOCK: usize = 256;

type Block = Vec<Option<Arc<DeltaPassage>>>;

/// Rows in blocks that snapshots share, so that a batch of changes copies only the blocks that it touches.
#[derive(Clone, Default)]
pub(crate) struct DeltaRows {
    /// All but the last are full.
    blocks: Vec<Arc<Block>>,
    /// Rows of the first block that were dropped.
    dropped: usize,
}

impl DeltaRows {
    /// Number of rows, also of empty ones.
    pub(crate) fn len(&self) -> usize {
        let full = self.blocks.len().saturating_sub(1) * BLOCK;
        full + self.blocks.last().map_or(0, |block| block.len()) - self.dropped
    }

    pub(crate) fn push(&mut self, passage: Arc<DeltaPassage>) {
        match self.blocks.last_mut().filter(|block| block.len() < BLOCK) {
            Some(block) => Arc::make_mut(block).push(Some(passage)),
            None => self.blocks.push(Arc::new(vec![Some(passage)])),
        }
    }

    /// The passage of a row, unless it was taken.
    pub(crate) fn get(&self, row: usize) -> Option<&Arc<DeltaPassage>> {
        let place = self.dropped + row;
        self.blocks.get(place / BLOCK)?.get(place % BLOCK)?.as_ref()
    }

    /// Leaves a row empty, and returns what was in it.
    pub(crate) fn take(&mut self, row: usize) -> Option<Arc<DeltaPassage>> {
        let place = self.dropped + row;
        let block = Arc::make_mut(self.blocks.get_mut(place / BLOCK)?);
        block.get_mut(place % BLOCK)?.take()
    }

    /// Drops the rows before one, which becomes row 0.
    pub(crate) fn drop_before(&mut self, row: usize) {
        let rows = self.dropped + row.min(self.len());
        if rows == self.dropped + self.len() {
            *self = Self::default();
            return;
        }
        self.blocks.drain(..rows / BLOCK);
        self.dropped = rows % BLOCK;
        if let Some(first) = self.blocks.first_mut() {
            Arc::make_mut(first)[..self.dropped].fill(None);
        }
    }

    /// The rows that are not empty, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<DeltaPassage>)> {
        let all = self.blocks.iter().flat_map(|block| block.iter());
        let rows = all.skip(self.dropped).enumerate();
        rows.filter_map(|(row, passage)| Some((row as u32, passage.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::delta_passage;

    fn passage(number: usize) -> Arc<DeltaPassage> {
        delta_passage(number, vec![vec![1.0]], None)
    }

    fn ids(rows: &DeltaRows) -> Vec<(u32, String)> {
        let ids = rows.iter().map(|(row, p)| (row, p.passage.id.clone()));
        ids.collect()
    }

    #[test]
    fn rows_behave_as_a_list_that_loses_its_front() {
        for dropped in [0, 1, 255, 256, 300, 700, 800, 900] {
            let mut rows = DeltaRows::default();
            let mut list: Vec<Option<String>> = Vec::new();
            for number in 0..800 {
                rows.push(passage(number));
                list.push(Some(number.to_string()));
            }
            rows.take(710);
            list[710] = None;
            let before = rows.clone();
            let ids_before = ids(&before);
            rows.drop_before(dropped);
            list.drain(..dropped.min(800));
            for number in 800..1_100 {
                rows.push(passage(number));
                list.push(Some(number.to_string()));
            }
            if let Some(taken) = rows.take(5) {
                assert_eq!(Some(&taken.passage.id), list[5].take().as_ref());
            }
            assert_eq!(rows.len(), list.len());
            let got = (0..list.len()).map(|row| rows.get(row).map(|p| p.passage.id.clone()));
            assert!(got.eq(list.iter().cloned()), "{dropped}");
            assert!(rows.get(list.len()).is_none());
            let wanted = (0..).zip(list).filter_map(|(row, id)| Some((row, id?)));
            assert_eq!(ids(&rows), wanted.collect::<Vec<_>>());
            assert_eq!(ids(&before), ids_before);
        }
    }

    #[test]
    fn a_clone_shares_the_blocks_that_are_not_touched() {
        let mut rows = DeltaRows::default();
        (0..1_000).for_each(|number| rows.push(passage(number)));
        let before = rows.clone();
        rows.push(passage(1_000));
        rows.take(300);
        let shared = before.blocks.iter().zip(&rows.blocks);
        let shared: Vec<bool> = shared.map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        assert_eq!(shared, [true, false, true, false]);
    }
}
