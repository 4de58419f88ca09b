//! The curves of a run, as a table and as a picture.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// Steps done
    pub(super) step: usize,
    /// Tokens forwarded
    pub(super) tokens: usize,
    /// Learning rate
    pub(super) rate: f64,
    /// Mean cross-entropy of a target
    pub(super) language: f64,
    /// Share of targets that were the likeliest token
    pub(super) right: f64,
    /// Mean contrastive loss of a query
    pub(super) retrieval: f64,
    /// Share of queries whose nearest passage was right
    pub(super) found: f64,
    /// Norm of the gradients before clipping
    pub(super) norm: f64,
    /// Tokens a second
    pub(super) tokens_per_second: f64,
}

const HEADER: &str = "step,tokens,rate,language,right,retrieval,found,norm,tokens_per_second";

/// The points so far, in `curves.csv` and `curves.svg`.
pub(super) struct Curves {
    directory: PathBuf,
    points: Vec<Point>,
}

impl Curves {
    /// Continues the table in a directory. Points after `step` come from a run that was interrupted
    /// after its checkpoint, and are dropped.
    pub(super) fn open(directory: &Path, step: usize) -> Result<Self> {
        let path = directory.join("curves.csv");
        let points = match std::fs::read_to_string(&path) {
            Ok(text) => text.lines().skip(1).filter_map(parse).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => vec![],
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Ok(Self {
            directory: directory.to_owned(),
            points: (points.into_iter())
                .filter(|point: &Point| point.step <= step)
                .collect(),
        })
    }

    /// Adds a point and writes both files.
    pub(super) fn push(&mut self, point: Point) -> Result<()> {
        self.points.push(point);
        let mut table = format!("{HEADER}\n");
        for p in &self.points {
            // Writing to a string cannot fail.
            let _ = writeln!(
                table,
                "{},{},{:e},{:.5},{:.5},{:.5},{:.5},{:.4},{:.1}",
                p.step,
                p.tokens,
                p.rate,
                p.language,
                p.right,
                p.retrieval,
                p.found,
                p.norm,
                p.tokens_per_second
            );
        }
        for (name, content) in [("curves.csv", table), ("curves.svg", self.picture())] {
            let path = self.directory.join(name);
            std::fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Draws four curves over the tokens seen, each with its own scale.
    fn picture(&self) -> String {
        type Value = fn(&Point) -> f64;
        let panels: [(&str, Value); 4] = [
            ("cross-entropy", |p| p.language),
            ("targets right", |p| p.right),
            ("contrastive loss", |p| p.retrieval),
            ("passages found", |p| p.found),
        ];
        let (width, height) = (360.0, 180.0);
        let mut svg = String::from(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="800" height="460" font-family="sans-serif" font-size="12">"#,
        );
        svg.push_str(r#"<rect width="800" height="460" fill="white"/>"#);
        let most = self.points.last().map_or(1, |p| p.tokens.max(1)) as f64;
        for (at, (name, value)) in panels.iter().enumerate() {
            let (left, top) = (
                30.0 + (at % 2) as f64 * 390.0,
                30.0 + (at / 2) as f64 * 220.0,
            );
            let values = self.points.iter().map(value);
            let highest = values.fold(f64::MIN_POSITIVE, f64::max);
            let line: Vec<String> = (self.points.iter())
                .map(|p| {
                    let x = left + width * p.tokens as f64 / most;
                    let y = top + height * (1.0 - value(p) / highest);
                    format!("{x:.1},{y:.1}")
                })
                .collect();
            let last = self.points.last().map_or(0.0, value);
            let _ = write!(
                svg,
                r##"<text x="{left}" y="{}">{name}: {last:.3} after {:.2}M tokens (top {highest:.3})</text><rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#ccc"/><polyline fill="none" stroke="#06c" points="{}"/>"##,
                top - 6.0,
                most / 1e6,
                line.join(" ")
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn parse(line: &str) -> Option<Point> {
    let fields: Vec<&str> = line.split(',').collect();
    let [
        step,
        tokens,
        rate,
        language,
        right,
        retrieval,
        found,
        norm,
        speed,
    ] = fields[..]
    else {
        return None;
    };
    Some(Point {
        step: step.parse().ok()?,
        tokens: tokens.parse().ok()?,
        rate: rate.parse().ok()?,
        language: language.parse().ok()?,
        right: right.parse().ok()?,
        retrieval: retrieval.parse().ok()?,
        found: found.parse().ok()?,
        norm: norm.parse().ok()?,
        tokens_per_second: speed.parse().ok()?,
    })
}
