"""Reads an offline table with DuckDB, Polars and pandas and checks that all three see the same rows.

DuckDB's extensions (Delta, S3) are downloads. So DuckDB reads the active files that the `deltalake` package lists, as the
documentation shows for machines without them, or, on S3, what that package reads for it.
"""

import argparse
import json
import sys

import deltalake
import duckdb
import polars


def rows_of(frame):
    """Comparable rows: every column but the partition column, sorted by position."""
    columns = sorted(column for column in frame.columns if column != "_event_date")
    frame = frame.select(columns).sort(["_generation", "_partition", "_offset"])
    return columns, frame.rows()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("table")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--position", action="append", default=[], help="application id=version")
    parser.add_argument("--older", action="append", default=[], help="version=rows: time travel")
    arguments = parser.parse_args()
    table = deltalake.DeltaTable(arguments.table)

    by_polars = polars.read_delta(arguments.table)
    by_pandas = polars.from_pandas(table.to_pandas())
    files = table.file_uris()
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    if arguments.table.startswith("s3://"):
        connection.register("events", table.to_pyarrow_dataset())
        query = connection.execute("SELECT * FROM events")
    else:
        query = connection.execute("SELECT * FROM read_parquet(?, hive_partitioning = true, union_by_name = true)", [files])
    by_duckdb = polars.from_arrow(query.fetch_arrow_table())

    columns, expected = rows_of(by_polars)
    assert len(expected) == arguments.rows, f"{len(expected)} rows, expected {arguments.rows}"
    for name, frame in [("pandas", by_pandas), ("duckdb", by_duckdb)]:
        their_columns, rows = rows_of(frame)
        assert their_columns == columns, f"{name}: columns {their_columns}, polars has {columns}"
        # pandas reads missing numbers as NaN: compare as text, where null, None and NaN are one.
        normal = [[None if value != value else value for value in row] for row in rows]
        assert normal == [list(row) for row in expected], f"{name} reads other rows than polars"

    dates = by_polars.select(
        (polars.col("ts").dt.date() == polars.col("_event_date")).all().alias("same")
    )["same"][0]
    assert dates, "a row's _event_date is not its event time's date"

    for position in arguments.position:
        app_id, version = position.rsplit("=", 1)
        held = table.transaction_version(app_id)
        assert held == int(version), f"{app_id} stands at {held}, expected {version}"

    for older in arguments.older:
        version, rows = map(int, older.split("="))
        travelled = deltalake.DeltaTable(arguments.table, version=version)
        held = travelled.to_pyarrow_dataset().count_rows()
        assert held == rows, f"version {version} has {held} rows, expected {rows}"

    print(json.dumps({"rows": len(expected), "files": len(files), "version": table.version()}))


if __name__ == "__main__":
    sys.exit(main())
