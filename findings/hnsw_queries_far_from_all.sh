#!/usr/bin/env bash
# HNSW in faiss-cpu 1.15.1 and usearch 2.26.6, M 16, efConstruction 200, 20,000 unit vectors of 512 dimensions around 20
# centres: the least ef of a ladder that finds at least .97 of the ten nearest of a query near one of the centres finds
# less than .8 of the ten nearest of a query that is near none, and neither library says so: the walk ends as it always
# does, with as many results. The tenth score tells the two apart (.77 against .12), so a caller can.
# Seen on 2026-11-30 (faiss: ef 128, 1.00 and .68; usearch: ef 128, .99 and .71). onegen's own graph had the same fault;
# it now measures what such queries need and searches farther for them (index/src/segment/graph/calibrate.rs).
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet 'faiss-cpu==1.15.1' 'usearch==2.26.6' 'numpy==2.4.6'
"$scratch/venv/bin/python" - <<'PY'
import faiss
import numpy as np
import usearch.index

COUNT, DIMENSION, CENTRES, QUERIES, K = 20_000, 512, 20, 200, 10
random = np.random.default_rng(1)


def around(centres, count):
    rows = random.uniform(-0.6, 0.6, (count, DIMENSION)) + centres[np.arange(count) % len(centres)]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def centres(count):
    return random.uniform(-1, 1, (count, DIMENSION))


known = centres(CENTRES)
rows = around(known, COUNT)
queries = {"near": around(known, QUERIES), "far": around(centres(QUERIES), QUERIES)}
truth = {name: np.argsort(-some @ rows.T, axis=1)[:, :K] for name, some in queries.items()}
tenth = {name: float(np.median(np.sort(some @ rows.T, axis=1)[:, -K])) for name, some in queries.items()}

flat = faiss.IndexHNSWFlat(DIMENSION, 16, faiss.METRIC_INNER_PRODUCT)
flat.hnsw.efConstruction = 200
flat.add(rows)
other = usearch.index.Index(ndim=DIMENSION, metric="ip", dtype="f32", connectivity=16, expansion_add=200)
other.add(np.arange(COUNT), rows)


def by_faiss(some, ef):
    flat.hnsw.efSearch = ef
    return flat.search(some, K)[1]


def by_usearch(some, ef):
    other.expansion_search = ef
    return other.search(some, K).keys


def recall(search, name, ef):
    found = search(queries[name], ef)
    assert (found >= 0).all() and found.shape == (QUERIES, K)
    return float(np.mean([len(set(f.tolist()) & set(t.tolist())) / K for f, t in zip(found, truth[name])]))


print(f"the tenth score: near {tenth['near']:.2f}, far {tenth['far']:.2f}")
for library, search in [("faiss", by_faiss), ("usearch", by_usearch)]:
    ladder = [16, 32, 64, 128, 256, 512]
    ef = next((ef for ef in ladder if recall(search, "near", ef) >= 0.97), ladder[-1])
    near, far = recall(search, "near", ef), recall(search, "far", ef)
    print(f"{library}: ef {ef}, near {near:.2f}, far {far:.2f}")
    assert near >= 0.97 and far < 0.8, "this has changed"
PY
