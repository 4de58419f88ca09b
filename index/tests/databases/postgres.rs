//! PostgreSQL with pgvector.

use onegen_index::{
    Change, IndexError, Passage, RemoteCollection, RemoteOptions, SearchOptions, push,
};

use crate::common::options;
use crate::conformance::{Built, DIMENSION, build, described, pushed};

#[path = "../common/postgres.rs"]
mod server;

use server::Postgres;

holds_in!(Postgres, 8 restarts);

#[test]
fn what_it_cannot_store_or_read_is_refused_by_name() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let Built { index, vectors, .. } = build(20, options(DIMENSION));
    let remote = pushed(&postgres, "ours", &index);
    let upsert = |number: usize, text: &str| Change::Upsert {
        passage: Passage {
            text: text.into(),
            ..described(number)
        },
        vectors: vec![vectors[number].clone()],
    };
    let refused = remote.apply(vec![upsert(2, "changed"), upsert(1, "a\0b")]);
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, IndexError::NotStorable { .. }),
        "{refused}"
    );
    assert_eq!(remote.get("id-2").unwrap(), index.get("id-2").unwrap());

    let said = |address: String| {
        let opened = RemoteCollection::open(&address.parse().unwrap(), RemoteOptions::default());
        opened.unwrap_err().to_string()
    };
    let version =
        "UPDATE onegen_collections SET description = '{\"version\": 7}' WHERE name = 'ours'";
    assert!(postgres.sql(version));
    assert!(said(postgres.address("ours")).contains("its version is 7"));
    let error = said(postgres.address("ours").replace("/postgres?", "/absent?"));
    assert!(
        error.contains("absent") && !error.contains("panicked"),
        "{error}"
    );
}

#[test]
fn wide_vectors_are_stored_in_half_and_wider_ones_refused() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let Built { index, vectors, .. } = build(60, options(2_100));
    let remote = pushed(&postgres, "wide", &index);
    let upsert = Change::Upsert {
        passage: described(60),
        vectors: vec![vectors[3].clone()],
    };
    remote.apply(vec![upsert]).unwrap();
    let hits = remote.search(&vectors[3], &SearchOptions::new(2)).unwrap();
    let ids: Vec<_> = hits.iter().map(|hit| hit.passage.id.as_str()).collect();
    assert_eq!(ids, ["id-3", "id-60"]);
    assert!((hits[0].score - 1.0).abs() < 1e-3);
    assert!(remote.verify(10).unwrap().findings.is_empty());

    let Built { index, .. } = build(3, options(4_096));
    let address = postgres.address("wider").parse().unwrap();
    let refused = push(&index, &address, RemoteOptions::default(), |_| ()).unwrap_err();
    assert!(
        refused.to_string().contains("indexes up to 4000"),
        "{refused}"
    );
}
