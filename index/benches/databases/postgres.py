"""What one does with psycopg and pgvector: copies rows, builds a graph, and asks for the ten nearest. Answers each line
of standard input with one line: "push" with the seconds of copying and of all, a query's number with its milliseconds
and the ids that were found."""

import struct
import sys
import time

import numpy as np
import psycopg

database, rows, queries, dimension = sys.argv[1:5]
dimension = int(dimension)
vectors = np.fromfile(rows, dtype=np.float32).reshape(-1, dimension)
queries = np.fromfile(queries, dtype=np.float32).reshape(-1, dimension)
text = "A text of some length that says nothing. " * 10


def binary(vector):
    return struct.pack(">HH", dimension, 0) + vector.astype(">f4").tobytes()


class Vector(bytes):
    pass


connection = psycopg.connect(database + "?sslmode=disable", autocommit=True)


def register():
    (number,) = connection.execute("SELECT oid FROM pg_type WHERE typname = 'vector'").fetchone()

    class Dumper(psycopg.adapt.Dumper):
        format = psycopg.pq.Format.BINARY
        oid = number

        def dump(self, vector):
            return bytes(vector)

    connection.adapters.register_dumper(Vector, Dumper)
    return number


def push():
    began = time.monotonic()
    connection.execute(f"CREATE TABLE theirs (id text PRIMARY KEY, title text, text text, embedding vector({dimension}))")
    number = register()
    with connection.cursor() as cursor:
        with cursor.copy("COPY theirs FROM STDIN BINARY") as copy:
            copy.set_types(["text", "text", "text", number])
            for at, vector in enumerate(vectors):
                copy.write_row((f"id-{at}", f"Title {at}", text, Vector(binary(vector))))
    copied = time.monotonic() - began
    # As much memory for the graph as the other side gives.
    connection.execute(f"SET maintenance_work_mem = '{min(len(vectors) * (dimension * 4 + 600) // (1 << 20) + 64, 2048)}MB'")
    connection.execute("CREATE INDEX ON theirs USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 200)")
    connection.execute("ANALYZE theirs")
    connection.execute("SET hnsw.ef_search = 100")
    return f"{copied} {time.monotonic() - began}"


def search(number):
    query = Vector(binary(queries[number]))
    began = time.monotonic()
    statement = "SELECT id, title, text, 1 - (embedding <=> %s) FROM theirs ORDER BY embedding <=> %s LIMIT 10"
    found = connection.execute(statement, (query, query)).fetchall()
    took = (time.monotonic() - began) * 1e3
    return " ".join([str(took), *(row[0] for row in found)])


for line in sys.stdin:
    print(push() if line.strip() == "push" else search(int(line)), flush=True)
