//! The conformance app of the Rust SDK with a handler that is not async (see ../../README.md).

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ignite::{Context, IntoResponse, Json, Request, Response, Result};
use serde_json::json;

static ACTIVE: AtomicI64 = AtomicI64::new(0);

struct Running;

impl Running {
    fn new() -> (Self, i64) {
        (Self, ACTIVE.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        ACTIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

#[ignite::main]
fn handler(req: Request, ctx: Context) -> Result<impl IntoResponse> {
    Ok::<Response, ignite::Error>(match req.path() {
        "/echo" => req.into_raw().into_response()?,
        "/ctx" => Json(json!({
            "execution_id": ctx.execution_id(),
            "function_id": ctx.function_id(),
            "organization_id": ctx.organization_id(),
        }))
        .into_response()?,
        "/fail" => return Err("deliberately".into()),
        "/panic" => panic!("deliberately"),
        "/sleep" => {
            let (_running, seen) = Running::new();
            std::thread::sleep(Duration::from_millis(req.query().parse()?));
            Json(json!({ "active": seen })).into_response()?
        }
        _ => Json(json!({
            "method": req.method(),
            "path": req.path(),
            "query": req.query(),
            "test": req.header("x-test"),
        }))
        .into_response()?,
    })
}
