#!/usr/bin/env bash
# fastparquet 2026.9.0 with pandas 3.1.1: `times="int96"` writes wrong times without a warning, unless the column is in
# nanoseconds. pandas 3 parses dates to microseconds, so a usual frame is wrong: 2026-11-29 is stored as 1970-01-21.
#  1. The writer takes the column's integers for nanoseconds, whatever its unit is: seconds, milliseconds and
#     microseconds are all stored as if they were nanoseconds since 1970.
#  2. Both fastparquet and pyarrow read the wrong time: the file holds it, and nothing in it says so.
#  3. Without `times="int96"` milliseconds, microseconds and nanoseconds are stored as they are.
# Seen on 2026-11-29, with pyarrow 26.0.1 as the other reader, while odd tables for index/tests/corpora were made.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet 'fastparquet==2026.9.0' 'pandas==3.1.1' 'pyarrow==26.0.1'
SCRATCH=$scratch "$scratch/venv/bin/python" -W ignore - <<'PY'
import os

import fastparquet
import pandas as pd
import pyarrow.parquet as pq

path = os.environ["SCRATCH"] + "/times.parquet"
written = pd.to_datetime(["2026-11-29"])
print("unit of pandas' own parser:", written.unit)


def read(unit, **options):
    """What two readers find of the time."""
    fastparquet.write(path, pd.DataFrame({"time": written.as_unit(unit)}), **options)
    times = fastparquet.ParquetFile(path).to_pandas()["time"][0], pq.read_table(path)["time"][0].as_py()
    return [str(pd.Timestamp(time))[:10] for time in times]


found = {unit: read(unit, times="int96") for unit in ("s", "ms", "us", "ns")}
print("times='int96':", found)
usual = {unit: read(unit) for unit in ("ms", "us", "ns")}
print("without:", usual)
assert written.unit == "us", written.unit
assert found == {
    "s": ["1970-01-01"] * 2,
    "ms": ["1970-01-01"] * 2,
    "us": ["1970-01-21"] * 2,
    "ns": ["2026-11-29"] * 2,
}, found
assert all(times == ["2026-11-29"] * 2 for times in usual.values()), usual
PY
