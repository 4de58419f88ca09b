//! Several threads writing to different parts of one slice.

use std::marker::PhantomData;

/// A slice whose parts are handed out without a check that no two overlap.
pub(super) struct DisjointParts<'a> {
    start: *mut f32,
    len: usize,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: whoever takes a part promises that it is nobody else's.
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
    #[expect(clippy::mut_from_ref)]
    pub(super) unsafe fn slice(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start + len <= self.len);
        // SAFETY: within the slice, and nobody else's by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
