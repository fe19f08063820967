//! The front of a Rust function: the platform owns server, port and readiness, the user a handler.
//!
//! ```no_run
//! use ignite::{Context, IntoResponse, Request, Result};
//!
//! #[ignite::main]
//! async fn handler(req: Request, ctx: Context) -> Result<impl IntoResponse> {
//!     let name: String = req.field("name")?;
//!     Ok(format!("hello {name}, this is {}", ctx.execution_id()))
//! }
//! # fn _unused() {}
//! ```

mod context;
mod request;
mod response;

#[cfg(not(target_family = "wasm"))]
#[path = "native.rs"]
mod front;

pub use context::{Context, TempStore};
pub use front::Stream;
pub use ignite_macros::main;
pub use request::Request;
pub use response::{IntoResponse, Json, Response};

/// Any error: `?` makes one of every `std::error::Error`, `.into()` of a text.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What a handler answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the expansion of `#[ignite::main]` calls.
#[doc(hidden)]
pub mod __private {
    pub use crate::front::{asynchronous, synchronous};
}
