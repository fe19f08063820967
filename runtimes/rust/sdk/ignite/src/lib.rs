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
#[cfg(not(target_family = "wasm"))]
#[path = "temp_folder.rs"]
mod temp;

#[cfg(target_family = "wasm")]
#[path = "wasm.rs"]
mod front;
#[cfg(target_family = "wasm")]
#[path = "temp_memory.rs"]
mod temp;

pub use context::Context;
pub use front::Stream;
pub use ignite_macros::main;
pub use request::Request;
pub use response::{IntoResponse, Json, Response};
pub use temp::TempStore;

/// Any error: `?` makes one of every `std::error::Error`, `.into()` of a text.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What a handler answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the expansion of `#[ignite::main]` calls.
#[doc(hidden)]
pub mod __private {
    pub use crate::front::{asynchronous, synchronous};

    #[cfg(target_family = "wasm")]
    pub use {
        crate::front::{export, invoked, Guest, IncomingRequest, ResponseOutparam},
        wasip2,
    };
}

/// The export of a component, whose host calls it for each request; nothing in a native program.
#[cfg(target_family = "wasm")]
#[doc(hidden)]
#[macro_export]
macro_rules! __exported {
    ($program:path) => {
        const _: () = {
            struct Exported;
            impl $crate::__private::Guest for Exported {
                fn handle(request: $crate::__private::IncomingRequest, out: $crate::__private::ResponseOutparam) {
                    $crate::__private::invoked(request, out, $program)
                }
            }
    $crate::__private::export!(Exported with_types_in $crate::__private::wasip2);
        };
    };
}

#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __exported {
    ($program:path) => {};
}
