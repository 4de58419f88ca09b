//! The types that keys and values may be kept in.

use super::named::find;

/// The type of a KV-cache's numbers, in memory and on the disk, of conversations and of passages. On the CPU
/// attention reads what was kept, so results depend on the type, but not on how a text is cut into steps,
/// and not on whether keys and values were computed now, kept in memory or read from the disk. On other devices
/// a KV-cache has the weights' type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum KvType {
    /// 32 bits: the reference
    F32,
    /// 16 bits, IEEE
    F16,
    /// 8 bits, and a 16-bit scale for each 32 numbers of a head
    #[default]
    Q8_0,
}

impl KvType {
    /// All types, by falling size.
    pub const ALL: [KvType; 3] = [Self::F32, Self::F16, Self::Q8_0];

    /// The type's name: `f32`, `f16` or `q8_0`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }
}

impl std::fmt::Display for KvType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for KvType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        find(&Self::ALL, Self::as_str, name)
    }
}
