//! The command `onegen-loadtest`.

use std::process::ExitCode;

fn main() -> ExitCode {
    onegen_loadtest::command::main()
}
