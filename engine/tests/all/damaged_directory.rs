//! Model directories whose JSON files hold what nobody would write: each loads or is refused with a reason.
//!
//! `ONEGEN_DAMAGE_MUTATIONS` sets the number of mutations, for more than CI does, and `ONEGEN_SEED` their seed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::panic::catch_unwind;

use crate::common::*;
use onegen_engine::{LoadOptions, Model};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

fn strange(rng: &mut StdRng) -> Value {
    let values = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(0.5),
        json!(1e300),
        json!(u64::MAX),
        json!(u32::MAX),
        json!(65_537),
        json!(""),
        json!("\u{0}"),
        json!("llama"),
        json!("{{ messages }}{% for %}"),
        json!([]),
        json!({}),
        json!(vec![json!(0); 70]),
    ];
    values.choose(rng).unwrap().clone()
}

fn mutate(value: &mut Value, rng: &mut StdRng) {
    match value {
        Value::Object(fields) if !fields.is_empty() && rng.random_bool(0.9) => {
            let at = rng.random_range(0..fields.len());
            let name = fields.keys().nth(at).unwrap().clone();
            match rng.random_range(0..8) {
                0 => drop(fields.remove(&name)),
                1 => drop(fields.insert(format!("{name}_"), strange(rng))),
                _ => mutate(&mut fields[&name], rng),
            }
        }
        Value::Array(items) if !items.is_empty() && rng.random_bool(0.9) => {
            let at = rng.random_range(0..items.len());
            match rng.random_range(0..8) {
                0 => drop(items.remove(at)),
                1 => items.push(strange(rng)),
                _ => mutate(&mut items[at], rng),
            }
        }
        other => *other = strange(rng),
    }
}

#[test]
fn a_directory_with_strange_files_loads_or_is_refused_with_a_reason() {
    let count = std::env::var("ONEGEN_DAMAGE_MUTATIONS").map_or(300, |text| text.parse().unwrap());
    let seed =
        std::env::var("ONEGEN_SEED").map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = Family::Llama.write(1);
    let names = ["config.json", "onegen.json", "tokenizer.json"];
    let whole = names.map(|name| {
        let text = fs::read(dir.path().join(name)).unwrap();
        (name, serde_json::from_slice::<Value>(&text).unwrap())
    });
    let mut refused = 0;
    for number in 0..count {
        let (name, value) = whole.choose(&mut rng).unwrap();
        let path = dir.path().join(name);
        let mut changed = value.clone();
        for _ in 0..rng.random_range(1..3) {
            mutate(&mut changed, &mut rng);
        }
        fs::write(&path, changed.to_string()).unwrap();
        let loaded = catch_unwind(|| Model::load(dir.path(), &LoadOptions::default()).map(drop));
        let loaded = loaded.unwrap_or_else(|_| {
            panic!("mutation {number} of seed {seed} panicked: {name}: {changed}")
        });
        if let Err(error) = loaded {
            refused += 1;
            assert!(!error.to_string().is_empty(), "{name}: {changed}");
        }
        fs::write(&path, value.to_string()).unwrap();
    }
    assert!(
        refused > count / 4,
        "only {refused} of {count} were refused"
    );
    assert!(Model::load(dir.path(), &LoadOptions::default()).is_ok());
}
