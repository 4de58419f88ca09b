//! Pages of lists, and what a list's query asks for beside.

use crate::wire::errors::ApiError;

/// OpenAI's value.
const DEFAULT_LENGTH: usize = 20;
/// OpenAI's value.
const MAX_LENGTH: usize = 100;

/// Whether a query's `include` names `what`. All of these ways to write a list are in use by
/// clients.
pub(crate) fn is_included(query: &[(String, String)], what: &str) -> bool {
    let mut included = query
        .iter()
        .filter(|(name, _)| name == "include" || name.starts_with("include["));
    included.any(|(_, value)| value.split(',').any(|one| one == what))
}

/// The part of a list that a request asks for.
pub(crate) struct PageQuery {
    after: Option<String>,
    before: Option<String>,
    limit: usize,
    ascending: bool,
}

/// Some entries of a list, and whether there are more behind them.
pub(crate) struct Page<T> {
    pub(crate) entries: Vec<T>,
    pub(crate) has_more: bool,
}

impl PageQuery {
    /// Reads it from a query, whose other parameters are passed over.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] names the parameter at fault.
    pub(crate) fn new(query: Vec<(String, String)>) -> Result<Self, ApiError> {
        let mut page = Self {
            after: None,
            before: None,
            limit: DEFAULT_LENGTH,
            ascending: false,
        };
        for (name, value) in query {
            match name.as_str() {
                "after" => page.after = Some(value).filter(|id| !id.is_empty()),
                "before" => page.before = Some(value).filter(|id| !id.is_empty()),
                "limit" => {
                    let limit = value.parse().ok();
                    let limit = limit.filter(|limit| (1..=MAX_LENGTH).contains(limit));
                    page.limit = limit.ok_or_else(|| {
                        let message =
                            format!("is {value:?}, but must be between 1 and {MAX_LENGTH}");
                        ApiError::invalid("limit", message)
                    })?;
                }
                "order" => {
                    page.ascending = match value.as_str() {
                        "asc" => true,
                        "desc" => false,
                        _ => {
                            let message = format!("is {value:?}, but must be asc or desc");
                            return Err(ApiError::invalid("order", message));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(page)
    }

    /// Selects the page from all entries, the oldest of which is given first.
    ///
    /// # Errors
    /// The entry after or before which the page should stand does not exist.
    pub(crate) fn cut<T>(
        self,
        mut entries: Vec<T>,
        id: impl Fn(&T) -> &str,
    ) -> Result<Page<T>, ApiError> {
        if !self.ascending {
            entries.reverse();
        }
        let find = |entries: &[T], item: String, param| {
            let at = entries.iter().position(|one| id(one) == item);
            at.ok_or(ApiError::ItemNotFound { item, param })
        };
        if let Some(item) = self.after {
            let at = find(&entries, item, "after")?;
            entries.drain(..=at);
        }
        let mut has_more = false;
        if let Some(item) = self.before {
            let at = find(&entries, item, "before")?;
            entries.truncate(at);
            has_more = entries.len() > self.limit;
            // The page is the one that ends there.
            entries.drain(..at.saturating_sub(self.limit));
        }
        has_more |= entries.len() > self.limit;
        entries.truncate(self.limit);
        Ok(Page { entries, has_more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(query: &[(&str, &str)]) -> Result<(Vec<&'static str>, bool), ApiError> {
        let query = query
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let page = PageQuery::new(query.collect())?.cut(vec!["a", "b", "c", "d"], |one| one)?;
        Ok((page.entries, page.has_more))
    }

    #[test]
    fn a_page_stands_after_or_before_an_entry() {
        for (query, entries, has_more) in [
            (&[][..], &["d", "c", "b", "a"][..], false),
            (&[("limit", "2")], &["d", "c"], true),
            (&[("limit", "2"), ("after", "c")], &["b", "a"], false),
            (
                &[("order", "asc"), ("after", "a"), ("limit", "1")],
                &["b"],
                true,
            ),
            (
                &[("order", "asc"), ("before", "d"), ("limit", "2")],
                &["b", "c"],
                true,
            ),
            (&[("order", "asc"), ("before", "b")], &["a"], false),
        ] {
            assert_eq!(
                cut(query).unwrap(),
                (entries.to_vec(), has_more),
                "{query:?}"
            );
        }
        for (name, value) in [
            ("after", "e"),
            ("before", "e"),
            ("limit", "0"),
            ("order", "up"),
        ] {
            assert!(cut(&[(name, value)]).is_err());
        }
    }
}
