//! Starts the program itself, like a user.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::{Client, Files};

/// A running server, which is killed when it is dropped.
pub struct Process {
    child: Child,
    pub client: Client,
    /// The lines that it printed before it served.
    pub said: Vec<String>,
}

/// How a process ends.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// kill -9
    Killed,
    /// SIGTERM
    Terminated,
}

/// The command that starts a server.
pub fn command(files: &Files, data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onegen-server"));
    command.arg("--model").arg(files.model());
    command.arg("--corpus").arg(files.corpus());
    command.arg("--data-dir").arg(data_dir);
    command.args(["--port", "0"]).env("ONEGEN_LOG", "error");
    command
}

impl Process {
    pub fn start(files: &Files, data_dir: &Path) -> Self {
        Self::spawn(command(files, data_dir))
    }

    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        let url = lines.find_map(|line| {
            let line = line.unwrap();
            let url = line
                .strip_prefix("serving on ")
                .and_then(|rest| rest.split(';').next());
            let url = url.map(str::to_owned);
            said.push(line);
            url
        });
        let client = Client::new(url.unwrap_or_default());
        let process = Self {
            child,
            client,
            said,
        };
        assert!(!process.client.url.is_empty(), "the server did not start");
        process
    }

    pub fn end(mut self, how: End) {
        match how {
            End::Killed => self.child.kill().unwrap(),
            End::Terminated => self.signal("-TERM"),
        }
        self.child.wait().unwrap();
    }

    /// Waits until it has ended.
    pub fn waited(mut self) {
        self.child.wait().unwrap();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Memory in MB as Linux tells it: `VmRSS`, what it holds, or `VmHWM`, the most that it has held so far.
    pub fn memory_mb(&self, which: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(which));
        let kilobytes = line.unwrap().trim_matches([':', ' ', '\t']);
        let kilobytes = kilobytes.trim_end_matches(" kB");
        kilobytes.parse::<usize>().unwrap() / 1024
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.id().to_string();
        let kill = Command::new("kill").args([signal, &pid]).status();
        assert!(kill.unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
