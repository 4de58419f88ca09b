//! The evaluator gets the same results for a server as for the model in its own process.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use crate::common::almanac::Countries;
use onegen_engine::{LoadOptions, Passage};
use onegen_train::exam::data::{Exchange, Question, Set};
use onegen_train::exam::examinee::Examinee;
use onegen_train::exam::local::LocalModel;
use onegen_train::exam::remote::RemoteServer;
use onegen_train::exam::sitting::{Conditions, PreparedSet};
use serde_json::{Value, json};

const CONDITIONS: Conditions = Conditions {
    concurrent: 4,
    max_tokens: 32,
    max_retrievals: 3,
    history_reads: true,
    without_retrieval: true,
    bm25_reads: true,
};

/// Two questions and two follow-ups about invented countries, which no collection contains.
fn set() -> Set {
    let passage = |name: &str, capital: &str, currency: &str| Passage {
        id: format!("land:{name}"),
        title: name.to_owned(),
        text: format!(
            "{name} is a country in Asia. Its capital is {capital}. Its currency is the {currency}."
        ),
        url: None,
        score: 0.0,
    };
    let question = |at: usize, question: &str, answer: &str, history: &[(&str, &str)]| Question {
        id: question.to_owned(),
        question: question.to_owned(),
        answers: vec![answer.to_owned()],
        gold: vec![at],
        history: history
            .iter()
            .map(|(q, a)| Exchange {
                q: (*q).to_owned(),
                a: (*a).to_owned(),
            })
            .collect(),
        rewrite: None,
        answerable: true,
    };
    let capital = ("What is the capital of Zembla?", "Onhava.");
    let currency = ("And its currency?", "krone.");
    Set {
        name: "lands".to_owned(),
        passages: vec![
            passage("Zembla", "Onhava", "krone"),
            passage("Ruritania", "Strelsau", "thaler"),
            passage("Orsinia", "Krasnoy", "kruner"),
        ],
        questions: vec![
            question(0, capital.0, "Onhava", &[]),
            question(1, "What is the currency of Ruritania?", "thaler", &[]),
            question(0, currency.0, "krone", &[capital]),
            question(0, "And its continent?", "Asia", &[capital, currency]),
        ],
        multi_hop: false,
    }
}

/// The records of the set, without the model's name.
async fn records(paper: &PreparedSet, mut examinee: Examinee) -> Vec<Value> {
    examinee.learn(&paper.set, |_| {}).await.unwrap();
    let records = paper.sit("", &examinee, &CONDITIONS, |_| {}).await.unwrap();
    let records = records
        .iter()
        .map(|record| serde_json::to_value(record).unwrap());
    records.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_measured_as_the_model_in_process_is() {
    let paper = PreparedSet::new(set(), None).unwrap();
    let almanac = Countries::write().serve().await;
    let remote = RemoteServer::new(&almanac.url, None, None, true).unwrap();
    let served = records(&paper, Examinee::Remote(remote)).await;

    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/almanac");
    let local = LocalModel::load(&model, &LoadOptions::default(), 4).unwrap();
    let in_process = records(&paper, Examinee::Local(local)).await;

    assert_eq!(served, in_process);
    assert_eq!(served[0]["end_to_end"]["exact"], 1.0, "{}", served[0]);
    assert_eq!(served[2]["gold_given"]["read"], json!(["land:Zembla"]));
}
