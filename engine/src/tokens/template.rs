//! Texts that consist of parts by the model's makers and parts by others.
//!
//! Only the makers' parts may contain control tokens. Adjacent plain text of both kinds is encoded
//! together, so that it gets the ids that it had in training, whatever the boundary between the two
//! is.

/// A part of a rendered template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Written by the template: spellings of control tokens are control tokens.
    Template(&'a str),
    /// Written by someone else: plain text, whatever it spells.
    Content(&'a str),
}

/// Fills the placeholders `{name}` of `template` with contents. Other braces stay as they are.
pub(crate) fn fill<'a>(template: &'a str, fields: &[(&str, &'a str)]) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((at, placeholder, content)) = fields
        .iter()
        .filter_map(|(placeholder, content)| {
            rest.find(placeholder)
                .map(|at| (at, *placeholder, *content))
        })
        .min_by_key(|(at, ..)| *at)
    {
        pieces.push(Piece::Template(&rest[..at]));
        pieces.push(Piece::Content(content));
        rest = &rest[at + placeholder.len()..];
    }
    pieces.push(Piece::Template(rest));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_that_looks_like_a_placeholder_is_not_filled() {
        let pieces = fill(
            "{title}: {text}!",
            &[("{title}", "{text}"), ("{text}", "b")],
        );
        assert_eq!(
            pieces,
            [
                Piece::Template(""),
                Piece::Content("{text}"),
                Piece::Template(": "),
                Piece::Content("b"),
                Piece::Template("!"),
            ]
        );
    }
}
