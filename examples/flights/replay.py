"""Streams events into Ondol, by HTTP push or through Kafka, and knows when they are visible."""

from __future__ import annotations

import time

import requests

from flights import Stream

BATCH = 2000


class Push:
    """Appends through ingest's HTTP API."""

    def __init__(self, ingest_url: str):
        self.ingest_url = ingest_url
        self.session = requests.Session()
        self.ends: dict[str, dict[int, int]] = {}

    def send(self, source: str, lines: list[str]) -> None:
        for start in range(0, len(lines), BATCH):
            body = "\n".join(lines[start : start + BATCH])
            answer = self.session.post(
                f"{self.ingest_url}/v1/sources/{source}/events",
                data=body.encode(),
                headers={"content-type": "application/x-ndjson"},
                timeout=60,
            )
            answer.raise_for_status()
            self.note(source, [(p["partition"], p["offset"]) for p in answer.json()["positions"]])

    def note(self, source: str, positions: list[tuple[int, int]]) -> None:
        ends = self.ends.setdefault(source, {})
        for partition, offset in positions:
            ends[partition] = max(ends.get(partition, -1), offset)


class Kafka(Push):
    """Produces to the topics with an unmodified Kafka client."""

    def __init__(self, ingest_url: str, bootstrap: str, topics: dict[str, str]):
        super().__init__(ingest_url)
        from confluent_kafka import Producer

        self.topics = topics
        self.producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "acks": "all"})

    def send(self, source: str, lines: list[str]) -> None:
        def delivered(error, message):
            if error is not None:
                raise SystemExit(f"Kafka refused an event: {error}")
            self.note(source, [(message.partition(), message.offset())])

        for line in lines:
            while True:
                try:
                    self.producer.produce(self.topics[source], line.encode(), on_delivery=delivered)
                    break
                except BufferError:
                    self.producer.poll(0.1)
            self.producer.poll(0)
        self.producer.flush()


class Replay:
    """Walks the streams in event time."""

    def __init__(self, streams: list[Stream], sender: Push):
        self.streams = streams
        self.sender = sender
        self.sent = {stream.source: 0 for stream in streams}

    def advance(self, moment=None, slice_size: int | None = None) -> int:
        """Sends every event strictly before `moment` (all that remain without one); returns how many were sent."""
        total = 0
        for stream in self.streams:
            start = self.sent[stream.source]
            end = len(stream.lines) if moment is None else stream.before(moment, start)
            if slice_size is not None:
                end = min(end, start + slice_size)
            if end > start:
                self.sender.send(stream.source, stream.lines[start:end])
                self.sent[stream.source] = end
                total += end - start
        return total

    def wait_until_visible(self, seconds: float = 600) -> None:
        """Returns when every event sent is visible to online reads."""
        deadline = time.monotonic() + seconds
        behind = "no status yet"
        while time.monotonic() < deadline:
            try:
                status = {
                    entry["source"]: {p["partition"]: p["delivered"] for p in entry["partitions"]}
                    for entry in self.sender.session.get(f"{self.sender.ingest_url}/v1/sources", timeout=10).json()
                }
            except requests.RequestException as error:
                behind = str(error)
                time.sleep(0.2)
                continue
            behind = [
                (source, partition, offset)
                for source, ends in self.sender.ends.items()
                for partition, offset in ends.items()
                if status.get(source, {}).get(partition, -1) <= offset
            ]
            if not behind:
                return
            time.sleep(0.005)
        raise SystemExit(f"events are not visible after {seconds:.0f} s: {behind}")
