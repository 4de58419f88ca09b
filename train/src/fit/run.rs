//! The training loop: draw, forward and backward, step, log, measure, save.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use half::bf16;
use onegen_engine::{ModelFiles, Tokens};

use super::adapter;
use super::checkpoint::{Checkpoint, State};
use super::config::{FitConfig, Precision};
use super::curves::{Curves, Point};
use super::data::Course;
use super::decoder::Decoder;
use super::exam::Exam;
use super::load::{ControlRow, Method};
use super::loss::{LossRule, Queue, Score};
use super::parameters::{AdamW, Gradients, Parameters, Rule};
use super::product::Element;
use super::step::{shares, step, sum};

/// Steps between lines of the log.
const LOG_EVERY: usize = 10;

/// Trains according to a configuration. If a run in `work` was interrupted, it is continued.
///
/// # Errors
/// A file of the configuration cannot be read, a checkpoint cannot be written, or the loss is no longer a
/// number. The last checkpoint is kept.
pub fn fit(config: &FitConfig, base: &Path, work: &Path) -> Result<()> {
    match config.steps.precision {
        Precision::F32 | Precision::Q8_0 => Run::<f32>::open(config, base, work)?.train(),
        Precision::Bf16 => Run::<bf16>::open(config, base, work)?.train(),
    }
}

struct Run<'a, E> {
    config: &'a FitConfig,
    tokens: Tokens,
    control: Vec<u32>,
    base: PathBuf,
    course: Course,
    exam: Option<Exam>,
    decoder: Decoder<E>,
    parameters: Parameters,
    optimiser: AdamW,
    queue: Queue,
    state: State,
    checkpoint: Checkpoint,
    work: PathBuf,
}

impl<'a, E: Element> Run<'a, E> {
    fn open(config: &'a FitConfig, base: &Path, work: &Path) -> Result<Self> {
        let files = ModelFiles::open(base)?;
        let tokens = files.tokens(&config.model)?;
        let control = control_rows(config, &tokens)?;
        let method = Method::from(&config.method);
        ensure!(
            method != Method::Whole || base.is_dir(),
            "a model that is learnt whole begins with a Hugging Face directory; `onegen-train merge` makes one \
             of {}",
            base.display()
        );
        let (mut decoder, mut parameters) = Decoder::<E>::load(
            &files,
            &method,
            &control,
            config.steps.positions,
            config.steps.seed,
        )?;
        if config.steps.precision == Precision::Q8_0 {
            ensure!(
                method != Method::Whole,
                "steps.precision = \"q8_0\" rounds what is frozen, and with method.kind = \"full\" \
                 nothing is; use \"f32\" or \"bf16\""
            );
            decoder.quantise();
        }
        let course = Course::load(&config.course, &config.data, config.steps.seed, &tokens)?;
        let exam = match &config.exam {
            Some(exam) => Some(Exam::load(exam, &tokens, config)?),
            None => None,
        };
        if let Some(start) = &config.start_from {
            adapter::read(start, &mut parameters)?;
        }
        let checkpoint = Checkpoint::open(work)?;
        let run = config.identity(&files.fingerprint()?)?;
        let resumed = checkpoint.resume(&run, &mut parameters)?;
        let (state, optimiser, queue) = resumed.unwrap_or_else(|| {
            let state = State {
                run,
                ..State::default()
            };
            (state, AdamW::new(&parameters), Queue::default())
        });
        decoder.refresh(&parameters);
        let (passages, questions) = course.counts();
        println!(
            "{} of {} learnt, {passages} passages, {questions} questions; at step {} of {}",
            parameters.count(),
            base.display(),
            state.step,
            config.steps.count
        );
        Ok(Self {
            config,
            tokens,
            control: control.into_iter().map(|control| control.id).collect(),
            base: base.to_owned(),
            course,
            exam,
            decoder,
            parameters,
            optimiser,
            queue,
            state,
            checkpoint,
            work: work.to_owned(),
        })
    }

    fn train(mut self) -> Result<()> {
        let steps = &self.config.steps;
        let rule = LossRule::from(&self.config.loss);
        let mut gradients: Vec<Gradients> = (0..steps.threads)
            .map(|_| self.parameters.zeros())
            .collect();
        let mut curves = Curves::open(&self.work, self.state.step)?;
        let mut window = Window::new();
        let mut lessons = self.course.from(self.state.place, &self.tokens);
        while self.state.step < steps.count {
            let mut score = Score::default();
            gradients.iter_mut().for_each(Gradients::clear);
            for _ in 0..steps.accumulate {
                let batch = shares(lessons.batch(steps.tokens)?, steps.threads);
                let outcome = step(&self.decoder, &batch, &self.queue, &rule, &mut gradients)?;
                score.add(&outcome.score);
                window.tokens += outcome.tokens;
                self.state.tokens += outcome.tokens;
                self.queue.push(outcome.passages, self.config.loss.queue);
            }
            let loss = score.language + score.retrieval;
            ensure!(
                loss.is_finite(),
                "the loss is no number any more at step {}; a lower steps.rate may help. What was learnt \
                 until the last checkpoint is kept",
                self.state.step
            );
            let rule = Rule {
                rate: steps.rate_at(self.state.step),
                decay: steps.weight_decay,
                beta: (0.9, 0.99),
                clip: steps.clip * steps.accumulate as f64,
            };
            let total = sum(&mut gradients)?;
            let norm = self.optimiser.step(&mut self.parameters, total, &rule);
            self.decoder.refresh(&self.parameters);
            self.state.step += 1;
            self.state.place = lessons.place();
            window.add(&score, norm);
            let last = self.state.step == steps.count;
            if self.state.step.is_multiple_of(LOG_EVERY) || last {
                let seconds = window.began.elapsed().as_secs_f64();
                self.state.seconds += seconds;
                let point = window.point(&self.state, rule.rate, seconds);
                println!("{}", point.line(&self.state, steps.count, lessons.share()));
                curves.push(point)?;
                window = Window::new();
            }
            if let Some(exam) = &self.exam
                && (self.state.step.is_multiple_of(exam.every) || last)
            {
                println!("{}", exam.sit(&self.decoder, steps.threads)?);
                window.began = Instant::now();
            }
            if self.state.step.is_multiple_of(steps.save_every) || last {
                self.save()?;
            }
        }
        Ok(())
    }

    fn save(&self) -> Result<()> {
        self.checkpoint
            .save(&self.state, &self.parameters, &self.optimiser, &self.queue)?;
        match Method::from(&self.config.method) {
            Method::Whole => adapter::write_whole(
                &self.work.join("model"),
                &self.parameters,
                &self.base,
                &self.config.model,
            ),
            method @ Method::LowRank { .. } => adapter::write(
                &self.work.join("adapter"),
                &self.parameters,
                &method,
                &self.control,
                &base_name(&self.base),
                &self.config.model,
            ),
        }
        .context("the checkpoint is written, what others load is not")
    }
}

/// The name of the base in an adapter: the name of its directory, or of its file without the
/// extension.
fn base_name(base: &Path) -> String {
    let name = if base.is_dir() {
        base.file_name()
    } else {
        base.file_stem()
    };
    name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The control tokens and the start of their rows.
fn control_rows(config: &FitConfig, tokens: &Tokens) -> Result<Vec<ControlRow>> {
    let control = &config.control;
    let mut described = vec![
        (tokens.query_id(), &control.query),
        (tokens.passage_id(), &control.passage),
    ];
    if let Some((open, close)) = tokens.splice_markers() {
        described.extend([(open, &control.open), (close, &control.close)]);
    }
    let named = |spelling: &str| {
        let id = tokens.id_of(spelling);
        id.with_context(|| format!("the tokenizer has no token {spelling:?}"))
    };
    if let Ok(linking) = tokens.linking_config() {
        described.push((named(&linking.continue_token)?, &control.go_on));
    }
    for (spelling, description) in &control.others {
        described.push((named(spelling)?, description));
    }
    let rows = described.into_iter().map(|(id, description)| {
        Ok(ControlRow {
            id,
            described_by: tokens.encode_plain(description)?,
        })
    });
    rows.collect()
}

/// Sums since the last line of the log.
struct Window {
    began: Instant,
    score: Score,
    norm: f64,
    steps: usize,
    tokens: usize,
}

impl Window {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            score: Score::default(),
            norm: 0.0,
            steps: 0,
            tokens: 0,
        }
    }

    fn add(&mut self, score: &Score, norm: f64) {
        self.score.add(score);
        self.norm += norm;
        self.steps += 1;
    }

    fn point(&self, state: &State, rate: f64, seconds: f64) -> Point {
        let share = |sum: f64, all: usize| sum / all.max(1) as f64;
        let score = &self.score;
        Point {
            step: state.step,
            tokens: state.tokens,
            rate,
            language: share(score.language, score.targets),
            right: share(score.right as f64, score.targets),
            retrieval: share(score.retrieval, score.queries),
            found: share(score.found as f64, score.queries),
            norm: share(self.norm, self.steps),
            tokens_per_second: self.tokens as f64 / seconds.max(1e-9),
        }
    }
}

impl Point {
    /// A line of the log.
    fn line(&self, state: &State, steps: usize, share: f64) -> String {
        let left = state.seconds / state.step.max(1) as f64 * (steps - state.step) as f64;
        format!(
            "step {}/{steps} epoch {} {:.1}% tokens {:.2}M ce {:.3} right {:.3} nce {:.3} found {:.3} norm {:.2} \
             rate {:.1e} {:.0} tokens/s {:.0} min left",
            self.step,
            state.place.epoch,
            100.0 * share,
            self.tokens as f64 / 1e6,
            self.language,
            self.right,
            self.retrieval,
            self.found,
            self.norm,
            self.rate,
            self.tokens_per_second,
            left / 60.0
        )
    }
}
