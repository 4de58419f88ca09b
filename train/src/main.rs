//! `onegen-train`: from nothing to the model that is shipped.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use onegen_train::convert::gguf::Element;
use onegen_train::convert::{NumberType, Source};
use onegen_train::fit;
use onegen_train::fit::bench::BenchOptions;
use onegen_train::fit::config::{FitConfig, Precision};
use onegen_train::{almanac, convert, evaluate, export, lessons};

use onegen_engine::{KvType, LoadOptions};
use onegen_train::lessons::Teacher;
use onegen_train::linking;
use onegen_train::model::{Model, Shape};
use onegen_train::optimiser::Rates;
use onegen_train::phrases::Wording;
use onegen_train::tokenizer::Vocabulary;
use onegen_train::trainer::{Plan, Run, Stage};
use onegen_train::world::Split;
use rand::SeedableRng;
use rand::rngs::StdRng;

// Every step allocates and frees hundreds of tensors, and glibc would return their pages to the
// system each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's `mi_option_purge_delay`, which its bindings do not name.
const PURGE_DELAY: i32 = 15;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Questions over an almanac, answered from the passages that the model retrieves
    Almanac,
    /// Names in a text, each linked to an entity
    Linking,
}

#[derive(Subcommand)]
enum Command {
    /// Trains a model, going on where a run was stopped: the almanac's from nothing, the linking one from
    /// the almanac's. A run that has done its steps already (`--steps`) only writes its model's directory
    Recipe {
        /// What the model is for
        #[arg(long, value_enum, default_value = "almanac")]
        task: Task,
        /// Where checkpoints are kept
        #[arg(long)]
        work: PathBuf,
        /// Optimiser steps; 10,000 for the almanac, 4,000 for linking
        #[arg(long)]
        steps: Option<usize>,
        /// Width
        #[arg(long, default_value_t = 192)]
        width: usize,
        /// Layers
        #[arg(long, default_value_t = 5)]
        layers: usize,
        /// Threads
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Tokens a step; 4,000 for the almanac, 5,000 for linking
        #[arg(long)]
        tokens: Option<usize>,
        /// The almanac model, with which linking begins
        #[arg(long, default_value = "models/almanac")]
        from: PathBuf,
        /// The model's directory; `models/` and the task if not given
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Teaches a model that exists to retrieve, as a configuration says, going on where a run was stopped
    Fit {
        /// The configuration, a TOML file
        config: PathBuf,
        /// The model to begin with, a directory or a GGUF file, instead of the configuration's
        #[arg(long, env = "ONEGEN_BASE")]
        base: Option<PathBuf>,
        /// Where checkpoints, curves and the adapter are kept
        #[arg(long)]
        work: PathBuf,
    },
    /// Writes which passages of a configuration's data are taken for one another
    Mine {
        /// The configuration, a TOML file
        config: PathBuf,
        /// The directory to write to
        #[arg(long)]
        out: PathBuf,
        /// The model that searches, a directory or a GGUF file; by words if not given
        #[arg(long)]
        model: Option<PathBuf>,
        /// The base of a model that is an adapter
        #[arg(long, env = "ONEGEN_BASE")]
        base: Option<PathBuf>,
    },
    /// Times training steps on a fixed batch
    BenchStep {
        /// The model, a directory or a GGUF file
        #[arg(long)]
        base: PathBuf,
        /// The batch, as train/tests/golden/make.py describes it
        #[arg(long)]
        batch: PathBuf,
        /// Steps after one to warm up
        #[arg(long, default_value_t = 3)]
        steps: usize,
        /// Threads
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// The type of weights and kept activations
        #[arg(long, value_enum, default_value_t)]
        precision: Precision,
    },
    /// Merges an adapter into its base and writes a Hugging Face directory
    Merge {
        #[command(flatten)]
        from: MergeArguments,
        /// The directory to write, which is new
        #[arg(long)]
        out: PathBuf,
        /// The type of the numbers
        #[arg(long, value_enum, default_value = "f16")]
        dtype: NumberType,
    },
    /// Merges an adapter into its base and writes a GGUF file
    Export {
        #[command(flatten)]
        from: MergeArguments,
        /// The file to write
        #[arg(long)]
        out: PathBuf,
        /// The type of the matrices; if not given, each keeps its own, and one that the adapter changes has at
        /// least 8 bits
        #[arg(long = "type", value_enum)]
        element: Option<Element>,
    },
    /// Writes the almanac's passages as a corpus, or the entities to link
    Almanac {
        /// What the corpus is for
        #[arg(long, value_enum, default_value = "almanac")]
        task: Task,
        /// The file to write
        #[arg(long)]
        out: PathBuf,
    },
    /// Measures a model on held-out names, generating through the engine
    Evaluate {
        /// What the model is for
        #[arg(long, value_enum, default_value = "almanac")]
        task: Task,
        /// The model's directory; `models/` and the task's if not given
        #[arg(long)]
        model: Option<PathBuf>,
        /// Passages or entities to choose from
        #[arg(long, default_value_t = 2000)]
        pool: usize,
        /// How keys and values are kept: f32, f16 or q8_0
        #[arg(long, value_name = "TYPE", default_value_t = KvType::default())]
        kv_type: KvType,
        /// Print every wrong answer on standard error
        #[arg(long)]
        show_wrong: bool,
    },
    /// Prints drawn lessons
    Sample {
        /// What they teach
        #[arg(long, value_enum, default_value = "almanac")]
        task: Task,
    },
}

/// The base and the adapter to merge.
#[derive(Args)]
struct MergeArguments {
    /// The base: a directory or a GGUF file
    #[arg(long, env = "ONEGEN_BASE")]
    base: PathBuf,
    /// The adapter's directory; without one the base is written as it is
    #[arg(long)]
    adapter: Option<PathBuf>,
}

impl MergeArguments {
    fn open(&self) -> Result<Source> {
        Source::open(&self.base, self.adapter.as_deref())
    }
}

fn main() -> Result<()> {
    // A step frees memory that the next step needs again. If its pages were returned to the system in between,
    // the system would clear them anew each time, which takes a tenth of all time. SAFETY: the option is one
    // that this version of mimalloc has.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    // Every training thread computes its own matrix products, so rayon needs no threads. SAFETY: no
    // other thread runs yet.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    let reserved = almanac::reserved();
    match Arguments::parse().command {
        Command::Recipe {
            task: Task::Linking,
            work,
            steps,
            threads,
            tokens,
            from,
            out,
            ..
        } => {
            std::fs::create_dir_all(&work)?;
            let almanac = Vocabulary::load(&from.join("tokenizer.json"))?;
            let vocabulary = almanac.for_linking()?;
            vocabulary.save(&work.join("tokenizer.json"))?;
            let taught = Model::open(&from)?.widened(vocabulary.size())?;
            let plan = Plan {
                rates: Rates {
                    muon: 0.015,
                    adam: 0.003,
                },
                retrieval_weight: (0.5, 1.0),
                ..plan(steps.unwrap_or(4000), threads, tokens.unwrap_or(5000))
            };
            let teacher = course(&vocabulary, &reserved);
            let examiner = linking::Course {
                split: Split::HeldOut,
                wording: Wording::Unknown,
                scrambled: false,
                ..teacher
            };
            let mut run = Run::open_after(&work, taught)?;
            println!("{} parameters", run.model.parameters());
            run.train(&plan, &teacher, &examiner)?;
            let out = out.unwrap_or(Task::Linking.directory());
            export::export(&run.model, &vocabulary, &out)?;
            linking::gazetteer::write(&out.join("entities.jsonl"))?;
            linking::evaluate::write_examples(&out.join("examples.jsonl"))?;
            println!("the model is in {}", out.display());
        }
        Command::Recipe {
            task: Task::Almanac,
            work,
            steps,
            width,
            layers,
            threads,
            tokens,
            out,
            ..
        } => {
            std::fs::create_dir_all(&work)?;
            let vocabulary = vocabulary(&work.join("tokenizer.json"), &reserved)?;
            let plan = plan(steps.unwrap_or(10_000), threads, tokens.unwrap_or(4000));
            let teacher = teacher(&vocabulary, &reserved);
            let examiner = Teacher {
                split: Split::HeldOut,
                wording: Wording::Unknown,
                ..teacher
            };
            let mut run = Run::open(&work, shape(&vocabulary, width, layers), plan.seed)?;
            println!("{} parameters", run.model.parameters());
            run.train(&plan, &teacher, &examiner)?;
            let out = out.unwrap_or(Task::Almanac.directory());
            export::export(&run.model, &vocabulary, &out)?;
            almanac::write(&out.join("almanac.jsonl"))?;
            println!("the model is in {}", out.display());
        }
        Command::Fit { config, base, work } => {
            let config = FitConfig::load(&config)?;
            let base = base
                .or(config.base.clone())
                .context("no base model is named: give --base, or `base` in the configuration")?;
            fit::run::fit(&config, &base, &work)?;
        }
        Command::Mine {
            config,
            out,
            model,
            base,
        } => {
            let config = FitConfig::load(&config)?;
            let options = LoadOptions {
                base,
                ..LoadOptions::default()
            };
            let model = match model {
                Some(path) => Some(onegen_engine::Model::load(path, &options)?),
                None => None,
            };
            for path in fit::mine::mine(&config, model.as_ref(), &out)? {
                println!("{}", path.display());
            }
        }
        Command::BenchStep {
            base,
            batch,
            steps,
            threads,
            precision,
        } => {
            let options = BenchOptions {
                steps,
                threads,
                precision,
            };
            println!("{}", fit::bench::bench(&base, &batch, options)?);
        }
        Command::Merge { from, out, dtype } => {
            convert::directory::write(&from.open()?, &out, dtype)?;
            println!("the model is in {}", out.display());
        }
        Command::Export { from, out, element } => {
            convert::gguf::write(&from.open()?, &out, element)?;
            println!("the model is in {}", out.display());
        }
        Command::Almanac { task, out } => match task {
            Task::Almanac => println!("{} passages", almanac::write(&out)?),
            Task::Linking => println!("{} entities", linking::gazetteer::write(&out)?),
        },
        Command::Evaluate {
            task,
            model,
            pool,
            kv_type,
            show_wrong,
        } => {
            let directory = model.unwrap_or(task.directory());
            let options = LoadOptions {
                kv: kv_type,
                ..LoadOptions::default()
            };
            let model = onegen_engine::Model::load(&directory, &options)
                .with_context(|| format!("cannot load {}", directory.display()))?;
            let model = Arc::new(model);
            let on_wrong = |wrong: &str| {
                if show_wrong {
                    eprintln!("{wrong}");
                }
            };
            if task == Task::Linking {
                return evaluate_linking(&model, &directory, &reserved, pool, on_wrong);
            }
            println!(
                "| turns | number | Recall@1 | exact, right passage given | exact, right passage found | end to end | retrieval decided | BM25 Recall@1 |"
            );
            println!("|---|---|---|---|---|---|---|---|");
            for row in evaluate::evaluate(&model, &reserved, pool, on_wrong)? {
                println!("{row}");
            }
        }
        Command::Sample {
            task: Task::Linking,
        } => {
            let vocabulary = Vocabulary::load("models/almanac/tokenizer.json".as_ref())?;
            let course = course(&vocabulary, &reserved);
            for seed in 0..200 {
                let lesson = course.lesson(&mut StdRng::seed_from_u64(seed), seed % 2 == 1);
                println!("{}", lesson.text.marked());
                for entity in &lesson.entities {
                    println!("    {}: {}", entity.title(), entity.text);
                }
            }
        }
        Command::Sample {
            task: Task::Almanac,
        } => {
            let vocabulary = vocabulary(
                &std::env::temp_dir().join("onegen-sample-tokenizer.json"),
                &reserved,
            )?;
            let teacher = teacher(&vocabulary, &reserved);
            for stage in [Stage::Copying, Stage::Reading, Stage::Target] {
                let lessons = teacher.draw(stage, 3000, 1)?;
                let starts = std::iter::once(0).chain(lessons.batch.ends.iter().copied());
                for (start, end) in starts.zip(&lessons.batch.ends) {
                    let ids = &lessons.batch.ids[start..*end];
                    println!("{} | {}", ids.len(), vocabulary.decode(ids)?);
                }
            }
        }
    }
    Ok(())
}

impl Task {
    /// Where the task's shipped model is.
    fn directory(self) -> PathBuf {
        match self {
            Self::Almanac => "models/almanac".into(),
            Self::Linking => "models/linker".into(),
        }
    }
}

fn evaluate_linking(
    model: &Arc<onegen_engine::Model>,
    directory: &Path,
    reserved: &HashSet<String>,
    pool: usize,
    on_wrong: impl FnMut(&str),
) -> Result<()> {
    println!(
        "| texts | number | mentions | linked (P / R / F1) | surface and entity (P / R / F1) | marked (P / R / F1) | right marks given: found | of names that several have (number) |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let rows = linking::evaluate::evaluate(model, directory, reserved, pool, on_wrong)?;
    for row in &rows {
        println!("{row}");
    }
    println!();
    for row in &rows {
        for least in [0.6, 0.7, 0.75, 0.8, 0.85] {
            let linked = row
                .linked_above(least)
                .map(|share| format!("{:.1}%", 100.0 * share));
            println!("{}, min_score {least}: {}", row.name(), linked.join(" / "));
        }
    }
    Ok(())
}

/// The teacher of the shipped model.
fn teacher<'a>(vocabulary: &'a Vocabulary, reserved: &'a HashSet<String>) -> Teacher<'a> {
    Teacher {
        vocabulary,
        reserved,
        split: Split::Train,
        wording: Wording::Known,
        longest: 900,
    }
}

/// The teacher of the model that links.
fn course<'a>(vocabulary: &'a Vocabulary, reserved: &'a HashSet<String>) -> linking::Course<'a> {
    linking::Course {
        vocabulary,
        reserved,
        split: Split::Train,
        wording: Wording::Known,
        scrambled: true,
        longest: 900,
    }
}

/// The plan of the shipped models.
fn plan(steps: usize, threads: usize, tokens: usize) -> Plan {
    Plan {
        steps,
        copying_goal: 0.85,
        copying_steps: 1500,
        reading_steps: 800,
        copying_tokens: 1600,
        tokens,
        rates: Rates {
            muon: 0.02,
            adam: 0.004,
        },
        temperature: 0.05,
        retrieval_weight: (0.1, 1.0),
        threads,
        seed: 1,
    }
}

fn shape(vocabulary: &Vocabulary, width: usize, layers: usize) -> Shape {
    Shape {
        vocab_size: vocabulary.size(),
        hidden_size: width,
        intermediate_size: width * 8 / 3 / 32 * 32,
        num_hidden_layers: layers,
        num_attention_heads: width / 32,
        head_dim: 32,
        max_position_embeddings: 1024,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
    }
}

/// Reads the tokenizer at `path`, or trains it on text of the invented world and writes it there.
fn vocabulary(path: &Path, reserved: &HashSet<String>) -> Result<Vocabulary> {
    if path.exists() {
        return Vocabulary::load(path);
    }
    let texts = lessons::texts(reserved, 20_000);
    let vocabulary = Vocabulary::train(&texts, 2048)?;
    vocabulary.save(path)?;
    Ok(vocabulary)
}
