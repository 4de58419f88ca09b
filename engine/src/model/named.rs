//! Values that users choose by name.

/// The one of `all` that has this name.
///
/// # Errors
/// None has it; the error says which names there are.
pub(super) fn find<T: Copy>(
    all: &[T],
    name_of: impl Fn(T) -> &'static str,
    name: &str,
) -> Result<T, String> {
    let found = all.iter().find(|one| name_of(**one) == name);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|one| name_of(*one)).collect();
        format!("{name:?} is none of {}", names.join(", "))
    })
}
