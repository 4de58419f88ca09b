//! `onegen-index pull`: fetches the base that a model needs.

use std::io::{Write, stdout};
use std::path::Path;

use anyhow::Result;
use onegen_pull::{DEFAULT_DATA_DIR, PullArguments};

pub(crate) fn run(arguments: &PullArguments) -> Result<()> {
    let pulled = arguments.run("onegen-index", Path::new(DEFAULT_DATA_DIR))?;
    writeln!(stdout(), "{pulled}")?;
    Ok(())
}
