//! The collection as Milvus knows it: its fields, and what it is.
//!
//! There is a row for each vector. Its key is made of digests, so that whatever stands in a passage's id, expressions
//! hold hexadecimal digits alone. The description ([`Description`]) is a property of the collection.

use prost::Message;

use super::address::MilvusAddress;
use super::messages::{
    AlterCollectionRequest, CollectionSchema, ConsistencyLevel, CreateCollectionRequest,
    CreateIndexRequest, DataType, FieldSchema, KeyValuePair,
};
use crate::format::graph_record::GraphParameters;
use crate::remote::description::Description;

/// The property that holds the description.
pub(super) const PROPERTY: &str = "onegen.collection";
/// The most bytes of a text, and of a JSON value.
pub(super) const TEXT_BYTES: usize = 65_535;
/// Dimensions up to which Milvus stores vectors.
const DIMENSIONS: u32 = 32_768;

/// `part:digest of the passage's id`; the primary key.
pub(super) const ROW: &str = "row";
/// The digest of the passage's id.
pub(super) const KEY: &str = "key";
/// The digest of the id of the passage's document.
pub(super) const DOCUMENT_KEY: &str = "document_key";
/// The place of the passage in the order in which passages were put in.
pub(super) const SEQUENCE: &str = "sequence";
/// Which of the passage's vectors it is.
pub(super) const PART: &str = "part";
pub(super) const ID: &str = "id";
pub(super) const TITLE: &str = "title";
pub(super) const TEXT: &str = "text";
/// What else a passage has.
pub(super) const DETAILS: &str = "details";
/// What filters ask for.
pub(super) const FACTS: &str = "facts";
pub(super) const EMBEDDING: &str = "embedding";

/// Fails for vectors that Milvus does not store.
pub(super) fn check_width(dimension: u32) -> Result<(), String> {
    match dimension {
        1..=DIMENSIONS => Ok(()),
        _ => Err(format!(
            "the model's vectors have {dimension} dimensions, and Milvus stores up to {DIMENSIONS}; keep this \
             collection in a directory"
        )),
    }
}

/// Makes the collection.
pub(super) fn creation(
    address: &MilvusAddress,
    description: &Description,
) -> CreateCollectionRequest {
    let digest = |name| text(name, 2 * size_of::<u128>());
    let row = FieldSchema {
        is_primary_key: true,
        ..text(ROW, 2 * size_of::<u128>() + 12)
    };
    let embedding = FieldSchema {
        type_params: vec![KeyValuePair::new("dim", description.dimension)],
        ..field(EMBEDDING, DataType::FloatVector)
    };
    let schema = CollectionSchema {
        name: address.collection.clone(),
        description:
            "Passages of onegen; the property onegen.collection says what made their vectors".into(),
        fields: vec![
            row,
            digest(KEY),
            digest(DOCUMENT_KEY),
            field(SEQUENCE, DataType::Int64),
            field(PART, DataType::Int64),
            text(ID, TEXT_BYTES),
            text(TITLE, TEXT_BYTES),
            text(TEXT, TEXT_BYTES),
            field(DETAILS, DataType::Json),
            field(FACTS, DataType::Json),
            embedding,
        ],
    };
    CreateCollectionRequest {
        db_name: address.database.clone(),
        collection_name: address.collection.clone(),
        schema: schema.encode_to_vec(),
        shards_num: 1,
        consistency_level: ConsistencyLevel::Strong.into(),
        properties: vec![property(description)],
    }
}

fn field(name: &str, data_type: DataType) -> FieldSchema {
    FieldSchema {
        name: name.into(),
        data_type: data_type.into(),
        ..FieldSchema::default()
    }
}

fn text(name: &str, bytes: usize) -> FieldSchema {
    FieldSchema {
        type_params: vec![KeyValuePair::new("max_length", bytes)],
        ..field(name, DataType::VarChar)
    }
}

/// Has Milvus keep a graph over the vectors.
pub(super) fn graph(address: &MilvusAddress, parameters: GraphParameters) -> CreateIndexRequest {
    let GraphParameters { m, ef_construction } = parameters;
    let parameters = serde_json::json!({"M": m, "efConstruction": ef_construction});
    CreateIndexRequest {
        db_name: address.database.clone(),
        collection_name: address.collection.clone(),
        field_name: EMBEDDING.into(),
        extra_params: vec![
            KeyValuePair::new("index_type", "HNSW"),
            KeyValuePair::new("metric_type", "COSINE"),
            KeyValuePair::new("params", parameters),
        ],
    }
}

/// Writes down what the collection is.
pub(super) fn note(address: &MilvusAddress, description: &Description) -> AlterCollectionRequest {
    AlterCollectionRequest {
        db_name: address.database.clone(),
        collection_name: address.collection.clone(),
        properties: vec![property(description)],
    }
}

fn property(description: &Description) -> KeyValuePair {
    KeyValuePair::new(PROPERTY, description.as_json())
}
