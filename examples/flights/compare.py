"""Compares what was served with what the training set says for the same moments, bit by bit."""

from __future__ import annotations

import math
import struct

import pandas as pd


def bits(value) -> object:
    """Equal for equal bits: NaN and null are one, 0.0 and -0.0 are two."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return struct.pack("<d", float(value))
    return value


def differing(served: list[dict], table: pd.DataFrame, names: list[str], show: int = 5) -> tuple[int, int]:
    """(values that differ, values compared). `served` are dicts with `flight_id` and `features`."""
    rows = {row["flight_id"]: row for row in table[["flight_id", *names]].to_dict("records")}
    different = compared = 0
    for one in served:
        row = rows[one["flight_id"]]
        for name in names:
            online, offline = one["features"][name]["value"], row[name]
            compared += 1
            if bits(online) != bits(offline):
                different += 1
                if different <= show:
                    print(f"  differs: flight {one['flight_id']} {name}: served {online!r}, training set {offline!r}")
    return different, compared
