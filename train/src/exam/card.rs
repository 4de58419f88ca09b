//! Writes the table of figures into a model card.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::figures::Figure;
use super::interval::Estimate;

/// The marks before and after the table in a card.
const MARKS: (&str, &str) = ("<!-- figures -->", "<!-- /figures -->");

/// Figures as Markdown: a row for each measure of each set, a column for each model. A cell is the mean and
/// its 95% interval.
pub fn table(models: &[(String, Vec<Figure>)]) -> String {
    let mut rows = Vec::<(&str, &str)>::new();
    for (_, figures) in models {
        // A row that only a later model has is inserted at its place there.
        let mut at = 0;
        for Figure { set, measure, .. } in figures {
            let row = (set.as_str(), measure.as_str());
            at = match rows.iter().position(|known| *known == row) {
                Some(known) => known + 1,
                None => {
                    rows.insert(at, row);
                    at + 1
                }
            };
        }
    }
    let names: Vec<_> = models.iter().map(|(name, _)| name.as_str()).collect();
    let mut table = format!("| set | measure | number | {} |\n", names.join(" | "));
    table.push_str(&format!("|---|---|---|{}\n", "---|".repeat(names.len())));
    for row in rows {
        let of_row = |figures: &[Figure]| -> Option<(Estimate, bool)> {
            let mut figures = figures.iter();
            let found = figures.find(|f| (f.set.as_str(), f.measure.as_str()) == row)?;
            Some((found.value?, found.share))
        };
        let found: Vec<_> = models.iter().map(|(_, figures)| of_row(figures)).collect();
        let count = found.iter().flatten().map(|(value, _)| value.count).max();
        let cells = found.iter().map(|found| match found {
            None => "–".to_owned(),
            Some((value, true)) => {
                let [mean, low, high] = [value.mean, value.low, value.high].map(|x| 100.0 * x);
                format!("{mean:.1} ({low:.1}–{high:.1})")
            }
            Some((
                Estimate {
                    mean, low, high, ..
                },
                false,
            )) => {
                format!("{mean:.2} ({low:.2}–{high:.2})")
            }
        });
        let cells: Vec<_> = cells.collect();
        let (set, measure) = row;
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "| {set} | {measure} | {} | {} |",
            count.unwrap_or_default(),
            cells.join(" | ")
        );
    }
    table
}

/// Replaces the text between the marks of a card by a table.
///
/// # Errors
/// The card cannot be read or written, or lacks one of the marks.
pub fn write(path: &Path, table: &str) -> Result<()> {
    let place = || path.display().to_string();
    let card = std::fs::read_to_string(path).with_context(place)?;
    let with_table = replaced(&card, table).with_context(|| {
        let (open, close) = MARKS;
        format!(
            "{} has no {open} … {close} to put the figures between",
            place()
        )
    })?;
    std::fs::write(path, with_table).with_context(place)
}

fn replaced(card: &str, table: &str) -> Option<String> {
    let (open, close) = MARKS;
    let (before, rest) = card.split_once(open)?;
    let (_, after) = rest.split_once(close)?;
    Some(format!("{before}{open}\n{table}{close}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(set: &str, measure: &str, mean: f64) -> Figure {
        let value = Some(Estimate {
            mean,
            low: mean - 0.01,
            high: mean + 0.01,
            count: 10,
        });
        Figure {
            set: set.into(),
            measure: measure.into(),
            value,
            share: true,
        }
    }

    #[test]
    fn models_stand_side_by_side() {
        let table = table(&[
            (
                "both".into(),
                vec![figure("a", "EM", 0.5), figure("b", "EM", 0.4)],
            ),
            (
                "one".into(),
                vec![figure("a", "F1", 0.6), figure("b", "EM", 0.3)],
            ),
        ]);
        let rows: Vec<_> = table.lines().skip(2).collect();
        assert!(
            rows.contains(&"| a | EM | 10 | 50.0 (49.0–51.0) | – |"),
            "{table}"
        );
        assert!(
            rows.contains(&"| a | F1 | 10 | – | 60.0 (59.0–61.0) |"),
            "{table}"
        );
        assert!(
            rows.contains(&"| b | EM | 10 | 40.0 (39.0–41.0) | 30.0 (29.0–31.0) |"),
            "{table}"
        );
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let card = "# Card\n<!-- figures -->\nold\n<!-- /figures -->\nend\n";
        let new = replaced(card, "new\n");
        let expected = "# Card\n<!-- figures -->\nnew\n<!-- /figures -->\nend\n";
        assert_eq!(new.as_deref(), Some(expected));
        assert_eq!(replaced("# Card", "new\n"), None);
    }
}
