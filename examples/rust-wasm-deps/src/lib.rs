//! A component with a dependency: Markdown in, HTML out. The handler is not async and streams nothing.

use ignite::{Context, IntoResponse, Request, Response, Result};
use pulldown_cmark::{html, Options, Parser};

#[ignite::main]
fn handler(req: Request, _ctx: Context) -> Result<impl IntoResponse> {
    let text = std::str::from_utf8(req.raw())?;
    let mut page = String::new();
    html::push_html(&mut page, Parser::new_ext(text, Options::ENABLE_TABLES));
    Ok(Response::new(200).with_body(page).with_header("content-type", "text/html; charset=utf-8"))
}
