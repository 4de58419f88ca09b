//! What only a real Milvus can tell, and only this module can ask.

use super::push;
use super::schema::SEQUENCE;
use crate::remote::calls::RemoteOptions;
use crate::segment::vectors::normalised;
use crate::testing::{clustered, index_of};

#[path = "../../../tests/common/milvus.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod server;

#[test]
fn what_is_filtered_afterwards_is_what_is_found_under_the_filter() {
    let Some(milvus) = server::Milvus::start() else {
        return;
    };
    let vectors = clustered(5, 500, 16, 10);
    let (_home, index) = index_of(&vectors);
    let address = milvus.address("filtered").parse().unwrap();
    let there = push(&index, &address, RemoteOptions::default(), |_| ()).unwrap();
    for filter in [format!("{SEQUENCE} % 2 == 0"), format!("{SEQUENCE} < 0")] {
        for query in vectors.iter().step_by(50) {
            let unit = normalised(query, 16).unwrap();
            let under = there.nearest(&unit, &filter, 10).unwrap();
            let afterwards = there.nearest_unfiltered(&unit, &filter, 10).unwrap();
            assert_eq!(under, afterwards);
        }
    }
}
