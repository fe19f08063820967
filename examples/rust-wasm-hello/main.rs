//! One file, as a component: answers with what it was sent and who asked. The same source builds for the target native.

use ignite::{Context, IntoResponse, Json, Request, Result};
use serde_json::json;

#[ignite::main]
async fn handler(req: Request, ctx: Context) -> Result<impl IntoResponse> {
    let name: String = req.field("name")?;
    Ok(Json(json!({ "execution": ctx.execution_id(), "hello": name })))
}
