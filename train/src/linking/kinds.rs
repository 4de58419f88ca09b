//! The kinds of things that are linked: the kinds of the invented world that have names, and those
//! that its attributes name. A mention is a name of one of these. A weekday, a month, a first name
//! alone, a people's adjective or an animal is not a mention.

use std::sync::LazyLock;

use crate::world::kinds::{self, Attribute, Kind, Naming, Value};

/// An attribute that is stated and never asked for.
const fn stated(key: &'static str, value: Value, statements: &'static [&'static str]) -> Attribute {
    Attribute {
        key,
        nouns: &[],
        value,
        statements,
        questions: &[],
        held_out: &[],
        follow_ups: &[],
    }
}

/// Kinds that only linking has. Its cities replace the world's, which are never capitals.
const OWN: &[Kind] = &[
    Kind {
        name: "city",
        noun: "city",
        naming: Naming::Place,
        attributes: &[
            stated(
                "country",
                Value::Entity("country"),
                &["{n} is a city in {v}.", "{n} is a town in {v}."],
            ),
            stated(
                "capital_of",
                Value::Entity("country"),
                &["It is the capital of {v}.", "{n} is the capital of {v}."],
            ),
            stated(
                "river",
                Value::Place,
                &["It lies on the {v}.", "Its river is the {v}."],
            ),
            stated("founded", Value::Year, &["It was founded in {v}."]),
            stated(
                "population",
                Value::Population,
                &["It has a population of {v}."],
            ),
        ],
    },
    Kind {
        name: "continent",
        noun: "continent",
        naming: Naming::Place,
        attributes: &[],
    },
    Kind {
        name: "sea",
        noun: "sea",
        naming: Naming::Place,
        attributes: &[stated(
            "river",
            Value::Place,
            &["The {n} is a sea. The {v} flows into it."],
        )],
    },
    Kind {
        name: "range",
        noun: "mountain range",
        naming: Naming::Place,
        attributes: &[
            stated(
                "country",
                Value::Entity("country"),
                &[
                    "The {n} are mountains in {v}.",
                    "The {n} are a mountain range in {v}.",
                ],
            ),
            stated(
                "mountain",
                Value::Place,
                &["{v} belongs to them.", "{v} is one of its mountains."],
            ),
        ],
    },
    Kind {
        name: "museum",
        noun: "museum",
        naming: Naming::Place,
        attributes: &[
            stated(
                "city",
                Value::Entity("city"),
                &["The {n} is a museum in {v}."],
            ),
            stated(
                "work",
                Value::Title,
                &["{v} is kept in it.", "It shows {v}."],
            ),
        ],
    },
    Kind {
        name: "language",
        noun: "language",
        naming: Naming::Word,
        attributes: &[stated(
            "country",
            Value::Places,
            &[
                "{n} is a language spoken in {v}.",
                "{n} is the language of {v}.",
            ],
        )],
    },
    Kind {
        name: "currency",
        noun: "currency",
        naming: Naming::Word,
        attributes: &[stated(
            "country",
            Value::Places,
            &[
                "The {n} is the currency of {v}.",
                "The {n} is the money of {v}.",
            ],
        )],
    },
    Kind {
        name: "piece",
        noun: "piece of music",
        naming: Naming::Title,
        attributes: &[stated(
            "composer",
            Value::Entity("composer"),
            &[
                "{n} is a piece of music by {v}.",
                "{n} was composed by {v}.",
            ],
        )],
    },
];

/// Every kind that is linked.
pub fn all() -> &'static [&'static Kind] {
    static ALL: LazyLock<Vec<&'static Kind>> = LazyLock::new(|| {
        let worlds = kinds::KINDS
            .iter()
            .filter(|kind| !matches!(kind.name, "animal" | "city"));
        OWN.iter().chain(worlds).collect()
    });
    &ALL
}

/// The linked kind of that name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    all().iter().find(|kind| kind.name == name).copied()
}

/// The kind whose things the attribute names; `None` if the attribute is plain text.
pub fn named_by(kind: &Kind, attribute: &Attribute) -> Option<&'static Kind> {
    let name = match (attribute.value, attribute.key) {
        (Value::Entity(name), _) => name,
        (Value::Language, _) => "language",
        (_, "capital" | "largest_city" | "birthplace_city" | "seat") => "city",
        (_, "city") if kind.name == "painting" => "city",
        (_, "currency") => "currency",
        (_, "neighbours") => "country",
        (_, "country") if kind.naming == Naming::Word => "country",
        (_, "continent") => "continent",
        (_, "mouth") => "sea",
        (_, "river") => "river",
        (_, "range") => "range",
        (_, "mountain") => "mountain",
        (_, "largest_moon") => "moon",
        (_, "museum") => "museum",
        (_, "discoverer") => "scientist",
        (_, "work") if kind.name == "composer" => "piece",
        (_, "work") if kind.name == "museum" => "painting",
        _ => return None,
    };
    self::kind(name)
}

/// The class of a kind. Kinds of one class can be distinguished only by facts; other kinds can be
/// distinguished by the sentence alone.
pub fn class(kind: &Kind) -> &'static str {
    match kind.name {
        "city" | "country" | "state" | "continent" => "land",
        "river" | "sea" => "water",
        "mountain" | "range" => "height",
        "planet" | "moon" => "sky",
        "author" | "artist" | "scientist" | "composer" => "person",
        "book" | "painting" | "piece" => "work",
        _ => kind.name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_kinds_have_one_name() {
        let names: BTreeSet<&str> = all().iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), all().len());
    }
}
