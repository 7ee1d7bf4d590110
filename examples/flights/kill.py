"""kill -9 in the middle of the replay: a platform whose services die at random moments must end with the same online
rows and the same offline log, byte by byte, as one that nobody disturbed. Both read the same Kafka topics.

Run by `scripts/flights-kill`; `--help` lists the options.
"""

from __future__ import annotations

import argparse
import random
import shutil
import time
from pathlib import Path

import redis
import requests
from deltalake import DeltaTable

import flights
from processes import SERVICES, Platform
from replay import Kafka, Replay
from run import HERE, definitions, ondol

SOURCES = ["departures", "arrivals", "weather"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="the `ondol` binary")
    parser.add_argument("--months", type=int, default=1, help="how much of the year to stream")
    parser.add_argument("--kills", type=int, default=24, help="how many times a service is killed")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="which service dies when")
    parser.add_argument("--out", type=Path, default=HERE / "out-kill", help="where data goes (emptied first)")
    parser.add_argument("--kafka", required=True, help="bootstrap servers")
    parser.add_argument("--redis", required=True, help="Redis URL")
    return parser.parse_args()


def online_rows(url: str, prefix: str) -> dict[bytes, bytes]:
    """Every stored row of one platform, by its key without the platform's prefix. Marks count syncs, so they differ."""
    store = redis.Redis.from_url(url)
    found = store.scan_iter(match=f"{prefix}:*", count=5000)
    keys = [key for key in found if not key.startswith(f"{prefix}:mark:".encode())]
    values = [value for start in range(0, len(keys), 5000) for value in store.mget(keys[start : start + 5000])]
    return {key[len(prefix) :]: value for key, value in zip(keys, values)}


def offline_rows(platform: Platform, source: str):
    """One source's log, in the order of its topic."""
    store = platform.url("feature-store")
    requests.post(f"{store}/v1/sources/{source}:flush", timeout=60).raise_for_status()
    tables = {table["source"]: table["url"] for table in requests.get(f"{store}/v1/tables", timeout=60).json()}
    table = DeltaTable(tables[source]).to_pandas()
    return table.sort_values(["_partition", "_offset"], kind="stable").reset_index(drop=True)


def disturb(platform: Platform, dice: random.Random) -> str:
    """Kills one service at a random moment from now and starts it again."""
    name = dice.choice(SERVICES)
    time.sleep(dice.random() * 0.5)
    service = platform.services[name]
    service.kill()
    time.sleep(dice.random() * 0.5)
    service.start()
    return name


def main() -> None:
    args = arguments()
    args.out = args.out.resolve()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    dice = random.Random(args.seed)
    run = f".{int(time.time())}"
    flights.write_tables()
    streams = flights.streams(args.months)

    calm = Platform(args.binary.resolve(), args.out / "calm", HERE, args.kafka, args.redis, run=f"{run}.calm")
    shaken = Platform(args.binary.resolve(), args.out / "shaken", HERE, args.kafka, args.redis, run=f"{run}.shaken")
    features, topics = definitions(args.out, run)
    try:
        for platform in (calm, shaken):
            platform.start()
            ondol(args, platform, "apply", str(features))
        sender = Kafka(shaken.url("ingest"), args.kafka, topics)
        replay = Replay(streams, sender)
        slices = max(args.kills, 1)
        size = max(len(stream.lines) for stream in streams) // slices + 1
        killed: dict[str, int] = {}
        for index in range(slices):
            replay.advance(slice_size=size)
            if index < args.kills:
                name = disturb(shaken, dice)
                killed[name] = killed.get(name, 0) + 1
        replay.advance()
        for service in shaken.services.values():
            service.wait_until_ready()
        replay.wait_until_visible()
        sender.ingest_url = calm.url("ingest")
        replay.wait_until_visible()
        different = compare(args, calm, shaken, run)
    finally:
        calm.stop()
        shaken.stop()
    events = sum(len(stream.lines) for stream in streams)
    print(f"kill: {events:,} events, kill -9 {sum(killed.values())} times {killed}, seed {args.seed}: {different} differences")
    if different:
        raise SystemExit("the disturbed run differs from the undisturbed one")


def compare(args, calm: Platform, shaken: Platform, run: str) -> int:
    """Differences between the two platforms, each one named."""
    different = 0
    expected = online_rows(args.redis, f"flights{run}.calm")
    found = online_rows(args.redis, f"flights{run}.shaken")
    if not expected:
        raise SystemExit("the undisturbed run has no online rows: there is nothing to compare")
    for key in expected.keys() | found.keys():
        if expected.get(key) != found.get(key):
            different += 1
            if different <= 5:
                print(f"  online row {key!r} differs")
    print(f"kill: {len(expected):,} online rows compared", flush=True)
    for source in SOURCES:
        log, other = offline_rows(calm, source), offline_rows(shaken, source)
        if not log.equals(other):
            different += 1
            print(f"  the log of `{source}` differs: {len(log):,} rows undisturbed, {len(other):,} disturbed")
        print(f"kill: {len(log):,} log rows of `{source}` compared", flush=True)
    return different


if __name__ == "__main__":
    main()
