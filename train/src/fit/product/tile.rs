//! A tile of a product, and the numbers that it is made of.

/// Outputs of a panel.
pub(super) const PANEL: usize = 32;
/// Rows of a tile.
pub(super) const TILE: usize = 12;

/// The type that weights and kept activations have. Sums are f32 in either.
pub trait Element: Copy + Default + Send + Sync + 'static {
    /// How many neighbours of the inner dimension are adjacent in a panel.
    const GROUP: usize;
    /// Rounds to the nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    /// Widens exactly.
    fn to_f32(self) -> f32;
    /// The fastest kernel of this machine; none where the processor does not multiply this type, and
    /// weights and rows are widened to f32 before they are multiplied.
    fn kernel() -> Option<Kernel<Self>>;
}

/// Multiplies a tile, whose pointers must be valid for its sizes.
pub type Kernel<E> = unsafe fn(&Tile<E>);

/// A tile of a product: up to twelve rows times one panel.
#[derive(Clone, Copy)]
pub struct Tile<E> {
    /// The first row's first number; `inner` numbers a row
    pub(super) rows: *const E,
    /// Numbers from a row to the next
    pub(super) row_stride: usize,
    /// How many rows
    pub(super) count: usize,
    /// `inner` times 32 numbers; those of [`Element::GROUP`] neighbours are adjacent
    pub(super) panel: *const E,
    /// The inner dimension, a multiple of [`Element::GROUP`]
    pub(super) inner: usize,
    /// The place of the first row's first result
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    /// Results of each row, at most 32
    pub(super) columns: usize,
    /// Whether results are added to the old values
    pub(super) add: bool,
}
