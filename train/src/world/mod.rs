//! The invented world: entities with attributes, and the passages that state them.

pub mod kinds;
pub mod names;

use std::collections::HashSet;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use kinds::{Attribute, Kind, Naming, Value};

/// Which names may be drawn: training and evaluation share none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Seven names of eight
    Train,
    /// One name of eight
    HeldOut,
}

impl Split {
    /// The split that a name belongs to, by its letters alone (FNV-1a of the lower-cased name).
    pub fn from_name(name: &str) -> Self {
        let hash = name
            .to_lowercase()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        if (hash >> 32) % 8 == 0 {
            Self::HeldOut
        } else {
            Self::Train
        }
    }
}

/// One thing of the world, or one row of the almanac.
#[derive(Clone, Debug)]
pub struct Entity {
    /// Its kind
    pub kind: &'static Kind,
    /// Its name as written inside a sentence
    pub name: String,
    /// For each attribute of the kind its value, if the passage states it
    pub values: Vec<Option<String>>,
    /// The passage
    pub text: String,
}

impl Entity {
    /// The passage's title: the name with its first letter in upper case.
    pub fn title(&self) -> String {
        names::capitalised(&self.name)
    }

    /// Writes the passage with random wordings. The first attribute comes first, and the others follow,
    /// mostly in their usual order.
    pub fn new(
        kind: &'static Kind,
        name: String,
        values: Vec<Option<String>>,
        rng: &mut impl Rng,
    ) -> Self {
        let mut order: Vec<usize> = (1..kind.attributes.len()).collect();
        if rng.random_bool(0.3) {
            order.shuffle(rng);
        }
        order.insert(0, 0);
        let choose = |attribute: &Attribute| attribute.statements.choose(rng).copied();
        Self::telling(kind, name, values, &order, choose)
    }

    /// Writes the passage: attributes in `order`, each in the words that `statement` gives.
    pub fn telling(
        kind: &'static Kind,
        name: String,
        values: Vec<Option<String>>,
        order: &[usize],
        mut statement: impl FnMut(&Attribute) -> Option<&'static str>,
    ) -> Self {
        let mut sentences = Vec::new();
        if values.first().is_none_or(Option::is_none) {
            sentences.push(format!("{name} is a {}.", kind.noun));
        }
        for &index in order {
            if let (Some(attribute), Some(Some(value))) =
                (kind.attributes.get(index), values.get(index))
            {
                let statement = statement(attribute).unwrap_or("{n}: {v}.");
                // After the first sentence a person is mentioned by the last name.
                let called = if index > 0 && kind.naming == Naming::Person {
                    name.rsplit(' ').next().unwrap_or(&name)
                } else {
                    &name
                };
                sentences.push(statement.replace("{n}", called).replace("{v}", value));
            }
        }
        let text = sentences
            .iter()
            .map(|sentence| names::capitalised(sentence))
            .collect::<Vec<_>>()
            .join(" ");
        Self {
            kind,
            name,
            values,
            text,
        }
    }

    /// The passage's first sentence.
    pub fn first_sentence(&self) -> &str {
        self.text
            .find(". ")
            .map_or(&self.text, |end| &self.text[..=end])
    }
}

/// Draws entities whose names are of one split and never in the almanac.
pub struct World<'a, R> {
    /// The source of all random choices
    pub rng: &'a mut R,
    /// Every entity drawn so far
    pub entities: Vec<Entity>,
    split: Split,
    reserved: &'a HashSet<String>,
}

impl<'a, R: Rng> World<'a, R> {
    /// An empty world. `reserved` holds lower-cased names that are never used.
    pub fn new(rng: &'a mut R, split: Split, reserved: &'a HashSet<String>) -> Self {
        Self {
            rng,
            entities: Vec::new(),
            split,
            reserved,
        }
    }

    /// Adds an entity of `kind` with invented values.
    pub fn add(&mut self, kind: &'static Kind) -> usize {
        let name = self.name(kind.naming);
        self.add_named(kind, name)
    }

    /// Adds an entity whose name is similar to that of `like`.
    pub fn add_confusable(&mut self, like: usize) -> usize {
        let (kind, name) = (self.entities[like].kind, self.entities[like].name.clone());
        for _ in 0..20 {
            let other = self.name(kind.naming);
            let mixed = mix(self.rng, &name, &other);
            if mixed != name && self.allowed(&mixed) {
                return self.add_named(kind, mixed);
            }
        }
        self.add(kind)
    }

    /// The entity of that name, or a new one; `None` if the name belongs to another kind or is not allowed
    /// here.
    pub fn find_or_add(&mut self, kind: &'static Kind, name: &str) -> Option<usize> {
        match self.entities.iter().position(|entity| entity.name == name) {
            Some(at) => (self.entities[at].kind.name == kind.name).then_some(at),
            None => self
                .allowed(name)
                .then(|| self.add_named(kind, name.to_owned())),
        }
    }

    fn add_named(&mut self, kind: &'static Kind, name: String) -> usize {
        let mut values = Vec::with_capacity(kind.attributes.len());
        for (index, attribute) in kind.attributes.iter().enumerate() {
            // The first attribute opens the passage; others are sometimes left out.
            let told = index == 0 || !self.rng.random_bool(0.12);
            let value = told.then(|| self.value_beside(attribute, kind, &name, &values));
            values.push(value);
        }
        let entity = Entity::new(kind, name, values, self.rng);
        self.entities.push(entity);
        self.entities.len() - 1
    }

    /// Whether the name belongs to the split, is not in the almanac and is not used yet.
    pub fn allowed(&self, name: &str) -> bool {
        Split::from_name(name) == self.split
            && !self.reserved.contains(&name.to_lowercase())
            && !self
                .entities
                .iter()
                .any(|entity| entity.name.eq_ignore_ascii_case(name))
    }

    fn name(&mut self, naming: Naming) -> String {
        loop {
            let name = match naming {
                Naming::Place => names::place(self.rng),
                Naming::Person => names::person(self.rng),
                Naming::Title => names::title(self.rng),
                Naming::Word if self.rng.random_bool(0.15) => {
                    format!(
                        "{} {}",
                        names::word(self.rng, 1, 2),
                        names::word(self.rng, 1, 2)
                    )
                }
                Naming::Word => {
                    let ending = ["ium", "ium", "ium", "um", "ine", "on", "", "", "", "", ""]
                        .choose(self.rng)
                        .copied()
                        .unwrap_or_default();
                    names::word(self.rng, 1, 3) + ending
                }
            };
            if self.allowed(&name) {
                return name;
            }
        }
    }

    /// A value that fits the entity's other values: a language or a town is often named after its
    /// country, and the largest city is often the capital.
    fn value_beside(
        &mut self,
        attribute: &Attribute,
        kind: &'static Kind,
        name: &str,
        before: &[Option<String>],
    ) -> String {
        let rng = &mut *self.rng;
        match attribute.value {
            Value::Language if rng.random_bool(0.5) => names::language_of(rng, name),
            Value::Place if rng.random_bool(0.12) => {
                let other = names::place(rng);
                mix(rng, name, &other)
            }
            Value::Place if rng.random_bool(0.25) => {
                let mut told = kind.attributes.iter().zip(before);
                let place = told.rfind(|(attribute, _)| attribute.value == Value::Place);
                let place = place.and_then(|(_, value)| value.clone());
                place.unwrap_or_else(|| names::place(rng))
            }
            _ => self.value(attribute),
        }
    }

    /// An invented value for the attribute.
    pub fn value(&mut self, attribute: &Attribute) -> String {
        let rng = &mut *self.rng;
        match attribute.value {
            Value::Entity(kind) => {
                self.name(kinds::kind(kind).map_or(Naming::Place, |kind| kind.naming))
            }
            Value::Place => names::place(rng),
            Value::Places => {
                let places: Vec<String> = (0..rng.random_range(1..=6))
                    .map(|_| names::place(rng))
                    .collect();
                names::list(&places)
            }
            Value::People => {
                let people: Vec<String> = (0..if rng.random_bool(0.15) { 2 } else { 1 })
                    .map(|_| names::person(rng))
                    .collect();
                names::list(&people)
            }
            Value::Title => names::title(rng),
            Value::Word => names::word(rng, 1, 3),
            Value::Phrase => names::phrase(rng),
            Value::Language => names::language(rng),
            Value::Symbol => names::symbol(rng),
            Value::Year if rng.random_bool(0.04) => format!("{} BC", names::number(rng, 3)),
            Value::Year => rng.random_range(1000..2030).to_string(),
            Value::Count if rng.random_bool(0.1) => "no".to_owned(),
            Value::Count => names::number(rng, 3).to_string(),
            Value::Population => match rng.random_range(0..10) {
                0..6 => format!("{} million", names::number(rng, 3)),
                6..7 => format!(
                    "{}.{} million",
                    names::number(rng, 2),
                    rng.random_range(1..10)
                ),
                7..9 => format!("{} thousand", names::number(rng, 3)),
                _ => names::grouped(names::number(rng, 7)),
            },
            Value::Ordinal => {
                const ORDINALS: [&str; 12] = [
                    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth",
                    "ninth", "tenth", "eleventh", "twelfth",
                ];
                ORDINALS.choose(rng).copied().unwrap_or("first").to_owned()
            }
            Value::Duration => {
                let unit = ["hours", "days", "years", "minutes"]
                    .choose(rng)
                    .copied()
                    .unwrap_or("days");
                if rng.random_bool(0.3) {
                    format!(
                        "{}.{} {unit}",
                        names::number(rng, 3),
                        rng.random_range(1..10)
                    )
                } else {
                    format!("{} {unit}", names::grouped(names::number(rng, 4)))
                }
            }
            Value::Length => format!("{} kilometres", names::grouped(rng.random_range(80..9000))),
            Value::Height => format!("{} metres", names::grouped(rng.random_range(300..9900))),
        }
    }
}

/// A name similar to `name`: with one word more or less, another word, or a similarly spelt word.
pub fn mix(rng: &mut impl Rng, name: &str, other: &str) -> String {
    let mut words: Vec<String> = name.split(' ').map(str::to_owned).collect();
    let other = other.split(' ').next_back().unwrap_or(other);
    let at = rng.random_range(0..words.len());
    match rng.random_range(0..10) {
        0 if words.len() < 4 => words.insert(at, other.to_owned()),
        1 if words.len() > 1 => {
            words.remove(at);
        }
        2..6 if words.len() > 1 => words[at] = other.to_owned(),
        _ => words[at] = almost(rng, &words[at], other),
    }
    words.join(" ")
}

/// `word` with `other`'s ending, `other`'s beginning or a letter of it: Austria and Australia, thallium
/// and hafnium, Iran and Iraq.
fn almost(rng: &mut impl Rng, word: &str, other: &str) -> String {
    let halves = |word: &str| -> (String, String) {
        let half = word.chars().count().div_ceil(2);
        (
            word.chars().take(half).collect(),
            word.chars().skip(half).collect(),
        )
    };
    let (other_lower, capital) = (other.to_lowercase(), word.starts_with(char::is_uppercase));
    match rng.random_range(0..10) {
        0..4 => halves(word).0 + &halves(&other_lower).1,
        4..8 => {
            let name = halves(&other_lower).0 + &halves(word).1;
            if capital {
                names::capitalised(&name)
            } else {
                name
            }
        }
        _ => {
            let mut letters: Vec<char> = word.chars().collect();
            let others: Vec<char> = other_lower.chars().filter(|c| c.is_alphabetic()).collect();
            if let (2.., Some(letter)) = (letters.len(), others.choose(rng)) {
                let at = rng.random_range(1..letters.len());
                letters[at] = *letter;
            }
            letters.into_iter().collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn training_and_held_out_worlds_share_no_name() {
        let reserved = HashSet::new();
        for split in [Split::Train, Split::HeldOut] {
            let mut rng = StdRng::seed_from_u64(7);
            let mut world = World::new(&mut rng, split, &reserved);
            for kind in kinds::KINDS {
                world.add(kind);
            }
            assert!(
                world
                    .entities
                    .iter()
                    .all(|entity| Split::from_name(&entity.name) == split)
            );
        }
    }

    #[test]
    fn a_passage_tells_every_value_it_has() {
        let reserved = HashSet::new();
        let mut rng = StdRng::seed_from_u64(8);
        let mut world = World::new(&mut rng, Split::Train, &reserved);
        for kind in kinds::KINDS {
            let at = world.add(kind);
            let entity = &world.entities[at];
            for value in entity.values.iter().flatten() {
                assert!(
                    entity.text.contains(value.as_str()),
                    "{value:?} is not in {:?}",
                    entity.text
                );
            }
            assert!(entity.text.starts_with(entity.first_sentence()));
        }
    }
}
