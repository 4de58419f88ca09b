//! The lines that somebody types, or that a pipe holds.

use std::env;
use std::fs;
use std::io::{self, BufRead, ErrorKind, IsTerminal, stdin, stdout};
use std::path::{Path, PathBuf};

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use tokio::sync::mpsc;
use tokio::task::block_in_place;

use super::screen::Screen;

/// Lines that the history keeps.
const HISTORY_LINES: usize = 1000;

/// Where lines come from.
pub(super) enum Lines {
    /// From a terminal, where they can be edited and called up again.
    Edited(Box<LineEditor>),
    /// From anything else, with a prompt where somebody watches.
    Plain {
        lines: mpsc::Receiver<io::Result<String>>,
        prompts: bool,
    },
}

/// The editor of lines on a terminal.
pub(super) struct LineEditor {
    editor: Editor<(), FileHistory>,
    /// The file of what was typed; `None` where it is not kept beyond this chat.
    history: Option<PathBuf>,
}

impl Lines {
    /// The lines of the standard input. `watched` says that somebody types them, `keeps_history` that they are
    /// called up in the next chat too.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub(super) fn new(screen: &mut Screen, watched: bool, keeps_history: bool) -> io::Result<Self> {
        let can_edit = stdin().is_terminal()
            && stdout().is_terminal()
            && env::var_os("TERM").is_some_and(|name| name != "dumb");
        if watched && can_edit {
            let history = history_file().filter(|_| keeps_history);
            return Ok(Self::Edited(Box::new(LineEditor::new(screen, history)?)));
        }
        Ok(Self::Plain {
            lines: read_lines(),
            prompts: watched,
        })
    }

    /// The next line; `None` at the end of input.
    ///
    /// # Errors
    /// The standard input or output fails.
    pub(super) async fn next(&mut self, screen: &mut Screen) -> io::Result<Option<String>> {
        match self {
            // Nothing else happens while somebody types.
            Self::Edited(editor) => block_in_place(|| editor.next(screen)),
            Self::Plain { lines, prompts } => {
                if *prompts {
                    screen.print_prompt()?;
                }
                let line = tokio::select! {
                    line = lines.recv() => line.transpose()?,
                    interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| None)?,
                };
                if line.is_none() && *prompts {
                    screen.line("")?;
                }
                Ok(line)
            }
        }
    }
}

impl LineEditor {
    fn new(screen: &mut Screen, history: Option<PathBuf>) -> io::Result<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY_LINES)
            .map_err(io_error)?
            .auto_add_history(true)
            .build();
        let mut editor = Editor::with_config(config).map_err(io_error)?;
        // It helps with nothing, but without a helper the prompt has no style.
        editor.set_helper(Some(()));
        let mut kept = None;
        if let Some(path) = history {
            match load_history(&mut editor, &path) {
                Ok(()) => kept = Some(path),
                Err(error) => not_kept(screen, &path, &error)?,
            }
        }
        Ok(Self {
            editor,
            history: kept,
        })
    }

    /// The next line; `None` after ctrl-d. Ctrl-c empties the line.
    fn next(&mut self, screen: &mut Screen) -> io::Result<Option<String>> {
        let prompt = (Screen::PROMPT, screen.styled_prompt());
        loop {
            match self.editor.readline(&prompt) {
                Ok(line) => {
                    self.append_history(screen)?;
                    return Ok(Some(line));
                }
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(io_error(error)),
            }
        }
    }

    /// Writes the last line to the file at once: a chat may be killed.
    fn append_history(&mut self, screen: &mut Screen) -> io::Result<()> {
        if let Some(path) = self.history.take() {
            match self.editor.append_history(&path) {
                Ok(()) => self.history = Some(path),
                Err(error) => not_kept(screen, &path, &io_error(error))?,
            }
        }
        Ok(())
    }
}

/// Reads the lines of earlier chats; the first chat finds none.
fn load_history(editor: &mut Editor<(), FileHistory>, path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match editor.load_history(path).map_err(io_error) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        loaded => loaded,
    }
}

fn not_kept(screen: &mut Screen, path: &Path, error: &io::Error) -> io::Result<()> {
    let path = path.display();
    screen.error(&format!("what is typed is not kept in {path}: {error}"))
}

/// Where the XDG base directory specification puts histories. `None` without a home.
fn history_file() -> Option<PathBuf> {
    let folder = |name: &str| {
        let path = PathBuf::from(env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(state.join("onegen/chat-history"))
}

fn io_error(error: ReadlineError) -> io::Error {
    match error {
        ReadlineError::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// The lines of the standard input, each read when the one before is taken. The thread that waits for
/// the next one ends with the process.
fn read_lines() -> mpsc::Receiver<io::Result<String>> {
    let (read, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in stdin().lock().lines() {
            // Nobody waits any more after /quit.
            if read.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}
