//! How long a file is.

/// Lines of code: neither empty nor a comment, and outside the tests at the end of a file.
pub fn lines_of_code(text: &str) -> usize {
    let mut lines = 0;
    let mut all = text.lines().map(str::trim).peekable();
    while let Some(line) = all.next() {
        if line == "#[cfg(test)]" && all.peek().is_some_and(|next| next.starts_with("mod tests")) {
            break;
        }
        if !line.is_empty() && !line.starts_with("//") {
            lines += 1;
        }
    }
    lines
}
