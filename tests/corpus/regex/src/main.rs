//! Replaces what a pattern finds: the first line is the pattern, the second one the replacement, the rest the text.

use ignite::{Context, IntoResponse, Request, Response, Result};

#[ignite::main]
fn handler(req: Request, _ctx: Context) -> Result<impl IntoResponse> {
    let text = std::str::from_utf8(req.raw())?;
    let mut parts = text.splitn(3, '\n');
    let (pattern, with, rest) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    match regex::Regex::new(pattern) {
        Ok(found) => Ok(Response::new(200).with_body(found.replace_all(rest, with).into_owned())),
        Err(error) => Ok(Response::new(400).with_body(error.to_string())),
    }
}
