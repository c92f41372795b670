//! Deserialises TOML values with structured errors: what is wrong is an enum, not a sentence.

use std::fmt::{self, Display};

use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};
use toml::Value;

/// What is wrong with a value.
#[derive(Debug)]
pub enum Problem {
    /// A key that its section does not have.
    UnknownKey { name: String, valid: &'static [&'static str] },
    /// A key that its section needs.
    MissingKey { name: &'static str },
    /// A string that is not one of the valid ones.
    UnknownName { name: String, valid: &'static [&'static str] },
    /// A value of the wrong type. `expected` is serde's description of the type.
    WrongType { found: Found, expected: String },
    /// A value of the right type that is out of range.
    OutOfRange { found: Found, expected: String },
    /// Anything else, in the words of the type that rejected the value.
    Other(String),
}

/// A value that was not accepted.
#[derive(Debug, PartialEq)]
pub enum Found {
    Boolean(bool),
    Integer(i128),
    Float(f64),
    String(String),
    Array,
    Section,
    /// A value that TOML does not have.
    Other(String),
}

impl Found {
    /// What serde finds in `value`.
    pub fn of(value: &Value) -> Self {
        match value {
            Value::String(text) => Self::String(text.clone()),
            Value::Integer(number) => Self::Integer(i128::from(*number)),
            Value::Float(number) => Self::Float(*number),
            Value::Boolean(flag) => Self::Boolean(*flag),
            Value::Datetime(date) => Self::String(date.to_string()),
            Value::Array(_) => Self::Array,
            Value::Table(_) => Self::Section,
        }
    }
}

/// The value in words, as in "found the integer 3".
impl Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(flag) => write!(f, "{flag}"),
            Self::Integer(number) => write!(f, "the integer {number}"),
            Self::Float(number) => write!(f, "the number {number:?}"),
            Self::String(text) => write!(f, "the string {text:?}"),
            Self::Array => f.write_str("an array"),
            Self::Section => f.write_str("a section"),
            Self::Other(other) => f.write_str(other),
        }
    }
}

impl From<Unexpected<'_>> for Found {
    fn from(found: Unexpected) -> Self {
        match found {
            Unexpected::Bool(flag) => Self::Boolean(flag),
            Unexpected::Unsigned(number) => Self::Integer(i128::from(number)),
            Unexpected::Signed(number) => Self::Integer(i128::from(number)),
            Unexpected::Float(number) => Self::Float(number),
            Unexpected::Str(text) => Self::String(text.to_owned()),
            Unexpected::Seq => Self::Array,
            Unexpected::Map => Self::Section,
            other => Self::Other(other.to_string()),
        }
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(message) => f.write_str(message),
            other => write!(f, "{other:?}"),
        }
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: Display>(message: T) -> Self {
        Self::Other(message.to_string())
    }

    fn unknown_field(name: &str, valid: &'static [&'static str]) -> Self {
        Self::UnknownKey { name: name.to_owned(), valid }
    }

    fn missing_field(name: &'static str) -> Self {
        Self::MissingKey { name }
    }

    fn unknown_variant(name: &str, valid: &'static [&'static str]) -> Self {
        Self::UnknownName { name: name.to_owned(), valid }
    }

    fn invalid_type(found: Unexpected, expected: &dyn Expected) -> Self {
        Self::WrongType { found: found.into(), expected: expected.to_string() }
    }

    fn invalid_value(found: Unexpected, expected: &dyn Expected) -> Self {
        Self::OutOfRange { found: found.into(), expected: expected.to_string() }
    }
}

/// Deserialises a TOML value; its error is a [`Problem`].
pub struct Node(pub Value);

impl IntoDeserializer<'_, Problem> for Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Node {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0 {
            Value::String(text) => visitor.visit_string(text),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Float(number) => visitor.visit_f64(number),
            Value::Boolean(flag) => visitor.visit_bool(flag),
            Value::Datetime(date) => visitor.visit_string(date.to_string()),
            Value::Array(values) => SeqDeserializer::new(values.into_iter().map(Node)).deserialize_any(visitor),
            Value::Table(table) => MapDeserializer::new(entries(table)).deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match self.0 {
            Value::String(text) => visitor.visit_enum(text.into_deserializer()),
            Value::Table(table) => visitor.visit_enum(MapAccessDeserializer::new(MapDeserializer::new(entries(table)))),
            other => Err(Problem::WrongType { found: Found::of(&other), expected: "a name in quotes".to_owned() }),
        }
    }

    /// A section has names: serde would also take an array as the values of its keys in their order.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match &self.0 {
            Value::Array(_) => Err(Problem::WrongType { found: Found::Array, expected: "a section".to_owned() }),
            _ => self.deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

fn entries(table: toml::Table) -> impl Iterator<Item = (String, Node)> {
    table.into_iter().map(|(key, value)| (key, Node(value)))
}
