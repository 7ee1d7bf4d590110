//! The definitions under test, each feature said twice, side by side: as the definition file has it, and as the oracle
//! computes it.

use crate::oracle::Event;
use std::fmt::Write as _;

/// The source.
pub(crate) const SOURCE: &str = "payments";

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// The source's `late`: an event that reaches the topic this long after its time counts in no view.
pub(crate) const LATE_US: i64 = 60 * HOUR;

/// A view.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) name: &'static str,
    pub(crate) key: Vec<KeyColumn>,
    /// Only events of more than this amount.
    above: Option<f64>,
    pub(crate) ttl_us: Option<i64>,
    pub(crate) features: Vec<Feature>,
}

/// A column of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyColumn {
    Card,
    Merchant,
}

/// A feature.
#[derive(Clone, Debug)]
pub(crate) struct Feature {
    pub(crate) name: &'static str,
    /// As the definition file has it.
    pub(crate) text: &'static str,
    pub(crate) aggregate: Aggregate,
    pub(crate) window: Option<Window>,
}

/// What a feature makes of values.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aggregate {
    Count,
    CountDeclined,
    Sum(Argument),
    Mean(Argument),
    Min(Argument),
    Max(Argument),
    First(Argument),
    Last(Argument),
    /// The value of the latest event, null or not.
    Latest(Argument),
}

/// What a feature looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument {
    Amount,
    Cents,
    Number,
    Country,
}

/// A window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) width_us: i64,
    pub(crate) hop_us: i64,
}

const M5: Option<Window> = Some(Window {
    width_us: 5 * MINUTE,
    hop_us: 25 * SECOND,
});
const M15: Option<Window> = Some(Window {
    width_us: 15 * MINUTE,
    hop_us: 5 * MINUTE,
});
const H1: Option<Window> = Some(Window {
    width_us: HOUR,
    hop_us: 5 * MINUTE,
});
const H24: Option<Window> = Some(Window {
    width_us: 24 * HOUR,
    hop_us: HOUR,
});

impl KeyColumn {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Card => "card_id",
            Self::Merchant => "merchant_id",
        }
    }
}

impl View {
    /// Whether the view counts `event`.
    pub(crate) fn takes(&self, event: &Event) -> bool {
        !event.late
            && self
                .above
                .is_none_or(|above| event.amount.is_some_and(|amount| amount > above))
    }

    /// The entity of `event`.
    pub(crate) fn key_of<'a>(&self, event: &'a Event) -> Vec<&'a str> {
        let column = |column: &KeyColumn| match column {
            KeyColumn::Card => event.card.as_str(),
            KeyColumn::Merchant => event.merchant.as_str(),
        };
        self.key.iter().map(column).collect()
    }
}

fn feature(name: &'static str, text: &'static str, aggregate: Aggregate, window: Option<Window>) -> Feature {
    Feature {
        name,
        text,
        aggregate,
        window,
    }
}

fn view(name: &'static str, key: &[KeyColumn], features: Vec<Feature>) -> View {
    View {
        name,
        key: key.to_vec(),
        above: None,
        ttl_us: None,
        features,
    }
}

/// The views that are there from the beginning.
pub(crate) fn all() -> Vec<View> {
    use Aggregate::{Count, CountDeclined, First, Last, Latest, Max, Mean, Min, Sum};
    use Argument::{Amount, Cents, Country, Number};
    let card = vec![
        feature("n_5m", r#""count() over 5m""#, Count, M5),
        feature("n_1h", r#""count() over 1h""#, Count, H1),
        feature("n_24h", r#""count() over 24h""#, Count, H24),
        feature("n_all", r#""count()""#, Count, None),
        feature("spend_1h", r#""sum(amount) over 1h""#, Sum(Amount), H1),
        feature("spend_24h", r#""sum(amount) over 24h""#, Sum(Amount), H24),
        feature("cents_24h", r#""sum(cents) over 24h""#, Sum(Cents), H24),
        feature("cents_all", r#""sum(cents)""#, Sum(Cents), None),
        feature("least_1h", r#""min(amount) over 1h""#, Min(Amount), H1),
        feature("most_24h", r#""max(amount) over 24h""#, Max(Amount), H24),
        feature("mean_24h", r#""mean(amount) over 24h""#, Mean(Amount), H24),
        feature(
            "declined_24h",
            r#""count() filter (where declined) over 24h""#,
            CountDeclined,
            H24,
        ),
        feature("first_all", r#""first(amount)""#, First(Amount), None),
        feature("last_all", r#""last(amount)""#, Last(Amount), None),
        feature("country_1h", r#""last(country) over 1h""#, Last(Country), H1),
        feature("country", r#""country""#, Latest(Country), None),
        feature("number", r#""number""#, Latest(Number), None),
    ];
    let merchant = vec![
        feature("n_15m", r#"{ expr = "count() over 15m", hop = "5m" }"#, Count, M15),
        feature("n_24h", r#""count() over 24h""#, Count, H24),
        feature("n_all", r#""count()""#, Count, None),
        feature("cents_all", r#""sum(cents)""#, Sum(Cents), None),
        feature("spend_all", r#""sum(amount)""#, Sum(Amount), None),
        feature("most_1h", r#""max(cents) over 1h""#, Max(Cents), H1),
        feature("last_number", r#""max(number)""#, Max(Number), None),
    ];
    let pair = vec![
        feature("n_all", r#""count()""#, Count, None),
        feature("cents_24h", r#""sum(cents) over 24h""#, Sum(Cents), H24),
        feature("last_number", r#""last(number)""#, Last(Number), None),
    ];
    let large = View {
        above: Some(500.0),
        ttl_us: Some(2 * HOUR),
        ..view(
            "large",
            &[KeyColumn::Card],
            vec![
                feature("n_24h", r#""count() over 24h""#, Count, H24),
                feature("spend_1h", r#""sum(amount) over 1h""#, Sum(Amount), H1),
                feature("least_all", r#""min(amount)""#, Min(Amount), None),
            ],
        )
    };
    vec![
        view("card", &[KeyColumn::Card], card),
        view("merchant", &[KeyColumn::Merchant], merchant),
        view("pair", &[KeyColumn::Card, KeyColumn::Merchant], pair),
        large,
    ]
}

/// The view that is applied in the middle of the run, so that its rows are built from the log while things break.
pub(crate) fn late() -> View {
    use Aggregate::{Count, Mean, Sum};
    use Argument::{Amount, Cents};
    let features = vec![
        feature("n_all", r#""count()""#, Count, None),
        feature("cents_24h", r#""sum(cents) over 24h""#, Sum(Cents), H24),
        feature("mean_all", r#""mean(amount)""#, Mean(Amount), None),
    ];
    view("late", &[KeyColumn::Merchant], features)
}

/// The definition file of the source on `topic` and of `views`.
pub(crate) fn definitions(topic: &str, views: &[View]) -> String {
    let mut text = format!(
        "[source.{SOURCE}]\nkafka = \"{topic}\"\ntime = \"ts\"\nlate = \"{}s\"\n\
         schema = {{ card_id = \"string\", merchant_id = \"string\", amount = \"f64\", cents = \"i64\", \
         declined = \"bool\", country = \"string\", number = \"i64\", ts = \"timestamp\" }}\n",
        LATE_US / SECOND
    );
    for view in views {
        let key: Vec<String> = view.key.iter().map(|column| format!("\"{}\"", column.name())).collect();
        // Writing to a string can't fail.
        let _written = write!(
            text,
            "\n[view.{}]\nfrom = \"{SOURCE}\"\nkey = [{}]\n",
            view.name,
            key.join(", ")
        );
        if let Some(above) = view.above {
            let _written = writeln!(text, "where = \"amount > {above}\"");
        }
        if let Some(ttl_us) = view.ttl_us {
            let _written = writeln!(text, "ttl = \"{}s\"", ttl_us / SECOND);
        }
        for feature in &view.features {
            let _written = writeln!(text, "features.{} = {}", feature.name, feature.text);
        }
    }
    text
}
