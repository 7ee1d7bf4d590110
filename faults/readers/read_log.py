"""Reads an event log as a stranger would: the files that delta-rs lists, read by DuckDB, written as one Arrow stream.

    read_log.py TABLE OUT.arrow APPLICATION_ID...

Prints the version of each application transaction (the position committed with the files) and the software, as JSON.
"""

import json
import sys

import deltalake
import duckdb
import pyarrow
import pyarrow.ipc

table, out, *applications = sys.argv[1:]
log = deltalake.DeltaTable(table)
database = duckdb.connect()
database.execute("SET TimeZone = 'UTC'")
rows = database.execute(
    """
    SELECT card_id, merchant_id, amount, cents, declined, country, number, epoch_us(ts) AS ts,
           _partition, _offset, epoch_us(_ingested_at) AS ingested_at, _generation, _late,
           strftime(_event_date, '%Y-%m-%d') AS event_date
    FROM read_parquet(?, hive_partitioning = true, hive_types = {'_event_date': DATE}, union_by_name = true)
    ORDER BY _partition, _offset
    """,
    [log.file_uris()],
).fetch_arrow_table()
with pyarrow.ipc.new_stream(out, rows.schema) as stream:
    stream.write_table(rows)
print(
    json.dumps(
        {
            "positions": {application: log.transaction_version(application) for application in applications},
            "version": log.version(),
            "software": f"deltalake {deltalake.__version__}, DuckDB {duckdb.__version__}",
        }
    )
)
