"""The flights example, whole: stream the year, build the training set, train, register, predict, compare.

Run by `scripts/flights`; `--help` lists the options.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import requests

import compare
import flights
import learn
from processes import Platform
from replay import Kafka, Push, Replay

HERE = Path(__file__).parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="the `ondol` binary")
    parser.add_argument("--months", type=int, default=12, help="how much of the year to stream")
    parser.add_argument("--moments", type=int, default=300, help="moments in the test period at which to predict")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="where data and results go (emptied first)")
    parser.add_argument("--kafka", help="bootstrap servers: each service in its own process, events through Kafka")
    parser.add_argument("--redis", help="Redis URL, with --kafka")
    return parser.parse_args()


def ondol(args: argparse.Namespace, platform: Platform, *words: str) -> dict:
    """Runs the command line against the platform; its JSON answer."""
    urls = [
        word
        for name in ("feature-store", "ingest", "pipelines", "model-gateway")
        for word in (f"--{name}", platform.url(name))
    ]
    ran = subprocess.run(
        [str(args.binary), *words, *urls, "--output", "json"], cwd=HERE, capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        raise SystemExit(f"`ondol {' '.join(words)}` failed:\n{ran.stdout}{ran.stderr}")
    return json.loads(ran.stdout)


def definitions(out: Path, run: str) -> tuple[Path, dict[str, str]]:
    """The definitions with topics of this run's own, so that no run reads another's events; and those topics."""
    text = (HERE / "features.toml").read_text().replace('"flights.', f'"flights{run}.')
    path = out / "features.toml"
    path.write_text(text)
    return path, {source: f"flights{run}.{source}" for source in ("departures", "arrivals", "weather")}


def split(spine: pd.DataFrame, months: int) -> pd.Timestamp:
    """Where the test period starts: the last two months of the year, or the last quarter of anything shorter."""
    if months == 12:
        return pd.Timestamp("2013-11-01", tz="America/New_York").tz_convert("UTC")
    return spine["time"].quantile(0.75).floor("h")


def training_set(args, platform, spine: pd.DataFrame, name: str) -> pd.DataFrame:
    """The training set of `spine`, through files as a data scientist would."""
    source, target = args.out / f"{name}-spine.parquet", args.out / f"{name}.parquet"
    spine.to_parquet(source, index=False)
    ondol(args, platform, "training-set", "late_arrival", "--spine", str(source), "-o", str(target), "--time-column", "time")
    return pq.read_table(target).to_pandas()


def predict_at(session, url: str, rows: pd.DataFrame, moment: pd.Timestamp) -> list[dict]:
    """Predictions for the flights scheduled at `moment`, as of that moment, by key through the gateway."""
    instances = [
        {name: row[name] if name != "scheduled" else row[name].isoformat() for name in flights.INPUTS}
        for row in rows.to_dict("records")
    ]
    answer = session.post(
        f"{url}/v1/models/late_arrival:batchPredict",
        json={"instances": instances, "as_of": moment.isoformat(), "deadline_ms": 30_000, "explain": True},
        timeout=60,
    )
    if answer.status_code != 200:
        raise SystemExit(f"predict failed: {answer.status_code} {answer.text}")
    answers = answer.json()["predictions"]
    return [{"flight_id": row["flight_id"], **one} for row, one in zip(rows.to_dict("records"), answers)]


def serve_moments(args, platform, replay: Replay, test: pd.DataFrame) -> list[dict]:
    """Streams on to each chosen moment and predicts there what was about to leave."""
    moments = np.sort(test["time"].drop_duplicates().sample(min(args.moments, test["time"].nunique()), random_state=7))
    session, served = requests.Session(), []
    for moment in pd.DatetimeIndex(moments).tz_localize("UTC") if moments.dtype.kind == "M" else moments:
        replay.advance(moment)
        replay.wait_until_visible()
        served += predict_at(session, platform.url("model-gateway"), test[test["time"] == moment], moment)
    return served


def decisions_in_the_lake(args, platform, served: list[dict]) -> int:
    """Decisions of this run that have arrived in the offline store."""
    from deltalake import DeltaTable

    wanted = {one["request_id"] for one in served}
    store = platform.url("feature-store")
    for _ in range(100):
        requests.post(f"{store}/v1/sources/decisions:flush", timeout=60)
        tables = {table["source"]: table for table in requests.get(f"{store}/v1/tables", timeout=60).json()}
        table = tables.get("decisions")
        if table and table["version"] is not None:
            logged = DeltaTable(table["url"]).to_pandas(columns=["request_id"])["request_id"]
            arrived = len(wanted & set(logged))
            if arrived == len(wanted):
                return arrived
        time.sleep(0.2)
    return arrived if table else 0


def main() -> None:
    args = arguments()
    args.out = args.out.resolve()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    flights.write_tables()
    print(f"flights: reading {args.months} months of 2013", flush=True)
    spine, streams = flights.spine(args.months), flights.streams(args.months)
    boundary = split(spine, args.months)

    run = f".{int(time.time())}" if args.kafka else ""
    platform = Platform(args.binary.resolve(), args.out / "data", HERE, args.kafka, args.redis, run)
    ready = platform.start()
    print(f"flights: ondol is ready after {ready:.2f} s", flush=True)
    try:
        report = main_job(args, platform, run, spine, streams, boundary)
    finally:
        platform.stop()
    (args.out / "report.json").write_text(json.dumps(report, indent=2))
    if report["values_that_differ"] or report["decisions_missing"]:
        raise SystemExit("served values and training set differ")


def main_job(args, platform, run: str, spine, streams, boundary) -> dict:
    features, topics = definitions(args.out, run)
    ondol(args, platform, "apply", str(features))
    url = platform.url("ingest")
    sender = Kafka(url, args.kafka, topics) if args.kafka else Push(url)
    replay = Replay(streams, sender)

    began = time.monotonic()
    history = replay.advance(boundary)
    replay.wait_until_visible()
    rate = history / (time.monotonic() - began)
    print(f"flights: streamed {history:,} events at {rate:,.0f} events/s into both stores", flush=True)

    train = training_set(args, platform, spine[spine["time"] < boundary], "train")
    names = [name for name in train.columns if name == "distance" or "." in name]
    model = learn.fit(train, names)
    artifact = args.out / "late_arrival.onnx"
    learn.export(model, names, artifact)
    drift = learn.same_scores(model, artifact, train, names)
    registered = ondol(args, platform, "model", "register", "late_arrival", str(artifact), "--training-set", str(args.out / "train.parquet"))
    print(f"flights: trained on {len(train):,} rows × {len(names)} features, registered {registered['model']}", flush=True)

    test_spine = spine[spine["time"] >= boundary]
    served = serve_moments(args, platform, replay, test_spine)
    replay.advance()
    replay.wait_until_visible()
    print(f"flights: {len(served):,} predictions by key at {args.moments} moments", flush=True)

    test = training_set(args, platform, test_spine, "test")
    different, compared = compare.differing(served, test, names)
    logged = decisions_in_the_lake(args, platform, served)
    baseline = learn.fit(train, learn.REQUEST_ONLY)
    report = {
        "months": args.months,
        "events": sum(len(stream.lines) for stream in streams),
        "events_per_second": round(rate),
        "training_rows": len(train),
        "auc_with_features": round(learn.auc(model, test, names), 4),
        "auc_without_features": round(learn.auc(baseline, test, learn.REQUEST_ONLY), 4),
        "onnx_score_drift": drift,
        "predictions": len(served),
        "values_compared": compared,
        "values_that_differ": different,
        "decisions_logged": logged,
        "decisions_missing": len(served) - logged,
    }
    print(
        f"\n  events                          {report['events']:>12,}\n"
        f"  events per second               {report['events_per_second']:>12,}\n"
        f"  AUC without the store's features {report['auc_without_features']:>11.4f}\n"
        f"  AUC with the store's features   {report['auc_with_features']:>12.4f}\n"
        f"  values compared                 {compared:>12,}\n"
        f"  values that differ              {different:>12,}\n"
        f"  decisions in the offline store  {logged:>12,} of {len(served):,}\n",
        flush=True,
    )
    return report


if __name__ == "__main__":
    main()
