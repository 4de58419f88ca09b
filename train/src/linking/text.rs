//! Texts with mentions: a few sentences about a few things, and the places of their names.

use std::ops::Range;

use rand::Rng;
use rand::seq::IndexedRandom;

use super::lesson_entities::{COMMON_NAMES, LessonEntities, first_name};
use super::{frames, kinds, scramble};
use crate::phrases::Wording;
use crate::world::kinds::Naming;
use crate::world::names;

/// A name in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    /// Its bytes
    pub span: Range<usize>,
    /// The thing that it names, by its place in the lesson
    pub thing: usize,
}

/// A text and its mentions, in order, none within another.
#[derive(Clone, Debug, Default)]
pub struct Text {
    /// The text
    pub text: String,
    /// Its mentions
    pub mentions: Vec<Mention>,
}

const DAYS: &[&str] = &[
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];
const MONTHS: &[&str] = &[
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const HOLIDAYS: &[&str] = &["Christmas", "Easter", "New Year", "Ramadan", "Whitsun"];

/// Draws a text of one to twelve sentences, mostly one or two, which may be `scrambled`.
pub fn draw<R: Rng>(
    things: &mut LessonEntities<'_, '_, R>,
    wording: Wording,
    scrambled: bool,
) -> Text {
    let sentences = match things.world.rng.random_range(0..100) {
        0..46 => 1,
        46..75 => 2,
        75..90 => 3,
        90..98 => things.world.rng.random_range(4..=6),
        _ => things.world.rng.random_range(7..=12),
    };
    let mut text = Text::default();
    let mut focus = None;
    for _ in 0..sentences {
        let sentence = sentence(things, &mut focus, wording, scrambled);
        let statement = sentence.text.ends_with('.');
        let rng = &mut *things.world.rng;
        if !text.text.is_empty() {
            if statement && text.text.ends_with('.') && rng.random_bool(0.2) {
                text.text.pop();
                text.text.push_str(&pick(rng, frames::joints(wording)));
                text.append(sentence.inside());
                continue;
            }
            text.text.push(' ');
        }
        if statement && rng.random_bool(0.1) {
            let opener = pick(rng, frames::openers(wording));
            text.append(render(things, None, &opener));
            text.append(sentence.inside());
        } else {
            text.append(sentence);
        }
    }
    // Some texts are in lower case, as people type. Texts with titles are not, because titles
    // without capitals cannot be distinguished from other words.
    let works = |mention: &Mention| things.all[mention.thing].kind.naming == Naming::Title;
    if !text.mentions.iter().any(works) && things.world.rng.random_bool(0.05) {
        let lower = text.text.to_lowercase();
        if lower.len() == text.text.len() {
            text.text = lower;
        }
    }
    text
}

/// A sentence about the thing of the last sentence, about another thing that was mentioned, about a
/// new thing, or about nothing.
fn sentence<R: Rng>(
    things: &mut LessonEntities<'_, '_, R>,
    focus: &mut Option<usize>,
    wording: Wording,
    scrambled: bool,
) -> Text {
    if things.world.rng.random_bool(0.14) {
        let mut frame = pick(things.world.rng, frames::about_nothing(wording));
        if scrambled {
            frame = scramble::words_changed(things.world.rng, &frame);
        }
        return render(things, None, &frame);
    }
    let mentioned: Vec<usize> = (0..things.all.len())
        .filter(|at| things.all[*at].mentioned)
        .collect();
    let about = match (*focus, things.world.rng.random_range(0..100)) {
        (Some(focus), 0..35) => focus,
        (Some(_), 35..60) => mentioned
            .choose(things.world.rng)
            .copied()
            .unwrap_or_default(),
        _ => {
            let kind = kinds::all()
                .choose(things.world.rng)
                .copied()
                .unwrap_or(kinds::all()[0]);
            things.add_or_name_again(kind)
        }
    };
    *focus = Some(about);
    let kind = things.all[about].kind;
    let own: Vec<&str> = frames::about(kind.name, wording).collect();
    let rng = &mut *things.world.rng;
    let attribute = kind.attributes.choose(rng);
    let frame = match (attribute, wording, rng.random_range(0..100)) {
        (_, _, 0..2) => "{n}".to_owned(),
        // Sentences from descriptions, and questions.
        (Some(attribute), Wording::Known, 2..15) => attribute
            .statements
            .choose(rng)
            .map(|frame| frame.replace("{v}", &format!("{{{}}}", attribute.key)))
            .filter(|frame| frame.contains("{n}") || things.all[about].mentioned)
            .unwrap_or_default(),
        (Some(attribute), Wording::Known, 15..23) => pick(rng, attribute.questions),
        (Some(attribute), Wording::Unknown, 15..23) => pick(rng, attribute.held_out),
        _ => pick(rng, &own),
    };
    let frame = if frame.is_empty() {
        pick(things.world.rng, &own)
    } else {
        frame
    };
    // A currency in lower case can be recognised only by its sentence.
    if scrambled && kind.naming != Naming::Word {
        let frame = scramble::scramble(things.world.rng, &frame);
        return render(things, Some(about), &frame);
    }
    render(things, Some(about), &frame)
}

/// Whether a frame contains the word outside of its slots.
fn tells(frame: &str, word: &str) -> bool {
    let texts = frame
        .split('{')
        .map(|part| part.rsplit_once('}').map_or(part, |(_, text)| text));
    texts.into_iter().any(|text| text.contains(word))
}

fn pick(rng: &mut impl Rng, from: &[&str]) -> String {
    from.choose(rng).copied().unwrap_or_default().to_owned()
}

/// Fills a frame.
fn render<R: Rng>(
    things: &mut LessonEntities<'_, '_, R>,
    about: Option<usize>,
    frame: &str,
) -> Text {
    let mut out = Text::default();
    let mut rest = frame;
    while let Some((before, (slot, after))) = rest
        .split_once('{')
        .and_then(|(before, slot)| Some((before, slot.split_once('}')?)))
    {
        out.text.push_str(before);
        rest = after;
        if let Some(filler) = slot.strip_prefix('=') {
            let filler = fill(things.world.rng, filler);
            out.text.push_str(&filler);
        } else if let Some(kind) = slot.strip_prefix('@').and_then(kinds::kind) {
            let thing = things.another(kind, about);
            out.mention(things, thing, frame);
        } else if let Some(about) = about {
            out.slot(things, about, slot, frame);
        }
    }
    out.text.push_str(rest);
    out.capitalise();
    out
}

/// Words that are not a mention.
fn fill<R: Rng>(rng: &mut R, filler: &str) -> String {
    match filler {
        "first" => first_name(rng),
        "known" => pick(rng, COMMON_NAMES),
        "day" => pick(rng, DAYS),
        "month" => pick(rng, MONTHS),
        "holiday" => pick(rng, HOLIDAYS),
        "year" => rng.random_range(1000..2030).to_string(),
        "count" => rng.random_range(2..400).to_string(),
        "adjective" => pick(rng, names::ADJECTIVES),
        "noun" if rng.random_bool(0.15) => names::word(rng, 1, 2),
        "noun" => pick(rng, names::NOUNS),
        "thing" => pick(rng, names::THINGS),
        "people" => names::language(rng),
        _ => names::word(rng, 1, 2),
    }
}

impl Text {
    /// The text with `[[` and `]]` around its mentions.
    pub fn marked(&self) -> String {
        let mut marked = String::new();
        let mut done = 0;
        for Mention { span, .. } in &self.mentions {
            marked.push_str(&self.text[done..span.start]);
            marked.push_str(&format!("[[{}]]", &self.text[span.clone()]));
            done = span.end;
        }
        marked + &self.text[done..]
    }

    /// The sentence as a part of another one: its first word is in lower case if it is a plain
    /// word.
    fn inside(mut self) -> Self {
        const PLAIN: &[&str] = &[
            "The ",
            "In ",
            "A ",
            "There ",
            "From ",
            "It ",
            "Its ",
            "On ",
            "They ",
            "We ",
            "My ",
            "Our ",
            "Her ",
            "He ",
            "At ",
            "An ",
            "Both ",
            "Many ",
            "People ",
            "Yesterday ",
            "Tickets ",
            "Miners ",
            "Boats ",
            "Banks ",
            "Atoms ",
            "Plants ",
            "Shares ",
            "Storms ",
            "Clouds ",
            "Copies ",
            "Farmers ",
            "Trade ",
            "Voters ",
            "Water ",
            "Much ",
            "Birds ",
            "Through ",
            "Tourists ",
            "One ",
            "No ",
            "Last ",
            "Visitors ",
            "Students ",
            "Prices ",
            "Schools ",
        ];
        let named = self
            .mentions
            .first()
            .is_some_and(|first| first.span.start == 0);
        if !named && PLAIN.iter().any(|word| self.text.starts_with(word)) {
            let lower = self.text[..1].to_lowercase();
            self.text.replace_range(..1, &lower);
        }
        self
    }

    fn append(&mut self, other: Self) {
        let shift = self.text.len();
        self.text.push_str(&other.text);
        self.mentions
            .extend(other.mentions.into_iter().map(|mention| Mention {
                span: mention.span.start + shift..mention.span.end + shift,
                ..mention
            }));
    }

    /// The name of what the sentence is about, or an attribute of it.
    fn slot<R: Rng>(
        &mut self,
        things: &mut LessonEntities<'_, '_, R>,
        about: usize,
        slot: &str,
        frame: &str,
    ) {
        if slot == "n" {
            self.mention(things, about, frame);
            return;
        }
        let kind = things.all[about].kind;
        let Some(attribute) = kind.attributes.iter().position(|a| a.key == slot) else {
            return;
        };
        let named = things.named_by(about, attribute);
        if named.is_empty() {
            let this = &mut things.all[about];
            self.text.push_str(&this.facts[attribute].join(", "));
            this.told.push(attribute);
        }
        for (at, thing) in named.iter().enumerate() {
            if at > 0 {
                self.text
                    .push_str(if at + 1 == named.len() { " and " } else { ", " });
            }
            self.mention(things, *thing, frame);
        }
    }

    /// Writes a name of `thing`.
    fn mention<R: Rng>(
        &mut self,
        things: &mut LessonEntities<'_, '_, R>,
        thing: usize,
        frame: &str,
    ) {
        let (world, this) = (&mut *things.world, &mut things.all[thing]);
        let begins = self.text.is_empty();
        let mut name = this.name.clone();
        let title = this.kind.naming == Naming::Title;
        let person = this.kind.naming == Naming::Person;
        if let Some(short) = &this.short {
            let often = match (person, this.mentioned) {
                (true, true) => 0.75,
                (true, false) => 0.12,
                _ => 0.4,
            };
            // "The Silent River" begins a sentence with its own article.
            if !(title && begins) && world.rng.random_bool(often) {
                if title {
                    self.text.push_str("the ");
                }
                name = short.clone();
            }
        }
        const WITH_ARTICLE: &[&str] = &["Islands", "Republic", "Emirates", "Kingdom"];
        let article = this.kind.naming == Naming::Place
            && !self.text.ends_with("he ")
            && (name.starts_with("United ") || WITH_ARTICLE.iter().any(|end| name.ends_with(end)));
        if article && world.rng.random_bool(0.7) {
            self.text.push_str("the ");
        }
        this.mentioned = true;
        this.kind_told |= tells(frame, this.kind.noun);
        let start = self.text.len();
        self.text.push_str(&name);
        self.mentions.push(Mention {
            span: start..self.text.len(),
            thing,
        });
    }

    /// Writes the first letter in upper case, if this does not change the number of bytes.
    fn capitalise(&mut self) {
        let capitalised = names::capitalised(&self.text);
        if capitalised.len() == self.text.len() {
            self.text = capitalised;
        }
    }
}
