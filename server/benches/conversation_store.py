"""What a conversation store costs a turn: two servers over the almanac, one with a store, by turns.

    .ci/postgres
    python server/benches/conversation_store.py

The database, its files and both servers are on this machine. A conversation has six turns of one short question; the
medians and 95th percentiles of whole requests are printed, apart for first turns, which write a new row, and for
further ones, which take a lease and write over a row. PostgreSQL is what `.ci/postgres` fetches, and the server is
$ONEGEN_SERVER, else the one built in target/release.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "tests"))

from processes import Postgres, Server, ask, question

CONVERSATIONS, TURNS, ROUNDS = 10, 6, 10


def conversations(server, first, further):
    for _ in range(CONVERSATIONS):
        named = {}
        for turn in range(TURNS):
            body = question(max_tokens=8, **named)
            began = time.perf_counter()
            status, _, answer = ask(server.port, "POST", "/v1/chat/completions", body)
            seconds = time.perf_counter() - began
            assert status == 200, answer
            (first if turn == 0 else further).append(seconds)
            named = {"conversation": answer["onegen"]["conversation"]}


def show(name, seconds):
    late = sorted(seconds)[int(len(seconds) * 0.95)]
    print(f"{name}: median {statistics.median(seconds) * 1e3:.2f} ms, p95 {late * 1e3:.2f} ms of {len(seconds)}")


def main():
    postgres = Postgres()
    servers = {"alone": Server(), "with a store": Server(ONEGEN_CONVERSATION_STORE=postgres.address)}
    seconds = {name: ([], []) for name in servers}
    try:
        for server in servers.values():
            conversations(server, [], [])
        for _ in range(ROUNDS):
            for name, server in servers.items():
                conversations(server, *seconds[name])
        for name, (first, further) in seconds.items():
            show(f"{name}, first turns", first)
            show(f"{name}, further turns", further)
    finally:
        for server in servers.values():
            server.remove()
        postgres.remove()


if __name__ == "__main__":
    main()
