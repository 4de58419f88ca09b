//! The messages of Milvus's gRPC interface that are used here, with the fields that are. Others are skipped when a
//! message is read. Names and numbers are those of its `milvus.proto`, `schema.proto` and `common.proto`.

use std::fmt;

use prost::{Enumeration, Message, Oneof};

/// A request, and what answers it.
pub(super) trait Call: Message + Clone + 'static {
    type Reply: Reply;
    /// The method's name in Milvus's service.
    const METHOD: &'static str;
}

/// An answer, which says whether the call succeeded.
pub(super) trait Reply: Message + Default + 'static {
    fn status(&self) -> Option<&Status>;
}

macro_rules! calls {
    ($($request:ty => $reply:ty, $method:literal;)*) => {
        $(impl Call for $request {
            type Reply = $reply;
            const METHOD: &'static str = concat!("/milvus.proto.milvus.MilvusService/", $method);
        })*
    };
}

calls! {
    CreateCollectionRequest => Status, "CreateCollection";
    DescribeCollectionRequest => DescribeCollectionResponse, "DescribeCollection";
    AlterCollectionRequest => Status, "AlterCollection";
    CreateIndexRequest => Status, "CreateIndex";
    DescribeIndexRequest => DescribeIndexResponse, "DescribeIndex";
    LoadCollectionRequest => Status, "LoadCollection";
    GetLoadStateRequest => GetLoadStateResponse, "GetLoadState";
    FlushRequest => FlushResponse, "Flush";
    UpsertRequest => MutationResult, "Upsert";
    DeleteRequest => MutationResult, "Delete";
    SearchRequest => SearchResults, "Search";
    QueryRequest => QueryResults, "Query";
}

impl Reply for Status {
    fn status(&self) -> Option<&Status> {
        Some(self)
    }
}

macro_rules! replies {
    ($($reply:ty),*) => {
        $(impl Reply for $reply {
            fn status(&self) -> Option<&Status> {
                self.status.as_ref()
            }
        })*
    };
}

replies!(
    DescribeCollectionResponse,
    DescribeIndexResponse,
    FlushResponse,
    GetLoadStateResponse,
    MutationResult,
    QueryResults,
    SearchResults
);

#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    /// The older of two codes; 0 is success in both.
    #[prost(int32, tag = "1")]
    pub(super) error_code: i32,
    #[prost(string, tag = "2")]
    pub(super) reason: String,
    #[prost(int32, tag = "3")]
    pub(super) code: i32,
    #[prost(bool, tag = "4")]
    pub(super) retriable: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValuePair {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

impl KeyValuePair {
    pub(super) fn new(key: &str, value: impl fmt::Display) -> Self {
        Self {
            key: key.into(),
            value: value.to_string(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub(super) enum DataType {
    None = 0,
    Int64 = 5,
    VarChar = 21,
    Json = 23,
    FloatVector = 101,
}

/// What a reader sees. Milvus's default, `Bounded`, lacks what was put in a moment ago and still has what was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub(super) enum ConsistencyLevel {
    /// All that was written before.
    Strong = 0,
    /// All that was written up to the request's `guarantee_timestamp`.
    Customized = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateCollectionRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    /// A [`CollectionSchema`].
    #[prost(bytes = "vec", tag = "4")]
    pub(super) schema: Vec<u8>,
    #[prost(int32, tag = "5")]
    pub(super) shards_num: i32,
    #[prost(enumeration = "ConsistencyLevel", tag = "6")]
    pub(super) consistency_level: i32,
    #[prost(message, repeated, tag = "7")]
    pub(super) properties: Vec<KeyValuePair>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CollectionSchema {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) description: String,
    #[prost(message, repeated, tag = "4")]
    pub(super) fields: Vec<FieldSchema>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FieldSchema {
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(bool, tag = "3")]
    pub(super) is_primary_key: bool,
    #[prost(enumeration = "DataType", tag = "5")]
    pub(super) data_type: i32,
    #[prost(message, repeated, tag = "6")]
    pub(super) type_params: Vec<KeyValuePair>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DescribeCollectionRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DescribeCollectionResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    pub(super) schema: Option<CollectionSchema>,
    #[prost(message, repeated, tag = "13")]
    pub(super) properties: Vec<KeyValuePair>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AlterCollectionRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) properties: Vec<KeyValuePair>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateIndexRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    #[prost(string, tag = "4")]
    pub(super) field_name: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) extra_params: Vec<KeyValuePair>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DescribeIndexRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DescribeIndexResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(message, repeated, tag = "2")]
    pub(super) index_descriptions: Vec<IndexDescription>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct IndexDescription {
    /// Rows whose index is built, or that are too few for one.
    #[prost(int64, tag = "5")]
    pub(super) indexed_rows: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LoadCollectionRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    #[prost(int32, tag = "4")]
    pub(super) replica_number: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetLoadStateRequest {
    #[prost(string, tag = "2")]
    pub(super) collection_name: String,
    #[prost(string, tag = "4")]
    pub(super) db_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetLoadStateResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(enumeration = "LoadState", tag = "2")]
    pub(super) state: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub(super) enum LoadState {
    NotExist = 0,
    NotLoad = 1,
    Loading = 2,
    Loaded = 3,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FlushRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) collection_names: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FlushResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct UpsertRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) fields_data: Vec<FieldData>,
    #[prost(uint32, tag = "7")]
    pub(super) num_rows: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    #[prost(string, tag = "5")]
    pub(super) expr: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct MutationResult {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    /// When it was written, by Milvus's own clock.
    #[prost(uint64, tag = "9")]
    pub(super) timestamp: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SearchRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    /// The filter, as an expression.
    #[prost(string, tag = "5")]
    pub(super) dsl: String,
    /// A [`PlaceholderGroup`] with the vector.
    #[prost(bytes = "vec", tag = "6")]
    pub(super) placeholder_group: Vec<u8>,
    /// 1: `dsl` is an expression.
    #[prost(int32, tag = "7")]
    pub(super) dsl_type: i32,
    #[prost(string, repeated, tag = "8")]
    pub(super) output_fields: Vec<String>,
    #[prost(message, repeated, tag = "9")]
    pub(super) search_params: Vec<KeyValuePair>,
    #[prost(uint64, tag = "11")]
    pub(super) guarantee_timestamp: u64,
    #[prost(int64, tag = "12")]
    pub(super) nq: i64,
    #[prost(enumeration = "ConsistencyLevel", tag = "14")]
    pub(super) consistency_level: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PlaceholderGroup {
    #[prost(message, repeated, tag = "1")]
    pub(super) placeholders: Vec<PlaceholderValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PlaceholderValue {
    #[prost(string, tag = "1")]
    pub(super) tag: String,
    /// The number of [`DataType::FloatVector`].
    #[prost(int32, tag = "2")]
    pub(super) r#type: i32,
    /// Vectors of f32, little-endian.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(super) values: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SearchResults {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    pub(super) results: Option<SearchResultData>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SearchResultData {
    #[prost(message, repeated, tag = "3")]
    pub(super) fields_data: Vec<FieldData>,
    #[prost(float, repeated, tag = "4")]
    pub(super) scores: Vec<f32>,
    #[prost(message, optional, tag = "5")]
    pub(super) ids: Option<Ids>,
}

/// The primary keys of rows.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Ids {
    #[prost(message, optional, tag = "2")]
    pub(super) str_id: Option<StringArray>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct QueryRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    #[prost(string, tag = "4")]
    pub(super) expr: String,
    #[prost(string, repeated, tag = "5")]
    pub(super) output_fields: Vec<String>,
    #[prost(uint64, tag = "8")]
    pub(super) guarantee_timestamp: u64,
    #[prost(enumeration = "ConsistencyLevel", tag = "11")]
    pub(super) consistency_level: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct QueryResults {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(message, repeated, tag = "2")]
    pub(super) fields_data: Vec<FieldData>,
}

/// A field of several rows.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FieldData {
    #[prost(enumeration = "DataType", tag = "1")]
    pub(super) r#type: i32,
    #[prost(string, tag = "2")]
    pub(super) field_name: String,
    #[prost(oneof = "Values", tags = "3, 4")]
    pub(super) values: Option<Values>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Values {
    #[prost(message, tag = "3")]
    Scalars(ScalarField),
    #[prost(message, tag = "4")]
    Vectors(VectorField),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ScalarField {
    #[prost(oneof = "Scalars", tags = "3, 6, 9")]
    pub(super) data: Option<Scalars>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Scalars {
    #[prost(message, tag = "3")]
    Long(LongArray),
    #[prost(message, tag = "6")]
    Text(StringArray),
    #[prost(message, tag = "9")]
    Json(JsonArray),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LongArray {
    #[prost(int64, repeated, tag = "1")]
    pub(super) data: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StringArray {
    #[prost(string, repeated, tag = "1")]
    pub(super) data: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct JsonArray {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) data: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct VectorField {
    #[prost(int64, tag = "1")]
    pub(super) dim: i64,
    #[prost(message, optional, tag = "2")]
    pub(super) float_vector: Option<FloatArray>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FloatArray {
    #[prost(float, repeated, tag = "1")]
    pub(super) data: Vec<f32>,
}
