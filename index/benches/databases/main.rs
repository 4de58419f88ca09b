//! A collection in a database beside what the database's usual Python client does with the same rows, both sides by
//! turns:
//!
//! `cargo bench -p onegen-index --bench databases -- postgres|milvus [VECTORS] [DIMENSION]` (100,000 and 576 if not given;
//! needs what `.ci/postgres` or `.ci/milvus` fetches, and numpy with `psycopg[binary]` or with `pymilvus==2.3.7`;
//! `$PYTHON` says where).
//!
//! Pushing: rows copied and the graph built, in seconds. Searching: the ten nearest with their texts, in milliseconds,
//! and the share of an exact scan's ten that each finds.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may end where something is missing"
)]
#![cfg_attr(not(target_os = "linux"), allow(unused))]

#[cfg(target_os = "linux")]
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../../tests/common/milvus.rs"]
mod milvus;
#[cfg(target_os = "linux")]
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../../tests/common/postgres.rs"]
mod postgres;
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../../tests/common/vectors.rs"]
mod vectors;

#[cfg(target_os = "linux")]
fn main() {
    linux::run();
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{BufRead, BufReader, Write};
    use std::path::Path;
    use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
    use std::time::Instant;

    use onegen_index::{
        BuildOptions, Fingerprints, Hit, Index, IndexBuilder, Passage, RemoteCollection,
        RemoteOptions, SearchOptions, push,
    };

    use crate::milvus::Milvus;
    use crate::postgres::Postgres;
    use crate::vectors::clustered;

    const QUERIES: usize = 200;

    /// The Python client, which answers a line with a line.
    struct Client {
        _child: Child,
        to: ChildStdin,
        from: BufReader<ChildStdout>,
    }

    impl Client {
        fn start(script: &str, arguments: &[&str]) -> Self {
            let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/databases");
            let script = scripts.join(script);
            let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
            let mut child = Command::new(python)
                .arg(script)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            Self {
                to: child.stdin.take().unwrap(),
                from: BufReader::new(child.stdout.take().unwrap()),
                _child: child,
            }
        }

        fn ask(&mut self, line: &str) -> String {
            writeln!(self.to, "{line}").unwrap();
            let mut answer = String::new();
            self.from.read_line(&mut answer).unwrap();
            assert!(!answer.is_empty(), "the Python client has ended");
            answer.trim().to_owned()
        }
    }

    /// A running database, and how both sides ask it.
    enum Database {
        Postgres(Postgres),
        Milvus(Milvus),
    }

    impl Database {
        fn start(name: &str) -> Option<Self> {
            match name {
                "milvus" => Milvus::start().map(Self::Milvus),
                _ => Postgres::start().map(Self::Postgres),
            }
        }

        fn address(&self) -> String {
            match self {
                Self::Postgres(postgres) => postgres.address("here"),
                Self::Milvus(milvus) => milvus.address("here"),
            }
        }

        /// What its client is told to connect to.
        fn of_client(&self) -> String {
            let address = self.address();
            match self {
                Self::Postgres(_) => address.split('?').next().unwrap().to_owned(),
                Self::Milvus(_) => address.replace("milvus://", "").replace("/here", ""),
            }
        }

        /// The client's script and its name.
        fn client(&self) -> (&'static str, &'static str) {
            match self {
                Self::Postgres(_) => ("postgres.py", "psycopg"),
                Self::Milvus(_) => ("milvus.py", "pymilvus"),
            }
        }

        /// How reads can be asked for: their name for the client, and what the address says.
        fn reads(&self) -> &'static [(&'static str, &'static str)] {
            match self {
                Self::Postgres(_) => &[("", "")],
                Self::Milvus(_) => &[
                    ("Strong", "?consistency=strong"),
                    ("Session", "?consistency=session"),
                ],
            }
        }
    }

    fn passage(number: usize) -> Passage {
        Passage {
            id: format!("id-{number}"),
            title: format!("Title {number}"),
            text: "A text of some length that says nothing. ".repeat(10),
            url: None,
            metadata: None,
            part: None,
        }
    }

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    pub(super) fn run() {
        let numbers = std::env::args()
            .skip(1)
            .filter_map(|text| text.parse::<usize>().ok());
        let numbers: Vec<usize> = numbers.collect();
        let count = numbers.first().copied().unwrap_or(100_000);
        let dimension = numbers.get(1).copied().unwrap_or(576);
        let name = std::env::args().nth(1).unwrap_or_default();
        let Some(database) = Database::start(&name) else {
            return;
        };
        let home = tempfile::tempdir().unwrap();
        let all = clustered(1, count + QUERIES, dimension, count / 50);
        let (vectors, queries) = all.split_at(count);
        let fingerprints = Fingerprints {
            name: "bench".into(),
            model: "m".into(),
            tokenizer: "t".into(),
            template: "p".into(),
        };
        let dir = home.path().join("index");
        let mut options = BuildOptions::new(dimension, fingerprints);
        // The graph in the directory is not measured here.
        options.exact_scan_limit = u32::MAX;
        let mut builder = IndexBuilder::create(&dir, options).unwrap();
        for (number, vector) in vectors.iter().enumerate() {
            builder
                .add(&passage(number), std::slice::from_ref(vector))
                .unwrap();
        }
        builder.finish().unwrap();
        let index = Index::open(&dir).unwrap();
        // Both sides take their vectors from files.
        let rows = home.path().join("rows");
        let mut file = std::io::BufWriter::new(std::fs::File::create(&rows).unwrap());
        index
            .for_each(|_, vectors| {
                file.write_all(bytemuck::cast_slice(vectors[0])).unwrap();
                Ok::<_, onegen_index::IndexError>(())
            })
            .unwrap();
        drop(file);
        let asked = home.path().join("queries");
        let flat: Vec<f32> = queries.concat();
        std::fs::write(&asked, bytemuck::cast_slice::<f32, u8>(&flat)).unwrap();
        let address = database.address();
        let (script, theirs_is) = database.client();
        let paths = [&rows, &asked].map(|path| path.display().to_string());
        let mut client = Client::start(
            script,
            &[
                &database.of_client(),
                &paths[0],
                &paths[1],
                &dimension.to_string(),
            ],
        );

        let began = Instant::now();
        let mut copied = 0.0;
        let here = push(
            &index,
            &address.parse().unwrap(),
            RemoteOptions::default(),
            |progress| {
                if progress == onegen_index::PushProgress::Graph {
                    copied = began.elapsed().as_secs_f64();
                }
            },
        );
        here.unwrap();
        let pushed = began.elapsed().as_secs_f64();
        let theirs: Vec<f64> = client
            .ask("push")
            .split(' ')
            .map(|n| n.parse().unwrap())
            .collect();
        println!("{count} vectors of {dimension}");
        println!(
            "push: {pushed:.1} s (copied in {copied:.1}), {theirs_is} {:.1} s (copied in {:.1}), {:.2} times",
            theirs[1],
            theirs[0],
            pushed / theirs[1]
        );

        for (read, parameter) in database.reads() {
            let address = format!("{address}{parameter}").parse().unwrap();
            let here = RemoteCollection::open(&address, RemoteOptions::default()).unwrap();
            search(&index, &here, &mut client, theirs_is, read, queries);
        }
    }

    /// Searches on both sides by turns.
    fn search(
        index: &Index,
        here: &RemoteCollection,
        client: &mut Client,
        theirs_is: &str,
        read: &str,
        queries: &[Vec<f32>],
    ) {
        let (mut ours_ms, mut theirs_ms, mut directory_ms) = (Vec::new(), Vec::new(), Vec::new());
        let (mut found_here, mut found_there) = (0, 0);
        let ids = |hits: &[Hit]| -> Vec<String> {
            hits.iter().map(|hit| hit.passage.id.clone()).collect()
        };
        for (number, query) in queries.iter().enumerate() {
            let began = Instant::now();
            let exact = ids(&index.search(query, &SearchOptions::new(10)).unwrap());
            directory_ms.push(began.elapsed().as_secs_f64() * 1e3);
            let began = Instant::now();
            let hits = here.search(query, &SearchOptions::new(10)).unwrap();
            ours_ms.push(began.elapsed().as_secs_f64() * 1e3);
            found_here += ids(&hits).iter().filter(|id| exact.contains(id)).count();
            let answer = client.ask(format!("{number} {read}").trim());
            let mut parts = answer.split(' ');
            theirs_ms.push(parts.next().unwrap().parse().unwrap());
            found_there += parts.filter(|id| exact.iter().any(|own| own == id)).count();
        }
        let share = |found: usize| found as f64 / (queries.len() * 10) as f64;
        let (ours, theirs) = (median(ours_ms), median(theirs_ms));
        println!(
            "search {read}: {ours:.2} ms, {theirs_is} {theirs:.2} ms, {:+.2} ms at the median; an exact scan in a \
             directory {:.2} ms",
            ours - theirs,
            median(directory_ms)
        );
        println!(
            "recall@10: {:.4}, {theirs_is} {:.4}",
            share(found_here),
            share(found_there)
        );
    }
}
