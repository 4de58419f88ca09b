#!/usr/bin/env bash
# Milvus 2.3.5 (PyPI's standalone server, with pymilvus 2.3.7, everything read with Strong consistency):
#  1. A query with a filter of 50 conditions joined by "and" answers; a search with the same filter fails with code 65535
#     and a text about types of columns. Of 49 conditions it answers, and of 50 in two halves in parentheses it does too.
#  2. A primary key that comes twice in one upsert is stored twice: count(*) says 2, and a query shows the first of the
#     two rows, not the last. A later upsert of the key replaces both.
#  3. A zero vector in an index with the metric COSINE scores NaN, and stands among the hits, not behind them. While its
#     row is too fresh to be indexed no search finds it.
# Seen on 2026-11-30. onegen joins conditions as balanced trees (index/src/remote/milvus/expressions.rs), sends each key
# once a call (changes.rs) and refuses vectors without a direction.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
python="$scratch/venv/bin/python"
"$scratch/venv/bin/pip" install --quiet 'milvus==2.3.5' 'pymilvus==2.3.7' 'setuptools<80' 'marshmallow<3.20'
# The package starts the server with ports of its own choice, in a directory of its own.
"$python" -W ignore - "$scratch" <<'PY'
import sys
import time

from milvus import MilvusServer
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, MilvusException, connections, utility

server = MilvusServer()
server.set_base_dir(sys.argv[1] + "/data")
server.start()
try:
    connections.connect(host="127.0.0.1", port=server.listen_port)
    fields = [
        FieldSchema("key", DataType.VARCHAR, is_primary=True, max_length=64),
        FieldSchema("number", DataType.INT64),
        FieldSchema("vector", DataType.FLOAT_VECTOR, dim=8),
    ]
    rows = Collection("rows", CollectionSchema(fields), consistency_level="Strong")
    rows.create_index("vector", {"index_type": "HNSW", "metric_type": "COSINE", "params": {"M": 16, "efConstruction": 100}})
    rows.load()
    one = [1.0] * 8

    def found(limit, expression=None):
        hits = rows.search([one], "vector", {"metric_type": "COSINE", "params": {"ef": max(limit, 100)}}, limit, expr=expression)[0]
        return [(hit.id, hit.distance) for hit in hits]

    rows.insert([["a"], [7], [one]])
    chain = {count: " and ".join(["number == 7"] * count) for count in (49, 50)}
    half = "(" + " and ".join(["number == 7"] * 25) + ")"
    queried = len(rows.query(chain[50]))
    searched = {49: len(found(1, chain[49])), "tree": len(found(1, f"{half} and {half}"))}
    try:
        searched[50] = len(found(1, chain[50]))
    except MilvusException as error:
        searched[50] = f"error {error.code}"
    print("50 conditions: queried", queried, "searched", searched)

    rows.upsert([["b", "b"], [1, 2], [one, one]])
    twice = rows.query('key == "b"', output_fields=["count(*)"])[0]["count(*)"]
    shown = [row["number"] for row in rows.query('key == "b"', output_fields=["number"])]
    rows.upsert([["b"], [3], [one]])
    after = rows.query('key == "b"', output_fields=["count(*)"])[0]["count(*)"]
    print("one key twice: counted", twice, "shown", shown, "after another upsert", after)

    rows.insert([["zero", "minus"], [0, 0], [[0.0] * 8, [-1.0] * 8]])
    fresh = [key for key, _ in found(10)]
    rows.insert([[f"f{n}" for n in range(3000)], [9] * 3000, [[1.0 + n % 7] + [1.0] * 7 for n in range(3000)]])
    rows.flush()
    utility.wait_for_index_building_complete("rows")
    for _ in range(120):
        if any(segment.index_name == "vector" for segment in utility.get_query_segment_info("rows")):
            break
        time.sleep(0.5)
    hits = found(4000)
    place = [key for key, _ in hits].index("zero")
    print("zero vector: fresh", "zero" in fresh, "indexed", hits[place], "at", place, "of", len(hits))
finally:
    server.stop()
assert queried == 1 and searched == {49: 1, "tree": 1, 50: "error 65535"}, (queried, searched)
assert (twice, shown, after) == (2, [1], 1), (twice, shown, after)
assert "zero" not in fresh and hits[place][1] != hits[place][1] and place < len(hits) - 1, (fresh, hits[place], place)
PY
