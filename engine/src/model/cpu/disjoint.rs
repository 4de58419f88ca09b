//! Lets several threads write to different parts of one slice.

use std::marker::PhantomData;

/// A slice that hands out parts without checking that they do not overlap.
pub(super) struct DisjointParts<'a> {
    start: *mut f32,
    len: usize,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: callers of `slice` promise that no two parts overlap.
unsafe impl Sync for DisjointParts<'_> {}

impl<'a> DisjointParts<'a> {
    pub(super) fn new(slice: &'a mut [f32]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            of: PhantomData,
        }
    }

    /// The `len` numbers from `start` on.
    ///
    /// # Safety
    /// No other part that is in use overlaps this one.
    #[inline]
    #[expect(clippy::mut_from_ref)]
    pub(super) unsafe fn slice(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start + len <= self.len);
        // SAFETY: the part is within the slice, and the caller promises that no other part overlaps
        // it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
