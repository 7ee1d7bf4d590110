//! Results over Arrow Flight, read by an unmodified client: pyarrow's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod support;

use ondol_jobs::flight;
use ondol_pipelines_api::wire::AsOf;
use ondol_runtime::{Shutdown, serve};
use ondol_testkit::services;
use ondol_vocabulary::ViewState;
use std::sync::Arc;
use std::time::Duration;
use support::oracle::DEFINITIONS;
use support::{Bench, FakeStore, batch, config, floats, integers, moments, request, strings};

const CLIENT: &str = r#"
import json, sys
import pyarrow.flight as flight

address, job, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = flight.connect(f"grpc://{address}")

flights = list(client.list_flights())
assert [f.descriptor.path for f in flights] == [[job.encode()]], flights
assert len(list(client.list_flights(b"m"))) == 1
assert list(client.list_flights(b"other")) == []

for descriptor in (flight.FlightDescriptor.for_path(job), flight.FlightDescriptor.for_command(job)):
    info = client.get_flight_info(descriptor)
    assert info.total_records == rows, info.total_records
    schema = client.get_schema(descriptor).schema
    assert schema.equals(info.schema, check_metadata=True)
manifest = json.loads(info.app_metadata)
assert manifest["model"] == "m@5", manifest

table = client.do_get(info.endpoints[0].ticket).read_all()
assert table.schema.equals(schema), table.schema
assert table.num_rows == rows
assert table["label"].to_pylist() == list(range(rows))
assert table["word"].to_pylist() == [["a", "b"][row % 2] for row in range(rows)]
assert table["w.count_12m"].to_pylist() == [0] * rows

# A reader that stops half-way does no harm.
reader = client.do_get(flight.Ticket(job))
reader.read_chunk()
reader.cancel()

def refused(kind, part, call):
    try:
        call()
    except kind as error:
        assert part in str(error), str(error)
        return
    raise AssertionError(f"{part}: not refused")

refused(KeyError, "unknown job `nope`", lambda: client.get_flight_info(flight.FlightDescriptor.for_path("nope")))
refused(KeyError, "unknown job `nope`", lambda: client.do_get(flight.Ticket("nope")).read_all())
refused(Exception, "names no job", lambda: client.get_flight_info(flight.FlightDescriptor.for_command(b"")))
refused(NotImplementedError, "POST /v1/training-sets", lambda: client.do_put(flight.FlightDescriptor.for_path("x"), schema)[1].read())
print("as it should be")
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pyarrow_lists_describes_and_reads_training_sets() {
    let folder = tempfile::tempdir().unwrap();
    let store = FakeStore::with(DEFINITIONS, ViewState::Active);
    let bench = Bench::open(Arc::new(store), config(folder.path())).await;
    let rows = 200_000i64;
    let words: arrow::array::DictionaryArray<arrow::datatypes::Int32Type> =
        (0..rows).map(|row| Some(["a", "b"][row as usize % 2])).collect();
    let spine = batch(vec![
        ("label", integers((0..rows).map(Some))),
        ("word", Arc::new(words)),
        ("k", strings((0..rows).map(|_| Some("a")))),
        ("time", moments((0..rows).map(|row| 1_000_000 + row))),
        ("amount", floats((0..rows).map(|_| None))),
    ]);
    let (job, _) = bench.build(request("m", AsOf::KnownAt, spine)).await;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = Shutdown::new();
    let router = flight::router(Arc::new(bench.service.clone()));
    shutdown.spawn("http", serve(listener, router, shutdown.clone()));

    let arguments = [address, job.id.clone(), rows.to_string()];
    let client = tokio::task::spawn_blocking(move || {
        let mut python = std::process::Command::new(services::python());
        python.args(["-c", CLIENT]).args(arguments).output().unwrap()
    });
    let output = client.await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && told.contains("as it should be"),
        "{told}{errors}"
    );
    shutdown.trigger();
    assert!(shutdown.drain(Duration::from_secs(30)).await);
    bench.close().await;
}
