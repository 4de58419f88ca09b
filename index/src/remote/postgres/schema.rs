//! The tables of a collection, and the line that says what it is.
//!
//! A table `wiki` holds the passages and `wiki_vectors` their vectors. `onegen_collections` has a line for each
//! collection: what made the vectors, and whether all passages are there.

use crate::format::graph_record::GraphParameters;

/// Dimensions up to which pgvector indexes a `vector`, and a `halfvec`.
const VECTOR_DIMENSIONS: u32 = 2_000;
const HALFVEC_DIMENSIONS: u32 = 4_000;

/// pgvector's type for vectors of a width.
pub(super) fn vector_type(dimension: u32) -> &'static str {
    match dimension {
        0..=VECTOR_DIMENSIONS => "vector",
        _ => "halfvec",
    }
}

/// The type of a column of vectors.
pub(super) fn column_type(dimension: u32) -> Result<String, String> {
    if dimension > HALFVEC_DIMENSIONS {
        return Err(format!(
            "the model's vectors have {dimension} dimensions, and pgvector indexes up to {HALFVEC_DIMENSIONS}; \
             keep this collection in a directory"
        ));
    }
    Ok(format!("{}({dimension})", vector_type(dimension)))
}

/// A query embedding as a value of that type.
pub(super) fn query(dimension: u32) -> String {
    match vector_type(dimension) {
        "vector" => "$1::vector".to_owned(),
        narrower => format!("$1::vector::{narrower}({dimension})"),
    }
}

/// Makes what all collections of a database share.
pub(super) const SHARED: &str = "CREATE EXTENSION IF NOT EXISTS vector; \
    CREATE TABLE IF NOT EXISTS onegen_collections (name text PRIMARY KEY, description json NOT NULL)";

/// Makes the tables of a collection.
pub(super) fn tables(table: &str, column: &str) -> String {
    format!(
        "CREATE TABLE {table} (
            sequence bigint GENERATED ALWAYS AS IDENTITY,
            id text PRIMARY KEY,
            document text NOT NULL,
            part_start bigint,
            part_end bigint,
            title text NOT NULL,
            text text NOT NULL,
            url text,
            metadata json,
            terms bytea[] NOT NULL
        );
        CREATE TABLE {table}_vectors (
            passage text NOT NULL REFERENCES {table} (id) ON DELETE CASCADE,
            part integer NOT NULL,
            embedding {column} NOT NULL,
            PRIMARY KEY (passage, part)
        )"
    )
}

/// Makes the indexes of a collection whose passages are there.
pub(super) fn indexes(table: &str, dimension: u32, graph: GraphParameters) -> [String; 5] {
    let kind = vector_type(dimension);
    let GraphParameters { m, ef_construction } = graph;
    [
        format!("CREATE INDEX IF NOT EXISTS {table}_document ON {table} (document)"),
        format!("CREATE INDEX IF NOT EXISTS {table}_terms ON {table} USING gin (terms)"),
        format!("CREATE INDEX IF NOT EXISTS {table}_sequence ON {table} (sequence)"),
        // Vectors of more than 2 kB lie beside the table, which PostgreSQL takes for a small one that one process
        // can index.
        format!(
            "ALTER TABLE {table}_vectors SET (parallel_workers = 8); \
             CREATE INDEX IF NOT EXISTS {table}_vectors_hnsw ON {table}_vectors \
             USING hnsw (embedding {kind}_cosine_ops) WITH (m = {m}, ef_construction = {ef_construction}); \
             ALTER TABLE {table}_vectors RESET (parallel_workers)"
        ),
        format!("ANALYZE {table}, {table}_vectors"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_vectors_are_halved_and_wider_ones_refused() {
        assert_eq!(column_type(2_000).unwrap(), "vector(2000)");
        assert_eq!(column_type(3_584).unwrap(), "halfvec(3584)");
        assert_eq!(query(3_584), "$1::vector::halfvec(3584)");
        assert!(column_type(4_096).unwrap_err().contains("up to 4000"));
    }
}
