//! Invented names: places, people, words, titles and numbers without end.
//!
//! Every name is drawn from syllables of one of several "languages" that is itself drawn anew, so a
//! model can learn to copy and to find names, but never which names exist.

use rand::Rng;
use rand::seq::IndexedRandom;

const SIMPLE_ONSETS: &[&str] = &[
    "b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "l",
    "m", "n", "r", "s", "t",
];
const ONSETS: &[&str] = &[
    "", "bl", "br", "ch", "cl", "cr", "dr", "fl", "fr", "gl", "gr", "kh", "kl", "kr", "ph", "pl",
    "pr", "qu", "sc", "sh", "sk", "sl", "sm", "sn", "sp", "st", "str", "th", "tr", "ts", "tw",
    "wh", "wr", "x", "y", "zh", "ng", "ll", "rr", "nd", "mb", "tt", "ss", "nn", "gh", "gn", "rb",
    "rl", "nt", "nk", "nz", "rm", "ld", "lm", "sw", "q", "dh", "bh",
];
const NUCLEI: &[&str] = &[
    "a", "a", "a", "a", "a", "a", "a", "a", "e", "e", "e", "e", "e", "e", "e", "i", "i", "i", "i",
    "i", "i", "i", "o", "o", "o", "o", "o", "o", "o", "u", "u", "u", "u", "u", "y", "y", "ai",
    "au", "ea", "ee", "ei", "ia", "ie", "io", "oa", "oo", "ou", "ua", "ue", "ui", "aa", "eo", "ae",
    "iu", "ay", "ey", "oe", "uo",
];
const CODAS: &[&str] = &[
    "b", "c", "ck", "d", "f", "g", "k", "l", "l", "ll", "lt", "m", "m", "n", "n", "n", "nd", "ng",
    "nk", "nt", "p", "r", "r", "r", "rd", "rg", "rk", "rm", "rn", "rt", "s", "s", "s", "sh", "ss",
    "st", "t", "t", "tch", "th", "x", "z", "w", "y", "h", "v", "q", "ff", "lm", "ns", "ght", "sk",
    "ct", "pt",
];
const PLACE_ENDINGS: &[&str] = &[
    "land", "land", "ia", "ia", "ia", "stan", "ania", "burg", "ville", "ton", "grad", "polis",
    "field", "ford", "mouth", "bury", "dam", "berg", "stad", "ar", "a", "os", "ica", "istan",
    "ovo", "aria", "ese", "wick", "port", "minster", "abad", "pur",
];
const BEFORE_PLACE: &[&str] = &[
    "New", "North", "South", "East", "West", "Saint", "San", "Santa", "Port", "Fort", "El", "La",
    "Los", "Great", "Upper", "Lower", "United", "Central", "Old", "Las", "Le", "Al", "Abu", "Nova",
    "Big", "Little", "Grand", "Cape",
];
const AFTER_PLACE: &[&str] = &[
    "Islands", "City", "Republic", "Coast", "Springs", "Hills", "Valley", "Bay", "Emirates",
    "Rock", "Kingdom", "Rapids", "Lake", "Falls", "Beach", "Sea", "Ocean", "Gulf", "Delta",
];
/// Plain words.
pub const ADJECTIVES: &[&str] = &[
    "silent",
    "red",
    "white",
    "black",
    "green",
    "golden",
    "silver",
    "last",
    "first",
    "lost",
    "hidden",
    "broken",
    "long",
    "old",
    "young",
    "wild",
    "bright",
    "dark",
    "cold",
    "warm",
    "deep",
    "empty",
    "gentle",
    "great",
    "small",
    "hollow",
    "quiet",
    "sleeping",
    "wandering",
    "distant",
    "blue",
    "bitter",
    "sweet",
    "secret",
    "burning",
    "frozen",
    "iron",
    "little",
    "blind",
    "crooked",
    "noble",
    "pale",
    "proud",
    "restless",
    "sacred",
    "sharp",
    "strange",
    "tall",
    "yellow",
];
/// Plain words.
pub const NOUNS: &[&str] = &[
    "river", "night", "house", "garden", "sea", "mountain", "letter", "king", "queen", "winter",
    "summer", "road", "wolf", "bird", "stone", "tower", "mirror", "shadow", "light", "dream",
    "clock", "ship", "island", "forest", "bridge", "song", "city", "glass", "rose", "storm",
    "child", "man", "woman", "dog", "horse", "door", "window", "star", "moon", "sun", "war",
    "peace", "time", "years", "world", "heart", "hand", "daughter", "son", "brother", "sister",
    "soldier", "hunter", "painter", "stranger", "field", "bread", "salt", "wine", "snow", "rain",
    "wind", "fire", "ash", "dust", "gold", "silver", "crown", "sword", "book", "road", "valley",
    "desert", "harbour", "lamp", "key", "ring", "bell", "feather", "thorn", "leaf", "root", "seed",
    "apple", "orange", "fish", "lion", "bear", "fox", "owl", "whale",
];
/// Plain words.
pub const THINGS: &[&str] = &[
    "grass",
    "leaves",
    "fruit",
    "seeds",
    "insects",
    "small fish",
    "roots",
    "shellfish",
    "plankton",
    "worms",
    "nuts",
    "berries",
    "bark",
    "moss",
    "eggs",
    "forests",
    "rivers",
    "deserts",
    "caves",
    "swamps",
    "meadows",
    "coasts",
    "reefs",
    "boats",
    "clocks",
    "carpets",
    "lamps",
    "shoes",
    "paper",
    "engines",
    "bricks",
    "cheese",
    "tea",
    "coffee",
    "soap",
    "tiles",
    "ropes",
    "nets",
    "bells",
    "maps",
    "lenses",
    "motion",
    "heat",
    "sound",
    "waves",
    "cells",
    "blood",
    "numbers",
    "light",
    "dreams",
    "numbers",
    "metals",
    "gases",
    "glass",
    "herds",
    "mountains",
    "islands",
    "plains",
    "tundra",
];

/// The syllables of one invented language.
struct Language {
    onsets: Vec<&'static str>,
    nuclei: Vec<&'static str>,
    codas: Vec<&'static str>,
    /// How often a syllable ends in a consonant
    closed: f64,
}

impl Language {
    fn draw(rng: &mut impl Rng) -> Self {
        let some = |rng: &mut _, from: &[&'static str], n: usize| {
            from.choose_multiple(rng, n).copied().collect::<Vec<_>>()
        };
        let mut onsets = some(rng, SIMPLE_ONSETS, 12);
        onsets.extend(some(rng, ONSETS, 3));
        let nuclei = some(rng, NUCLEI, 6);
        let codas = some(rng, CODAS, 6);
        Self {
            onsets,
            nuclei,
            codas,
            closed: rng.random_range(0.1..0.8),
        }
    }

    fn word(&self, rng: &mut impl Rng, syllables: usize) -> String {
        let mut word = String::new();
        for syllable in 0..syllables {
            let open_start = syllable == 0 && rng.random_bool(0.15);
            if !open_start {
                word.push_str(self.onsets.choose(rng).copied().unwrap_or_default());
            }
            word.push_str(self.nuclei.choose(rng).copied().unwrap_or_default());
            if rng.random_bool(self.closed) {
                word.push_str(self.codas.choose(rng).copied().unwrap_or_default());
            }
        }
        word
    }
}

/// A lower-case invented word of `min..=max` syllables, 3 to 12 letters.
pub fn word(rng: &mut impl Rng, min: usize, max: usize) -> String {
    loop {
        let syllables = rng.random_range(min..=max);
        let word = Language::draw(rng).word(rng, syllables);
        if (3..=12).contains(&word.len()) {
            return if rng.random_bool(0.02) {
                accent(rng, &word)
            } else {
                word
            };
        }
    }
}

/// `word` with one of its vowels accented.
fn accent(rng: &mut impl Rng, word: &str) -> String {
    let (plain, accented) = *[
        ('a', 'ã'),
        ('a', 'á'),
        ('e', 'é'),
        ('i', 'í'),
        ('o', 'ó'),
        ('o', 'ô'),
        ('u', 'ü'),
    ]
    .choose(rng)
    .unwrap_or(&('e', 'é'));
    word.replacen(plain, &accented.to_string(), 1)
}

/// `word` with its first letter in upper case.
pub fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

fn place_word(rng: &mut impl Rng) -> String {
    let mut name = word(rng, 1, 4);
    if rng.random_bool(0.4) && name.len() < 9 {
        name.push_str(PLACE_ENDINGS.choose(rng).copied().unwrap_or_default());
    }
    capitalised(&name)
}

/// A town, country, river or region: "Drelland", "New Torva", "San Quell", "Orm and Vass", "Brask-Ul".
pub fn place(rng: &mut impl Rng) -> String {
    let name = place_word(rng);
    let pick = |rng: &mut _, from: &[&'static str]| from.choose(rng).copied().unwrap_or_default();
    match rng.random_range(0..100) {
        0..72 => name,
        72..82 => format!("{} {name}", pick(rng, BEFORE_PLACE)),
        82..87 => format!("{name} {}", pick(rng, AFTER_PLACE)),
        87..91 => format!("{name} and {}", place_word(rng)),
        91..95 => format!("{name} {}", place_word(rng)),
        95..97 => format!("{name}-{}", place_word(rng)),
        97..98 => format!("{}'{name}", pick(rng, &["N", "L", "D", "M", "O"])),
        _ => format!(
            "{name}-{}-{}",
            pick(rng, &["au", "de", "sur", "la", "en"]),
            place_word(rng)
        ),
    }
}

/// A person: "Ada Voss", "Jorm van Tell", "P. K. Stroud".
pub fn person(rng: &mut impl Rng) -> String {
    let mut name = |max| capitalised(&word(rng, 1, max));
    let (first, middle, last) = (name(2), name(2), name(3));
    match rng.random_range(0..100) {
        0..80 => format!("{first} {last}"),
        80..86 => format!(
            "{first} {} {last}",
            ["van", "de", "von", "da", "el"]
                .choose(rng)
                .unwrap_or(&"de")
        ),
        86..92 => format!("{first} {middle} {last}"),
        92..96 => format!(
            "{}. {}. {last}",
            &first.chars().next().unwrap_or('A'),
            middle.chars().next().unwrap_or('B')
        ),
        _ => last,
    }
}

/// The title of a work: "The Silent River", "Night and Stone", "A House of Drelland".
pub fn title(rng: &mut impl Rng) -> String {
    let adjective = capitalised(ADJECTIVES.choose(rng).unwrap_or(&"old"));
    // Half of the nouns are invented, so that a title is read and not recalled.
    let noun = |rng: &mut _| {
        let known = NOUNS.choose(rng).copied().unwrap_or("road").to_owned();
        capitalised(&if Rng::random_bool(rng, 0.5) {
            known
        } else {
            word(rng, 1, 2)
        })
    };
    let (one, two) = (noun(rng), noun(rng));
    match rng.random_range(0..100) {
        0..26 => format!("The {adjective} {one}"),
        26..36 => format!("{one} and {two}"),
        36..46 => format!("The {one} of {}", place(rng)),
        46..56 => format!("The {one} of the {two}"),
        56..64 => person(rng),
        64..72 => format!("{adjective} {one}"),
        72..80 => format!("The {one}"),
        80..86 => capitalised(&word(rng, 2, 3)),
        86..93 => format!("A {one} in {two}"),
        _ => format!("{adjective} {one} and the {two}"),
    }
}

/// A lower-case phrase of one or two words, half of them invented: "glass weaver", "torrow", "small fish".
pub fn phrase(rng: &mut impl Rng) -> String {
    let known = |rng: &mut _, from: &[&'static str]| from.choose(rng).copied().unwrap_or_default();
    match rng.random_range(0..100) {
        0..40 => word(rng, 1, 3),
        40..55 => format!("{} {}", word(rng, 1, 2), known(rng, NOUNS)),
        55..70 => format!("{} {}", known(rng, ADJECTIVES), word(rng, 1, 2)),
        70..80 => known(rng, THINGS).to_owned(),
        80..88 => format!("{} and {}", known(rng, THINGS), word(rng, 1, 2)),
        88..94 => format!("{} {}", known(rng, ADJECTIVES), known(rng, NOUNS)),
        _ => format!("the {} of {}", known(rng, NOUNS), known(rng, THINGS)),
    }
}

/// A language or people: "Drellish", "Torvan".
pub fn language(rng: &mut impl Rng) -> String {
    let ending = ["ish", "ese", "ian", "an", "i", "ic", "ch", "", "o"]
        .choose(rng)
        .copied()
        .unwrap_or_default();
    capitalised(&(word(rng, 1, 2) + ending))
}

/// The language of a place, called after it: "Drellish" of "Drelland", "Torvan" of "Torva".
pub fn language_of(rng: &mut impl Rng, place: &str) -> String {
    let ending = ["n", "ian", "ish", "ese", "an", "i"]
        .choose(rng)
        .copied()
        .unwrap_or_default();
    let word = place.split(' ').next_back().unwrap_or(place);
    let cut = rng
        .random_range(0..=2)
        .min(word.chars().count().saturating_sub(3));
    let stem: String = word.chars().take(word.chars().count() - cut).collect();
    stem + ending
}

/// One or two letters, as chemical symbols are: "Qa".
pub fn symbol(rng: &mut impl Rng) -> String {
    let letter = |rng: &mut _| Rng::random_range(rng, b'a'..=b'z') as char;
    let first = letter(rng).to_ascii_uppercase();
    if rng.random_bool(0.15) {
        first.to_string()
    } else {
        format!("{first}{}", letter(rng))
    }
}

/// A number of 1 to `digits` digits, without leading zero.
pub fn number(rng: &mut impl Rng, digits: u32) -> u64 {
    let below = 10u64.pow(rng.random_range(1..=digits));
    rng.random_range(1..below.max(2))
}

/// `number` with a comma at each thousand.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// "a, b and c".
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [init @ .., last] => format!("{} and {last}", init.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(
            [7, 1000, 1_234_567].map(grouped),
            ["7", "1,000", "1,234,567"]
        );
    }

    #[test]
    fn a_list_ends_with_and() {
        let items = ["Orm", "Vass", "Tell"].map(str::to_owned);
        assert_eq!(list(&items), "Orm, Vass and Tell");
        assert_eq!(list(&items[..1]), "Orm");
    }
}
