//! Universal Binary JSON (draft 12, as XGBoost writes it): every value is a letter for its type and its bytes, big-endian.

use serde_json::{Map, Number, Value};

/// How deep values may be nested.
const MAX_DEPTH: usize = 64;

/// The value in `bytes`.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = Reader { rest: bytes };
    let kind = reader.byte()?;
    reader.value(kind, MAX_DEPTH)
}

struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("the file ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or("the file ends too early")?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn integer(&mut self, kind: u8) -> Result<i64, String> {
        Ok(match kind {
            b'i' => i64::from(i8::from_be_bytes(self.array()?)),
            b'U' => i64::from(self.byte()?),
            b'I' => i64::from(i16::from_be_bytes(self.array()?)),
            b'l' => i64::from(i32::from_be_bytes(self.array()?)),
            b'L' => i64::from_be_bytes(self.array()?),
            other => return Err(format!("byte {other:#04x} is no type of an integer")),
        })
    }

    fn length(&mut self) -> Result<usize, String> {
        let kind = self.byte()?;
        let length = self.integer(kind)?;
        usize::try_from(length).map_err(|_| format!("a length is {length}"))
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.length()?;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "a text is not UTF-8".to_owned())
    }

    fn value(&mut self, kind: u8, depth: usize) -> Result<Value, String> {
        let depth = depth.checked_sub(1).ok_or("its values are nested too deep")?;
        Ok(match kind {
            b'Z' => Value::Null,
            b'T' => Value::Bool(true),
            b'F' => Value::Bool(false),
            b'd' => float(f64::from(f32::from_be_bytes(self.array()?))),
            b'D' => float(f64::from_be_bytes(self.array()?)),
            b'C' => Value::String(char::from(self.byte()?).to_string()),
            b'S' => Value::String(self.text()?),
            b'[' => self.list(depth)?,
            b'{' => self.object(depth)?,
            integer => Value::from(self.integer(integer)?),
        })
    }

    /// The type of all items and their number, where the container says so.
    fn head(&mut self) -> Result<(Option<u8>, Option<usize>), String> {
        let mut kind = None;
        if self.peek() == Some(b'$') {
            self.byte()?;
            kind = Some(self.byte()?);
        }
        if self.peek() == Some(b'#') {
            self.byte()?;
            return Ok((kind, Some(self.length()?)));
        }
        match kind {
            None => Ok((None, None)),
            Some(_) => Err("a typed container has no length".to_owned()),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, String> {
        let (kind, length) = self.head()?;
        let mut items = Vec::new();
        loop {
            match length {
                Some(length) if items.len() >= length => break,
                None if self.peek() == Some(b']') => {
                    self.byte()?;
                    break;
                }
                _ => {}
            }
            let kind = kind.map_or_else(|| self.byte(), Ok)?;
            // Items without bytes would let a few bytes become a list of any length.
            if length.is_some() && matches!(kind, b'Z' | b'T' | b'F') && items.len() > self.rest.len() {
                return Err("a list is longer than the file".to_owned());
            }
            items.push(self.value(kind, depth)?);
        }
        Ok(Value::Array(items))
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        let (kind, length) = self.head()?;
        let mut items = Map::new();
        let mut count = 0;
        loop {
            match length {
                Some(length) if count >= length => break,
                None if self.peek() == Some(b'}') => {
                    self.byte()?;
                    break;
                }
                _ => {}
            }
            let key = self.text()?;
            let kind = kind.map_or_else(|| self.byte(), Ok)?;
            items.insert(key, self.value(kind, depth)?);
            count += 1;
        }
        Ok(Value::Object(items))
    }
}

/// JSON has no infinity; no model has one either.
fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_every_type_are_read() {
        let bytes = b"{U\x01aU\xffU\x01b[$d#L\0\0\0\0\0\0\0\x02\x3f\x80\0\0\xbf\0\0\0U\x01c[i\xfeTFZ]U\x01dSU\x02hiU\x01e[#U\x01I\x01\0}";
        let expected = json!({"a": 255, "b": [1.0, -0.5], "c": [-2, true, false, null], "d": "hi", "e": [256]});
        assert_eq!(decode(bytes).unwrap(), expected);
    }

    #[test]
    fn what_is_cut_or_lies_is_refused() {
        let deep = [b'['; 100];
        for bytes in [
            &b"{U\x05a"[..],
            b"[$d#L\x7f\xff\xff\xff\xff\xff\xff\xff",
            b"[#l\xff\xff\xff\xff",
            b"[$T#l\x7f\xff\xff\xff",
            &deep,
            b"",
        ] {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
