//! Durations such as `30s`, `15m`, `24h` and `7d`.

/// Microseconds of a duration, or what is wrong with it.
pub(super) fn parse(text: &str) -> Result<i64, String> {
    let example = "write a whole number and a unit: 30s, 15m, 24h or 7d";
    let text = text.trim();
    let Some(split) = text.find(|c: char| !c.is_ascii_digit()) else {
        return Err(if text.is_empty() {
            example.to_owned()
        } else {
            format!("the unit is missing: {example}")
        });
    };
    let (number, unit) = text.split_at(split);
    let seconds: i64 = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(example.to_owned()),
    };
    let number: i64 = number.parse().map_err(|_| example.to_owned())?;
    match number.checked_mul(seconds).filter(|seconds| *seconds <= MAX_S) {
        Some(seconds) => Ok(seconds * 1_000_000),
        None => Err("the longest duration is 36500d".to_owned()),
    }
}

/// A century: longer is a slip, and sums of durations and event times stay far from overflow.
const MAX_S: i64 = 36_500 * 86_400;

/// A duration as text, in the largest unit that is exact.
pub(super) fn text(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    if micros % 1_000_000 != 0 {
        return format!("{micros}us");
    }
    for (size, unit) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
        if seconds != 0 && seconds % size == 0 {
            return format!("{}{unit}", seconds / size);
        }
    }
    format!("{seconds}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_seconds_minutes_hours_and_days() {
        for (written, seconds) in [("0s", 0), ("30s", 30), ("15m", 900), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(parse(written), Ok(seconds * 1_000_000), "{written}");
        }
        assert_eq!(text(86_400_000_000), "1d");
        assert_eq!(text(5_400_000_000), "90m");
    }

    #[test]
    fn anything_else_is_refused() {
        for written in [
            "",
            "5",
            "5 minutes",
            "-1h",
            "1.5h",
            "h",
            "99999999999999999999d",
            "40000d",
        ] {
            assert!(parse(written).is_err(), "{written}");
        }
    }
}
