//! The command measures the shipped model over a set that it can answer.

use std::error::Error;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/almanac");

/// Writes values as JSON lines.
fn write(path: &Path, values: &[Value]) -> std::io::Result<()> {
    let lines: Vec<_> = values.iter().map(|value| format!("{value}\n")).collect();
    std::fs::write(path, lines.concat())
}

/// A set of questions about countries, over the almanac's passages about countries.
fn write_set(folder: &Path) -> Result<(), Box<dyn Error>> {
    let almanac = std::fs::read_to_string(format!("{MODEL}/almanac.jsonl"))?;
    let passages = almanac.lines().map(serde_json::from_str);
    let mut passages: Vec<Value> = passages.collect::<Result<_, _>>()?;
    passages.retain(|passage| {
        let id = passage["id"].as_str();
        id.is_some_and(|id| id.starts_with("country-"))
    });
    write(&folder.join("countries.passages.jsonl"), &passages)?;
    let question = |id: &str, question: &str, answer: &str, country: &str| {
        json!({"id": id, "question": question, "answers": [answer], "history": [],
            "passage_id": format!("country-{country}")})
    };
    let mut follow_up = question("follow-up", "And its currency?", "sol", "peru");
    follow_up["history"] = json!([{"q": "What is the capital of Peru?", "a": "Lima."}]);
    follow_up["rewrite"] = json!("What is the currency of Peru?");
    let questions = [
        question("peru", "What is the capital of Peru?", "Lima", "peru"),
        question("japan", "What is the capital of Japan?", "Tokyo", "japan"),
        question("kenya", "What is the capital of Kenya?", "Nairobi", "kenya"),
        question("wrong", "What is the capital of Chile?", "Lima", "chile"),
        question("left-out", "What is the capital of Chile?", "Lima", "chile"),
        follow_up,
    ];
    write(&folder.join("countries.questions.jsonl"), &questions)?;
    std::fs::write(folder.join("excluded.ids"), "left-out\n")?;
    std::fs::write(folder.join("small_talk.txt"), "# Lines\nThanks!\nHello!\n")?;
    let card = "# Card\n\n<!-- figures -->\n<!-- /figures -->\n\nThe end.\n";
    Ok(std::fs::write(folder.join("card.md"), card)?)
}

#[test]
fn the_shipped_model_passes_an_exam_over_countries() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    write_set(folder.path())?;
    let path = |name: &str| folder.path().join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_onegen-eval"))
        .arg("--model")
        .arg(format!("shipped={MODEL}"))
        .arg("--set")
        .arg(path("countries"))
        .arg("--exclude")
        .arg(path("excluded.ids"))
        .arg("--small-talk")
        .arg(path("small_talk.txt"))
        .arg("--records")
        .arg(path("records.jsonl"))
        .arg("--card")
        .arg(path("card.md"))
        .args(["--no-retrieval", "--bm25-reads"])
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");

    let records = std::fs::read_to_string(path("records.jsonl"))?;
    let records = records.lines().map(serde_json::from_str);
    let records: Vec<Value> = records.collect::<Result<_, _>>()?;
    assert_eq!(records.len(), 7, "five questions and two lines");
    for record in &records[..5] {
        assert_eq!(record["retrieved"], true, "{record}");
        assert_eq!(record["ranks"], json!([1]), "{record}");
        let exact = f64::from(u8::from(record["id"] != "wrong"));
        for condition in ["end_to_end", "gold_given"] {
            assert_eq!(record[condition]["exact"], exact, "{condition}: {record}");
        }
        assert_eq!(record["no_retrieval"]["read"], json!([]));
    }
    // Only the human rewrite names the country of the follow-up.
    assert_eq!(records[4]["id"], "follow-up");
    assert_ne!(records[4]["bm25_ranks"], json!([1]));
    assert_eq!(records[4]["bm25_rewrite_ranks"], json!([1]));
    assert_eq!(records[4]["earlier_turns"], 1);
    assert!(records[5..].iter().all(|line| line["retrieved"] == false));

    let card = std::fs::read_to_string(path("card.md"))?;
    assert!(card.starts_with("# Card\n") && card.ends_with("\nThe end.\n"));
    for row in [
        "| countries | Recall@1 | 5 | 100.0 (100.0–100.0) |",
        "| countries | EM, gold passage given | 5 | 80.0 (",
        "| small talk | retrieves wrongly | 2 | 0.0 (0.0–0.0) |",
    ] {
        assert!(card.contains(row), "{row} is not in {card}");
    }
    Ok(())
}

#[test]
fn what_is_wrong_with_a_set_is_said() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    write_set(folder.path())?;
    let complain = |set: &Path| -> Result<String, Box<dyn Error>> {
        let output = Command::new(env!("CARGO_BIN_EXE_onegen-eval"))
            .args(["--model", MODEL, "--set"])
            .arg(set)
            .output()?;
        assert!(!output.status.success());
        Ok(String::from_utf8(output.stderr)?)
    };
    let missing = complain(&folder.path().join("towns"))?;
    assert!(missing.contains("towns.questions.jsonl.gz"), "{missing}");

    let questions = folder.path().join("countries.questions.jsonl");
    let stranger = json!({"id": "x", "question": "?", "passage_id": "town-lima"});
    write(&questions, &[stranger])?;
    let unknown = complain(&folder.path().join("countries"))?;
    assert!(
        unknown.contains("x names no passage: town-lima"),
        "{unknown}"
    );

    std::fs::write(&questions, "{\"id\": 1}\n")?;
    let damaged = complain(&folder.path().join("countries"))?;
    assert!(
        damaged.contains("countries.questions.jsonl, line 1"),
        "{damaged}"
    );
    Ok(())
}
