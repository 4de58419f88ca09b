//! `onegen-train`: from nothing to the model that is shipped.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use onegen_train::{almanac, evaluate, export, lessons};

use onegen_train::lessons::{Stage, Teacher};
use onegen_train::model::Shape;
use onegen_train::optimiser::Rates;
use onegen_train::phrases::Wording;
use onegen_train::tokenizer::Vocabulary;
use onegen_train::trainer::{Plan, Run};
use onegen_train::world::Split;

// Every step makes and drops hundreds of tensors: glibc gives their pages back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trains the tokenizer and the model of the almanac, going on where a run was stopped
    Recipe {
        /// Where checkpoints are kept
        #[arg(long)]
        work: PathBuf,
        /// Optimiser steps
        #[arg(long, default_value_t = 10000)]
        steps: usize,
        /// Width
        #[arg(long, default_value_t = 192)]
        width: usize,
        /// Layers
        #[arg(long, default_value_t = 5)]
        layers: usize,
        /// Threads
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Tokens a step
        #[arg(long, default_value_t = 5000)]
        tokens: usize,
        /// The model's directory
        #[arg(long, default_value = "models/almanac")]
        out: PathBuf,
    },
    /// Writes a checkpoint as a model directory
    Export {
        /// Where checkpoints are kept
        #[arg(long)]
        work: PathBuf,
        /// Width
        #[arg(long, default_value_t = 192)]
        width: usize,
        /// Layers
        #[arg(long, default_value_t = 5)]
        layers: usize,
        /// The model's directory
        #[arg(long)]
        out: PathBuf,
    },
    /// Writes the almanac's passages as a corpus
    Almanac {
        /// The file to write
        #[arg(long)]
        out: PathBuf,
    },
    /// Measures a model on held-out names, generating through the engine
    Evaluate {
        /// The model's directory
        #[arg(long, default_value = "models/almanac")]
        model: PathBuf,
        /// Passages to choose from
        #[arg(long, default_value_t = 2000)]
        pool: usize,
        /// Print every wrong answer on standard error
        #[arg(long)]
        show_wrong: bool,
    },
    /// Prints drawn dialogues
    Sample,
}

fn main() -> Result<()> {
    // Every training thread runs its own matrix products.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    let reserved = almanac::reserved();
    match Arguments::parse().command {
        Command::Recipe {
            work,
            steps,
            width,
            layers,
            threads,
            tokens,
            out,
        } => {
            std::fs::create_dir_all(&work)?;
            let vocabulary = vocabulary(&work.join("tokenizer.json"), &reserved)?;
            let plan = Plan {
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
            };
            let teacher = teacher(&vocabulary, &reserved);
            let examiner = Teacher {
                split: Split::HeldOut,
                wording: Wording::Unknown,
                ..teacher
            };
            let mut run = Run::open(&work, shape(&vocabulary, width, layers), plan.seed)?;
            println!("{} parameters", run.model.parameters());
            run.train(&plan, &teacher, &examiner)?;
            export::export(&run.model, &vocabulary, &out)?;
            almanac::write(&out.join("almanac.jsonl"))?;
            println!("the model is in {}", out.display());
        }
        Command::Export {
            work,
            width,
            layers,
            out,
        } => {
            let vocabulary = Vocabulary::load(&work.join("tokenizer.json"))?;
            let run = Run::open(&work, shape(&vocabulary, width, layers), 0)?;
            export::export(&run.model, &vocabulary, &out)?;
        }
        Command::Almanac { out } => println!("{} passages", almanac::write(&out)?),
        Command::Evaluate {
            model,
            pool,
            show_wrong,
        } => {
            println!(
                "| turns | number | Recall@1 | exact, right passage given | exact, right passage found | end to end | retrieval decided | BM25 Recall@1 |"
            );
            println!("|---|---|---|---|---|---|---|---|");
            let on_wrong = |wrong: &str| {
                if show_wrong {
                    eprintln!("{wrong}");
                }
            };
            for row in evaluate::evaluate(&model, &reserved, pool, on_wrong)? {
                println!("{row}");
            }
        }
        Command::Sample => {
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
fn vocabulary(path: &std::path::Path, reserved: &HashSet<String>) -> Result<Vocabulary> {
    if path.exists() {
        return Vocabulary::load(path);
    }
    let texts = lessons::texts(reserved, 20_000);
    let vocabulary = Vocabulary::train(&texts, 2048)?;
    vocabulary.save(path)?;
    Ok(vocabulary)
}
