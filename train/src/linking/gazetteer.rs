//! The shipped entities: those with a row in the almanac's tables, and those that the tables only name
//! (towns, currencies, languages, seas), each with a short description.

use std::path::Path;

use anyhow::Result;

use super::kinds;
use crate::almanac::{self, write_corpus};
use crate::world::kinds::{Kind, Value};
use crate::world::{Entity, names};

/// An entity of the real world.
#[derive(Clone, Debug)]
pub struct ListedEntity {
    /// "city-quito"
    pub id: String,
    /// Its name and description
    pub entity: Entity,
}

/// How many attributes a description has after the first.
const MOST: usize = 4;
/// How many countries the description of a currency or a language names.
const MOST_COUNTRIES: usize = 6;

/// What is known of an entity so far.
struct Draft {
    kind: &'static Kind,
    name: String,
    facts: Vec<Vec<String>>,
}

/// Every entity, those of the tables first.
pub fn entities() -> Result<Vec<ListedEntity>> {
    let told: Vec<Entity> = almanac::entities()?
        .into_iter()
        .filter(|entity| kinds::kind(entity.kind.name).is_some())
        .map(|entity| Entity {
            // In "Georgia (state)" the part in brackets is left out, because the description says
            // it.
            name: entity
                .name
                .split(" (")
                .next()
                .unwrap_or_default()
                .to_owned(),
            ..entity
        })
        .collect();
    let mut drafts: Vec<Draft> = told
        .iter()
        .map(|entity| Draft {
            kind: entity.kind,
            name: entity.name.clone(),
            facts: (entity
                .values
                .iter()
                .map(|value| value.iter().cloned().collect()))
            .collect(),
        })
        .collect();
    for entity in &told {
        for (attribute, value) in entity.kind.attributes.iter().zip(&entity.values) {
            let named = kinds::named_by(entity.kind, attribute);
            if let (Some(kind), Some(value)) = (named, value) {
                name(&mut drafts, kind, value, attribute.key, entity);
            }
        }
    }
    let mut listed: Vec<ListedEntity> = Vec::new();
    for draft in drafts {
        let entity = draft.describe();
        let plain = almanac::slug(entity.kind, &entity.name);
        let taken = |id: &str| listed.iter().any(|other| other.id == id);
        let within = draft.facts.first().and_then(|names| names.first());
        let id = match within.filter(|_| taken(&plain)) {
            Some(within) => almanac::slug(entity.kind, &format!("{} {within}", entity.name)),
            None => plain,
        };
        if !taken(&id) {
            listed.push(ListedEntity { id, entity });
        }
    }
    Ok(listed)
}

/// Records that an attribute of `by` names `value`, a thing of `kind`.
fn name(drafts: &mut Vec<Draft>, kind: &'static Kind, value: &str, key: &str, by: &Entity) {
    let list = value.contains(',') || value.contains(" and ");
    // Neighbours are already countries of the table, and a river may flow into a river or a lake
    // instead of a sea.
    if list || key == "neighbours" || (kind.name == "sea" && !is_sea(value)) {
        return;
    }
    // The town of a person or a museum may exist already, but two capitals of the same name are two
    // towns.
    let governs = matches!(key, "capital" | "largest_city");
    let there = drafts.iter_mut().find(|draft| {
        let same = draft.kind.name == kind.name && draft.name == value;
        same && (!governs || draft.facts[0].first() == Some(&by.name))
    });
    let draft = match there {
        Some(draft) => draft,
        None => {
            drafts.push(Draft {
                kind,
                name: value.to_owned(),
                facts: vec![vec![]; kind.attributes.len()],
            });
            let Some(draft) = drafts.last_mut() else {
                return;
            };
            draft
        }
    };
    let country_of = |entity: &Entity| {
        let at = entity
            .kind
            .attributes
            .iter()
            .position(|a| a.key == "country")?;
        entity.values[at].clone()
    };
    for (attribute, facts) in draft.kind.attributes.iter().zip(&mut draft.facts) {
        let of_kind =
            kinds::named_by(draft.kind, attribute).is_some_and(|k| k.name == by.kind.name);
        let fact = match attribute.key {
            "capital_of" => (key == "capital").then(|| by.name.clone()),
            "country" if governs || of_kind => Some(by.name.clone()),
            "country" => country_of(by),
            "known_for" if key == "discoverer" => Some(format!("the discovery of {}", by.name)),
            _ if of_kind => Some(by.name.clone()),
            // The town of the museum.
            "city" => by.values.get(3).cloned().flatten(),
            _ => None,
        };
        let most = match attribute.value {
            Value::Places => MOST_COUNTRIES,
            _ => 1,
        };
        if facts.len() < most {
            facts.extend(fact);
        }
    }
}

fn is_sea(name: &str) -> bool {
    ["Sea", "Ocean", "Gulf", "Bay", "Strait", "Channel"]
        .iter()
        .any(|word| name.contains(word))
}

impl Draft {
    fn describe(&self) -> Entity {
        let mut order: Vec<usize> = (1..self.facts.len())
            .filter(|at| !self.facts[*at].is_empty())
            .take(MOST)
            .collect();
        order.insert(0, 0);
        let values = self
            .facts
            .iter()
            .map(|facts| (!facts.is_empty()).then(|| names::list(facts)))
            .collect();
        Entity::telling(self.kind, self.name.clone(), values, &order, |attribute| {
            attribute.statements.first().copied()
        })
    }
}

/// Writes the entities, one a line, as a corpus.
pub fn write(path: &Path) -> Result<usize> {
    let entities = entities()?;
    write_corpus(
        path,
        entities
            .iter()
            .map(|listed| (listed.id.clone(), &listed.entity)),
    )
}
