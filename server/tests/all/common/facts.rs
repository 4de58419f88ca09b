//! Asks a server about the facts that the almanac was written from.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::{Server, content, question};

/// The rows of a table, by column name, those with all of `columns`.
fn facts(table: &str, columns: &[&str]) -> Vec<HashMap<String, String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../train/almanac/{table}.tsv"));
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split('\t').collect();
    lines
        .map(|line| {
            let values = line.split('\t').map(str::to_owned);
            names
                .iter()
                .map(|name| (*name).to_owned())
                .zip(values)
                .collect()
        })
        .filter(|row: &HashMap<String, String>| {
            columns
                .iter()
                .all(|column| row.get(*column).is_some_and(|value| !value.is_empty()))
        })
        .collect()
}

/// Whether a text contains the expected words as whole words, in upper or lower case.
pub fn says(text: &str, expected: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric());
        words
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect()
    };
    let (text, expected) = (words(text), words(expected));
    text.windows(expected.len()).any(|words| words == expected)
}

/// Asks about every row of a table. Returns how many answers are right and cite the right passage, and
/// the number of rows.
pub async fn right_of(
    server: &Server,
    table: &str,
    column: &str,
    ask: impl Fn(&str) -> String,
) -> (u32, u32) {
    let rows = facts(table, &["name", column]);
    let mut right = 0_u32;
    for row in &rows {
        let (name, expected) = (&row["name"], &row[column]);
        let answer = server.complete(&question(&ask(name))).await;
        let citation = &answer["choices"][0]["message"]["annotations"][0]["url_citation"];
        let cited = citation["title"].as_str().unwrap_or_default();
        let answered = content(&answer);
        if says(answered, expected) && cited.eq_ignore_ascii_case(name) {
            right += 1;
        } else {
            println!("{name}: {answered:?} from {cited:?}, not {expected:?}");
        }
        for receipt in answer["onegen"]["retrievals"].as_array().unwrap() {
            assert_eq!(receipt["query_tokens_reencoded"], 0);
        }
    }
    println!("{right} of {} by {table}.{column}", rows.len());
    (right, rows.len() as u32)
}
