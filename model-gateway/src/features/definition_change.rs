//! Whether what is served is what a version was registered with.
//!
//! A view's new version may keep a feature as it was: then its values are the same, and nothing has changed for who uses
//! only that feature.

use ondol_vocabulary::{FeatureRef, ViewDefinition};

/// What differs between `before`, the views at registration, and `now`, in `features`: a line each. A view that was not
/// recorded (by an older gateway) is not compared.
pub(super) fn changes(before: &[ViewDefinition], now: &[&ViewDefinition], features: &[FeatureRef]) -> Vec<String> {
    let mut lines = Vec::new();
    for view in now {
        let Some(old) = before.iter().find(|old| old.name == view.name) else {
            continue;
        };
        if let Some(what) = frame_change(old, view) {
            lines.push(format!("view {} has another {what}", view.name));
            continue;
        }
        for need in features.iter().filter(|need| need.view == view.name) {
            let (was, is) = (old.feature(&need.feature), view.feature(&need.feature));
            if let (Some(was), Some(is)) = (was, is)
                && was != is
            {
                let what = if was.expression == is.expression {
                    "another meaning or default".to_owned()
                } else {
                    format!("was {}, is {}", was.expression, is.expression)
                };
                lines.push(format!("{need}: {what}"));
            }
        }
    }
    lines
}

/// What of the view that concerns all of its features differs.
fn frame_change(old: &ViewDefinition, new: &ViewDefinition) -> Option<&'static str> {
    let same = [
        ("source", old.source == new.source),
        ("key", old.key == new.key),
        ("condition", old.filter == new.filter),
        ("time to live", old.ttl_us == new.ttl_us),
    ];
    same.into_iter().find(|(_, same)| !same).map(|(what, _)| what)
}
