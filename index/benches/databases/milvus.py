"""What one does with pymilvus: inserts rows in batches, has a graph built, and asks for the ten nearest. Answers each line
of standard input with one line: "push" with the seconds of inserting and of all, a query's number and the consistency of
the read with the milliseconds and the ids that were found."""

import sys
import time

import numpy as np
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, connections, utility

server, rows, queries, dimension = sys.argv[1:5]
dimension = int(dimension)
vectors = np.fromfile(rows, dtype=np.float32).reshape(-1, dimension)
queries = np.fromfile(queries, dtype=np.float32).reshape(-1, dimension)
text = "A text of some length that says nothing. " * 10
host, port = server.rsplit(":", 1)
connections.connect(host=host, port=port)
BATCH = 1000


def push():
    began = time.monotonic()
    fields = [
        FieldSchema("id", DataType.VARCHAR, is_primary=True, max_length=65535),
        FieldSchema("title", DataType.VARCHAR, max_length=65535),
        FieldSchema("text", DataType.VARCHAR, max_length=65535),
        FieldSchema("embedding", DataType.FLOAT_VECTOR, dim=dimension),
    ]
    theirs = Collection("theirs", CollectionSchema(fields), shards_num=1, consistency_level="Strong")
    index = {"index_type": "HNSW", "metric_type": "COSINE", "params": {"M": 16, "efConstruction": 200}}
    theirs.create_index("embedding", index)
    theirs.load()
    for at in range(0, len(vectors), BATCH):
        some = vectors[at : at + BATCH]
        names = range(at, at + len(some))
        theirs.insert([[f"id-{n}" for n in names], [f"Title {n}" for n in names], [text] * len(some), list(some)])
    copied = time.monotonic() - began
    theirs.flush()
    while utility.index_building_progress("theirs")["indexed_rows"] < len(vectors):
        time.sleep(0.5)
    return f"{copied} {time.monotonic() - began}"


def search(number, consistency):
    query = queries[number]
    began = time.monotonic()
    found = theirs.search(
        [query],
        "embedding",
        {"metric_type": "COSINE", "params": {"ef": 100}},
        10,
        output_fields=["title", "text"],
        consistency_level=consistency,
    )[0]
    ids = [hit.id for hit in found if hit.entity.get("text")]
    took = (time.monotonic() - began) * 1e3
    return " ".join([str(took), *ids])


for line in sys.stdin:
    words = line.split()
    if words[0] == "push":
        print(push(), flush=True)
        theirs = Collection("theirs")
    else:
        print(search(int(words[0]), words[1]), flush=True)
