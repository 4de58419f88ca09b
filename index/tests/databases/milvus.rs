//! Milvus.

use onegen_index::{Change, Filter, IndexError, Passage, SearchOptions};
use serde_json::json;

use crate::common::options;
use crate::conformance::{Built, DIMENSION, build, described, pushed};

#[path = "../common/milvus.rs"]
mod server;

use server::Milvus;

holds_in!(Milvus, 1 restarts);

#[test]
fn what_it_cannot_store_or_compare_is_refused_by_name() {
    let Some(milvus) = Milvus::start() else {
        return;
    };
    let Built { index, vectors, .. } = build(20, options(DIMENSION));
    let remote = pushed(&milvus, "ours", &index);
    let upsert = |number: usize, text: String| Change::Upsert {
        passage: Passage {
            text,
            ..described(number)
        },
        vectors: vec![vectors[number].clone()],
    };
    let long = "x".repeat(65_536);
    let refused = remote.apply(vec![upsert(2, "changed".into()), upsert(1, long)]);
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, IndexError::NotStorable { .. }),
        "{refused}"
    );
    assert_eq!(remote.get("id-2").unwrap(), index.get("id-2").unwrap());
    // What PostgreSQL refuses is stored.
    remote.apply(vec![upsert(1, "a\0b".into())]).unwrap();
    assert_eq!(remote.get("id-1").unwrap().unwrap().text, "a\0b");

    let filter = json!({"type": "gt", "key": "kind", "value": "x".repeat(300)});
    let options = SearchOptions {
        filter: Some(Filter::from_json(&filter).unwrap()),
        ..SearchOptions::new(3)
    };
    let refused = remote.search(&vectors[0], &options).unwrap_err();
    assert!(refused.to_string().contains("can be compared"), "{refused}");
}
