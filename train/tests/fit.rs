//! Runs `onegen-train fit` like a user: it learns, continues after a kill, and reports errors.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The almanac model, small enough to learn in seconds.
fn almanac() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/almanac")
}

const QUESTIONS: &str = r#"{"id":"1","question":"Where does Orm live?","answers":["in Tellin"],"passage_id":"orm"}
{"id":"2","question":"What does Orm grow?","answers":["red beans"],"passage_id":"orm"}
{"id":"3","question":"How high is Quarn?","answers":["2,140 metres"],"passage_id":"quarn"}
{"id":"4","question":"And where is it?","answers":["in Ormland"],"passage_id":"quarn","history":[{"q":"How high is Quarn?","a":"2,140 metres"}]}
{"id":"5","question":"Who built Quarn?","answers":[],"passage_id":"quarn","answerable":false}
"#;

const PASSAGES: &str = r#"{"id":"orm","title":"Orm","text":"Orm lives in Tellin and grows red beans."}
{"id":"quarn","title":"Quarn","text":"Quarn is a mountain in Ormland, 2,140 metres high."}
"#;

/// A directory with data and a configuration that trains on them.
struct Lesson {
    dir: TempDir,
}

impl Lesson {
    fn new(steps: &str) -> Self {
        let lesson = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        lesson.write("questions.jsonl", QUESTIONS);
        lesson.write("passages.jsonl", PASSAGES);
        let config = format!(
            r#"model = "{}"
[method]
kind = "lora"
rank = 8
alpha = 16.0
[loss]
temperature = 0.05
queue = 8
[steps]
rate = 3e-3
warm_up = 2
save_every = 2
positions = 512
{steps}
[course]
unanswerable = 0.2
[[data]]
kind = "questions"
questions = "{}"
passages = "{}"
"#,
            almanac().display(),
            lesson.path("questions.jsonl").display(),
            lesson.path("passages.jsonl").display(),
        );
        lesson.write("fit.toml", &config);
        lesson
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, work: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onegen-train"));
        command.arg("fit").arg(self.path("fit.toml"));
        command.arg("--base").arg(almanac());
        command.arg("--work").arg(self.path(work));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, work: &str) -> Output {
        self.command(work).output().unwrap()
    }

    fn adapter(&self, work: &str) -> Vec<u8> {
        std::fs::read(self.path(work).join("adapter/adapter_model.safetensors")).unwrap()
    }

    /// The last line of the curves, by column.
    fn last(&self, work: &str, column: &str) -> f64 {
        let table = std::fs::read_to_string(self.path(work).join("curves.csv")).unwrap();
        let mut lines = table.lines();
        let at = lines
            .next()
            .unwrap()
            .split(',')
            .position(|name| name == column)
            .unwrap();
        lines
            .last()
            .unwrap()
            .split(',')
            .nth(at)
            .unwrap()
            .parse()
            .unwrap()
    }
}

fn succeeded(output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

/// The error message of a command that must fail.
fn refusal(output: &Output) -> String {
    assert!(!output.status.success(), "it was not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_handful_of_questions_is_learnt_by_heart() {
    let lesson = Lesson::new("count = 100\ntokens = 200");
    succeeded(&lesson.run("work"));
    let (ce, found) = (
        lesson.last("work", "language"),
        lesson.last("work", "found"),
    );
    assert!(ce < 0.1, "a cross-entropy of {ce} is left");
    assert!(found > 0.99, "{found} of the passages are found");
    let picture = std::fs::read_to_string(lesson.path("work/curves.svg")).unwrap();
    assert!(picture.contains("<polyline"), "{picture}");
}

#[test]
fn every_setting_of_the_losses_and_of_the_method_learns() {
    for (change, with) in [
        ("rank = 8", "rank = 4"),
        ("temperature = 0.05", "temperature = 0.05\nretrieval = 0.0"),
        ("temperature = 0.05", "temperature = 1.0\nlanguage = 0.0"),
        ("temperature = 0.05", "contrast = \"bpr\""),
        (
            "warm_up = 2",
            "warm_up = 2\nprecision = \"bf16\"\naccumulate = 2",
        ),
        ("kind = \"lora\"\nrank = 8\nalpha = 16.0", "kind = \"full\""),
    ] {
        let lesson = Lesson::new("count = 20\ntokens = 200");
        let config = std::fs::read_to_string(lesson.path("fit.toml")).unwrap();
        let changed = config.replace(change, with).replace("3e-3", "1e-3");
        assert_ne!(config, changed);
        lesson.write("fit.toml", &changed);
        succeeded(&lesson.run("work"));
        let table = std::fs::read_to_string(lesson.path("work/curves.csv")).unwrap();
        let lines: Vec<Vec<f64>> = (table.lines().skip(1))
            .map(|line| line.split(',').map(|x| x.parse().unwrap()).collect())
            .collect();
        let (first, last) = (&lines[0], &lines[1]);
        // The columns of the cross-entropy and of the contrastive loss.
        let column = if with.contains("language") { 5 } else { 3 };
        assert!(
            last[column] < first[column],
            "with {with} the loss went from {} to {}",
            first[column],
            last[column]
        );
    }
}

#[test]
fn a_killed_run_goes_on_to_the_same_weights() {
    let lesson = Lesson::new("count = 30\ntokens = 300");
    succeeded(&lesson.run("whole"));
    let mut kills = 0;
    for wait in [1u64, 2, 3] {
        let mut child = lesson.command("cut").spawn().unwrap();
        let checkpoint = lesson.path("cut/checkpoint/state.json");
        let before = std::fs::read(&checkpoint).unwrap_or_default();
        if !wait_until(&mut child, || {
            std::fs::read(&checkpoint).unwrap_or_default() != before
        }) {
            break;
        }
        std::thread::sleep(Duration::from_millis(7 * wait));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills > 0, "the run was never killed");
    succeeded(&lesson.run("cut"));
    assert!(
        lesson.adapter("cut") == lesson.adapter("whole"),
        "{kills} kills changed what was learnt"
    );
}

/// Whether something comes true before a program ends.
fn wait_until(child: &mut Child, true_now: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(120) {
        if true_now() {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing happened for two minutes");
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let steps = "count = 2\ntokens = 100";
    let cases: [(&str, &str, &str, &[&str]); 6] = [
        (
            "fit.toml",
            "queue = 8",
            "quue = 8",
            &["fit.toml", "quue", "queue"],
        ),
        (
            "fit.toml",
            "rank = 8",
            "rank = 0",
            &["method.rank must be at least 1"],
        ),
        (
            "fit.toml",
            "questions.jsonl",
            "nothing.jsonl",
            &["nothing.jsonl"],
        ),
        (
            "questions.jsonl",
            "\"id\":\"3\",",
            "\"id\":3,",
            &["questions.jsonl, line 3", "string"],
        ),
        (
            "questions.jsonl",
            "\"passage_id\":\"orm\"",
            "\"passage_id\":\"norm\"",
            &["question 1", "norm", "passages.jsonl"],
        ),
        (
            "passages.jsonl",
            "\"text\":\"Orm",
            "\"txt\":\"Orm",
            &["passages.jsonl, line 1", "text"],
        ),
    ];
    for (file, what, with, said) in cases {
        let lesson = Lesson::new(steps);
        let text = std::fs::read_to_string(lesson.path(file)).unwrap();
        assert!(text.contains(what), "{file} holds no {what}");
        lesson.write(file, &text.replacen(what, with, 1));
        let refusal = refusal(&lesson.run("work"));
        for said in said {
            assert!(refusal.contains(said), "no {said:?} in: {refusal}");
        }
    }
}

#[test]
fn another_runs_checkpoint_is_left_alone() {
    let lesson = Lesson::new("count = 2\ntokens = 100");
    succeeded(&lesson.run("work"));
    let config = std::fs::read_to_string(lesson.path("fit.toml")).unwrap();
    lesson.write("fit.toml", &config.replace("rate = 3e-3", "rate = 2e-3"));
    let before = lesson.adapter("work");
    let refusal = refusal(&lesson.run("work"));
    assert!(refusal.contains("another run"), "{refusal}");
    assert_eq!(before, lesson.adapter("work"));
    // A configuration with more steps continues the same run.
    lesson.write("fit.toml", &config.replace("count = 2", "count = 4"));
    succeeded(&lesson.run("work"));
}

#[test]
fn an_adapter_of_another_shape_is_not_begun_with() {
    let lesson = Lesson::new("count = 2\ntokens = 100");
    succeeded(&lesson.run("work"));
    let config = std::fs::read_to_string(lesson.path("fit.toml")).unwrap();
    let start = format!(
        "start_from = \"{}\"\n",
        lesson.path("work/adapter").display()
    );
    lesson.write("fit.toml", &(start.clone() + &config));
    succeeded(&lesson.run("again"));
    lesson.write(
        "fit.toml",
        &(start + &config.replace("rank = 8", "rank = 4")),
    );
    let refusal = refusal(&lesson.run("other"));
    assert!(refusal.contains("of another shape"), "{refusal}");
    assert!(refusal.contains("lora_A"), "{refusal}");
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_the_last_checkpoint() {
    let lesson = Lesson::new("count = 4\ntokens = 100");
    succeeded(&lesson.run("whole"));
    let config = std::fs::read_to_string(lesson.path("fit.toml")).unwrap();
    lesson.write("fit.toml", &config.replace("count = 4", "count = 2"));
    succeeded(&lesson.run("work"));
    lesson.write("fit.toml", &config);
    let full = lesson.command("work");
    // No file may grow beyond 100 blocks of 512 bytes, as if the disk were full.
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "sh"]);
    shell.arg(full.get_program()).args(full.get_args());
    let refusal = refusal(&shell.output().unwrap());
    assert!(refusal.contains("the last one is kept"), "{refusal}");
    succeeded(&lesson.run("work"));
    assert!(lesson.adapter("work") == lesson.adapter("whole"));
}
