"""Makes the tables of this directory: what pandas and pyarrow write of usual data.

    pip install pandas==3.1.1 pyarrow==26.0.1 fastparquet==2026.9.0 polars==2.1.0 duckdb==2.0.1
    python make_tables.py
"""

import datetime as dt
import decimal
import pathlib
import uuid

import duckdb
import fastparquet
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).parent / "tables"
BIG = 2**53


def write(name, table, **options):
    pq.write_table(table, HERE / name, **options)


def texts(count):
    return {
        "id": [f"d{number}" for number in range(count)],
        "text": [f"Text {number}." for number in range(count)],
    }


def two(column, of_type):
    """A column of a value and a null."""
    return pa.array([column, None], type=of_type)


def every_type():
    """A column of each type of Arrow that Parquet can hold."""
    moment = dt.datetime(2026, 11, 29, 12, 30, 15)
    nanoseconds = 1_795_955_415_123_456_789
    columns = {
        "bool": two(True, pa.bool_()),
        **{f"int{bits}": two(-7, getattr(pa, f"int{bits}")()) for bits in (8, 16, 32, 64)},
        **{f"uint{bits}": two(7, getattr(pa, f"uint{bits}")()) for bits in (8, 16, 32)},
        "uint64": two(2**64 - 1, pa.uint64()),
        "above_2_53": two(BIG + 1, pa.int64()),
        "float16": two(np.float16(0.1), pa.float16()),
        "float32": two(0.1, pa.float32()),
        "float64": two(0.1 + 0.2, pa.float64()),
        # A quick parser reads these digits as the number beside it.
        "float64_exact": two(0.9823506400390133, pa.float64()),
        "decimal": two(decimal.Decimal("-1234.50"), pa.decimal128(10, 2)),
        "decimal_integer": two(decimal.Decimal(BIG + 1), pa.decimal128(30, 0)),
        "decimal_large": two(decimal.Decimal("0.1"), pa.decimal256(60, 30)),
        "date32": two(moment.date(), pa.date32()),
        "date64": two(moment.date(), pa.date64()),
        "time_s": two(moment.time(), pa.time32("s")),
        "time_ms": two(dt.time(1, 2, 3, 4000), pa.time32("ms")),
        "time_us": two(dt.time(1, 2, 3, 4), pa.time64("us")),
        "time_ns": two(1_000_000_001, pa.time64("ns")),
        **{
            f"timestamp_{unit}": two(nanoseconds // 10**digits, pa.timestamp(unit))
            for unit, digits in (("s", 9), ("ms", 6), ("us", 3), ("ns", 0))
        },
        **{
            f"timestamp_{unit}_zone": two(nanoseconds // 10**digits, pa.timestamp(unit, "America/Lima"))
            for unit, digits in (("s", 9), ("ms", 6), ("us", 3), ("ns", 0))
        },
        "string": two("é", pa.string()),
        "large_string": two("é", pa.large_string()),
        "string_view": two("é", pa.string_view()),
        "dictionary": pa.array(["é", None]).dictionary_encode(),
        "binary": two(b"text", pa.binary()),
        "binary_no_text": two(b"\xff\x00", pa.binary()),
        "binary_fixed": two(b"fixed", pa.binary(5)),
        "uuid": two(uuid.UUID(int=1).bytes, pa.uuid()),
        "nulls": pa.nulls(2),
        "list": two(["a", None, "b"], pa.list_(pa.string())),
        "list_empty": two([], pa.list_(pa.int64())),
        "list_times": two([moment], pa.list_(pa.timestamp("ns"))),
        "list_float32": two([0.1, 0.2], pa.large_list(pa.float32())),
        "list_fixed": two([1, 2], pa.list_(pa.int32(), 2)),
        "list_of_lists": two([[1], [2, 3]], pa.list_(pa.list_(pa.int32()))),
        "embedding": two([0.5] * 384, pa.list_(pa.float32())),
        "struct": two(
            {"year": 1821, "at": moment, "raw": b"\xff", "deep": {"name": "é"}},
            pa.struct(
                {
                    "year": pa.int16(),
                    "at": pa.timestamp("us", "UTC"),
                    "raw": pa.binary(),
                    "deep": pa.struct({"name": pa.string()}),
                }
            ),
        ),
        "structs": two([{"n": 1}, {"n": None}], pa.list_(pa.struct({"n": pa.int8()}))),
        "map": two([("k", 1)], pa.map_(pa.string(), pa.int32())),
        "duration": two(5, pa.duration("s")),
    }
    write("every_type.parquet", pa.table(texts(2) | columns))


def pandas_tables():
    frame = pd.DataFrame(
        texts(4)
        | {
            "title": [None] * 4,
            "url": [None, "https://e.org", None, None],
            "price": np.array([0.1, 2.5, np.nan, np.inf], dtype="float32"),
            "count": [1, None, 3, 4],
            "when": pd.to_datetime(["2026-11-29", None, "2026-11-29 12:00", "1821-07-28"], format="ISO8601").astype("datetime64[ns]"),
            "zoned": pd.to_datetime(["2026-11-29T12:00:00+02:00"] * 4, utc=True),
            "kind": pd.Categorical(["a", "b", "a", None]),
            "tags": [["x", "y"], [], None, ["y"]],
            "big": [BIG, BIG + 1, BIG + 2, -BIG - 1],
        }
    )
    # A table of some rows keeps the index of the whole.
    frame[frame.id != "d2"].to_parquet(HERE / "pandas_filtered.parquet")
    frame.to_parquet(HERE / "pandas.parquet")
    frame.set_index("kind").to_parquet(HERE / "pandas_named_index.parquet")
    frame.set_index("id").to_parquet(HERE / "pandas_id_index.parquet")
    # Integers of which one is missing become floats.
    pd.DataFrame({"id": [7, None, 9], "text": ["a", "b", "c"]}).to_parquet(HERE / "pandas_float_ids.parquet")


def old_writers():
    moment = dt.datetime(2026, 11, 29, 12, 30, 15, 250_000)
    table = pa.table(texts(1) | {"at": [moment], "list": [["a", "b"]]})
    write("spark.parquet", table, use_deprecated_int96_timestamps=True, store_schema=False)
    write("version_1.parquet", table, version="1.0", use_compliant_nested_type=False, store_schema=False)
    beyond = pa.array([2**62], type=pa.timestamp("ms"))
    write("beyond_9999.parquet", pa.table(texts(1) | {"at": beyond}))
    write("no_rows.parquet", pa.table(texts(0)))


def other_writers():
    frame = pd.DataFrame(texts(2) | {"kept": [{"a": 1}, [1, 2]]}, index=[5, 9])
    encoding = {"id": "utf8", "text": "utf8", "kept": "json"}
    fastparquet.write(HERE / "fastparquet.parquet", frame, object_encoding=encoding)
    frame = pl.DataFrame(
        texts(2)
        | {
            "enum": pl.Series(["u", None], dtype=pl.Enum(["u", "v"])),
            "array": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int8, 2)),
            "int128": pl.Series([2**70, None], dtype=pl.Int128),
            "zoned": pl.Series([dt.datetime(2026, 11, 29), None]).dt.replace_time_zone("America/Lima"),
            "bytes": [b"\xff", b"text"],
        }
    )
    frame.write_parquet(HERE / "polars.parquet")
    duckdb.sql(
        """select 'd0' as id, 'Text 0.' as text, 170141183460469231731687303715884105727::hugeint as huge,
        timestamptz '2026-11-29 01:02:03+02' as zoned, interval 3 days as interval,
        'c0ffee00-0000-0000-0000-000000000001'::uuid as uuid, map{'k': [1, 2]} as map, '101'::bit as bit,
        'q'::enum('q', 'r') as enum, '{"a": [1]}'::json as json, null as nothing"""
    ).write_parquet(str(HERE / "duckdb.parquet"))


every_type()
pandas_tables()
old_writers()
other_writers()
