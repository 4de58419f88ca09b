//! Dialogues over an invented world, and how they become tokens.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::phrases::{self, Wording};
use crate::world::kinds::{self, Kind, Value};
use crate::world::{Entity, World};

/// What a turn exercises; the evaluation reports each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lesson {
    /// One question that names its entity
    Single,
    /// Several attributes of one entity
    Several,
    /// "Tell me about …"
    Describe,
    /// A follow-up about the same entity that names none
    FollowUp,
    /// A follow-up about the previous answer
    FollowAnswer,
    /// The last question again for another entity: "And Torva?"
    SameAgain,
    /// Two retrievals in one turn, the bridge stated between them
    TwoHop,
    /// No retrieval
    SmallTalk,
    /// The passage does not tell it
    Untold,
    /// The corpus does not know the entity
    Stranger,
}

/// One retrieval of a turn and the text written after it.
#[derive(Clone, Debug)]
pub struct Hop {
    /// The entity whose passage is in the context
    pub shown: usize,
    /// Whether that is the passage to be found
    pub gold: bool,
    /// The text after the passage
    pub then: String,
}

/// A user's message and the model's turn.
#[derive(Clone, Debug)]
pub struct Turn {
    /// What the turn exercises
    pub lesson: Lesson,
    /// The user's message
    pub user: String,
    /// The retrievals; none in small talk
    pub hops: Vec<Hop>,
    /// The reply if nothing is retrieved
    pub reply: String,
}

/// What the model says if the passage does not contain the answer.
pub const UNKNOWN: &str = "I could not find that.";

/// A dialogue.
pub type Dialogue = Vec<Turn>;

/// The topic of a dialogue at some point.
#[derive(Clone, Copy)]
struct Focus {
    entity: usize,
    attribute: usize,
    /// Whether only that attribute was asked for. After a question for several, "And Torva?" would
    /// be ambiguous
    alone: bool,
}

impl Focus {
    fn on(entity: usize, attribute: usize) -> Self {
        Self {
            entity,
            attribute,
            alone: true,
        }
    }
}

/// How often each lesson comes. The weights of the lessons that can follow are scaled to sum to
/// one.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Weights of the opening turn
    pub opening: &'static [(Lesson, u32)],
    /// Weights of each later turn
    pub later: &'static [(Lesson, u32)],
    /// The most turns of a dialogue
    pub turns: usize,
}

/// Mostly questions for several attributes of one passage, which train much reading in few tokens.
pub const READING: Mix = Mix {
    opening: &[
        (Lesson::Several, 70),
        (Lesson::Single, 25),
        (Lesson::SmallTalk, 5),
    ],
    later: &[
        (Lesson::Several, 50),
        (Lesson::Single, 25),
        (Lesson::FollowUp, 25),
    ],
    turns: 2,
};
/// The mix of dialogues that the model is meant for.
pub const TARGET: Mix = Mix {
    opening: &[
        (Lesson::Single, 46),
        (Lesson::Several, 12),
        (Lesson::TwoHop, 14),
        (Lesson::SmallTalk, 10),
        (Lesson::Describe, 5),
        (Lesson::Untold, 5),
        (Lesson::Stranger, 10),
    ],
    // A follow-up about the answer is possible only if the answer names an entity.
    later: &[
        (Lesson::FollowUp, 30),
        (Lesson::FollowAnswer, 60),
        (Lesson::SameAgain, 28),
        (Lesson::Single, 12),
        (Lesson::TwoHop, 6),
        (Lesson::SmallTalk, 8),
        (Lesson::Several, 4),
        (Lesson::Untold, 4),
        (Lesson::Describe, 3),
        (Lesson::Stranger, 6),
    ],
    turns: 4,
};

/// Draws a dialogue; the entities it needs are added to the world.
pub fn dialogue<R: Rng>(world: &mut World<'_, R>, mix: &Mix, wording: Wording) -> Dialogue {
    // A few dialogues are long, so that the model also learns positions far from the start.
    let most = if world.rng.random_bool(0.08) {
        2 * mix.turns
    } else {
        mix.turns
    };
    let turns = world.rng.random_range(1..=most);
    let mut dialogue = Vec::new();
    let mut focus = None;
    while dialogue.len() < turns {
        let lessons = if focus.is_some() {
            mix.later
        } else {
            mix.opening
        };
        let lesson = lessons
            .choose_weighted(world.rng, |(_, weight)| *weight)
            .map_or(Lesson::Single, |(lesson, _)| *lesson);
        if let Some((turn, next)) = turn(world, lesson, focus, wording) {
            focus = next.or(focus);
            dialogue.push(turn);
        }
    }
    dialogue
}

/// A turn, and the dialogue's topic after it.
type NextTurn = (Turn, Option<Focus>);

/// One turn of `lesson`; `None` if the lesson is not possible now.
fn turn<R: Rng>(
    world: &mut World<'_, R>,
    lesson: Lesson,
    focus: Option<Focus>,
    wording: Wording,
) -> Option<NextTurn> {
    match lesson {
        Lesson::SmallTalk => Some(small_talk(world, wording)),
        Lesson::Single => single(world, wording),
        Lesson::Several => Some(several(world)),
        Lesson::Describe => Some(describe(world, wording)),
        Lesson::FollowUp => follow_up(world, focus?.entity, wording),
        Lesson::FollowAnswer => follow_answer(world, focus?, wording),
        Lesson::SameAgain => same_again(world, focus?, wording),
        Lesson::TwoHop => two_hop(world, wording),
        Lesson::Untold => untold(world, wording),
        Lesson::Stranger => stranger(world, wording),
    }
}

fn small_talk<R: Rng>(world: &mut World<'_, R>, wording: Wording) -> NextTurn {
    let (said, reply) = phrases::small_talk(world.rng, wording);
    let user = phrases::as_typed(world.rng, &said);
    let turn = Turn {
        lesson: Lesson::SmallTalk,
        user,
        hops: vec![],
        reply: reply.to_owned(),
    };
    (turn, None)
}

fn single<R: Rng>(world: &mut World<'_, R>, wording: Wording) -> Option<NextTurn> {
    let kind = any_kind(world.rng);
    let entity = add(world, kind);
    let attribute = stated_fact(world, entity)?;
    let name = phrases::mention(world.rng, kind, &world.entities[entity].name);
    let question = phrases::question(world.rng, &kind.attributes[attribute], &name, wording);
    Some(ask(
        world,
        Lesson::Single,
        &question,
        Focus::on(entity, attribute),
    ))
}

fn several<R: Rng>(world: &mut World<'_, R>) -> NextTurn {
    let kind = any_kind(world.rng);
    let entity = add(world, kind);
    let mut attributes = stated_facts(&world.entities[entity]);
    attributes.shuffle(world.rng);
    attributes.truncate(world.rng.random_range(2..=4));
    let nouns: Vec<&str> = attributes
        .iter()
        .map(|at| kind.attributes[*at].nouns[0])
        .collect();
    let entities = &world.entities;
    let question = phrases::question_for_all(world.rng, &nouns, &entities[entity].name);
    let value = |at: &usize| entities[entity].values[*at].clone().unwrap_or_default();
    let answers = nouns
        .iter()
        .zip(&attributes)
        .map(|(noun, at)| format!("{noun}: {}", value(at)));
    let then = format!("{}.", answers.collect::<Vec<_>>().join("; "));
    let focus = attributes.last().map(|at| Focus {
        alone: false,
        ..Focus::on(entity, *at)
    });
    (
        found(
            world,
            Lesson::Several,
            &question,
            Hop {
                shown: entity,
                gold: true,
                then,
            },
        ),
        focus,
    )
}

fn describe<R: Rng>(world: &mut World<'_, R>, wording: Wording) -> NextTurn {
    let kind = any_kind(world.rng);
    let entity = add(world, kind);
    let question = phrases::describe(world.rng, &world.entities[entity].name, wording);
    let then = world.entities[entity].first_sentence().to_owned();
    let turn = found(
        world,
        Lesson::Describe,
        &question,
        Hop {
            shown: entity,
            gold: true,
            then,
        },
    );
    (
        turn,
        Some(Focus {
            alone: false,
            ..Focus::on(entity, 0)
        }),
    )
}

fn follow_up<R: Rng>(
    world: &mut World<'_, R>,
    entity: usize,
    wording: Wording,
) -> Option<NextTurn> {
    let attribute = stated_fact(world, entity)?;
    Some(ask_on(
        world,
        Lesson::FollowUp,
        Focus::on(entity, attribute),
        wording,
    ))
}

fn follow_answer<R: Rng>(
    world: &mut World<'_, R>,
    focus: Focus,
    wording: Wording,
) -> Option<NextTurn> {
    if !focus.alone {
        return None;
    }
    let entity = linked(world, focus)?;
    let attribute = stated_fact(world, entity)?;
    let key = world.entities[entity].kind.attributes[attribute].key;
    // If the last topic is a state with a capital, "And its capital?" asks for the state's, not its
    // country's.
    let asked = world.entities[focus.entity].kind;
    if asked
        .attributes
        .iter()
        .any(|attribute| attribute.key == key)
    {
        return None;
    }
    Some(ask_on(
        world,
        Lesson::FollowAnswer,
        Focus::on(entity, attribute),
        wording,
    ))
}

fn same_again<R: Rng>(
    world: &mut World<'_, R>,
    focus: Focus,
    wording: Wording,
) -> Option<NextTurn> {
    if !focus.alone {
        return None;
    }
    let kind = world.entities[focus.entity].kind;
    let entity = add(world, kind);
    world.entities[entity].values[focus.attribute].as_ref()?;
    let question = phrases::same_again(world.rng, &world.entities[entity].name, wording);
    Some(ask(
        world,
        Lesson::SameAgain,
        &question,
        Focus { entity, ..focus },
    ))
}

fn two_hop<R: Rng>(world: &mut World<'_, R>, wording: Wording) -> Option<NextTurn> {
    let (kind, link, to) = *links().choose(world.rng)?;
    let first = add(world, kind);
    let second = linked(world, Focus::on(first, link))?;
    let attribute = stated_fact(world, second)?;
    let noun = kind.attributes[link].nouns.choose(world.rng).copied()?;
    let name = format!("the {noun} of {}", world.entities[first].name);
    let question = phrases::question(world.rng, &to.attributes[attribute], &name, wording);
    let (mut turn, focus) = ask(
        world,
        Lesson::TwoHop,
        &question,
        Focus::on(second, attribute),
    );
    let then = format!("{}.", world.entities[second].name);
    turn.hops.insert(
        0,
        Hop {
            shown: first,
            gold: true,
            then,
        },
    );
    Some((turn, focus))
}

fn untold<R: Rng>(world: &mut World<'_, R>, wording: Wording) -> Option<NextTurn> {
    let kind = any_kind(world.rng);
    let entity = add(world, kind);
    let attribute = world.entities[entity]
        .values
        .iter()
        .position(Option::is_none)?;
    let name = world.entities[entity].name.clone();
    let question = phrases::question(world.rng, &kind.attributes[attribute], &name, wording);
    Some(ask(
        world,
        Lesson::Untold,
        &question,
        Focus::on(entity, attribute),
    ))
}

fn stranger<R: Rng>(world: &mut World<'_, R>, wording: Wording) -> Option<NextTurn> {
    let kind = any_kind(world.rng);
    let asked = world.add(kind);
    // The shown entity does not have a similar name. When it had, the model learnt to answer from
    // every passage that it was given.
    let shown = add(world, kind);
    let attribute = stated_fact(world, asked)?;
    let name = world.entities[asked].name.clone();
    let question = phrases::question(world.rng, &kind.attributes[attribute], &name, wording);
    let hop = Hop {
        shown,
        gold: false,
        then: UNKNOWN.to_owned(),
    };
    let turn = found(world, Lesson::Stranger, &question, hop);
    // The entity has no passage, so that other questions cannot find it.
    world.entities[asked].text.clear();
    Some((turn, None))
}

/// A turn in which `question`, varied as people type, is answered after one retrieval.
fn found<R: Rng>(world: &mut World<'_, R>, lesson: Lesson, question: &str, hop: Hop) -> Turn {
    let user = phrases::as_typed(world.rng, question);
    Turn {
        lesson,
        user,
        hops: vec![hop],
        reply: String::new(),
    }
}

/// A turn that asks `question` about the focus. The focus's passage may or may not contain the
/// answer.
fn ask<R: Rng>(world: &mut World<'_, R>, lesson: Lesson, question: &str, focus: Focus) -> NextTurn {
    let value = world.entities[focus.entity].values[focus.attribute].as_ref();
    let then = value.map_or(UNKNOWN.to_owned(), |value| format!("{value}."));
    let turn = found(
        world,
        lesson,
        question,
        Hop {
            shown: focus.entity,
            gold: true,
            then,
        },
    );
    (turn, Some(focus))
}

/// A turn that asks about the focus without naming it.
fn ask_on<R: Rng>(
    world: &mut World<'_, R>,
    lesson: Lesson,
    focus: Focus,
    wording: Wording,
) -> NextTurn {
    let kind = world.entities[focus.entity].kind;
    let attribute = &kind.attributes[focus.attribute];
    let question = phrases::follow_up(world.rng, kind, attribute, wording);
    ask(world, lesson, &question, focus)
}

/// Adds an entity, and often another one with a similar name.
fn add<R: Rng>(world: &mut World<'_, R>, kind: &'static Kind) -> usize {
    let entity = world.add(kind);
    if world.rng.random_bool(0.4) {
        world.add_confusable(entity);
    }
    entity
}

/// The entity that the focus's answer names. It is added to the world if it was only a name so far.
fn linked<R: Rng>(world: &mut World<'_, R>, focus: Focus) -> Option<usize> {
    let kind = world.entities[focus.entity].kind;
    let Value::Entity(to) = kind.attributes[focus.attribute].value else {
        return None;
    };
    let name = world.entities[focus.entity].values[focus.attribute].clone()?;
    world.find_or_add(kinds::kind(to)?, &name)
}

/// An attribute that the entity's passage states.
fn stated_fact<R: Rng>(world: &mut World<'_, R>, entity: usize) -> Option<usize> {
    let stated = stated_facts(&world.entities[entity]);
    // Attributes that name an entity are asked more often, because follow-ups need them.
    let kind = world.entities[entity].kind;
    stated
        .choose_weighted(world.rng, |at| {
            if matches!(kind.attributes[*at].value, Value::Entity(_)) {
                3
            } else {
                1
            }
        })
        .ok()
        .copied()
}

/// Every attribute that the entity's passage states.
fn stated_facts(entity: &Entity) -> Vec<usize> {
    (0..entity.values.len())
        .filter(|at| entity.values[*at].is_some())
        .collect()
}

fn any_kind(rng: &mut impl Rng) -> &'static Kind {
    kinds::KINDS.choose(rng).unwrap_or(&kinds::KINDS[0])
}

/// Every attribute that leads from one kind to another.
fn links() -> &'static [(&'static Kind, usize, &'static Kind)] {
    static LINKS: std::sync::LazyLock<Vec<(&'static Kind, usize, &'static Kind)>> =
        std::sync::LazyLock::new(|| {
            let from = |kind: &'static Kind| {
                kind.attributes
                    .iter()
                    .enumerate()
                    .map(move |(at, attribute)| (kind, at, attribute.value))
            };
            kinds::KINDS
                .iter()
                .flat_map(from)
                .filter_map(|(kind, at, value)| match value {
                    Value::Entity(to) => Some((kind, at, kinds::kind(to)?)),
                    _ => None,
                })
                .collect()
        });
    &LINKS
}
