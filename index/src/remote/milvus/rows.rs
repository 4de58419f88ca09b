//! Passages as rows of Milvus, a row for each vector, and back.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::facts::{facts, hex};
use super::messages::{
    DataType, FieldData, FloatArray, JsonArray, LongArray, ScalarField, Scalars, StringArray,
    Values, VectorField,
};
use super::schema::{
    DETAILS, DOCUMENT_KEY, EMBEDDING, FACTS, ID, KEY, PART, ROW, SEQUENCE, TEXT, TEXT_BYTES, TITLE,
};
use crate::error::IndexError;
use crate::segment::passages::{Part, Passage, digest};

/// The fields that a passage is read from, by [`Rows::passage`].
pub(super) const PASSAGE: [&str; 6] = [ID, TITLE, TEXT, DETAILS, SEQUENCE, PART];

/// What a passage has beside its id, title and text.
#[derive(Serialize, Deserialize)]
struct Details {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Map<String, Value>>,
    /// The document that the passage was cut from, and where in it the passage begins and ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part: Option<(String, usize, usize)>,
}

/// How expressions call a passage or a document.
pub(super) fn key(id: &str) -> String {
    hex(&digest(id))
}

/// The primary key of a vector of a passage.
pub(super) fn row(key: &str, part: usize) -> String {
    format!("{part}:{key}")
}

/// Rows that are going to be written, field by field.
#[derive(Default)]
pub(super) struct NewRows {
    dimension: usize,
    rows: Vec<String>,
    keys: Vec<String>,
    document_keys: Vec<String>,
    sequences: Vec<i64>,
    parts: Vec<i64>,
    ids: Vec<String>,
    titles: Vec<String>,
    texts: Vec<String>,
    details: Vec<Vec<u8>>,
    facts: Vec<Vec<u8>>,
    embeddings: Vec<f32>,
    /// Bytes of all of it, about.
    bytes: usize,
}

impl NewRows {
    pub(super) fn new(dimension: usize) -> Self {
        Self {
            dimension,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a passage with its unit vectors.
    ///
    /// # Errors
    /// [`IndexError::NotStorable`] for what is longer than Milvus stores.
    pub(super) fn push<'v>(
        &mut self,
        passage: &Passage,
        sequence: i64,
        vectors: impl IntoIterator<Item = &'v [f32]>,
    ) -> Result<(), IndexError> {
        let StoredJson { details, facts } = StoredJson::of(passage)?;
        let (key, document_key) = (key(&passage.id), key(passage.document_id()));
        for (part, vector) in vectors.into_iter().enumerate() {
            self.rows.push(row(&key, part));
            self.keys.push(key.clone());
            self.document_keys.push(document_key.clone());
            self.sequences.push(sequence);
            self.parts.push(part as i64);
            self.ids.push(passage.id.clone());
            self.titles.push(passage.title.clone());
            self.texts.push(passage.text.clone());
            self.details.push(details.clone());
            self.facts.push(facts.clone());
            self.embeddings.extend(vector);
            let texts = passage.id.len() + passage.title.len() + passage.text.len();
            self.bytes += texts + details.len() + facts.len() + size_of_val(vector) + 150;
        }
        Ok(())
    }

    /// The fields as Milvus takes them.
    pub(super) fn into_fields(self) -> Vec<FieldData> {
        let scalars = |name: &str, kind: DataType, data: Scalars| FieldData {
            r#type: kind.into(),
            field_name: name.into(),
            values: Some(Values::Scalars(ScalarField { data: Some(data) })),
        };
        let texts =
            |name, data| scalars(name, DataType::VarChar, Scalars::Text(StringArray { data }));
        let numbers =
            |name, data| scalars(name, DataType::Int64, Scalars::Long(LongArray { data }));
        let json = |name, data| scalars(name, DataType::Json, Scalars::Json(JsonArray { data }));
        let embeddings = FieldData {
            r#type: DataType::FloatVector.into(),
            field_name: EMBEDDING.into(),
            values: Some(Values::Vectors(VectorField {
                dim: self.dimension as i64,
                float_vector: Some(FloatArray {
                    data: self.embeddings,
                }),
            })),
        };
        vec![
            texts(ROW, self.rows),
            texts(KEY, self.keys),
            texts(DOCUMENT_KEY, self.document_keys),
            numbers(SEQUENCE, self.sequences),
            numbers(PART, self.parts),
            texts(ID, self.ids),
            texts(TITLE, self.titles),
            texts(TEXT, self.texts),
            json(DETAILS, self.details),
            json(FACTS, self.facts),
            embeddings,
        ]
    }
}

/// Fails for a passage that Milvus cannot store.
pub(super) fn check(passage: &Passage) -> Result<(), IndexError> {
    StoredJson::of(passage).map(|_| ())
}

/// The JSON values of a passage.
struct StoredJson {
    details: Vec<u8>,
    facts: Vec<u8>,
}

impl StoredJson {
    fn of(passage: &Passage) -> Result<Self, IndexError> {
        let too_long = |reason| IndexError::NotStorable {
            id: passage.id.clone(),
            reason,
        };
        let texts = [&passage.id, &passage.title, &passage.text];
        if texts.iter().any(|text| text.len() > TEXT_BYTES) {
            return Err(too_long(
                "has an id, a title or a text of more than 65,535 bytes, which Milvus does not store",
            ));
        }
        let details = Details {
            url: passage.url.clone(),
            metadata: passage.metadata.clone(),
            part: passage
                .part
                .as_ref()
                .map(|part| (part.document.clone(), part.start, part.end)),
        };
        // What has strings as keys becomes JSON.
        let details = serde_json::to_vec(&details).unwrap_or_default();
        let facts = serde_json::to_vec(&facts(passage.metadata.as_ref())).unwrap_or_default();
        if details.len() > TEXT_BYTES {
            return Err(too_long(
                "has metadata of more than 65,535 bytes, which Milvus does not store",
            ));
        }
        if facts.len() > TEXT_BYTES {
            return Err(too_long(
                "has metadata of so many values that what filters ask for takes more than 65,535 bytes, which Milvus \
                 does not store",
            ));
        }
        Ok(Self { details, facts })
    }
}

/// Rows that Milvus has answered with.
pub(super) struct Rows(pub(super) Vec<FieldData>);

impl Rows {
    fn scalars(&self, name: &str) -> Option<&Scalars> {
        let field = self.0.iter().find(|field| field.field_name == name)?;
        match field.values.as_ref()? {
            Values::Scalars(scalars) => scalars.data.as_ref(),
            Values::Vectors(_) => None,
        }
    }

    /// The numbers of a field; none where there are no rows.
    pub(super) fn numbers(&self, name: &str) -> &[i64] {
        match self.scalars(name) {
            Some(Scalars::Long(numbers)) => &numbers.data,
            _ => &[],
        }
    }

    /// The texts of a field; none where there are no rows.
    pub(super) fn texts(&self, name: &str) -> &[String] {
        match self.scalars(name) {
            Some(Scalars::Text(texts)) => &texts.data,
            _ => &[],
        }
    }

    /// The vector of each row.
    pub(super) fn vectors(&self, dimension: usize) -> impl Iterator<Item = &[f32]> {
        let field = self.0.iter().find(|field| field.field_name == EMBEDDING);
        let numbers = match field.and_then(|field| field.values.as_ref()) {
            Some(Values::Vectors(vectors)) => vectors.float_vector.as_ref(),
            _ => None,
        };
        let numbers = numbers.map_or(&[][..], |numbers| &numbers.data);
        numbers.chunks_exact(dimension)
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.numbers(SEQUENCE).len()
    }

    /// The passage of a row, read from the fields of [`PASSAGE`].
    ///
    /// # Errors
    /// What is missing in the row.
    pub(super) fn passage(&self, row: usize) -> Result<Passage, String> {
        let text = |name: &str| {
            let text = self.texts(name).get(row).cloned();
            text.ok_or_else(|| format!("a row has no {name}"))
        };
        let details = match self.scalars(DETAILS) {
            Some(Scalars::Json(values)) => values.data.get(row),
            _ => None,
        };
        let details = details.ok_or("a row has no details")?;
        let details: Details = serde_json::from_slice(details)
            .map_err(|error| format!("a row's details cannot be read: {error}"))?;
        let part = details.part.map(|(document, start, end)| Part {
            document,
            start,
            end,
        });
        Ok(Passage {
            id: text(ID)?,
            title: text(TITLE)?,
            text: text(TEXT)?,
            url: details.url,
            metadata: details.metadata,
            part,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn passage() -> Passage {
        Passage {
            id: "a\"b".into(),
            title: "A".into(),
            text: "Text\0.".into(),
            url: Some("http://x".into()),
            metadata: json!({"big": 9_007_199_254_740_993u64, "n": null})
                .as_object()
                .cloned(),
            part: Some(Part {
                document: "d".into(),
                start: 3,
                end: 9,
            }),
        }
    }

    #[test]
    fn a_passage_is_the_same_when_it_comes_back() {
        let plain = Passage {
            url: None,
            metadata: None,
            part: None,
            ..passage()
        };
        let mut rows = NewRows::new(2);
        let vectors = [[1.0, 0.0], [0.0, 1.0]];
        rows.push(&passage(), 7, vectors.iter().map(|v| &v[..]))
            .unwrap();
        rows.push(&plain, 8, [&vectors[0][..]]).unwrap();
        assert_eq!(rows.len(), 3);
        let rows = Rows(rows.into_fields());
        assert_eq!(rows.passage(1).unwrap(), passage());
        assert_eq!(rows.passage(2).unwrap(), plain);
        assert_eq!(rows.numbers(PART), [0, 1, 0]);
        assert_eq!(rows.vectors(2).nth(1).unwrap(), [0.0, 1.0]);
        assert!(rows.passage(3).is_err());
    }

    #[test]
    fn what_is_too_long_is_refused_by_name() {
        let long = |bytes| "x".repeat(bytes);
        check(&Passage {
            text: long(TEXT_BYTES),
            ..passage()
        })
        .unwrap();
        let many: Vec<u32> = (0..3_000).collect();
        for (passage, reason) in [
            (
                Passage {
                    text: long(TEXT_BYTES + 1),
                    ..passage()
                },
                "a text of more than",
            ),
            (
                Passage {
                    metadata: json!({"a": long(TEXT_BYTES)}).as_object().cloned(),
                    ..passage()
                },
                "has metadata of more than",
            ),
            (
                Passage {
                    metadata: json!({"a": many}).as_object().cloned(),
                    ..passage()
                },
                "so many values",
            ),
        ] {
            let refused = check(&passage).unwrap_err().to_string();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
