//! `onegen-eval`: measures how well a model reads, retrieves, abstains and links, over question sets
//! and linked texts.

mod arguments;
mod progress;
mod report;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use onegen_engine::LoadOptions;
use onegen_train::exam::data::{self, Set};
use onegen_train::exam::examinee::Examinee;
use onegen_train::exam::figures;
use onegen_train::exam::linking::{EntityLine, Linker, LinkingFigures, LinkingSet};
use onegen_train::exam::local::LocalModel;
use onegen_train::exam::remote::RemoteServer;
use onegen_train::exam::sitting::{Conditions, PreparedSet};
use onegen_train::exam::small_talk;
use onegen_train::exam::vectors::Vectors;

use arguments::{Arguments, NamedModel};
use progress::Progress;
use report::Report;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // Requests to a server need a runtime; the engine has its own threads.
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build()?;
    runtime.block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> Result<()> {
    let asks = !arguments.set.is_empty() || arguments.small_talk.is_some();
    ensure!(
        asks || !arguments.linking.is_empty(),
        "nothing to measure: give --set, --small-talk or --linking"
    );
    // All files are read before the first model is loaded, so that a wrong path is reported at
    // once.
    let papers = papers(arguments)?;
    let lines = arguments.small_talk.as_deref().map(small_talk_lines);
    let lines = lines.transpose()?.unwrap_or_default();
    let texts = arguments.linking.iter().map(|path| LinkingSet::read(path));
    let texts: Vec<LinkingSet> = texts.collect::<Result<_>>()?;
    let mut report = Report::new(arguments.records.as_deref(), arguments.seed)?;
    let conditions = conditions(arguments);

    if let Some(url) = &arguments.server {
        ensure!(
            texts.is_empty(),
            "--linking is measured in process; give --model instead of --server"
        );
        let remote = RemoteServer::new(
            url,
            arguments.key.clone(),
            arguments.collection.clone(),
            arguments.upload,
        )?;
        let mut examinee = Examinee::Remote(remote);
        report.begin("server");
        ask(&mut examinee, &papers, &lines, &conditions, &mut report).await?;
        return report.finish(arguments);
    }
    for model in &arguments.model {
        report.begin(&model.name);
        let options = load_options(arguments);
        if asks {
            let local = LocalModel::load(&model.directory, &options, conditions.concurrent)?;
            let mut examinee = Examinee::Local(local);
            ask(&mut examinee, &papers, &lines, &conditions, &mut report).await?;
        }
        if !texts.is_empty() {
            link(model, &texts, arguments, &options, &mut report).await?;
        }
    }
    report.finish(arguments)
}

/// Measures everything except linking.
async fn ask(
    examinee: &mut Examinee,
    papers: &[PreparedSet],
    lines: &[small_talk::Line],
    conditions: &Conditions,
    report: &mut Report,
) -> Result<()> {
    let name = report.model();
    for paper in papers {
        let set = &paper.set;
        let what = format!("{name}: {}", set.name);
        let mut passages = Progress::new(&what, "passages", set.passages.len());
        let too_long = examinee.learn(set, |done| passages.print(done)).await?;
        if too_long > 0 {
            let all = set.passages.len();
            eprintln!("{what}: {too_long} of {all} passages are too long to be found");
        }
        let mut questions = Progress::new(&what, "questions", set.questions.len());
        let told = |done| questions.print(done);
        let records = paper.sit(&name, examinee, conditions, told).await?;
        report.add(figures::of_records(&records, report.seed()), &records);
    }
    if !lines.is_empty() {
        let records = small_talk::sit(&name, examinee, lines, conditions).await?;
        report.add(figures::of_small_talk(&records, report.seed()), &records);
    }
    Ok(())
}

async fn link(
    model: &NamedModel,
    texts: &[LinkingSet],
    arguments: &Arguments,
    options: &LoadOptions,
    report: &mut Report,
) -> Result<()> {
    let name = &model.name;
    let entities = arguments.entities.as_deref();
    let entities = entities.context("--linking needs --entities, the collection to link to")?;
    let entities = EntityLine::read(entities)?;
    let mut progress = Progress::new(name, "entities", entities.len());
    let told = |done| progress.print(done);
    let linker = Linker::load(&model.directory, options, entities, told)?;
    for set in texts {
        let records = linker.sit(name, set, arguments.min_score, arguments.concurrent);
        let records = records.await?;
        let linking = LinkingFigures::new(&records);
        report.add(figures::of_linking(&linking, report.seed()), &records);
    }
    Ok(())
}

/// The sets, with the results of other retrievers in them.
fn papers(arguments: &Arguments) -> Result<Vec<PreparedSet>> {
    let excluded = arguments.exclude.as_deref().map(data::ids);
    let excluded = excluded.transpose()?.unwrap_or_default();
    let paper = |spec: &String| {
        let mut set = Set::read(spec)?;
        set.exclude(&excluded);
        if let Some(limit) = arguments.limit {
            set.sample(limit, arguments.seed);
        }
        let vectors = arguments.retriever_vectors.as_ref();
        let vectors = vectors.map(|folder| folder.join(format!("{}.safetensors", set.name)));
        let vectors = vectors.map(|path| Vectors::read(&path)).transpose()?;
        PreparedSet::new(set, vectors.as_ref())
    };
    arguments.set.iter().map(paper).collect()
}

fn small_talk_lines(path: &Path) -> Result<Vec<small_talk::Line>> {
    let place = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(place)?;
    small_talk::lines(&text).with_context(place)
}

fn conditions(arguments: &Arguments) -> Conditions {
    Conditions {
        concurrent: arguments.concurrent,
        max_tokens: arguments.max_tokens,
        max_retrievals: arguments.max_retrievals,
        history_reads: !arguments.plain_history,
        without_retrieval: arguments.no_retrieval,
        bm25_reads: arguments.bm25_reads,
    }
}

fn load_options(arguments: &Arguments) -> LoadOptions {
    LoadOptions {
        weights: arguments.weights,
        kv: arguments.kv_type,
        base: arguments.base.clone(),
        ..LoadOptions::default()
    }
}
