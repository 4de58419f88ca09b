//! Draws, names, relates and describes the things of one lesson.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::kinds;
use crate::world::kinds::{Kind, Naming, Value};
use crate::world::{Entity, World, names};

/// A thing that can be mentioned.
#[derive(Clone, Debug)]
pub struct LessonEntity {
    /// Its kind
    pub kind: &'static Kind,
    /// Its full name
    pub name: String,
    /// A shorter name: a surname, a river's without its "River"
    pub short: Option<String>,
    /// A value for each attribute of the kind: names of other things, or one plain text
    pub facts: Vec<Vec<String>>,
    /// Attributes that a text states, so that the description states them, too
    pub told: Vec<usize>,
    /// Whether a text says its kind, besides the class
    pub kind_told: bool,
    /// Whether a text mentions it
    pub mentioned: bool,
}

/// The things of one lesson.
pub struct LessonEntities<'a, 'r, R> {
    /// The source of random choices, names and plain values
    pub world: &'a mut World<'r, R>,
    /// All things so far
    pub all: Vec<LessonEntity>,
}

impl<R: Rng> LessonEntities<'_, '_, R> {
    /// Adds a thing with a new name.
    pub fn add(&mut self, kind: &'static Kind) -> usize {
        let name = self.fresh_name(kind);
        self.add_named(kind, name)
    }

    /// Adds a thing with the given name.
    pub fn add_named(&mut self, kind: &'static Kind, name: String) -> usize {
        let facts = kind.attributes.iter().map(|attribute| {
            let Some(named) = kinds::named_by(kind, attribute) else {
                let usual = usual(kind.name, attribute.key);
                let word = usual.choose(self.world.rng).copied();
                // Often a known word, from which the kind can be recognised; otherwise an invented
                // word.
                return match word.filter(|_| self.world.rng.random_bool(0.6)) {
                    Some(word) => vec![word.to_owned()],
                    None => vec![self.world.value(attribute)],
                };
            };
            // Countries may share a language; a town is a capital only if a text says so.
            let names = match attribute.value {
                Value::Places => self.world.rng.random_range(1..=4),
                _ if attribute.key == "capital_of" => 0,
                _ => 1,
            };
            (0..names).map(|_| self.fresh_name(named)).collect()
        });
        let facts = facts.collect();
        let short = short(kind, &name);
        self.all.push(LessonEntity {
            kind,
            name,
            short,
            facts,
            told: vec![],
            kind_told: false,
            mentioned: false,
        });
        self.all.len() - 1
    }

    /// A new thing, which sometimes gets the name of a thing of another class.
    pub fn add_or_name_again(&mut self, kind: &'static Kind) -> usize {
        let namesake = self.all.choose(self.world.rng).filter(|other| {
            other.kind.naming == kind.naming && kinds::class(other.kind) != kinds::class(kind)
        });
        match namesake.map(|other| other.name.clone()) {
            Some(name) if self.world.rng.random_bool(0.3) => self.add_named(kind, name),
            _ => self.add(kind),
        }
    }

    /// A thing of the kind, other than the one that the sentence is about: an existing one, or a
    /// new one.
    pub fn another(&mut self, kind: &'static Kind, about: Option<usize>) -> usize {
        let there: Vec<usize> = (0..self.all.len())
            .filter(|at| self.all[*at].kind.name == kind.name && Some(*at) != about)
            .collect();
        match there.choose(self.world.rng) {
            Some(there) if self.world.rng.random_bool(0.25) => *there,
            _ => self.add(kind),
        }
    }

    /// The things that an attribute names. Names without a thing get one, which refers back to this
    /// thing. Empty if the attribute names none.
    pub fn named_by(&mut self, thing: usize, attribute: usize) -> Vec<usize> {
        let kind = self.all[thing].kind;
        let Some(named) = kinds::named_by(kind, &kind.attributes[attribute]) else {
            return vec![];
        };
        // The sentence "{n} is the capital of …" makes the town a capital.
        if kind.attributes[attribute].key == "capital_of"
            && self.all[thing].facts[attribute].is_empty()
        {
            self.all[thing].facts[attribute] = self.all[thing].facts[0].clone();
        }
        let names = self.all[thing].facts[attribute].clone();
        let mut found = Vec::new();
        for name in names {
            let there = self
                .all
                .iter()
                .position(|other| other.name == name && other.kind.name == named.name);
            let at = there.unwrap_or_else(|| self.add_named(named, name));
            if there.is_none() {
                self.relate_back(at, thing, kind.attributes[attribute].key);
            }
            found.push(at);
        }
        self.all[thing].told.push(attribute);
        found
    }

    /// `thing` was named by an attribute of `by`: its own attribute of that kind names `by`.
    fn relate_back(&mut self, thing: usize, by: usize, key: &str) {
        let (kind, by_kind, name) = (
            self.all[thing].kind,
            self.all[by].kind,
            self.all[by].name.clone(),
        );
        for (at, attribute) in kind.attributes.iter().enumerate() {
            let fits =
                kinds::named_by(kind, attribute).is_some_and(|kind| kind.name == by_kind.name);
            if !fits
                || (attribute.key == "capital_of" && key != "capital")
                || attribute.key == "neighbours"
            {
                continue;
            }
            self.all[thing].facts[at] = match attribute.value {
                Value::Places => {
                    let mut names = self.all[thing].facts[at].clone();
                    names.truncate(names.len() - 1);
                    names.push(name.clone());
                    names.shuffle(self.world.rng);
                    names
                }
                _ => vec![name.clone()],
            };
            self.all[thing].told.push(at);
        }
    }

    /// Adds things with the same name as `thing` or a similar one, if the text still shows which one is
    /// meant.
    pub fn add_rivals(&mut self, thing: usize) {
        let LessonEntity {
            kind,
            name,
            told,
            kind_told,
            ..
        } = self.all[thing].clone();
        let last = name.rsplit(' ').next().unwrap_or(&name).to_owned();
        while self.world.rng.random_bool(0.4) {
            let other = kinds::all().choose(self.world.rng).copied().unwrap_or(kind);
            let same_class = kinds::class(other) == kinds::class(kind);
            let told_apart = if other.name == kind.name {
                !told.is_empty()
            } else {
                kind_told
            };
            if same_class && !told_apart {
                continue;
            }
            let called_alike = |rng: &mut R| match (other.naming, kind.naming) {
                // A person of the same name with other facts, or a person with the same surname.
                (Naming::Person, Naming::Person) if rng.random_bool(0.5) => name.clone(),
                (Naming::Person, _) => {
                    format!("{} {}", first_name(rng), names::capitalised(&last))
                }
                (_, Naming::Person) => last.clone(),
                (Naming::Word, _) if other.name != "language" => last.to_lowercase(),
                _ => names::capitalised(&name),
            };
            self.add_called(other, called_alike);
        }
        if self.world.rng.random_bool(0.3) {
            let other = self.fresh_name(kind);
            self.add_called(kind, |rng| {
                let mixed = crate::world::mix(rng, &name, &other);
                if mixed == name { String::new() } else { mixed }
            });
        }
    }

    /// Adds a thing with the first allowed name of a few drawn ones.
    fn add_called(&mut self, kind: &'static Kind, mut name: impl FnMut(&mut R) -> String) {
        for _ in 0..30 {
            let name = name(self.world.rng);
            if !name.is_empty() && self.world.allowed(&name) {
                self.add_named(kind, name);
                return;
            }
        }
    }

    /// A name for a new thing of the kind that no other thing of the lesson has.
    fn fresh_name(&mut self, kind: &'static Kind) -> String {
        loop {
            let rng = &mut *self.world.rng;
            let place = |rng: &mut R| loop {
                let name = names::place(rng);
                // "Orm and Vass" would look like two places.
                if !name.contains(" and ") {
                    return name;
                }
            };
            let word = |rng: &mut R| names::capitalised(&names::word(rng, 1, 3));
            let name = match kind.name {
                "language" => names::language(rng),
                "sea" => match rng.random_range(0..10) {
                    0 => format!("Sea of {}", word(rng)),
                    1 => format!("Gulf of {}", word(rng)),
                    2 => place(rng),
                    3..5 => format!("{} Ocean", word(rng)),
                    5 => format!("{} Bay", word(rng)),
                    _ => format!("{} Sea", place(rng)),
                },
                "range" => match rng.random_range(0..10) {
                    0..5 => format!("{} Mountains", word(rng)),
                    5 => format!("{} Hills", word(rng)),
                    _ => word(rng) + "s",
                },
                "museum" => match rng.random_range(0..10) {
                    0..3 => format!("{} Museum", word(rng)),
                    3..5 => format!("Museum of {}", word(rng)),
                    5 => format!("{} Gallery", word(rng)),
                    _ => word(rng),
                },
                "mountain" if rng.random_bool(0.3) => format!("Mount {}", word(rng)),
                "river" if rng.random_bool(0.15) => format!("{} River", word(rng)),
                "company" if rng.random_bool(0.6) => match rng.random_range(0..4) {
                    0 => format!("{} and {}", word(rng), word(rng)),
                    1 => format!("{} Works", word(rng)),
                    _ => word(rng),
                },
                _ => match kind.naming {
                    Naming::Place => place(rng),
                    Naming::Person => names::person(rng),
                    Naming::Title => names::title(rng),
                    Naming::Word => {
                        let endings = ["ium", "ium", "um", "ine", "on", "", "", ""];
                        names::word(rng, 1, 3) + endings.choose(rng).copied().unwrap_or_default()
                    }
                },
            };
            if self.world.allowed(&name) && self.all.iter().all(|other| other.name != name) {
                return name;
            }
        }
    }

    /// Its description: first the attribute that opens every description of its kind, then those
    /// that the text states, and some others.
    pub fn describe(&mut self, thing: usize) -> Entity {
        let LessonEntity {
            kind,
            name,
            facts,
            told,
            ..
        } = self.all[thing].clone();
        let rng = &mut *self.world.rng;
        let most = if rng.random_bool(0.15) {
            7
        } else {
            rng.random_range(1..=3)
        };
        let mut others: Vec<usize> = (1..kind.attributes.len())
            .filter(|at| !facts[*at].is_empty())
            .collect();
        others.shuffle(rng);
        others.sort_by_key(|at| !told.contains(at));
        let certain = told.iter().filter(|at| **at > 0).count();
        others.truncate(most.max(certain.min(2)));
        // Mostly in the order of the table, as descriptions are.
        if rng.random_bool(0.6) {
            others.sort_unstable();
        }
        others.insert(0, 0);
        let values: Vec<Option<String>> = facts
            .iter()
            .enumerate()
            .map(|(at, names)| {
                let kept = others.contains(&at) && !names.is_empty();
                kept.then(|| names::list(names))
            })
            .collect();
        Entity::telling(kind, name, values, &others, |attribute| {
            // The first is the plainest.
            let plainest = attribute
                .statements
                .first()
                .filter(|_| rng.random_bool(0.4));
            plainest.or(attribute.statements.choose(rng)).copied()
        })
    }
}

/// Common first names.
pub const COMMON_NAMES: &[&str] = &[
    "Anna", "Peter", "Maria", "John", "Mary", "Paul", "Lucy", "Tom", "Eva", "Max", "Clara", "Ben",
    "Laura", "Jack", "Emma", "Leo", "Nina", "Oscar", "Sarah", "David", "Julia", "Daniel", "Sophie",
    "Mark", "Helen", "Simon", "Rosa", "Carlos", "Ali", "Fatima", "Yuki", "Ivan", "Olga", "Hans",
    "Grace", "Omar", "Mina", "Kofi", "Priya", "Chen",
];

/// A first name, invented or common.
pub fn first_name(rng: &mut impl Rng) -> String {
    if rng.random_bool(0.35) {
        COMMON_NAMES
            .choose(rng)
            .copied()
            .unwrap_or("Anna")
            .to_owned()
    } else {
        names::capitalised(&names::word(rng, 1, 2))
    }
}

/// Frequent values of a plain-text attribute.
fn usual(kind: &str, attribute: &str) -> &'static [&'static str] {
    match (kind, attribute) {
        ("planet", "kind") => &[
            "planet",
            "planet",
            "dwarf planet",
            "gas planet",
            "small planet",
        ],
        ("author", "profession") => &[
            "writer",
            "poet",
            "novelist",
            "playwright",
            "philosopher",
            "historian",
            "essayist",
        ],
        ("artist", "profession") => &["painter", "sculptor", "painter", "engraver", "architect"],
        ("book", "genre") => &["novel", "poem", "play", "story", "treatise", "fairy tale"],
        ("scientist", "field") => &[
            "physics",
            "chemistry",
            "mathematics",
            "astronomy",
            "biology",
            "medicine",
            "geology",
        ],
        ("element", "group") => &["metal", "noble gas", "halogen", "alkali metal", "nonmetal"],
        _ => &[],
    }
}

/// The shorter name of a thing, if it has one.
pub fn short(kind: &Kind, name: &str) -> Option<String> {
    let short = match kind.name {
        "mountain" => name.strip_prefix("Mount ")?,
        "river" => name.strip_suffix(" River")?,
        "city" => name.strip_suffix(" City")?,
        _ => match kind.naming {
            Naming::Person => name.rsplit_once(' ')?.1,
            Naming::Title if kind.name != "company" => name.strip_prefix("The ")?,
            _ => return None,
        },
    };
    (short.chars().count() > 2).then(|| short.to_owned())
}
