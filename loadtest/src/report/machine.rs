//! The machine on which a load was made.

use std::fs;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

/// What of a machine decides how fast it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name, as far as the system tells.
    pub processor: String,
    /// Cores that this program may use.
    pub cores: usize,
    /// The operating system.
    pub system: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        // Elsewhere than on Linux the architecture has to do.
        let described = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = described.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        Self {
            processor: name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: available_parallelism().map_or(1, usize::from),
            system: std::env::consts::OS.to_owned(),
        }
    }
}
