//! Packs what it is sent a hundred times over and unpacks it again, with the C library that the crate compiles.

use ignite::{Context, IntoResponse, Request, Result};

#[ignite::main]
fn handler(req: Request, _ctx: Context) -> Result<impl IntoResponse> {
    let much = req.raw().repeat(100);
    let packed = zstd::encode_all(much.as_slice(), 19)?;
    let same = zstd::decode_all(packed.as_slice())? == much;
    let version = unsafe { zstd_sys::ZSTD_versionNumber() };
    Ok(format!("{} {} {same} {version}", much.len(), packed.len() < 100))
}
