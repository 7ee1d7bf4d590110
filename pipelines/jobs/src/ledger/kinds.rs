//! Which kinds of jobs a statement is about.

/// Kinds of jobs. Their names are the program's own, and stand in statements as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinds {
    /// Every kind.
    All,
    /// One.
    Only(&'static str),
    /// Every other.
    AllBut(&'static str),
}

impl Kinds {
    /// The condition that a job is of these kinds.
    pub(super) fn condition(self) -> String {
        match self {
            Self::All => "1 = 1".to_owned(),
            Self::Only(kind) => format!("kind = '{kind}'"),
            Self::AllBut(kind) => format!("kind <> '{kind}'"),
        }
    }
}
