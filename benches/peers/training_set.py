"""The peers of `ondol-bench training-set`: DuckDB and Polars, on the same Parquet files, by the same rules.

    python benches/peers/training_set.py run WORK ENGINE FOLDER      builds FOLDER/ENGINE.parquet, prints its cost as JSON
    python benches/peers/training_set.py compare WORK ENGINE FOLDER  compares it with FOLDER/ondol.parquet, value by value

WORK is `windows` (count, sum, mean and max over three windows, from an event log) or `latest` (ten features of each of three
tables, with a time to live). Each query is the fastest form that was found. They follow the same rules: strictly before the
moment, known by then, tails on the same hops. What they write is not compressed, as ours is not. Versions:
scripts/requirements-test.txt.
"""

import json
import resource
import sys
import time
from pathlib import Path

HOUR = 3_600_000_000
DAY = 24 * HOUR
WINDOWS = {"1h": (HOUR, HOUR // 12), "24h": (24 * HOUR, HOUR), "7d": (168 * HOUR, HOUR)}
LOG = "offline/payments/_event_date=*/*.parquet"
TABLES = {"user": "users", "merchant": "merchants", "country": "countries"}
COLUMNS = [f"f{number}" for number in range(10)]
TTL = 30 * DAY


def duckdb_connection():
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
    return connection


def duckdb_windows(folder):
    """One join on the key and the widest window, one aggregation with a filter per window."""
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
    duckdb_connection().execute(f"""
        COPY (
            WITH spine AS (SELECT *, {tails} FROM read_parquet('{folder}/spine.parquet'))
            SELECT s.row, any_value(s.card) AS card, any_value(s.ts) AS ts, any_value(s.label) AS label, {features}
            FROM spine s
            LEFT JOIN read_parquet('{folder}/{LOG}') e
                ON e.card = s.card AND e.ts >= s.tail_7d AND e.ts < s.ts AND e._ingested_at <= s.ts
            GROUP BY s.row
        ) TO '{folder}/duckdb.parquet' (FORMAT parquet, COMPRESSION uncompressed)
    """)


def duckdb_latest(folder):
    """An ASOF join for each table."""
    features = ", ".join(
        f"""CASE WHEN epoch_us(s.ts) - epoch_us({key}.ts) <= {TTL} THEN {key}.{column} END AS "{table}.{column}\""""
        for key, table in TABLES.items()
        for column in COLUMNS
    )
    joins = " ".join(
        f"ASOF LEFT JOIN read_parquet('{folder}/{table}.parquet') {key} ON s.{key} = {key}.{key} AND s.ts > {key}.ts"
        for key, table in TABLES.items()
    )
    duckdb_connection().execute(f"""
        COPY (SELECT s.*, {features} FROM read_parquet('{folder}/spine.parquet') s {joins})
        TO '{folder}/duckdb.parquet' (FORMAT parquet, COMPRESSION uncompressed)
    """)


def polars_windows(folder):
    """One join on the key, cut down to the widest window, aggregated once; streaming."""
    import polars as pl

    def tail(width, hop):
        return (((pl.col("ts").dt.epoch("us") - width) // hop) * hop).cast(pl.Datetime("us", "UTC"))

    spine = pl.scan_parquet(folder / "spine.parquet")
    keyed = spine.select("row", "card", "ts", *(tail(*of).alias(f"tail_{name}") for name, of in WINDOWS.items()))
    events = pl.scan_parquet(folder / LOG).select("card", "amount", event="ts", known="_ingested_at")
    features = [
        feature
        for name in WINDOWS
        for inside in [pl.col("event") >= pl.col(f"tail_{name}")]
        for feature in (
            inside.sum().cast(pl.Int64).alias(f"card.n_{name}"),
            pl.col("amount").filter(inside).sum().alias(f"card.sum_{name}"),
            pl.col("amount").filter(inside).mean().alias(f"card.mean_{name}"),
            pl.col("amount").filter(inside).max().alias(f"card.most_{name}"),
        )
    ]
    seen = (pl.col("event") < pl.col("ts")) & (pl.col("known") <= pl.col("ts")) & (pl.col("event") >= pl.col("tail_7d"))
    counted = keyed.join(events, on="card").filter(seen).group_by("row").agg(features)
    rows = spine.join(counted, on="row", how="left").with_columns(
        *(pl.col(f"card.n_{name}").fill_null(0) for name in WINDOWS),
        *(pl.when(pl.col(f"card.n_{name}") > 0).then(pl.col(f"card.sum_{name}")).alias(f"card.sum_{name}") for name in WINDOWS),
    )
    rows.sink_parquet(folder / "polars.parquet", compression="uncompressed", engine="streaming")


def polars_latest(folder):
    """An as-of join for each table, which stand in order of time: told so, nothing but the spine is sorted."""
    import polars as pl

    rows = pl.scan_parquet(folder / "spine.parquet").sort("ts")
    for key, table in TABLES.items():
        events = pl.scan_parquet(folder / f"{table}.parquet").set_sorted("ts")
        events = events.rename({column: f"{table}.{column}" for column in COLUMNS})
        rows = rows.join_asof(
            events, on="ts", by=key, tolerance="30d", allow_exact_matches=False, check_sortedness=False, coalesce=True
        )
    rows.collect().write_parquet(folder / "polars.parquet", compression="uncompressed")


def run(work, engine, folder):
    build = globals()[f"{engine}_{work}"]
    __import__(engine)
    begun = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF)
    build(folder)
    seconds = time.perf_counter() - begun
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
    }))


def compare(work, engine, folder):
    connection = duckdb_connection()
    if work == "windows":
        names = [f"card.{name}_{window}" for window in WINDOWS for name in ("n", "sum", "mean", "most")]
        rule = "beyond 1e-9 of the value: ours are exact sums, rounded once"
    else:
        names = [f"{table}.{column}" for table in TABLES.values() for column in COLUMNS]
        rule = "in any bit"
    near = "AND NOT abs(o.\"{0}\" - d.\"{0}\") <= 1e-9 * greatest(1, abs(d.\"{0}\"))" if work == "windows" else ""
    differs = " + ".join(
        f"""count(*) FILTER (WHERE o."{name}" IS DISTINCT FROM d."{name}"
            AND ((o."{name}" IS NULL) <> (d."{name}" IS NULL) OR (TRUE {near.format(name)})))"""
        for name in names
    )
    rows, different = connection.execute(
        f"""SELECT count(*), {differs}
            FROM read_parquet('{folder}/ondol.parquet') o JOIN read_parquet('{folder}/{engine}.parquet') d USING (row)"""
    ).fetchone()
    total = connection.execute(f"SELECT count(*) FROM read_parquet('{folder}/spine.parquet')").fetchone()[0]
    assert rows == total, f"{rows} of {total} rows were compared"
    print(f"{work}: {different} of {rows * len(names)} values differ between ondol and {engine} ({rule})")


if __name__ == "__main__":
    {"run": run, "compare": compare}[sys.argv[1]](sys.argv[2], sys.argv[3], Path(sys.argv[4]))
