//! A package with dependencies: Markdown in, HTML out.

use ignite::{Context, IntoResponse, Request, Result};
use pulldown_cmark::{html, Parser};
use uuid::Uuid;

#[ignite::main]
fn handler(req: Request, _ctx: Context) -> Result<impl IntoResponse> {
    let text = std::str::from_utf8(req.raw())?;
    let mut out = String::new();
    html::push_html(&mut out, Parser::new(text));
    out.push_str(&format!("<!-- {} -->\n", Uuid::new_v5(&Uuid::NAMESPACE_DNS, req.raw())));
    Ok(out)
}
