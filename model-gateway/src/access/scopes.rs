//! What a caller may do: scopes of the form `action:model`, and `admin`. What no scope allows is denied.

use std::fmt;
use std::str::FromStr;

/// Longest scope that is taken.
const SCOPE_CHARS: usize = 200;

/// What can be done with a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Score, explain, replay.
    Predict,
    /// Record what became of a prediction. Who may predict may do this too.
    Outcome,
    /// Register a version.
    Register,
    /// Say which version serves whom: routing, promotion, rollback.
    Route,
    /// Load and unload versions.
    Load,
    /// Read metadata, readiness, statistics, routing. Who may do anything else with a model may do this too.
    See,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 6] = [
        Self::Predict,
        Self::Outcome,
        Self::Register,
        Self::Route,
        Self::Load,
        Self::See,
    ];

    /// As it stands in a scope.
    pub fn name(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::Outcome => "outcome",
            Self::Register => "register",
            Self::Route => "route",
            Self::Load => "load",
            Self::See => "see",
        }
    }

    /// Whether it changes what is served, and is therefore audited.
    pub fn is_change(self) -> bool {
        matches!(self, Self::Register | Self::Route | Self::Load)
    }

    /// Whether a scope for `self` is enough for `asked`.
    fn covers(self, asked: Self) -> bool {
        self == asked || asked == Self::See || (self == Self::Predict && asked == Self::Outcome)
    }
}

/// One thing a caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Admin,
    /// An action on the models that a pattern names.
    Model(Action, Pattern),
}

/// Models by name: one, those that begin alike (`fraud-*`), or all (`*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    stem: String,
    is_prefix: bool,
}

/// Why a text is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a scope: write `admin` or `ACTION:MODEL`, where ACTION is {actions} and MODEL a name, `name-*` or `*`", actions = actions())]
pub struct ScopeError {
    text: String,
}

fn actions() -> String {
    Action::ALL.map(Action::name).join(", ")
}

impl Pattern {
    fn names(&self, model: &str) -> bool {
        if self.is_prefix {
            model.starts_with(&self.stem)
        } else {
            model == self.stem
        }
    }

    fn names_all(&self) -> bool {
        self.is_prefix && self.stem.is_empty()
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let wrong = || ScopeError {
            text: text.chars().take(SCOPE_CHARS).collect(),
        };
        if text == "admin" {
            return Ok(Self::Admin);
        }
        let (action, model) = text.split_once(':').ok_or_else(wrong)?;
        let action = Action::ALL
            .into_iter()
            .find(|known| known.name() == action)
            .ok_or_else(wrong)?;
        let (stem, is_prefix) = match model.strip_suffix('*') {
            Some(stem) => (stem, true),
            None => (model, false),
        };
        let strange = |sign: char| sign.is_whitespace() || sign.is_control() || "*,:@/".contains(sign);
        if text.len() > SCOPE_CHARS || model.is_empty() || stem.contains(strange) {
            return Err(wrong());
        }
        let pattern = Pattern {
            stem: stem.to_owned(),
            is_prefix,
        };
        Ok(Self::Model(action, pattern))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::Model(action, pattern) => {
                let star = if pattern.is_prefix { "*" } else { "" };
                write!(f, "{}:{}{star}", action.name(), pattern.stem)
            }
        }
    }
}

/// Everything a caller may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// May do everything.
    pub fn admin() -> Self {
        Self(vec![Scope::Admin])
    }

    /// Parses each of `texts`.
    ///
    /// # Errors
    /// The first that is no scope.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, ScopeError> {
        texts
            .iter()
            .map(|text| text.as_ref().parse())
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Those of `texts` that are scopes, and `granted` ones: tokens carry scopes of other services too.
    pub fn known<'a>(texts: impl Iterator<Item = &'a str>, granted: &Self) -> Self {
        let mut scopes = granted.clone();
        scopes.0.extend(texts.filter_map(|text| text.parse().ok()));
        scopes
    }

    /// Whether `action` on `model` is allowed.
    pub fn allow(&self, action: Action, model: &str) -> bool {
        self.0.iter().any(|scope| match scope {
            Scope::Admin => true,
            Scope::Model(granted, pattern) => granted.covers(action) && pattern.names(model),
        })
    }

    /// Whether `action` is allowed on some model, whichever that is.
    pub fn allow_some(&self, action: Action) -> bool {
        self.0.iter().any(|scope| match scope {
            Scope::Admin => true,
            Scope::Model(granted, _) => granted.covers(action),
        })
    }

    /// Whether `action` is allowed on every model.
    pub fn allow_all(&self, action: Action) -> bool {
        self.0.iter().any(|scope| match scope {
            Scope::Admin => true,
            Scope::Model(granted, pattern) => granted.covers(action) && pattern.names_all(),
        })
    }

    /// Whether everything is allowed.
    pub fn is_admin(&self) -> bool {
        self.0.contains(&Scope::Admin)
    }

    /// As texts.
    pub fn to_texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.to_texts().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scopes(texts: &[&str]) -> Scopes {
        Scopes::parse(texts).unwrap()
    }

    #[test]
    fn a_scope_allows_its_action_on_its_models() {
        let check = |granted: &[&str], action, model, expected| {
            assert_eq!(
                scopes(granted).allow(action, model),
                expected,
                "{granted:?} {action:?} {model}"
            );
        };
        check(&["predict:fraud"], Action::Predict, "fraud", true);
        check(&["predict:fraud"], Action::Predict, "fraud2", false);
        check(&["predict:fraud"], Action::Register, "fraud", false);
        check(&["predict:fraud"], Action::Outcome, "fraud", true);
        check(&["outcome:fraud"], Action::Predict, "fraud", false);
        check(&["register:fraud"], Action::See, "fraud", true);
        check(&["see:fraud"], Action::Predict, "fraud", false);
        check(&["predict:fraud-*"], Action::Predict, "fraud-eu", true);
        check(&["predict:fraud-*"], Action::Predict, "fraud", false);
        check(&["predict:*"], Action::Predict, "anything", true);
        check(&["predict:*"], Action::Load, "anything", false);
        check(&["admin"], Action::Load, "anything", true);
        check(&[], Action::See, "fraud", false);
    }

    #[test]
    fn what_is_no_scope_is_refused_with_the_form() {
        for text in [
            "",
            "predict",
            "predict:",
            "Predict:fraud",
            "admin:*",
            "*:fraud",
            "predict:a*b",
            "predict:a b",
            "predict:fraud@3",
        ] {
            let error = text.parse::<Scope>().unwrap_err().to_string();
            assert!(error.contains("ACTION:MODEL"), "{error}");
        }
    }

    /// The rules once more, said differently: a list of what every scope allows.
    fn oracle(granted: &[String], action: Action, model: &str) -> bool {
        let wanted: &[&str] = match action {
            Action::Predict => &["predict"],
            Action::Outcome => &["predict", "outcome"],
            Action::Register => &["register"],
            Action::Route => &["route"],
            Action::Load => &["load"],
            Action::See => &["predict", "outcome", "register", "route", "load", "see"],
        };
        let mut enough = vec!["admin".to_owned()];
        for name in wanted {
            enough.push(format!("{name}:{model}"));
            for end in 0..=model.len() {
                enough.push(format!("{name}:{}*", &model[..end]));
            }
        }
        granted.iter().any(|scope| enough.contains(scope))
    }

    proptest! {
        #[test]
        fn nothing_is_allowed_that_no_scope_allows(
            granted in prop::collection::vec("(predict|outcome|register|route|load|see):(a|ab|b|ab[*]|a[*]|[*])|admin", 0..4),
            model in "a|ab|b|c|abc",
            action in prop::sample::select(Action::ALL.to_vec()),
        ) {
            let parsed = Scopes::parse(&granted).unwrap();
            prop_assert_eq!(parsed.allow(action, &model), oracle(&granted, action, &model));
            prop_assert_eq!(parsed.to_texts(), granted);
            prop_assert!(!parsed.allow_all(action) || parsed.allow(action, &model));
            prop_assert!(!parsed.allow(action, &model) || parsed.allow_some(action));
        }
    }
}
