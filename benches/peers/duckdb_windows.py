"""DuckDB's side of `ondol-bench training-set`.

    python benches/peers/duckdb_windows.py run FOLDER       builds FOLDER/duckdb.parquet, prints its cost as JSON
    python benches/peers/duckdb_windows.py compare FOLDER   compares it with FOLDER/ondol.parquet, value by value

The query is the fastest form that was found: one join on the key and the widest window, one aggregation with a filter per
window. It follows the same rules: strictly before the moment, known by then, tails on the same hops.
"""

import json
import resource
import sys
import time
from pathlib import Path

import duckdb

HOUR = 3_600_000_000
WINDOWS = {"1h": (HOUR, HOUR // 12), "24h": (24 * HOUR, HOUR), "7d": (168 * HOUR, HOUR)}


def query(folder):
    tails = ", ".join(
        f"make_timestamptz((epoch_us(ts) - {width}) // {hop} * {hop}) AS tail_{name}" for name, (width, hop) in WINDOWS.items()
    )
    features = ", ".join(
        f'count(e.ts) FILTER (WHERE e.ts >= s.tail_{name}) AS "card.n_{name}", '
        f'sum(e.amount) FILTER (WHERE e.ts >= s.tail_{name}) AS "card.sum_{name}", '
        f'avg(e.amount) FILTER (WHERE e.ts >= s.tail_{name}) AS "card.mean_{name}", '
        f'max(e.amount) FILTER (WHERE e.ts >= s.tail_{name}) AS "card.most_{name}"'
        for name in WINDOWS
    )
    return f"""
        COPY (
            WITH spine AS (SELECT *, {tails} FROM read_parquet('{folder}/spine.parquet'))
            SELECT s.row, any_value(s.card) AS card, any_value(s.ts) AS ts, any_value(s.label) AS label, {features}
            FROM spine s
            LEFT JOIN read_parquet('{folder}/offline/payments/_event_date=*/*.parquet') e
                ON e.card = s.card AND e.ts >= s.tail_7d AND e.ts < s.ts AND e._ingested_at <= s.ts
            GROUP BY s.row
        ) TO '{folder}/duckdb.parquet' (FORMAT parquet)
    """


def run(folder):
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
    begun = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF)
    connection.execute(query(folder))
    seconds = time.perf_counter() - begun
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
    }))


def compare(folder):
    connection = duckdb.connect()
    names = [f"card.{name}_{window}" for window in WINDOWS for name in ("n", "sum", "mean", "most")]
    differs = " + ".join(
        f"""count(*) FILTER (WHERE (o."{name}" IS NULL) <> (d."{name}" IS NULL)
            OR abs(o."{name}" - d."{name}") > 1e-9 * greatest(1, abs(d."{name}")))"""
        for name in names
    )
    rows, different = connection.execute(
        f"""SELECT count(*), {differs}
            FROM read_parquet('{folder}/ondol.parquet') o JOIN read_parquet('{folder}/duckdb.parquet') d USING (row)"""
    ).fetchone()
    print(f"{different} of {rows * len(names)} values differ between ondol and duckdb (beyond 1e-9 of the value)")


if __name__ == "__main__":
    {"run": run, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
