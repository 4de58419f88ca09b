//! A real Milvus for tests, as `.ci/milvus` fetches it, on free ports and with a directory of its own. It is killed
//! when it is dropped.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// What `.ci/milvus` has fetched: the program and its libraries.
const FETCHED: &str = "onegen/milvus-2.3.5";
/// How long it may take until it serves, also after it was killed.
const START: Duration = Duration::from_secs(120);

pub(crate) struct Milvus {
    home: TempDir,
    program: PathBuf,
    port: u16,
    child: Option<Child>,
}

/// The directory of the program: `$ONEGEN_MILVUS`, or what `.ci/milvus` has fetched. None where there is none.
fn installation() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("ONEGEN_MILVUS") {
        return Some(given.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join(FETCHED)).filter(|fetched| fetched.exists())
}

impl Milvus {
    /// Starts one without collections; `None`, and a word about it, where it is not installed.
    pub(crate) fn start() -> Option<Self> {
        let Some(installation) = installation() else {
            println!("skipped: there is no Milvus; .ci/milvus fetches it");
            return None;
        };
        let home = tempfile::tempdir().unwrap();
        let port = configure(home.path());
        let mut milvus = Self {
            home,
            program: installation.join("milvus"),
            port,
            child: None,
        };
        milvus.run();
        Some(milvus)
    }

    /// The address of a collection.
    pub(crate) fn address(&self, collection: &str) -> String {
        format!("milvus://127.0.0.1:{}/{collection}", self.port)
    }

    /// Runs it, and waits until it serves.
    pub(crate) fn run(&mut self) {
        let [metrics] = free_ports();
        let mut command = Command::new(&self.program);
        command
            // The name of the file that holds its process id.
            .args(["run", "standalone", "-alias", &self.port.to_string()])
            .current_dir(self.home.path())
            .env("LD_LIBRARY_PATH", self.program.parent().unwrap())
            .env("DEPLOY_MODE", "STANDALONE")
            .env("METRICS_PORT", metrics.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        self.child = Some(command.spawn().unwrap());
        let end = Instant::now() + START;
        while !self.serves() {
            assert!(Instant::now() < end, "Milvus does not start");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether it answers. Its port takes connections before, on which requests wait without end.
    fn serves(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"GET /v1/vector/collections HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        };
        ask().is_ok_and(|answer| answer.contains("\"code\":200"))
    }

    /// Kills it as a crash of the machine would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            self.signal(&child, libc::SIGKILL);
            let _ = child.wait();
        }
    }

    /// Stops it without ending it: it holds connections and answers nothing.
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

    fn signal(&self, child: &Child, signal: i32) {
        // SAFETY: it only sends a signal to the group of a process that this one has started.
        unsafe { libc::kill(-(child.id() as i32), signal) };
    }
}

impl Drop for Milvus {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes the files that it reads from where it is started, and returns the port for clients.
fn configure(home: &Path) -> u16 {
    let configs = home.join("configs");
    fs::create_dir(&configs).unwrap();
    let [
        client,
        internal,
        etcd,
        peers,
        root,
        data,
        query,
        index,
        query_node,
        data_node,
        index_node,
    ] = free_ports();
    let place = home.display();
    // Without this file it crashes.
    fs::write(
        configs.join("glog.conf"),
        "--minloglevel=3\n--logtostderr=true\n",
    )
    .unwrap();
    let etcd = format!(
        "data-dir: {place}/etcd\n\
         listen-client-urls: http://127.0.0.1:{etcd}\n\
         advertise-client-urls: http://127.0.0.1:{etcd}\n\
         listen-peer-urls: http://127.0.0.1:{peers}\n\
         initial-advertise-peer-urls: http://127.0.0.1:{peers}\n\
         initial-cluster: default=http://127.0.0.1:{peers}\n\
         log-level: error\n"
    );
    fs::write(configs.join("etcd.yaml"), etcd).unwrap();
    // A reader who is to see all changes waits for the next time tick, 200 ms by default. After a kill the new process
    // has no collection until the old one's session has ended, 60 s by default; one that was frozen for longer than
    // that never serves again.
    let milvus = format!(
        "etcd: {{rootPath: by-dev, metaSubPath: meta, kvSubPath: kv, use: {{embed: true}}, \
           config: {{path: {place}/configs/etcd.yaml}}, data: {{dir: {place}/etcd}}}}\n\
         mq: {{type: rocksmq}}\n\
         common: {{storageType: local, session: {{ttl: 20}}}}\n\
         localStorage: {{path: {place}/data}}\n\
         rocksmq: {{path: {place}/rocksmq}}\n\
         log: {{level: fatal}}\n\
         proxy: {{ip: 127.0.0.1, port: {client}, internalPort: {internal}, timeTickInterval: 20, \
           grpc: {{serverMaxSendSize: 67108864, serverMaxRecvSize: 67108864}}}}\n\
         rootCoord: {{ip: 127.0.0.1, port: {root}}}\n\
         dataCoord: {{ip: 127.0.0.1, port: {data}}}\n\
         queryCoord: {{ip: 127.0.0.1, port: {query}}}\n\
         indexCoord: {{ip: 127.0.0.1, port: {index}}}\n\
         queryNode: {{ip: 127.0.0.1, port: {query_node}}}\n\
         dataNode: {{ip: 127.0.0.1, port: {data_node}}}\n\
         indexNode: {{ip: 127.0.0.1, port: {index_node}}}\n"
    );
    fs::write(configs.join("milvus.yaml"), milvus).unwrap();
    client
}

/// Ports that nobody has. They are held until all are found, so that none is found twice.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners: [TcpListener; COUNT] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners
        .each_ref()
        .map(|listener| listener.local_addr().unwrap().port())
}
