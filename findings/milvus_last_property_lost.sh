#!/usr/bin/env bash
# Milvus 2.3.5 (PyPI's standalone server, with pymilvus 2.3.7): the last change of a collection's properties is lost when
# the server is restarted, however long it was acknowledged before, and also when it is stopped in order. After three
# changes to 1, 2 and 3 the collection says 3, and after the restart 2. Each change seems to store what the one before it
# has made, so a change that is made twice is there.
# Seen on 2026-11-30. onegen keeps in a property what made a collection's vectors and whether it is complete, and writes
# it twice at the end of a push (index/src/remote/milvus/push.rs).
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet 'milvus==2.3.5' 'pymilvus==2.3.7' 'setuptools<80' 'marshmallow<3.20'
"$scratch/venv/bin/python" -W ignore - "$scratch/data" <<'PY'
import sys

from milvus import MilvusServer
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, connections

server = MilvusServer()
server.set_base_dir(sys.argv[1])


def start():
    server.start()
    connections.disconnect("default")
    connections.connect(host="127.0.0.1", port=server.listen_port)


def properties():
    """The properties of both collections, as the server tells them."""
    described = (Collection(name).describe()["properties"] for name in ("once", "twice"))
    return [dict(all) for all in described]


start()
try:
    fields = [
        FieldSchema("key", DataType.INT64, is_primary=True),
        FieldSchema("vector", DataType.FLOAT_VECTOR, dim=8),
    ]
    for name, values in (("once", "123"), ("twice", "1233")):
        collection = Collection(name, CollectionSchema(fields))
        for value in values:
            collection.set_properties({"state": value})
    before = properties()
    server.stop()
    start()
    after = properties()
finally:
    server.stop()
print("before the restart:", before)
print("after it:", after)
assert before == [{"state": "3"}, {"state": "3"}], before
assert after == [{"state": "2"}, {"state": "3"}], after
PY
