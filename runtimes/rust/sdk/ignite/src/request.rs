//! One invocation as it was sent.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result};

/// One invocation: its payload, and the HTTP envelope around it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// A request for the handler's own tests.
    pub fn new(method: &str, target: &str, body: impl Into<Vec<u8>>) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// The same request with one more header.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.as_bytes().to_vec()));
        self
    }

    /// The HTTP method.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path as it was sent, not decoded.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query as it was sent, without the question mark.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// The first value of a query parameter, decoded.
    pub fn query_param(&self, name: &str) -> Option<String> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key) == name).then(|| decoded(value))
        })
    }

    /// The first header of this name that is text; names have no case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers()
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| std::str::from_utf8(value).ok()).flatten())
    }

    /// All headers, names in lower case, in the order of their arrival.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// The payload, byte for byte.
    pub fn raw(&self) -> &[u8] {
        &self.body
    }

    /// The payload, without a copy.
    pub fn into_raw(self) -> Vec<u8> {
        self.body
    }

    /// The payload as JSON of this type.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| format!("the payload: {error}").into())
    }

    /// One key of a payload that is a JSON object.
    pub fn field<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let Value::Object(mut fields) = self.body::<Value>()? else {
            return Err("the payload is no JSON object".into());
        };
        let value = fields.remove(key).ok_or_else(|| Error::from(format!("the payload has no field {key:?}")))?;
        serde_json::from_value(value).map_err(|error| format!("the field {key:?}: {error}").into())
    }
}

/// A part of a query: `+` is a space, `%41` a byte (WHATWG URL, application/x-www-form-urlencoded).
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, beyond @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) * 16 + hex(*low));
                rest = beyond;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.to_ascii_lowercase() - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_by_its_type() {
        let req = Request::new("POST", "/", r#"{"name": "Grace", "age": 3}"#);
        assert_eq!(req.field::<String>("name").unwrap(), "Grace");
        assert_eq!(req.field::<u8>("age").unwrap(), 3);
        assert_eq!(req.field::<u8>("name").unwrap_err().to_string().split(':').next(), Some("the field \"name\""));
        assert_eq!(req.field::<u8>("size").unwrap_err().to_string(), "the payload has no field \"size\"");
    }

    #[test]
    fn a_payload_that_is_no_object_has_no_fields() {
        let failed = Request::new("POST", "/", "[1]").field::<u8>("x").unwrap_err();
        assert_eq!(failed.to_string(), "the payload is no JSON object");
        assert!(Request::new("POST", "/", "{").body::<Value>().unwrap_err().to_string().starts_with("the payload: "));
    }

    #[test]
    fn query_parameters_are_decoded_and_the_first_one_counts() {
        let req = Request::new("GET", "/a%20b?x=1&y=%20z+w&x=2&%C3%BC=%ff&half=%4&flag", "");
        assert_eq!(req.path(), "/a%20b");
        assert_eq!(req.query_param("x").as_deref(), Some("1"));
        assert_eq!(req.query_param("y").as_deref(), Some(" z w"));
        assert_eq!(req.query_param("ü").as_deref(), Some("\u{fffd}"));
        assert_eq!(req.query_param("half").as_deref(), Some("%4"));
        assert_eq!(req.query_param("flag").as_deref(), Some(""));
        assert_eq!(req.query_param("none"), None);
    }

    #[test]
    fn header_names_have_no_case() {
        let req = Request::new("GET", "/", "").with_header("X-Test", "yes");
        assert_eq!(req.header("x-tEST"), Some("yes"));
        assert_eq!(req.header("x-other"), None);
    }
}
