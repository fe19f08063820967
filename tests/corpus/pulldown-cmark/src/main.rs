//! Renders the Markdown that it is sent, with tables and footnotes.

use ignite::{Context, IntoResponse, Request, Result};
use pulldown_cmark::{html, Options, Parser};

#[ignite::main]
fn handler(req: Request, _ctx: Context) -> Result<impl IntoResponse> {
    let text = std::str::from_utf8(req.raw())?;
    let mut page = String::new();
    html::push_html(&mut page, Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES));
    Ok(page)
}
