//! Collections in databases answer as directories do, also while the database is away and comes back.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod conformance;

/// Makes a test of each function of [`conformance`] that is named, with a database of its own.
macro_rules! holds_in {
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
