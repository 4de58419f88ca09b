//! What of a corpus does not become documents, and why.

use std::fmt;

use serde::Serialize;

/// How many names a reason shows.
const NAMES: usize = 5;

/// How many columns are named: each of a usual table.
const COLUMNS: usize = 50;

/// Everything of a corpus that is in no document, by reason. Nothing is left out without being counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LeftOut {
    groups: Vec<LeftOutGroup>,
}

/// What is left out for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOutGroup {
    /// Why, as it reads after a number: `hidden`.
    pub reason: String,
    /// How many files, records or columns.
    pub count: u64,
    /// The first of them.
    pub names: Vec<String>,
}

impl LeftOut {
    /// The reasons, in the order in which they came up.
    pub fn groups(&self) -> &[LeftOutGroup] {
        &self.groups
    }

    /// Whether everything is in the documents.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Counts a file or a record.
    pub(crate) fn add(&mut self, reason: &str, name: impl Into<String>) {
        self.add_up_to(NAMES, reason, name.into());
    }

    /// Counts a column or a field, once. `name` holds its type.
    pub(super) fn add_column(&mut self, reason: &str, name: String) {
        let groups = self.groups.iter().find(|group| group.reason == reason);
        if !groups.is_some_and(|group| group.names.contains(&name)) {
            self.add_up_to(COLUMNS, reason, name);
        }
    }

    fn add_up_to(&mut self, most: usize, reason: &str, name: String) {
        let known = self.groups.iter().position(|group| group.reason == reason);
        let at = known.unwrap_or_else(|| {
            self.groups.push(LeftOutGroup {
                reason: reason.to_owned(),
                count: 0,
                names: Vec::new(),
            });
            self.groups.len() - 1
        });
        let group = &mut self.groups[at];
        group.count += 1;
        if group.names.len() < most {
            group.names.push(name);
        }
    }

    /// Adds what another part of the reading left out.
    pub(crate) fn append(&mut self, other: &Self) {
        for group in &other.groups {
            let known = self
                .groups
                .iter_mut()
                .find(|own| own.reason == group.reason);
            match known {
                None => self.groups.push(group.clone()),
                Some(own) => {
                    own.count += group.count;
                    let room = NAMES.saturating_sub(own.names.len());
                    own.names.extend(group.names.iter().take(room).cloned());
                }
            }
        }
    }
}

/// A reason, how often, and names: `2 hidden: .git, .DS_Store`.
impl fmt::Display for LeftOutGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}",
            self.count,
            self.reason,
            self.names.join(", ")
        )?;
        if self.count > self.names.len() as u64 {
            f.write_str(", …")?;
        }
        Ok(())
    }
}

/// The reasons, separated by semicolons.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, group) in self.groups.iter().enumerate() {
            if number > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{group}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_counts_all_and_names_a_few() {
        let mut left_out = LeftOut::default();
        for number in 0..7 {
            left_out.add("hidden", format!(".{number}"));
        }
        left_out.add("empty", "a.txt");
        left_out.add_column("columns", "x (INT96)".into());
        left_out.add_column("columns", "x (INT96)".into());
        let mut other = LeftOut::default();
        other.append(&left_out);
        assert_eq!(other, left_out);
        other.append(&left_out);
        assert_eq!(
            (other.groups()[0].count, other.groups()[1].names.len()),
            (14, 2)
        );
        let other = left_out;
        assert_eq!(
            other.to_string(),
            "7 hidden: .0, .1, .2, .3, .4, …; 1 empty: a.txt; 1 columns: x (INT96)"
        );
    }
}
