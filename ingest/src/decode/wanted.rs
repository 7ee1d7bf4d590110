//! Which parts of a message its columns need, as a tree of names: a format reads those and skips the rest.

/// What is needed at one place of a message, and below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    fields: Vec<(String, Wanted)>,
    elements: bool,
    text: bool,
    value: bool,
}

impl Wanted {
    /// Nothing below this place: of an object or an array, only its being one matters.
    pub const fn nothing() -> Self {
        Self {
            fields: Vec::new(),
            elements: false,
            text: false,
            value: false,
        }
    }

    /// Adds the value at `path`, below this place.
    pub fn add<'p>(&mut self, path: impl IntoIterator<Item = &'p str>) -> &mut Self {
        let mut place = self;
        for name in path {
            let at = match place.fields.iter().position(|(known, _)| known == name) {
                Some(at) => at,
                None => {
                    place.fields.push((name.to_owned(), Self::default()));
                    place.fields.len() - 1
                }
            };
            // The place exists: it was found or pushed just now.
            place = &mut place.fields[at].1;
        }
        place
    }

    /// Marks this place as an array whose elements are read: what is wanted below it is wanted of each element.
    pub const fn each(&mut self) -> &mut Self {
        self.elements = true;
        self
    }

    /// Marks this place as one whose JSON text is wanted.
    pub const fn text(&mut self) {
        self.text = true;
    }

    /// Marks this place as one whose value is wanted.
    pub const fn value(&mut self) {
        self.value = true;
    }

    /// Whether the JSON text of the value here is wanted.
    pub const fn is_text(&self) -> bool {
        self.text
    }

    /// Whether nothing but that text is wanted, of the value and of anything below it.
    pub fn is_text_alone(&self) -> bool {
        self.text && !self.value && !self.elements && self.is_leaf()
    }

    /// What is wanted of the field `name`; none when it is to be skipped.
    pub fn field(&self, name: &str) -> Option<&Self> {
        self.fields
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, wanted)| wanted)
    }

    /// What is wanted below this place, each with its name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.fields.iter().map(|(name, wanted)| (name.as_str(), wanted))
    }

    /// The place of the field `name` among [`Self::entries`]; none when it is to be skipped.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|(known, _)| known == name)
    }

    /// The entry at `position`.
    pub fn entry(&self, position: usize) -> Option<(&str, &Self)> {
        self.fields.get(position).map(|(name, wanted)| (name.as_str(), wanted))
    }

    /// Whether an array that stands here is read element by element. Of another array only its being one matters.
    pub const fn elements(&self) -> bool {
        self.elements
    }

    /// Whether anything below this place is wanted.
    pub fn is_leaf(&self) -> bool {
        self.fields.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_share_what_they_have_in_common() {
        let mut wanted = Wanted::default();
        wanted.add(["payload", "card", "id"]);
        wanted.add(["payload", "amount"]);
        wanted.add(["payload", "items"]).each();
        let payload = wanted.field("payload").unwrap();
        assert!(payload.field("card").unwrap().field("id").unwrap().is_leaf());
        assert!(payload.field("items").unwrap().elements());
        assert!(!payload.elements() && payload.field("other").is_none());
    }
}
