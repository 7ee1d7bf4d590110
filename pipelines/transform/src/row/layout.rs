//! What the rows of one view hold: which values are kept, which partial states, in tiles of which hop.
//!
//! The layout is compiled from the view's definition. Features of the same function, argument and filter share one
//! partial state per hop, or one trail, however many windows read it.

use super::state::Kind;
use super::trail::TrailKind;
use ondol_vocabulary::{DataType, Window};

/// The shape of every row of one view.
#[derive(Debug, Default)]
pub(crate) struct RowLayout {
    /// Types of the view's distinct input expressions.
    pub(crate) inputs: Vec<DataType>,
    /// Number of the view's distinct feature filters.
    pub(crate) filters: usize,
    /// The inputs that the latest row keeps, by slot.
    pub(crate) latest: Vec<usize>,
    /// One per distinct hop, and one for all time if the view has aggregates without a window.
    pub(crate) sets: Vec<SetLayout>,
    /// What is kept once for all windows.
    pub(crate) trails: Vec<TrailLayout>,
    /// Stored in every row, so that a row of another layout is refused rather than misread.
    pub(crate) fingerprint: u16,
}

/// The partial states that share one hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetLayout {
    pub(crate) span: Span,
    pub(crate) measures: Vec<Measure>,
}

/// One trail: what it keeps of which values of which events, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrailLayout {
    pub(crate) kind: TrailKind,
    /// The values it takes.
    pub(crate) input: usize,
    /// The condition on events.
    pub(crate) filter: Option<usize>,
    /// One per distinct hop of the windows that read it, with the widest of that hop.
    pub(crate) spans: Vec<Span>,
}

/// How a set of states divides time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// All time is one tile, of index 0.
    Ever,
    /// Tile `i` covers `[i · hop, (i + 1) · hop)`.
    Tiles {
        hop_us: i64,
        /// The widest window that reads them.
        width_us: i64,
    },
}

/// One partial state: what it keeps of which values of which events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measure {
    pub(crate) kind: Kind,
    /// The argument; none counts events.
    pub(crate) input: Option<usize>,
    /// The condition on events.
    pub(crate) filter: Option<usize>,
}

impl RowLayout {
    /// The place of measure `measure` in the set that `window` reads: added unless it is there.
    pub(crate) fn place(&mut self, window: Option<Window>, measure: Measure) -> (usize, usize) {
        let span = Span::of(window);
        let set = match self.sets.iter().position(|set| set.span.hop_us() == span.hop_us()) {
            Some(set) => set,
            None => {
                self.sets.push(SetLayout {
                    span,
                    measures: Vec::new(),
                });
                self.sets.len() - 1
            }
        };
        let layout = &mut self.sets[set];
        layout.span.widen(span);
        let joined = layout.measures.iter().enumerate().find_map(|(at, known)| {
            let same = known.input == measure.input && known.filter == measure.filter;
            Some((at, known.kind.joined(measure.kind).filter(|_| same)?))
        });
        let at = match joined {
            Some((at, kind)) => {
                layout.measures[at].kind = kind;
                at
            }
            None => {
                layout.measures.push(measure);
                layout.measures.len() - 1
            }
        };
        (set, at)
    }

    /// The place of the trail of `kind` that takes `input` under `filter`, which `window` reads: added unless it is
    /// there.
    pub(crate) fn trail(
        &mut self,
        window: Option<Window>,
        kind: TrailKind,
        input: usize,
        filter: Option<usize>,
    ) -> usize {
        let span = Span::of(window);
        let at = self.trails.iter().position(|known| {
            known.input == input
                && known.filter == filter
                && known.kind.joined(kind).is_some()
                && (!kind.is_tiled() || known.spans.iter().any(|known| known.hop_us() == span.hop_us()))
        });
        let at = at.unwrap_or_else(|| {
            self.trails.push(TrailLayout {
                kind,
                input,
                filter,
                spans: Vec::new(),
            });
            self.trails.len() - 1
        });
        let trail = &mut self.trails[at];
        trail.kind = trail.kind.joined(kind).unwrap_or(kind);
        match trail.spans.iter_mut().find(|known| known.hop_us() == span.hop_us()) {
            Some(known) => known.widen(span),
            None => trail.spans.push(span),
        }
        at
    }

    /// The slot of the latest row that keeps `input`: added unless it is there.
    pub(crate) fn latest_slot(&mut self, input: usize) -> usize {
        self.latest.iter().position(|kept| *kept == input).unwrap_or_else(|| {
            self.latest.push(input);
            self.latest.len() - 1
        })
    }

    /// Whether anything kept depends on where events of one time stand in their source.
    pub(crate) fn has_positions(&self) -> bool {
        let picks = |measure: &Measure| matches!(measure.kind, Kind::First | Kind::Last);
        let lists = |trail: &TrailLayout| !matches!(trail.kind, TrailKind::Cardinality);
        !self.latest.is_empty()
            || self.sets.iter().flat_map(|set| &set.measures).any(picks)
            || self.trails.iter().any(lists)
    }

    /// Fixes the fingerprint. `texts` are those of the inputs and filters: expressions are part of the meaning.
    ///
    /// Stored rows depend on this text: a change of it makes every row unreadable.
    pub(crate) fn seal(&mut self, texts: &[&str]) {
        let mut shape = format!("filters {} latest {:?}", self.filters, self.latest);
        for data_type in &self.inputs {
            shape += &format!(" input {data_type}");
        }
        for set in &self.sets {
            match set.span {
                Span::Ever => shape += " ever",
                Span::Tiles { hop_us, width_us } => shape += &format!(" hop {hop_us} width {width_us}"),
            }
            for Measure { kind, input, filter } in &set.measures {
                shape += &format!(" {} {input:?} {filter:?}", kind.name());
                if let Kind::Top(most) = kind {
                    shape += &format!(" most {most}");
                }
            }
        }
        for TrailLayout {
            kind,
            input,
            filter,
            spans,
        } in &self.trails
        {
            shape += &format!(" trail {kind:?} {input} {filter:?} {spans:?}");
        }
        for text in texts {
            shape += &format!(" {text:?}");
        }
        self.fingerprint = xxhash_rust::xxh3::xxh3_64(shape.as_bytes()) as u16;
    }
}

impl TrailLayout {
    /// The earliest time that a row keeps whose newest folded event is at `newest`: no window reaches further back.
    pub(crate) fn retained_from(&self, newest: i64) -> i64 {
        let starts = self.spans.iter().map(|span| span.start(span.first_retained(newest)));
        starts.min().unwrap_or(i64::MIN)
    }

    /// How the trail divides time, if it does.
    pub(crate) fn span(&self) -> Span {
        match (self.kind.is_tiled(), self.spans.first()) {
            (true, Some(span)) => *span,
            _ => Span::Ever,
        }
    }
}

impl Span {
    /// What a window reads.
    pub(crate) const fn of(window: Option<Window>) -> Self {
        match window {
            Some(Window { width_us, hop_us }) => Self::Tiles { hop_us, width_us },
            None => Self::Ever,
        }
    }

    /// The same division of time, whatever reads it.
    pub(crate) const fn of_any_width(self) -> Self {
        match self {
            Self::Ever => Self::Ever,
            Self::Tiles { hop_us, .. } => Self::Tiles { hop_us, width_us: 0 },
        }
    }

    /// Reaches as far back as `other`, of the same hop.
    fn widen(&mut self, other: Self) {
        if let (Self::Tiles { width_us, .. }, Self::Tiles { width_us: other, .. }) = (self, other) {
            *width_us = (*width_us).max(other);
        }
    }

    /// Where tile `index` starts, or the least time if that is earlier.
    pub(crate) const fn start(self, index: i64) -> i64 {
        match self {
            Self::Ever => i64::MIN,
            Self::Tiles { hop_us, .. } => index.saturating_mul(hop_us),
        }
    }

    const fn hop_us(self) -> Option<i64> {
        match self {
            Self::Ever => None,
            Self::Tiles { hop_us, .. } => Some(hop_us),
        }
    }

    /// The index of the tile that holds `time`. Floors towards −∞, before the epoch too.
    pub(crate) const fn index(self, time: i64) -> i64 {
        match self {
            Self::Ever => 0,
            // Floored for a positive hop; compiling a view refuses any other.
            Self::Tiles { hop_us, .. } => time.div_euclid(hop_us),
        }
    }

    /// The index of the first tile of a window of `width_us` at `moment`: that of `floor(moment − width, hop)`.
    pub(crate) fn first_index(self, moment: i64, width_us: i64) -> i64 {
        match self {
            Self::Ever => i64::MIN,
            Self::Tiles { hop_us, .. } => {
                if let Some(tail) = moment.checked_sub(width_us) {
                    return tail.div_euclid(hop_us);
                }
                let tail = (i128::from(moment) - i128::from(width_us)).div_euclid(i128::from(hop_us));
                // Tiles of representable times have representable indexes, so clamping loses none.
                i64::try_from(tail).unwrap_or(if tail < 0 { i64::MIN } else { i64::MAX })
            }
        }
    }

    /// The index of the first tile that a row retains whose newest folded event is at `newest`. Reads are later than
    /// `newest`, so no window reaches back further.
    pub(crate) fn first_retained(self, newest: i64) -> i64 {
        match self {
            Self::Ever => i64::MIN,
            Self::Tiles { width_us, .. } => self.first_index(newest, width_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILES: Span = Span::Tiles {
        hop_us: 15,
        width_us: 60,
    };

    #[test]
    fn tiles_floor_towards_minus_infinity() {
        assert_eq!(TILES.index(-1), -1);
        assert_eq!(TILES.index(-15), -1);
        assert_eq!(TILES.index(-16), -2);
        assert_eq!(TILES.first_index(1, 60), -4);
        assert_eq!(TILES.first_index(90, 60), 2);
    }

    #[test]
    fn times_at_the_ends_of_the_range_stay_in_range() {
        assert_eq!(
            TILES.first_index(i64::MIN, i64::MAX),
            (i128::from(i64::MIN) - i128::from(i64::MAX)).div_euclid(15) as i64
        );
        let microseconds = Span::Tiles {
            hop_us: 1,
            width_us: i64::MAX,
        };
        assert_eq!(microseconds.first_retained(i64::MIN), i64::MIN);
        assert_eq!(microseconds.index(i64::MAX), i64::MAX);
    }

    #[test]
    fn one_state_serves_every_window_of_its_hop() {
        let mut layout = RowLayout::default();
        let count = Measure {
            kind: Kind::Count,
            input: None,
            filter: None,
        };
        let hour = Window {
            width_us: 60,
            hop_us: 5,
        };
        let two_hours = Window {
            width_us: 120,
            hop_us: 5,
        };
        assert_eq!(layout.place(Some(hour), count), (0, 0));
        assert_eq!(layout.place(Some(two_hours), count), (0, 0));
        assert_eq!(layout.place(None, count), (1, 0));
        assert_eq!(
            layout.sets[0].span,
            Span::Tiles {
                hop_us: 5,
                width_us: 120
            }
        );
    }

    #[test]
    fn one_list_serves_every_window_and_number_of_values() {
        let window = |width_us, hop_us| Some(Window { width_us, hop_us });
        let mut layout = RowLayout::default();
        assert_eq!(layout.trail(window(60, 5), TrailKind::Newest(3), 0, None), 0);
        assert_eq!(layout.trail(window(600, 50), TrailKind::Newest(7), 0, None), 0);
        assert_eq!(layout.trail(window(90, 5), TrailKind::Newest(2), 0, None), 0);
        assert_eq!(layout.trail(None, TrailKind::Distinct(2), 0, None), 1);
        assert_eq!(layout.trail(None, TrailKind::Newest(2), 0, Some(0)), 2);
        assert_eq!(layout.trails[0].kind, TrailKind::Newest(7));
        // At 1000: floor(1000 − 90, 5) = 910 and floor(1000 − 600, 50) = 400.
        assert_eq!(layout.trails[0].retained_from(1000), 400);
        assert_eq!(layout.trails[1].retained_from(1000), i64::MIN);
        // Distinct values are counted by tile: a trail for each hop.
        assert_eq!(layout.trail(window(60, 5), TrailKind::Cardinality, 0, None), 3);
        assert_eq!(layout.trail(window(90, 5), TrailKind::Cardinality, 0, None), 3);
        assert_eq!(layout.trail(window(90, 9), TrailKind::Cardinality, 0, None), 4);
    }

    #[test]
    fn the_greatest_values_serve_those_who_ask_for_fewer() {
        let top = |most| Measure {
            kind: Kind::Top(most),
            input: Some(0),
            filter: None,
        };
        let mut layout = RowLayout::default();
        assert_eq!(layout.place(None, top(3)), (0, 0));
        assert_eq!(layout.place(None, top(5)), (0, 0));
        assert_eq!(layout.sets[0].measures, [top(5)]);
    }
}
