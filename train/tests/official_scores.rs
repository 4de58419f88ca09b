//! Answers get the same scores as from the official scorers of SQuAD and HotpotQA.

use std::error::Error;

use onegen_train::exam::score::Rule;
use serde::Deserialize;

/// A line of `exam/official_scores.py`'s file: exact match and F1 of each scorer.
#[derive(Deserialize)]
struct Case {
    prediction: String,
    answers: Vec<String>,
    squad1: Option<[f64; 2]>,
    squad2: Option<[f64; 2]>,
    hotpot: Option<[f64; 2]>,
}

#[test]
fn scores_are_those_of_the_official_scorers() -> Result<(), Box<dyn Error>> {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../exam/official_scores.json"))?;
    assert!(cases.len() > 40);
    for case in cases {
        let scorers = [
            (Rule::Squad1, case.squad1),
            (Rule::Squad2, case.squad2),
            (Rule::Hotpot, case.hotpot),
        ];
        for (rule, official) in scorers {
            let Some([exact, f1]) = official else {
                continue;
            };
            let ours = rule.score(&case.prediction, &case.answers);
            let what = (rule, &case.prediction, &case.answers);
            assert_eq!(ours.exact, exact, "{what:?}");
            assert!((ours.f1 - f1).abs() < 1e-12, "{what:?}: {} {f1}", ours.f1);
        }
    }
    Ok(())
}
