//! `default` of features: one form of each value, and what is no value of its feature.

use super::*;
use ondol_vocabulary::{FeatureDefault, Value};

#[test]
fn a_default_has_one_form_however_it_is_written() {
    let default = |feature: &str| {
        let definitions = compiled(&format!("{BASE}ttl = \"1h\"\nfeatures.x = {feature}\n"));
        definitions.views[0].feature("x").unwrap().default.clone()
    };
    for (one, other) in [
        (
            "{ expr = \"amount\", default = 1 }",
            "{ default = 1.0, expr = \"amount\" }",
        ),
        ("{ expr = \"n\", default = 0x10 }", "{ expr = \"n\", default = 1_6 }"),
        (
            "{ expr = \"ts\", default = 2026-01-01T09:00:00+09:00 }",
            "{ expr = \"ts\", default = \"2026-01-01T00:00:00.000Z\" }",
        ),
        (
            "{ expr = \"last_n(amount, 2)\", default = [1] }",
            "{ expr = \"last_n(amount, 2)\", default = [1.0] }",
        ),
    ] {
        assert_eq!(default(one), default(other), "{one}");
        // And the same when it comes back from where definitions are stored.
        let stored = serde_json::to_string(&default(one)).unwrap();
        assert_eq!(
            serde_json::from_str::<Option<FeatureDefault>>(&stored).unwrap(),
            default(one),
            "{stored}"
        );
    }
    assert_eq!(
        default("{ expr = \"count() over 1h\", default = -1 }"),
        Some(FeatureDefault(Value::I64(-1)))
    );
    assert_eq!(default("\"n\""), None);
}

#[test]
fn a_default_that_its_feature_cannot_be_is_told_with_what_it_can() {
    let text = format!(
        "{BASE}{}",
        r#"
features.a = { expr = "amount", default = "none" }
features.b = { expr = "cast(n as i32)", default = 3_000_000_000 }
features.c = { expr = "ts", default = 2026-01-01T09:00:00 }
features.d = { expr = "last_n(n, 3)", default = [1, 0.5] }
features.e = { expr = "amount", default = nan }
features.f = { expr = "count() over 1h", default = 0 }
features.g = { expr = "amount", default = { x = 1 } }
features.h = { expr = "amount", defualt = 1 }
"#
    );
    insta::assert_snapshot!(errors(&text));
}
