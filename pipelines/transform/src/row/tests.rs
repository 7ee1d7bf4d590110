//! Rows by themselves: events made by hand, no expressions.

use super::event::AheadEvent;
use super::layout::{Measure, RowLayout, Span};
use super::sight::Sight;
use super::state::Kind;
use super::trail::TrailKind;
use super::*;
use ondol_vocabulary::{DataType, SourcePosition, Window};
use proptest::prelude::*;

const MINUTE: i64 = 60_000_000;

const HOUR: Option<Window> = Some(Window {
    width_us: 60 * MINUTE,
    hop_us: 15 * MINUTE,
});
const DAY: Option<Window> = Some(Window {
    width_us: 24 * 60 * MINUTE,
    hop_us: 60 * MINUTE,
});

/// Every type of value, and a filter.
fn nothing_kept() -> RowLayout {
    RowLayout {
        inputs: vec![
            DataType::F64,
            DataType::I64,
            DataType::String,
            DataType::Bool,
            DataType::F32,
            DataType::I32,
            DataType::Timestamp,
        ],
        filters: 1,
        ..RowLayout::default()
    }
}

/// The first kinds of states over every type of value, in two hops and over all time, with a filter and latest values.
fn layout() -> RowLayout {
    let (hour, day) = (HOUR, DAY);
    let mut layout = nothing_kept();
    let mut place = |window, kind, input, filter| {
        layout.place(window, Measure { kind, input, filter });
    };
    place(hour, Kind::Count, None, None);
    place(hour, Kind::Float, Some(0), None);
    place(hour, Kind::Min, Some(4), Some(0));
    place(hour, Kind::Last, Some(2), Some(0));
    place(day, Kind::Integer, Some(1), None);
    place(None, Kind::First, Some(3), None);
    place(None, Kind::Max, Some(5), Some(0));
    place(None, Kind::Last, Some(6), None);
    layout.latest_slot(2);
    layout.latest_slot(0);
    layout.seal(&["amount", "n", "text", "flag", "ratio", "small", "moment", "flag"]);
    layout
}

/// The kinds of states that came later, and every kind of trail.
fn later_layout() -> RowLayout {
    let mut layout = nothing_kept();
    let mut place = |window, kind, input, filter| {
        layout.place(window, Measure { kind, input, filter });
    };
    place(HOUR, Kind::Squares, Some(0), None);
    place(HOUR, Kind::Squares, Some(1), None);
    place(HOUR, Kind::Top(2), Some(2), None);
    place(DAY, Kind::Quantiles, Some(0), Some(0));
    place(None, Kind::Top(3), Some(4), None);
    place(None, Kind::Quantiles, Some(1), None);
    layout.trail(HOUR, TrailKind::Newest(3), 2, None);
    layout.trail(None, TrailKind::Distinct(2), 3, None);
    layout.trail(DAY, TrailKind::Cardinality, 0, None);
    layout.trail(None, TrailKind::Cardinality, 2, Some(0));
    layout.seal(&["amount", "n", "text", "flag", "ratio", "small", "moment", "flag"]);
    layout
}

fn layouts() -> [RowLayout; 2] {
    [layout(), later_layout()]
}

fn event(minute: i64, offset: i64, number: f64, text: Option<&str>) -> AheadEvent {
    let whole = number as i64;
    AheadEvent {
        position: Position {
            time: minute * MINUTE,
            source: SourcePosition { partition: 3, offset },
        },
        passes: Box::new([number > 0.0]),
        inputs: Box::new([
            Some(ScalarRef::float(number).to_owned()),
            Some(Scalar::Int(whole)),
            text.map(|text| Scalar::Text(text.into())),
            Some(Scalar::Bool(whole % 2 == 0)),
            Some(ScalarRef::float(f64::from(number as f32)).to_owned()),
            text.map(|_| Scalar::Int(i64::from(whole as i32))),
            Some(Scalar::Int(minute)),
        ]),
    }
}

/// A row that has one of everything.
fn specimen(layout: &RowLayout) -> Row {
    let mut row = Row::default();
    for (minute, offset, number, text) in [
        (5, 10, 1.25, Some("a")),
        (20, 11, -0.1, None),
        (21, 12, 3e10, Some("온돌")),
        (70, 13, f64::NAN, Some("b")),
    ] {
        assert!(row.absorb(layout, &event(minute, offset, number, text), (minute + 1) * MINUTE));
    }
    assert!(row.absorb(layout, &event(90, 14, 7.0, Some("ahead")), 80 * MINUTE));
    row.advance(0x0102_0304_0506_0708, 3, 15);
    row.advance(0x0102_0304_0506_0708, 0, 2);
    row
}

fn encoded(row: &Row, layout: &RowLayout) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(row, layout, &mut bytes);
    bytes
}

fn check_golden(golden: &str, layout: &RowLayout) {
    let golden: String = golden.split_whitespace().collect();
    let written: String = encoded(&specimen(layout), layout)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(written, golden);
    let bytes: Vec<u8> = (0..golden.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&golden[at..at + 2], 16).unwrap())
        .collect();
    assert_eq!(decode(&bytes, layout), Ok(specimen(layout)));
}

#[test]
fn the_bytes_of_row_format_version_1_stay_as_they_are() {
    check_golden(include_str!("golden/row_v1.hex"), &layout());
}

#[test]
fn the_bytes_of_later_states_and_trails_stay_as_they_are() {
    check_golden(include_str!("golden/row_v1_later.hex"), &later_layout());
}

#[test]
fn an_empty_row_is_a_header() {
    for layout in layouts() {
        let bytes = encoded(&Row::default(), &layout);
        assert_eq!(bytes.len(), 12);
        assert_eq!(decode(&bytes, &layout), Ok(Row::default()));
    }
}

#[test]
fn a_row_of_another_version_or_layout_is_refused() {
    let layout = layout();
    let mut bytes = encoded(&specimen(&layout), &layout);
    bytes[0] = 2;
    assert_eq!(
        decode(&bytes, &layout),
        Err(RowError("its format version is 2, and this build reads 1".to_owned()))
    );
    let mut other = self::layout();
    other.seal(&["another expression"]);
    let refused = decode(&encoded(&specimen(&layout), &layout), &other).unwrap_err();
    assert_eq!(
        refused.0,
        "it was written for another view or by another layout of this one"
    );
}

#[test]
fn every_truncation_is_refused() {
    for layout in layouts() {
        let bytes = encoded(&specimen(&layout), &layout);
        for length in 0..bytes.len() {
            assert!(
                decode(&bytes[..length], &layout).is_err(),
                "{length} of {} bytes",
                bytes.len()
            );
        }
    }
}

#[test]
fn a_late_event_lands_in_its_own_tile() {
    let layout = layout();
    let mut in_order = Row::default();
    let mut late = Row::default();
    let events = [event(1, 0, 1.0, None), event(31, 1, 2.0, None), event(76, 2, 3.0, None)];
    for at in [0, 1, 2] {
        assert!(in_order.absorb(&layout, &events[at], 100 * MINUTE));
    }
    for at in [2, 0, 1] {
        assert!(late.absorb(&layout, &events[at], 100 * MINUTE));
    }
    assert_eq!(late, in_order);
}

#[test]
fn an_event_ahead_is_invisible_before_its_time_and_folded_after() {
    let layout = layout();
    let mut row = Row::default();
    row.absorb(&layout, &event(10, 0, 1.0, Some("now")), 10 * MINUTE);
    row.absorb(&layout, &event(30, 1, 2.0, Some("ahead")), 11 * MINUTE);
    assert_eq!(row.newest(), Some(EventTime::from_micros(10 * MINUTE)));
    let latest = |row: &Row, minute| {
        let sight = Sight::of(row, minute * MINUTE + 1).unwrap();
        format!(
            "{:?} {}",
            sight.latest(&layout, 0).unwrap(),
            sight.reach(&layout, 0, Some(60 * MINUTE)).unwrap().count(0)
        )
    };
    assert_eq!(latest(&row, 29), "Text(\"now\") 1");
    assert_eq!(latest(&row, 30), "Text(\"ahead\") 2");
    row.absorb(&layout, &event(12, 2, 3.0, None), 30 * MINUTE);
    assert!(row.ahead.is_empty());
    assert_eq!(row.newest(), Some(EventTime::from_micros(30 * MINUTE)));
    assert_eq!(latest(&row, 30), "Text(\"ahead\") 3");
}

#[test]
fn eviction_follows_the_newest_event_of_the_row() {
    let layout = layout();
    let mut row = Row::default();
    row.absorb(&layout, &event(0, 0, 1.0, None), 0);
    assert_eq!(row.tiles[0].len(), 1);
    row.absorb(&layout, &event(74, 1, 1.0, None), 74 * MINUTE);
    assert_eq!(row.tiles[0].len(), 2, "floor(74 - 60, 15) = 0 is still reached");
    row.absorb(&layout, &event(75, 2, 1.0, None), 75 * MINUTE);
    assert_eq!(
        row.tiles[0].len(),
        2,
        "floor(75 - 60, 15) = 15 no longer reaches the first tile"
    );
}

#[test]
fn fences_of_a_new_generation_start_afresh() {
    let mut row = Row::default();
    row.advance(1, 0, 10);
    row.advance(1, 0, 5);
    assert_eq!(row.fence(1, 0), Some(10), "a fence never moves back");
    assert_eq!((row.fence(1, 1), row.fence(2, 0)), (None, None));
    row.advance(2, 1, 3);
    assert_eq!(
        (row.fence(1, 0), row.fence(2, 0), row.fence(2, 1)),
        (None, None, Some(3))
    );
}

#[test]
fn no_row_exceeds_its_bound() {
    for layout in layouts() {
        let size = layout.size();
        assert!(size.total.typical < size.total.most);
        let mut row = Row::default();
        for offset in 0..3_000 {
            let number = if offset % 3 == 0 {
                offset as f64 * 1e300
            } else {
                offset as f64 * 1e-300
            };
            let text = format!("{offset}{}", "x".repeat(200));
            row.absorb(&layout, &event(offset / 2, offset << 40, number, Some(&text)), i64::MAX);
        }
        row.advance(u64::MAX, i32::MAX, i64::MAX);
        let bytes = encoded(&row, &layout).len() as u64;
        assert!(bytes <= size.total.most, "{bytes} of {size:?}");
        for (part, tiles) in size
            .parts
            .iter()
            .filter(|part| matches!(part.kind, RowPartKind::Tiles { .. }))
            .zip(&row.tiles)
        {
            assert_eq!(part.count, tiles.len() as u64, "all tiles are there");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2048), ..ProptestConfig::default() })]

    #[test]
    fn damaged_rows_are_refused_or_are_rows(
        which in 0usize..2,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let layout = &layouts()[which];
        let mut bytes = encoded(&specimen(layout), layout);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(row) = decode(&bytes, layout) {
            prop_assert_eq!(encoded(&row, layout), bytes, "what is read is what would be written");
            use_all(row, layout);
        }
    }

    #[test]
    fn any_bytes_after_a_good_header_are_refused_or_are_rows(
        which in 0usize..2,
        flags in 0u8..16,
        newest: i64,
        tail: Vec<u8>,
    ) {
        let layout = &layouts()[which];
        let mut bytes = vec![1, flags];
        bytes.extend(layout.fingerprint.to_le_bytes());
        bytes.extend(newest.to_le_bytes());
        bytes.extend(tail);
        if let Ok(row) = decode(&bytes, layout) {
            prop_assert_eq!(encoded(&row, layout), bytes, "what is read is what would be written");
            use_all(row, layout);
        }
    }
}

/// Whatever a row holds, it can be used.
fn use_all(mut row: Row, layout: &RowLayout) {
    row.absorb(layout, &event(1, 1, 1.5, Some("x")), 2 * MINUTE);
    let Some(sight) = Sight::of(&row, i64::MAX) else { return };
    for set in 0..layout.sets.len() {
        let mut reach = sight.reach(layout, set, Some(MINUTE)).unwrap();
        for at in 0..layout.sets[set].measures.len() {
            reach.picked(at);
            reach.float(at);
            reach.integer(at);
            reach.count(at);
            reach.greatest(at, 2);
            if layout.sets[set].measures[at].kind == Kind::Quantiles {
                reach.quantile(at, 500_000);
            }
        }
    }
    for trail in 0..layout.trails.len() {
        sight.newest_values(layout, trail, Span::of(HOUR), 2);
        sight.cardinality(layout, trail, Span::of(DAY));
    }
}
