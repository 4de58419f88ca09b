//! `onegen-loadtest table`: tables of texts are generated, never typed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

use super::compare::CompareReport;
use super::compare_linking::LinkingReport;
use super::run::write;

/// A table out of what was measured before.
#[derive(Args)]
pub(super) struct TableOptions {
    /// The --json of a comparison
    json: PathBuf,

    /// The text file in which the table stands between <!-- comparison --> and <!-- /comparison -->, or
    /// <!-- linking --> and <!-- /linking -->
    #[arg(long, value_name = "FILE")]
    into: PathBuf,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected the --json of compare or compare-linking"
)]
enum Comparison {
    Methods(CompareReport),
    Linking(LinkingReport),
}

/// Writes a comparison's table into a text file.
pub(super) fn table(options: &TableOptions) -> Result<()> {
    let comparison: Comparison = serde_json::from_str(&read(&options.json)?)
        .with_context(|| format!("{} is no comparison", options.json.display()))?;
    let (name, table) = match comparison {
        Comparison::Methods(report) => ("comparison", report.table()),
        Comparison::Linking(report) => ("linking", report.table()),
    };
    put(&options.into, name, &table)
}

/// Puts a table into a text file, between `<!-- name -->` and `<!-- /name -->`.
///
/// # Errors
/// The file cannot be read or written, or has no such lines.
pub(super) fn put(into: &Path, name: &str, table: &str) -> Result<()> {
    let text = read(into)?;
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (Some(start), Some(end)) = (text.find(&open), text.find(&close)) else {
        bail!(
            "{} has no lines {} and {close}",
            into.display(),
            open.trim()
        );
    };
    ensure!(
        start < end,
        "{} ends the table before it begins",
        into.display()
    );
    let (before, after) = (&text[..start + open.len()], &text[end..]);
    write(into, format!("{before}{table}{after}").as_bytes())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_replaces_what_stands_between_its_marks_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let [json, into] = ["a.json", "a.md"].map(|name| dir.path().join(name));
        let machine = json!({"processor": "p", "cores": 2, "system": "s"});
        let round =
            |total_ms: f64| json!([{"total_ms": total_ms, "ttft_ms": 1.0, "forwarded": 55}]);
        let point = |method: &str, total_ms| json!({"method": method, "question": 32, "passage": 30, "rounds": round(total_ms)});
        let methods = json!({
            "version": "0", "machine": machine, "points": [point("one_pass_kept", 40.0), point("llama_cpp", 100.0)],
            "grid": {"questions": [32], "passages": [30], "answer": 10, "rounds": 1, "repetitions": 1},
        });
        let point = |method: &str, total_ms| json!({"method": method, "mentions": 4, "rounds": round(total_ms)});
        let linking = json!({
            "version": "0", "machine": machine, "linking": [point("one_pass", 40.0), point("two_passes", 60.0)],
        });
        fs::write(
            &into,
            "Before\n<!-- comparison -->\nold\n<!-- /comparison -->\nbetween\n<!-- linking -->\n<!-- /linking -->\nafter\n",
        )
        .unwrap();
        let options = TableOptions { json, into };
        for report in [methods, linking] {
            fs::write(&options.json, report.to_string()).unwrap();
            table(&options).unwrap();
        }
        let text = fs::read_to_string(&options.into).unwrap();
        assert!(text.starts_with("Before\n") && text.ends_with("<!-- /linking -->\nafter\n"));
        for row in [
            "| 32 | 30 | 1 | two passes, llama.cpp | 55 | 100.0 (100.0 to 100.0) | 1.0 | 2.50 |",
            "| 4 | two passes, same engine | 55 | 60.0 (60.0 to 60.0) | 1.50 |",
            "<!-- /comparison -->\nbetween\n<!-- linking -->\n",
        ] {
            assert!(text.contains(row), "{text}");
        }
        assert!(!text.contains("old"));
        fs::write(&options.into, "nothing").unwrap();
        let error = table(&options).unwrap_err().to_string();
        assert!(error.contains("has no lines"), "{error}");
        fs::write(&options.json, "{}").unwrap();
        let error = format!("{:#}", table(&options).unwrap_err());
        assert!(error.contains("compare-linking"), "{error}");
    }
}
