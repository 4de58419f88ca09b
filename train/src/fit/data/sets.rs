//! Draws dialogues from questions and their passages, and from conversations without a search.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use onegen_engine::Tokens;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde::Deserialize;

use super::config::{CourseConfig, Standalone};
use super::dialogue::{Dialogue, Layout, Reading, Text, Turn};
use super::records::{Group, QuestionRecord, read_lines};
use super::unanswerable::{changed, is_name};
use crate::fit::pack::Pack;

/// Lines that are mixed into dialogues.
#[derive(Clone, Debug)]
pub(super) struct Extras(Arc<Lines>);

#[derive(Debug)]
struct Lines {
    abstain: Vec<String>,
    system: Vec<String>,
    after_answer: Vec<AfterAnswer>,
    with_system: f64,
}

/// A turn that may follow any answer; `{answer}` and `{ANSWER}` stand for that answer.
#[derive(Clone, Debug, Deserialize)]
struct AfterAnswer {
    user: String,
    assistant: String,
}

impl Extras {
    pub(super) fn load(config: &CourseConfig) -> Result<Self> {
        let lines = |path: &Option<PathBuf>| -> Result<Vec<String>> {
            let Some(path) = path else { return Ok(vec![]) };
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            Ok(lines.map(str::to_owned).collect())
        };
        let mut abstain = lines(&config.abstain)?;
        if abstain.is_empty() {
            abstain.push("I could not find that.".to_owned());
        }
        Ok(Self(Arc::new(Lines {
            abstain,
            system: lines(&config.system)?,
            after_answer: match &config.after_answer {
                Some(path) => read_lines(path)?,
                None => vec![],
            },
            with_system: config.with_system,
        })))
    }

    fn system(&self, rng: &mut StdRng) -> Option<String> {
        let chosen = happens(rng, self.0.with_system);
        self.0.system.choose(rng).filter(|_| chosen).cloned()
    }

    fn abstain(&self, rng: &mut StdRng) -> String {
        let usual = happens(rng, 0.7);
        let line = if usual {
            self.0.abstain.first()
        } else {
            self.0.abstain.choose(rng)
        };
        line.cloned().unwrap_or_default()
    }

    fn after_answer(&self, answer: &str, rng: &mut StdRng) -> Option<Turn> {
        let AfterAnswer { user, assistant } = self.0.after_answer.choose(rng)?;
        let fill = |text: &str| {
            text.replace("{answer}", answer)
                .replace("{ANSWER}", &answer.to_uppercase())
        };
        Some(Turn {
            user: fill(user),
            answer: fill(assistant),
            learnt: true,
            reading: None,
        })
    }
}

/// Questions with passages.
pub(super) struct QaSet {
    /// The key of its first passage
    pub(super) first_key: u32,
    pub(super) groups: Vec<Group>,
    /// For each group its neighbours; empty if none were searched for
    pub(super) near: Vec<Vec<usize>>,
    pub(super) repeat: usize,
    pub(super) standalone: Standalone,
    pub(super) config: CourseConfig,
    pub(super) extras: Extras,
}

impl QaSet {
    /// Runs of neighbouring passages, or of passages with the same title if no neighbours are known. The order
    /// is new each time.
    pub(super) fn runs(&self, rng: &mut StdRng) -> Vec<Vec<usize>> {
        let runs = (0..self.repeat).flat_map(|_| {
            if self.near.is_empty() {
                self.runs_of_titles(rng)
            } else {
                self.runs_of_neighbours(rng)
            }
        });
        runs.collect()
    }

    /// Each passage together with its nearest neighbours that are in no run yet.
    fn runs_of_neighbours(&self, rng: &mut StdRng) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.groups.len()).collect();
        order.shuffle(rng);
        let mut taken = vec![false; order.len()];
        let mut runs = Vec::new();
        for first in order {
            if taken[first] {
                continue;
            }
            let mut run = vec![first];
            taken[first] = true;
            for near in &self.near[first] {
                if run.len() < self.config.run && !taken[*near] {
                    taken[*near] = true;
                    run.push(*near);
                }
            }
            runs.push(run);
        }
        runs
    }

    fn runs_of_titles(&self, rng: &mut StdRng) -> Vec<Vec<usize>> {
        let mut titles: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut order = Vec::new();
        for (at, group) in self.groups.iter().enumerate() {
            let title = group.passage.title.as_str();
            // Passages without a title do not belong together.
            let title = if title.is_empty() {
                group.passage.id.as_str()
            } else {
                title
            };
            let members = titles.entry(title).or_default();
            if members.is_empty() {
                order.push(title);
            }
            members.push(at);
        }
        let mut runs = Vec::new();
        for title in &order {
            let mut members = titles[title].clone();
            members.shuffle(rng);
            let parts = members.chunks(self.config.run.max(1));
            runs.extend(parts.map(<[usize]>::to_vec));
        }
        runs
    }

    /// The pack of a run; `None` if no passage fits or no question is left.
    pub(super) fn pack(
        &self,
        members: &[usize],
        tokens: &Tokens,
        rng: &mut StdRng,
    ) -> Result<Option<Pack>> {
        let fits = |at: &&usize| {
            let passage = &self.groups[**at].passage;
            tokens.count(&passage.text) <= self.config.passage_tokens
        };
        let members: Vec<usize> = members.iter().filter(fits).copied().collect();
        let texts: Vec<Text<'_>> = (members.iter())
            .map(|at| {
                let passage = &self.groups[*at].passage;
                Text {
                    key: self.key(*at),
                    title: &passage.title,
                    text: &passage.text,
                }
            })
            .collect();
        let mut dialogues = Vec::new();
        for shown in 0..members.len() {
            self.dialogues(&members, shown, tokens, rng, &mut dialogues);
        }
        if dialogues.is_empty() {
            return Ok(None);
        }
        let mut layout = Layout::new(tokens, &texts)?.in_passes(self.config.passes);
        for dialogue in &dialogues {
            layout.dialogue(dialogue)?;
        }
        Ok(Some(layout.finish()))
    }

    fn key(&self, at: usize) -> u32 {
        self.first_key + at as u32
    }

    /// Dialogues about one passage of a run.
    fn dialogues(
        &self,
        members: &[usize],
        shown: usize,
        tokens: &Tokens,
        rng: &mut StdRng,
        dialogues: &mut Vec<Dialogue>,
    ) {
        let group = &self.groups[members[shown]];
        let short = |question: &&QuestionRecord| {
            let answer = question.answers.first();
            question.answer_known
                && answer.is_some_and(|answer| {
                    !answer.trim().is_empty() && tokens.count(answer) <= self.config.answer_tokens
                })
        };
        let unanswered = |question: &&QuestionRecord| !question.answerable;
        let mut questions: Vec<&QuestionRecord> = (group.questions.iter())
            .filter(|question| unanswered(question) || short(question))
            .collect();
        questions.shuffle(rng);
        questions.truncate(self.config.questions);
        let mut previous: Option<&QuestionRecord> = None;
        for question in questions {
            let elsewhere = self.elsewhere(members, shown, rng);
            let mut turns = if question.history.is_empty() {
                let first = previous.filter(|_| happens(rng, self.config.follow_up));
                match first {
                    Some(first) => vec![
                        self.turn(first, members, shown, false, rng),
                        self.follow_up(question, members, shown, rng),
                    ],
                    None => vec![self.turn(question, members, shown, false, rng)],
                }
            } else {
                self.with_history(question, members, shown, rng)
            };
            previous = Some(question).filter(|question| question.history.is_empty());
            if happens(rng, self.config.with_after_answer)
                && let Some(last) = turns.last()
                && let Some(turn) = self.extras.after_answer(&last.answer, rng)
            {
                turns.push(turn);
            }
            dialogues.push(Dialogue {
                system: self.extras.system(rng),
                turns,
            });
            if happens(rng, self.config.unanswerable)
                && let Some(turn) = self.unanswerable(question, members, shown, elsewhere, rng)
            {
                dialogues.push(Dialogue {
                    system: self.extras.system(rng),
                    turns: vec![turn],
                });
            }
        }
    }

    /// A text about something else: another passage of the run, or any passage.
    fn elsewhere(&self, members: &[usize], shown: usize, rng: &mut StdRng) -> &str {
        let near = members.iter().enumerate().filter(|(at, _)| *at != shown);
        let near: Vec<usize> = near.map(|(_, group)| *group).collect();
        let at = match near.choose(rng) {
            Some(at) => *at,
            None => rng.random_range(0..self.groups.len()),
        };
        &self.groups[at].passage.text
    }

    /// A question as a turn that trains searching and answering.
    fn turn(
        &self,
        question: &QuestionRecord,
        members: &[usize],
        shown: usize,
        in_context: bool,
        rng: &mut StdRng,
    ) -> Turn {
        let at = members[shown];
        let searched = in_context || self.is_standalone(question, &self.groups[at].passage.title);
        let mut positives = vec![self.key(at)];
        let others = question.passage_ids.iter().filter_map(|id| {
            let at = self.groups.iter().position(|group| group.passage.id == *id);
            at.map(|at| self.key(at))
        });
        if question.passage_ids.len() > 1 {
            positives.extend(others);
        }
        let negatives = members.iter().map(|member| self.key(*member));
        Turn {
            user: question.question.trim().to_owned(),
            reading: Some(Reading {
                shown,
                negatives: negatives.filter(|key| !positives.contains(key)).collect(),
                positives: if searched { positives } else { vec![] },
            }),
            answer: if question.answerable {
                question.answers.first().map_or("", |a| a.trim()).to_owned()
            } else {
                self.extras.abstain(rng)
            },
            learnt: true,
        }
    }

    /// A question as a follow-up about the same passage, with a pronoun in place of the title.
    fn follow_up(
        &self,
        question: &QuestionRecord,
        members: &[usize],
        shown: usize,
        rng: &mut StdRng,
    ) -> Turn {
        let passage = &self.groups[members[shown]].passage;
        let mut turn = self.turn(question, members, shown, true, rng);
        if let Some(user) = with_pronoun(&turn.user, &passage.title, &passage.text)
            && happens(rng, 0.7)
        {
            turn.user = user;
        }
        turn
    }

    /// A question after its history, whose passages may be gone.
    fn with_history(
        &self,
        question: &QuestionRecord,
        members: &[usize],
        shown: usize,
        rng: &mut StdRng,
    ) -> Vec<Turn> {
        let past = question.history.len();
        let kept = past.min(self.config.turns.saturating_sub(1));
        let bare = happens(rng, self.config.bare_history);
        let mut turns: Vec<Turn> = (question.history[past - kept..].iter())
            .map(|turn| Turn {
                user: turn.q.trim().to_owned(),
                answer: turn.a.trim().to_owned(),
                reading: (!bare).then(|| Reading {
                    shown,
                    positives: vec![],
                    negatives: vec![],
                }),
                learnt: false,
            })
            .collect();
        turns.push(self.turn(question, members, shown, true, rng));
        turns
    }

    /// A question that the passage does not answer: one about another passage of the run, or a changed
    /// question.
    fn unanswerable(
        &self,
        question: &QuestionRecord,
        members: &[usize],
        shown: usize,
        elsewhere: &str,
        rng: &mut StdRng,
    ) -> Option<Turn> {
        let passage = &self.groups[members[shown]].passage;
        let reading = |positives| {
            Some(Reading {
                shown,
                positives,
                negatives: vec![],
            })
        };
        let others: Vec<usize> = (members.iter().enumerate())
            .filter(|(at, _)| *at != shown)
            .map(|(_, group)| *group)
            .collect();
        let from_other = others.choose(rng).filter(|_| happens(rng, 0.5));
        if let Some(other) = from_other {
            let group = &self.groups[*other];
            let question = group.questions.choose(rng)?;
            let answer = question.answers.first()?.to_lowercase();
            let told = passage.text.to_lowercase().contains(&answer);
            if told || !question.history.is_empty() || !question.answerable {
                return None;
            }
            let searched = self.is_standalone(question, &group.passage.title);
            return Some(Turn {
                user: question.question.trim().to_owned(),
                reading: reading(if searched {
                    vec![self.key(*other)]
                } else {
                    vec![]
                }),
                answer: self.extras.abstain(rng),
                learnt: true,
            });
        }
        let user = changed(question.question.trim(), &passage.text, elsewhere, rng)?;
        Some(Turn {
            user,
            reading: reading(vec![]),
            answer: self.extras.abstain(rng),
            learnt: question.history.is_empty(),
        })
    }

    fn is_standalone(&self, question: &QuestionRecord, title: &str) -> bool {
        match self.standalone {
            Standalone::All => true,
            Standalone::Never => false,
            Standalone::Named => names_something(&question.question, title),
        }
    }
}

/// Whether a question contains a name, a number or a word of the title.
fn names_something(question: &str, title: &str) -> bool {
    let bare = |word: &str| {
        word.trim_matches(|c: char| !c.is_alphanumeric())
            .trim_end_matches("'s")
            .to_owned()
    };
    let long = |word: &String| word.len() > 3;
    let title: Vec<String> = (title.split_whitespace())
        .map(|word| bare(word).to_lowercase())
        .filter(long)
        .collect();
    question.split_whitespace().enumerate().any(|(at, word)| {
        let word = bare(word);
        (at > 0 && is_name(&word))
            || word.chars().any(|c| c.is_ascii_digit())
            || title.contains(&word.to_lowercase())
    })
}

/// A question with a pronoun in place of the title, if it contains the title.
fn with_pronoun(question: &str, title: &str, text: &str) -> Option<String> {
    let start = question.find(title).filter(|_| !title.is_empty())?;
    let (before, after) = (&question[..start], &question[start + title.len()..]);
    let whole = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    if !whole(before.chars().next_back()) || !whole(after.chars().next()) {
        return None;
    }
    let count = |words: [&str; 3]| {
        let is = |word: &&str| words.contains(&word.to_lowercase().as_str());
        text.split_whitespace().filter(is).count()
    };
    let (he, she) = (count(["he", "his", "him"]), count(["she", "her", "hers"]));
    let (pronoun, owning) = match (he, she) {
        (0..=1, 0..=1) => ("it", "its"),
        _ if she > he => ("she", "her"),
        _ => ("he", "his"),
    };
    let before = before.strip_suffix("the ").unwrap_or(before);
    Some(match after.strip_prefix("'s") {
        Some(after) => format!("{before}{owning}{after}"),
        None => format!("{before}{pronoun}{after}"),
    })
}

/// Conversations without a search.
pub(super) struct TalkSet {
    pub(super) conversations: Vec<Conversation>,
    pub(super) repeat: usize,
    pub(super) extras: Extras,
}

/// A conversation.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Conversation {
    messages: Vec<Message>,
}

#[derive(Clone, Debug, Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// Conversations that are trained together.
const TALKS: usize = 6;

impl TalkSet {
    pub(super) fn runs(&self) -> Vec<Vec<usize>> {
        let all: Vec<usize> = (0..self.conversations.len()).collect();
        let runs = (0..self.repeat).flat_map(|_| all.chunks(TALKS).map(<[usize]>::to_vec));
        runs.collect()
    }

    pub(super) fn pack(
        &self,
        members: &[usize],
        tokens: &Tokens,
        rng: &mut StdRng,
    ) -> Result<Pack> {
        let mut layout = Layout::new(tokens, &[])?;
        for member in members {
            let mut dialogue = self.conversations[*member].dialogue()?;
            if dialogue.system.is_none() {
                dialogue.system = self.extras.system(rng);
            }
            layout.dialogue(&dialogue)?;
        }
        Ok(layout.finish())
    }
}

impl Conversation {
    fn dialogue(&self) -> Result<Dialogue> {
        let mut dialogue = Dialogue::default();
        for message in &self.messages {
            let content = message.content.clone();
            match (message.role.as_str(), dialogue.turns.last_mut()) {
                ("system", None) => dialogue.system = Some(content),
                ("user", _) => dialogue.turns.push(Turn {
                    user: content,
                    ..Turn::default()
                }),
                ("assistant", Some(turn)) => {
                    turn.answer = content;
                    turn.learnt = true;
                }
                (role, _) => anyhow::bail!("a message of role {role:?} stands where none may"),
            }
        }
        ensure!(
            dialogue.turns.iter().all(|turn| turn.learnt),
            "a user's message has no answer"
        );
        Ok(dialogue)
    }
}

/// True with the probability `share`.
fn happens(rng: &mut StdRng, share: f64) -> bool {
    rng.random_bool(share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follow_up_has_a_pronoun_for_the_title() {
        let text = "She sang. Her voice was loud, and she knew.";
        let asked = |question| with_pronoun(question, "Anna Berg", text);
        assert_eq!(
            asked("Where did Anna Berg sing?").unwrap(),
            "Where did she sing?"
        );
        assert_eq!(
            asked("What is Anna Berg's age?").unwrap(),
            "What is her age?"
        );
        assert_eq!(asked("Who is Anna Bergson?"), None);
    }

    #[test]
    fn a_question_names_something_by_a_name_a_number_or_a_word_of_the_title() {
        assert!(names_something("Where did Anna sing?", "Berg"));
        assert!(names_something("What happened in 1912?", "Berg"));
        assert!(names_something("How big is a volcano?", "Volcano"));
        assert!(!names_something("How many people were killed?", "Volcano"));
    }
}
