//! Avro schemas as text to types: names resolved, logical types understood (Avro specification 1.12, "Schema
//! Declaration" and "Names").

use hashbrown::HashMap;
use serde_json::{Map, Value as Json};

/// A schema and the named types it uses.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) named: Vec<Named>,
    pub(super) root: Type,
}

/// A type as it is used; named ones by their place in [`Schema::named`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Null,
    Boolean,
    Int(Option<Logical>),
    Long(Option<Logical>),
    Float,
    Double,
    Bytes(Option<Logical>),
    String,
    Array(Box<Type>),
    Map(Box<Type>),
    Union(Vec<Type>),
    Named(usize),
}

/// What a number or bytes stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logical {
    /// Days since 1970.
    Date,
    /// A moment, counted in units of which a second has so many.
    Timestamp { per_second: i64 },
    /// Date and time of day without a zone, counted as if it were UTC.
    LocalTimestamp { per_second: i64 },
    /// An unscaled number, two's complement, big endian.
    Decimal { scale: u32 },
    /// 16 bytes.
    Uuid,
}

/// A type with a name.
#[derive(Debug)]
pub(super) struct Named {
    /// The full name.
    pub(super) name: String,
    /// Other full names that a reader's type goes by.
    pub(super) aliases: Vec<String>,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Record(Vec<Field>),
    Enum {
        symbols: Vec<String>,
        default: Option<String>,
    },
    Fixed {
        size: usize,
        logical: Option<Logical>,
    },
    /// Named, but its definition is still being read.
    Unfinished,
}

/// A field of a record.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) data_type: Type,
    pub(super) default: Option<Json>,
}

impl Schema {
    /// The schema that `text` is. `references` are schemas whose named types it uses, each after those it needs.
    ///
    /// # Errors
    /// What is wrong with which part.
    pub(super) fn parse(text: &str, references: &[&str]) -> Result<Self, String> {
        let mut parser = Parser::default();
        for reference in references {
            parser.schema(reference)?;
        }
        let root = parser.schema(text)?;
        Ok(Self {
            named: parser.named,
            root,
        })
    }

    /// The named type at `place`.
    pub(super) fn named(&self, place: usize) -> Option<&Named> {
        self.named.get(place)
    }
}

#[derive(Default)]
struct Parser {
    named: Vec<Named>,
    places: HashMap<String, usize>,
}

impl Parser {
    fn schema(&mut self, text: &str) -> Result<Type, String> {
        match serde_json::from_str(text) {
            Ok(json) => self.parse(&json, ""),
            // The specification wants quotes; registries give a lone name of a type with or without them.
            Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                self.parse(&Json::String(text.to_owned()), "")
            }
            Err(error) => Err(format!("the Avro schema is not JSON: {error}")),
        }
    }

    fn parse(&mut self, json: &Json, namespace: &str) -> Result<Type, String> {
        match json {
            Json::String(name) => self.by_name(name, namespace),
            Json::Array(branches) => {
                let branches = branches.iter().map(|branch| self.parse(branch, namespace));
                Ok(Type::Union(branches.collect::<Result<_, _>>()?))
            }
            Json::Object(object) => self.object(object, namespace),
            other => Err(format!("`{other}` is no Avro type")),
        }
    }

    fn by_name(&self, name: &str, namespace: &str) -> Result<Type, String> {
        if let Some(primitive) = primitive(name) {
            return Ok(primitive);
        }
        let found = self
            .places
            .get(&full_name(name, namespace))
            .or_else(|| self.places.get(name));
        found.map(|place| Type::Named(*place)).ok_or_else(|| {
            format!("there is no Avro type `{name}`: define it where it is used first, or register it as a reference")
        })
    }

    fn object(&mut self, object: &Map<String, Json>, namespace: &str) -> Result<Type, String> {
        let inner = |key: &str| {
            object
                .get(key)
                .ok_or_else(|| format!("an Avro {} lacks `{key}`", shown(object)))
        };
        match inner("type")? {
            Json::String(kind) => match kind.as_str() {
                "record" | "error" | "enum" | "fixed" => self.definition(kind, object, namespace),
                "array" => Ok(Type::Array(Box::new(self.parse(inner("items")?, namespace)?))),
                "map" => Ok(Type::Map(Box::new(self.parse(inner("values")?, namespace)?))),
                name => Ok(logical(self.by_name(name, namespace)?, object)),
            },
            nested => self.parse(nested, namespace),
        }
    }

    fn definition(&mut self, kind: &str, object: &Map<String, Json>, outer: &str) -> Result<Type, String> {
        let name = text(object, "name").ok_or_else(|| format!("an Avro {kind} has no name"))?;
        let name = full_name(name, text(object, "namespace").unwrap_or(outer));
        let namespace = name.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let place = self.named.len();
        if self.places.insert(name.clone(), place).is_some() {
            return Err(format!("the Avro type `{name}` is defined twice"));
        }
        let aliases = texts(object, "aliases")
            .map(|alias| full_name(alias, &namespace))
            .collect();
        self.named.push(Named {
            name: name.clone(),
            aliases,
            kind: Kind::Unfinished,
        });
        let kind = match kind {
            "enum" => enumeration(&name, object)?,
            "fixed" => fixed(&name, object)?,
            _ => Kind::Record(self.fields(&name, object, &namespace)?),
        };
        if let Some(named) = self.named.get_mut(place) {
            named.kind = kind;
        }
        Ok(Type::Named(place))
    }

    fn fields(&mut self, record: &str, object: &Map<String, Json>, namespace: &str) -> Result<Vec<Field>, String> {
        let Some(Json::Array(fields)) = object.get("fields") else {
            return Err(format!("the Avro record `{record}` has no `fields`"));
        };
        let field = |field: &Json| {
            let object = field.as_object();
            let name = object.and_then(|object| text(object, "name"));
            let (Some(object), Some(name)) = (object, name) else {
                return Err(format!("a field of the Avro record `{record}` has no name"));
            };
            let data_type = object
                .get("type")
                .ok_or_else(|| format!("field `{name}` of `{record}` has no type"))?;
            Ok(Field {
                name: name.to_owned(),
                aliases: texts(object, "aliases").map(str::to_owned).collect(),
                data_type: self.parse(data_type, namespace)?,
                default: object.get("default").cloned(),
            })
        };
        fields.iter().map(field).collect()
    }
}

fn enumeration(name: &str, object: &Map<String, Json>) -> Result<Kind, String> {
    let symbols: Vec<String> = texts(object, "symbols").map(str::to_owned).collect();
    if symbols.is_empty() {
        return Err(format!("the Avro enum `{name}` has no `symbols`"));
    }
    Ok(Kind::Enum {
        symbols,
        default: text(object, "default").map(str::to_owned),
    })
}

fn fixed(name: &str, object: &Map<String, Json>) -> Result<Kind, String> {
    let size = object
        .get("size")
        .and_then(Json::as_u64)
        .and_then(|size| usize::try_from(size).ok());
    let size = size.ok_or_else(|| format!("the Avro fixed `{name}` has no `size`"))?;
    let logical = match text(object, "logicalType") {
        Some("decimal") => decimal(object),
        Some("uuid") if size == 16 => Some(Logical::Uuid),
        _ => None,
    };
    Ok(Kind::Fixed { size, logical })
}

fn primitive(name: &str) -> Option<Type> {
    Some(match name {
        "null" => Type::Null,
        "boolean" => Type::Boolean,
        "int" => Type::Int(None),
        "long" => Type::Long(None),
        "float" => Type::Float,
        "double" => Type::Double,
        "bytes" => Type::Bytes(None),
        "string" => Type::String,
        _ => return None,
    })
}

/// `plain` with the logical type that `object` gives it; one that is not known, or not for that type, is ignored, as
/// the specification demands.
fn logical(plain: Type, object: &Map<String, Json>) -> Type {
    let Some(name) = text(object, "logicalType") else {
        return plain;
    };
    match (plain, name) {
        (Type::Int(_), "date") => Type::Int(Some(Logical::Date)),
        (Type::Bytes(_), "decimal") => Type::Bytes(decimal(object)),
        (Type::Long(_), name) => Type::Long(match name.strip_prefix("local-") {
            Some(name) => per_second(name).map(|per_second| Logical::LocalTimestamp { per_second }),
            None => per_second(name).map(|per_second| Logical::Timestamp { per_second }),
        }),
        (plain, _) => plain,
    }
}

fn per_second(name: &str) -> Option<i64> {
    match name {
        "timestamp-millis" => Some(1_000),
        "timestamp-micros" => Some(1_000_000),
        "timestamp-nanos" => Some(1_000_000_000),
        _ => None,
    }
}

/// Decimals of more digits than this have no exact meaning here.
const MAX_SCALE: u64 = 38;

fn decimal(object: &Map<String, Json>) -> Option<Logical> {
    let scale = object.get("scale").map_or(Some(0), Json::as_u64)?;
    let scale = u32::try_from(scale)
        .ok()
        .filter(|scale| u64::from(*scale) <= MAX_SCALE)?;
    Some(Logical::Decimal { scale })
}

fn full_name(name: &str, namespace: &str) -> String {
    match name.contains('.') || namespace.is_empty() {
        true => name.trim_start_matches('.').to_owned(),
        false => format!("{namespace}.{name}"),
    }
}

fn text<'j>(object: &'j Map<String, Json>, key: &str) -> Option<&'j str> {
    object.get(key).and_then(Json::as_str)
}

fn texts<'j>(object: &'j Map<String, Json>, key: &str) -> impl Iterator<Item = &'j str> {
    let items = object.get(key).and_then(Json::as_array);
    items.into_iter().flatten().filter_map(Json::as_str)
}

fn shown(object: &Map<String, Json>) -> &str {
    text(object, "type").unwrap_or("type")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_their_namespace_and_in_references() {
        let reference = r#"{"type":"enum","name":"shop.Kind","symbols":["A","B"]}"#;
        let text = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
            {"name":"kind","type":"Kind"},
            {"name":"next","type":["null","Order"]},
            {"name":"card","type":{"type":"record","name":"pay.Card","fields":[{"name":"mark","type":"shop.Kind"}]}}]}"#;
        let schema = Schema::parse(text, &[reference]).unwrap();
        let names: Vec<_> = schema.named.iter().map(|named| named.name.as_str()).collect();
        assert_eq!(names, ["shop.Kind", "shop.Order", "pay.Card"]);
        let Kind::Record(fields) = &schema.named[1].kind else {
            panic!()
        };
        assert_eq!(fields[0].data_type, Type::Named(0));
        assert_eq!(fields[1].data_type, Type::Union(vec![Type::Null, Type::Named(1)]));
    }

    #[test]
    fn a_logical_type_that_does_not_fit_is_ignored() {
        let text = |inner: &str| Schema::parse(inner, &[]).unwrap().root;
        assert_eq!(
            text(r#"{"type":"long","logicalType":"timestamp-millis"}"#),
            Type::Long(Some(Logical::Timestamp { per_second: 1000 }))
        );
        assert_eq!(text(r#"{"type":"string","logicalType":"date"}"#), Type::String);
        assert_eq!(
            text(r#"{"type":"bytes","logicalType":"decimal","scale":99}"#),
            Type::Bytes(None)
        );
        assert_eq!(text("\"string\""), Type::String);
        assert_eq!(text("string"), Type::String);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| Schema::parse(text, &[]).unwrap_err();
        assert!(error("{").contains("not JSON"));
        assert!(error(r#""Card""#).contains("no Avro type `Card`"));
        assert!(error(r#"{"type":"record","name":"R"}"#).contains("`R` has no `fields`"));
        assert!(error(r#"{"type":"array"}"#).contains("lacks `items`"));
    }
}
