//! The almanac: public facts as tables, and the passages written from them.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::world::Entity;
use crate::world::kinds::{self, Attribute, Kind};

/// Each table's kind and its rows: a header of attribute keys, then one entity a line.
const TABLES: &[(&str, &str)] = &[
    ("country", include_str!("../almanac/countries.tsv")),
    ("state", include_str!("../almanac/states.tsv")),
    ("river", include_str!("../almanac/rivers.tsv")),
    ("mountain", include_str!("../almanac/mountains.tsv")),
    ("planet", include_str!("../almanac/planets.tsv")),
    ("moon", include_str!("../almanac/moons.tsv")),
    ("animal", include_str!("../almanac/animals.tsv")),
    ("element", include_str!("../almanac/elements.tsv")),
    ("book", include_str!("../almanac/books.tsv")),
    ("author", include_str!("../almanac/authors.tsv")),
    ("painting", include_str!("../almanac/paintings.tsv")),
    ("artist", include_str!("../almanac/artists.tsv")),
    ("scientist", include_str!("../almanac/scientists.tsv")),
    ("composer", include_str!("../almanac/composers.tsv")),
];

/// Every entity of the almanac with its passage.
pub fn entities() -> Result<Vec<Entity>> {
    let mut entities = Vec::new();
    for (name, table) in TABLES {
        let kind = kinds::kind(name).with_context(|| format!("no kind is called {name}"))?;
        let mut lines = table.lines();
        let columns = columns(kind, lines.next().unwrap_or_default())?;
        for (number, line) in lines.enumerate() {
            let cells: Vec<&str> = line.split('\t').collect();
            if cells.len() != columns.len() + 1 {
                bail!(
                    "row {} of the table of {name} has {} cells instead of {}",
                    number + 2,
                    cells.len(),
                    columns.len() + 1
                );
            }
            let mut values = vec![None; kind.attributes.len()];
            for (attribute, cell) in columns.iter().zip(&cells[1..]) {
                values[*attribute] = (!cell.is_empty()).then(|| (*cell).to_owned());
            }
            // The plainest sentences, in the order of the columns.
            let plainest = |attribute: &Attribute| attribute.statements.first().copied();
            let name = cells[0].to_owned();
            entities.push(Entity::telling(kind, name, values, &columns, plainest));
        }
    }
    Ok(entities)
}

/// Which attribute each column after the first holds.
fn columns(kind: &Kind, header: &str) -> Result<Vec<usize>> {
    let find = |key: &str| {
        kind.attributes
            .iter()
            .position(|attribute| attribute.key == key)
            .with_context(|| format!("a {} has no {key:?}", kind.name))
    };
    header.split('\t').skip(1).map(find).collect()
}

/// Lower-cased names and values of the almanac. No invented entity gets one of them.
pub fn reserved() -> HashSet<String> {
    TABLES
        .iter()
        .flat_map(|(_, table)| table.lines())
        .flat_map(|line| line.split('\t'))
        .map(str::to_lowercase)
        .collect()
}

/// The id of a thing: "river-rio-grande".
pub fn slug(kind: &Kind, name: &str) -> String {
    let name: String = name
        .to_lowercase()
        .chars()
        .filter(|c| *c != '(' && *c != ')')
        .map(|c| if c.is_alphanumeric() { c } else { '-' })
        .collect();
    format!("{}-{name}", kind.name)
}

/// Writes the almanac as a corpus, a passage a line.
pub fn write(path: &Path) -> Result<usize> {
    let entities = entities()?;
    let named = entities
        .iter()
        .map(|entity| (slug(entity.kind, &entity.name), entity));
    write_corpus(path, named)
}

/// Writes entities with their ids as a corpus, one a line, and returns how many.
pub(crate) fn write_corpus<'a>(
    path: &Path,
    entities: impl Iterator<Item = (String, &'a Entity)>,
) -> Result<usize> {
    let mut file = std::io::BufWriter::new(
        std::fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?,
    );
    let mut written = 0;
    for (id, entity) in entities {
        let line = serde_json::json!({
            "id": id,
            "title": entity.title(),
            "text": entity.text,
            "metadata": { "kind": entity.kind.name },
        });
        writeln!(file, "{line}")?;
        written += 1;
    }
    file.flush()?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lessons;

    #[test]
    fn no_entity_of_the_almanac_is_ever_taught() {
        let names: HashSet<String> = entities()
            .expect("the tables are whole")
            .into_iter()
            .map(|entity| entity.name.to_lowercase())
            .collect();
        let mut drawn = 0;
        lessons::drawn_names(3000, |name| {
            drawn += 1;
            assert!(
                !names.contains(&name.to_lowercase()),
                "{name} is in the almanac"
            );
        });
        assert!(drawn > 5000);
    }
}
