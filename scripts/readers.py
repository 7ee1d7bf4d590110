"""Reads an event log and a training set with DuckDB, Polars, pandas and Spark, and checks that all see the same rows.

Spark takes part where its Delta jars are given. `s3://` is `s3a://` to it, reached as the AWS_… variables say.
DuckDB's extensions (Delta, S3) are downloads, so it reads the files that the `deltalake` package lists, or what that reads.
"""

import argparse
import glob
import os
import sys

import deltalake
import duckdb
import pandas
import polars
import pyarrow.dataset


def normal(table, order):
    """A comparable form: columns in order of name, rows in `order`, times in microseconds, no NaN."""
    frame = polars.from_arrow(table) if not isinstance(table, polars.DataFrame) else table
    columns = []
    for name in sorted(frame.columns):
        column = frame[name]
        if column.dtype == polars.Categorical:
            column = column.cast(polars.String)
        if isinstance(column.dtype, polars.Datetime):
            assert column.dtype.time_zone is not None, f"`{name}` lost its time zone"
            column = column.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
        if column.dtype.is_float():
            column = column.cast(polars.Float64).fill_nan(None)
        columns.append(column.alias(name))
    return polars.DataFrame(columns).sort(order or sorted(frame.columns))


def same(what, readings, order):
    readings = {name: normal(table, order) for name, table in readings.items()}
    first, expected = next(iter(readings.items()))
    assert len(expected) > 0, f"{what}: no rows"
    for name, found in readings.items():
        assert found.columns == expected.columns, f"{what}: {name} sees {found.columns}, {first} {expected.columns}"
        for column in expected.columns:
            left, right = expected[column].to_list(), found[column].to_list()
            assert left == right, f"{what}: `{column}` by {name} is not what it is by {first}"
    print(f"{what}: {len(expected)} rows, {len(expected.columns)} columns, the same by {', '.join(readings)}")


def spark_with_delta(jars):
    from pyspark.sql import SparkSession

    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.jars", ",".join(glob.glob(f"{jars}/*.jar")))
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.driver.memory", "768m")
        .config("spark.databricks.delta.snapshotPartitions", "2")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
    )
    for key, value in s3a().items():
        builder = builder.config(f"spark.hadoop.fs.s3a.{key}", value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def s3a():
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if endpoint is None:
        return {}
    return {
        "endpoint": endpoint,
        "endpoint.region": os.environ["AWS_REGION"],
        "path.style.access": "true",
        "connection.ssl.enabled": str(endpoint.startswith("https://")).lower(),
        "aws.credentials.provider": "software.amazon.awssdk.auth.credentials.EnvironmentVariableCredentialsProvider",
    }


def from_pandas(frame):
    return pyarrow.Table.from_pandas(frame, preserve_index=False)


def check_log(location, spark):
    table = deltalake.DeltaTable(location)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    if location.startswith("s3://"):
        connection.register("events", table.to_pyarrow_dataset())
        by_duckdb = connection.execute("SELECT * FROM events")
    else:
        by_duckdb = connection.execute(
            "SELECT * FROM read_parquet(?, hive_partitioning = true, union_by_name = true)", [table.file_uris()]
        )
    readings = {
        "polars": polars.read_delta(location),
        "pandas": from_pandas(table.to_pandas()),
        "duckdb": by_duckdb.fetch_arrow_table(),
    }
    if spark is not None:
        to_spark = location.replace("s3://", "s3a://", 1)
        log = spark.read.format("delta").load(to_spark)
        readings["spark"] = log.toArrow()
        day = log.agg({"_event_date": "max"}).first()[0]
        one_day = log.where(log._event_date == day).count()
        expected = readings["polars"].filter(polars.col("_event_date") == day).height
        assert one_day == expected, f"spark counts {one_day} rows of {day}, polars {expected}"
        first = spark.read.format("delta").option("versionAsOf", 0).load(to_spark).count()
        assert first == deltalake.DeltaTable(location, version=0).to_pyarrow_table().num_rows
    same("event log", readings, ["_generation", "_partition", "_offset"])


def check_training_set(path, spark):
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    readings = {
        "polars": polars.read_parquet(path),
        "pandas": from_pandas(pandas.read_parquet(path)),
        "duckdb": connection.execute("SELECT * FROM read_parquet(?)", [path]).fetch_arrow_table(),
        "pyarrow": pyarrow.dataset.dataset(path).to_table(),
    }
    if spark is not None:
        readings["spark"] = spark.read.parquet(path).toArrow()
    same("training set", readings, None)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", required=True)
    parser.add_argument("--training-set", required=True)
    parser.add_argument("--jars", help="folder of the jars of Delta for Spark")
    arguments = parser.parse_args()
    spark = spark_with_delta(arguments.jars) if arguments.jars else None
    check_log(arguments.table, spark)
    check_training_set(arguments.training_set, spark)


if __name__ == "__main__":
    sys.exit(main())
