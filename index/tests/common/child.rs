//! A test that starts itself as another process, which can be killed.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Write, stdout};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

const DIR: &str = "ONEGEN_CHILD_DIR";
const TASK: &str = "ONEGEN_CHILD_TASK";
const PANICKED: &str = "panicked";

/// The directory and the task that this process was started for, if it is a child.
pub(crate) fn task<T: FromStr>() -> Option<(PathBuf, Vec<T>)> {
    let dir = std::env::var_os(DIR)?;
    let task = std::env::var(TASK).ok()?;
    let numbers = task.split_whitespace().filter_map(|n| n.parse().ok());
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        send(PANICKED, &[]);
        print(info);
    }));
    Some((dir.into(), numbers.collect()))
}

/// Sends a message to the parent in one write, if there is a parent.
pub(crate) fn send(what: &str, numbers: &[u64]) {
    if std::env::var_os(TASK).is_none() {
        return;
    }
    let numbers: Vec<_> = numbers.iter().map(u64::to_string).collect();
    // The test harness leaves an unfinished line before the first message.
    let line = format!("\n{what} {}\n", numbers.join(" "));
    stdout().write_all(line.as_bytes()).unwrap();
    stdout().flush().unwrap();
}

/// The command that runs one test of this executable on a task.
pub(crate) fn command(test: &str, dir: &Path, task: &[u64]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    set(&mut command, test, dir, task);
    command
}

/// Adds to a command that ends with a test's executable the arguments that run one test on a task.
pub(crate) fn set(command: &mut Command, test: &str, dir: &Path, task: &[u64]) {
    let task: Vec<_> = task.iter().map(u64::to_string).collect();
    command
        .args([test, "--exact", "--nocapture"])
        .env(DIR, dir)
        .env(TASK, task.join(" "));
}

/// A message of a child: a word and numbers.
pub(crate) type Message = (String, Vec<u64>);

/// A running child, which is killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    told: Receiver<Message>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, told) = channel();
        thread::spawn(move || {
            for told in lines(stdout) {
                if sender.send(told).is_err() {
                    break;
                }
            }
        });
        Self { child, told }
    }

    /// The next message before `deadline`, unless the child ends first.
    pub(crate) fn next_until(&self, deadline: Instant) -> Result<Message, RecvTimeoutError> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.told.recv_timeout(left).inspect(fail_if_panicked)
    }

    /// Kills the child and returns the messages that were not read yet, and whether it had already
    /// ended by itself, successfully.
    pub(crate) fn kill(mut self) -> (Vec<Message>, bool) {
        let _ = self.child.kill();
        self.ended()
    }

    /// The same as [`Running::kill`], but waits until the child ends by itself.
    pub(crate) fn wait(mut self) -> (Vec<Message>, bool) {
        self.ended()
    }

    fn ended(&mut self) -> (Vec<Message>, bool) {
        let status = self.child.wait().unwrap();
        assert!(
            status.success() || status.code().is_none(),
            "the child failed by itself: {status}"
        );
        let told: Vec<_> = self.told.iter().collect();
        told.iter().for_each(fail_if_panicked);
        (told, status.success())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A moment between now and so many microseconds later.
pub(crate) fn within(rng: &mut impl rand::Rng, microseconds: u64) -> Instant {
    Instant::now() + Duration::from_micros(rng.random_range(0..=microseconds))
}

fn fail_if_panicked(told: &Message) {
    assert_ne!(told.0, PANICKED, "the child panicked; see above");
}

fn lines(stdout: ChildStdout) -> impl Iterator<Item = Message> {
    BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let what = words.next()?.to_owned();
            let numbers: Option<Vec<u64>> = words.map(|word| word.parse().ok()).collect();
            Some((what, numbers?))
        })
}
