//! Collections in databases answer as directories do, also while the database is away and comes back.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod conformance;

/// Makes a test of each function of [`conformance`], with a database of its own.
macro_rules! holds_in {
    ($server:ty, $restarts:literal restarts) => {
        holds_in!($server, $restarts restarts:
            a_pushed_index_answers_as_its_directory_does,
            changes_are_those_of_a_directory_and_are_seen_at_once,
            of_passages_with_several_vectors_each_is_found_once_by_its_best,
            what_is_no_collection_of_the_model_is_refused_by_name,
            a_push_that_was_interrupted_goes_on,
            a_collection_is_there_again_after_its_database_was_killed,
            nobody_waits_for_a_database_that_is_away_and_it_is_used_when_it_is_back,
            no_acknowledged_document_is_lost_when_the_database_is_killed,
        );
    };
    ($server:ty, $restarts:literal restarts: $($name:ident),* $(,)?) => {
        impl crate::conformance::Database for $server {
            const RESTARTS: usize = $restarts;

            fn address(&self, name: &str) -> String {
                self.address(name)
            }
            fn kill(&mut self) {
                self.kill();
            }
            fn run(&mut self) {
                self.run();
            }
            fn freeze(&self) {
                self.freeze();
            }
            fn thaw(&self) {
                self.thaw();
            }
        }

        $(#[test]
        fn $name() {
            if let Some(mut database) = <$server>::start() {
                crate::conformance::$name(&mut database);
            }
        })*
    };
}

mod milvus;
mod postgres;
