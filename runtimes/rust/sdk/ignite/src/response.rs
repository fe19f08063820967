//! What a handler's value becomes on the wire.

use serde::Serialize;
use serde_json::Value;

use crate::Error;

/// An answer: status, headers, body.
#[derive(Debug, Clone)]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// An answer of this status without a body.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// The same answer with this body.
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The same answer with this header, in the place of one of the same name.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The first header of this name; names have no case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn error(status: u16, message: &str) -> Self {
        let body = serde_json::json!({ "error": message }).to_string();
        kind(status, "application/json", body.into_bytes())
    }
}

fn kind(status: u16, content_type: &str, body: Vec<u8>) -> Response {
    Response::new(status).with_body(body).with_header("content-type", content_type)
}

/// A value that a handler may return.
pub trait IntoResponse {
    /// The answer, or the error that is answered in its place.
    fn into_response(self) -> Result<Response, Error>;
}

/// A value as JSON.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Result<Response, Error> {
        Ok(kind(200, "application/json", serde_json::to_vec(&self.0)?))
    }
}

impl IntoResponse for Value {
    fn into_response(self) -> Result<Response, Error> {
        Json(self).into_response()
    }
}

impl IntoResponse for Response {
    fn into_response(self) -> Result<Response, Error> {
        Ok(self)
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Result<Response, Error> {
        Ok(Response::new(200))
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Result<Response, Error> {
        Ok(kind(200, "text/plain; charset=utf-8", self.into_bytes()))
    }
}

impl IntoResponse for &str {
    fn into_response(self) -> Result<Response, Error> {
        self.to_owned().into_response()
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Result<Response, Error> {
        Ok(kind(200, "application/octet-stream", self))
    }
}

impl IntoResponse for &[u8] {
    fn into_response(self) -> Result<Response, Error> {
        self.to_vec().into_response()
    }
}

impl<const N: usize> IntoResponse for &[u8; N] {
    fn into_response(self) -> Result<Response, Error> {
        self.to_vec().into_response()
    }
}

/// A value under a status.
impl<T: IntoResponse> IntoResponse for (u16, T) {
    fn into_response(self) -> Result<Response, Error> {
        let mut response = self.1.into_response()?;
        response.status = self.0;
        Ok(response)
    }
}

impl<T: IntoResponse, E: Into<Error>> IntoResponse for Result<T, E> {
    fn into_response(self) -> Result<Response, Error> {
        self.map_err(Into::into)?.into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(value: impl IntoResponse) -> (u16, String, Vec<u8>) {
        let response = value.into_response().unwrap();
        (response.status(), response.header("Content-Type").unwrap_or_default().to_owned(), response.body)
    }

    #[test]
    fn values_become_bodies() {
        assert_eq!(answer(vec![0, 255]), (200, "application/octet-stream".into(), vec![0, 255]));
        assert_eq!(answer(b"ab"), (200, "application/octet-stream".into(), b"ab".to_vec()));
        assert_eq!(answer("grüße"), (200, "text/plain; charset=utf-8".into(), "grüße".into()));
        assert_eq!(
            answer(serde_json::json!({"a": [1, null]})),
            (200, "application/json".into(), b"{\"a\":[1,null]}".to_vec())
        );
        assert_eq!(answer(Json(12.5)), (200, "application/json".into(), b"12.5".to_vec()));
        assert_eq!(answer(()), (200, String::new(), vec![]));
        assert_eq!(answer((404, "none")), (404, "text/plain; charset=utf-8".into(), b"none".to_vec()));
        assert_eq!(answer(Ok::<_, Error>("fine")).0, 200);
    }

    #[test]
    fn a_header_stands_once() {
        let response = Response::new(302).with_header("Location", "/a").with_header("location", "/b");
        assert_eq!(response.headers, [("location".to_owned(), "/b".to_owned())]);
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        let keyed = std::collections::HashMap::from([(vec![1], 2)]);
        assert!(Json(keyed).into_response().is_err());
        assert!(Err::<(), _>("no").into_response().is_err());
    }
}
