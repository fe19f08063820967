//! The front of a component: `wasi:http/incoming-handler` for any host of the world `wasi:http/proxy`.
//!
//! The host owns server, port and concurrency. It calls the export once for each request; that calls the program's
//! `main`, which hands its handler to `asynchronous` or `synchronous`, as in a native program.

use std::cell::RefCell;
use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use wasip2::exports::http::incoming_handler::Guest;
pub use wasip2::http::proxy::export;
pub use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use wasip2::http::types::{Fields, IncomingBody, Method, OutgoingBody, OutgoingResponse};
use wasip2::io::streams::{OutputStream, StreamError};

use crate::{Context, IntoResponse, Request, Response, Result};

const BODY_LIMIT: usize = 64 << 20;
const READ: u64 = 64 << 10;
/// What a host takes at once, at least (wasi:io/streams, blocking-write-and-flush).
const WRITE: usize = 4096;

thread_local! {
    static INVOCATION: RefCell<Option<(Request, Stream)>> = const { RefCell::new(None) };
    static PANICKED: RefCell<Option<Stream>> = const { RefCell::new(None) };
}

/// What the export does with one request: read it, and run the program on it.
pub fn invoked(incoming: IncomingRequest, out: ResponseOutparam, program: fn()) {
    let stream = Stream { sink: Arc::new(Mutex::new(Sink::Waiting(out))) };
    let is_head = matches!(incoming.method(), Method::Head);
    let request = match read(incoming) {
        Ok(request) => request,
        Err((status, message)) => return stream.answer(Response::error(status, &message), is_head),
    };
    if request.path() == "/healthz" && (request.method() == "GET" || is_head) {
        let healthy = Response::new(200).with_body("ok\n").with_header("content-type", "text/plain; charset=utf-8");
        return stream.answer(healthy, is_head);
    }
    answer_panics(&stream);
    INVOCATION.set(Some((request, stream)));
    program();
}

/// Runs an async handler on the request of this call.
pub fn asynchronous<F, Fut, T, E>(handler: F)
where
    F: Fn(Request, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    T: IntoResponse,
    E: Display,
{
    serve(|request, context| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        answer(runtime.map_err(|error| error.to_string())?.block_on(handler(request, context)))
    });
}

/// Runs a handler that blocks on the request of this call.
pub fn synchronous<F, T, E>(handler: F)
where
    F: Fn(Request, Context) -> Result<T, E> + Send + Sync + 'static,
    T: IntoResponse,
    E: Display,
{
    serve(|request, context| answer(handler(request, context)));
}

fn answer<T: IntoResponse, E: Display>(found: Result<T, E>) -> Result<Response, String> {
    found.map_err(|error| error.to_string())?.into_response().map_err(|error| error.to_string())
}

fn serve(handler: impl FnOnce(Request, Context) -> Result<Response, String>) {
    let Some((request, stream)) = INVOCATION.take() else {
        eprintln!("this component is served: a host calls its export wasi:http/incoming-handler");
        std::process::exit(1);
    };
    let is_head = request.method() == "HEAD";
    let context = Context::of(&request, stream.clone());
    match handler(request, context) {
        Ok(response) => stream.answer(response, is_head),
        Err(message) => stream.fail(&message, is_head),
    }
}

/// A panic ends the instance, since this target does not unwind; the caller has its answer before that.
fn answer_panics(stream: &Stream) {
    if PANICKED.replace(Some(stream.clone())).is_some() {
        return;
    }
    let printed = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        printed(panic);
        let text = panic.payload().downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str));
        if let Some(stream) = PANICKED.try_with(|stream| stream.take()).ok().flatten() {
            stream.fail(&format!("panic: {}", text.unwrap_or("of a value that is no text")), false);
        }
    }));
}

fn read(incoming: IncomingRequest) -> Result<Request, (u16, String)> {
    let target = incoming.path_with_query().unwrap_or_else(|| "/".to_owned());
    let mut request = Request::new(name(&incoming.method()), &target, "");
    request.headers = incoming.headers().entries();
    for (name, _) in &mut request.headers {
        name.make_ascii_lowercase();
    }
    if let (Some(authority), None) = (incoming.authority(), request.header("host")) {
        request.headers.insert(0, ("host".to_owned(), authority.into_bytes()));
    }
    let body = incoming.consume().map_err(|()| (500, "the payload cannot be read".to_owned()))?;
    let pieces = body.stream().map_err(|()| (500, "the payload cannot be read".to_owned()))?;
    loop {
        match pieces.blocking_read(READ) {
            Ok(piece) if request.body.len() + piece.len() > BODY_LIMIT => {
                return Err((413, format!("the payload is larger than {BODY_LIMIT} bytes")));
            }
            Ok(piece) => request.body.extend_from_slice(&piece),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => return Err((400, error.to_debug_string())),
        }
    }
    drop(pieces);
    drop(IncomingBody::finish(body));
    Ok(request)
}

fn name(method: &Method) -> &str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => name,
    }
}

/// The answer of an invocation, piece by piece. It ends when the handler has ended.
#[derive(Clone)]
pub struct Stream {
    sink: Arc<Mutex<Sink>>,
}

enum Sink {
    Waiting(ResponseOutparam),
    Open(OutgoingBody, OutputStream),
    Ended,
}

impl Stream {
    /// Sends one piece; waits while the caller reads more slowly than that. Fails when the caller has gone.
    pub async fn send(&self, piece: impl Into<Vec<u8>>) -> Result<()> {
        self.send_blocking(piece)
    }

    /// `send` for a handler that is not async.
    pub fn send_blocking(&self, piece: impl Into<Vec<u8>>) -> Result<()> {
        let mut sink = self.lock();
        if let Sink::Waiting(_) = &*sink {
            let Sink::Waiting(out) = std::mem::replace(&mut *sink, Sink::Ended) else { unreachable!() };
            *sink = open(out, OutgoingResponse::new(Fields::new()));
        }
        match &*sink {
            Sink::Open(_, pieces) if write(pieces, &piece.into()) => Ok(()),
            _ => Err("the caller has gone".into()),
        }
    }

    /// The end of an answer: all of it, or what comes after the pieces that were sent.
    fn answer(&self, response: Response, is_head: bool) {
        let mut sink = self.lock();
        let mut found = std::mem::replace(&mut *sink, Sink::Ended);
        let is_whole = matches!(found, Sink::Waiting(_));
        if let Sink::Waiting(out) = found {
            let head = match head(&response, is_head) {
                Ok(head) => head,
                Err(message) => {
                    *sink = Sink::Waiting(out);
                    drop(sink);
                    return self.answer(Response::error(500, &message), is_head);
                }
            };
            found = open(out, head);
        }
        if let Sink::Open(body, pieces) = found {
            let written = (is_head && is_whole) || write(&pieces, &response.body);
            drop(pieces);
            if written {
                let _ = OutgoingBody::finish(body, None);
            }
        }
    }

    /// An error of the handler. After the first piece the status has gone out: an end that is no end of a body is all
    /// that can still be answered.
    fn fail(&self, message: &str, is_head: bool) {
        let mut sink = self.lock();
        if let Sink::Waiting(_) = &*sink {
            drop(sink);
            return self.answer(Response::error(500, message), is_head);
        }
        eprintln!("the handler failed after it began to answer: {message}");
        *sink = Sink::Ended;
    }

    fn lock(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(out: ResponseOutparam, head: OutgoingResponse) -> Sink {
    let body = head.body();
    ResponseOutparam::set(out, Ok(head));
    match body.and_then(|body| body.write().map(|pieces| (body, pieces))) {
        Ok((body, pieces)) => Sink::Open(body, pieces),
        Err(()) => Sink::Ended,
    }
}

/// Status and headers. What is none of HTTP is an error of the handler.
fn head(response: &Response, is_head: bool) -> Result<OutgoingResponse, String> {
    let fields = Fields::new();
    for (name, value) in &response.headers {
        fields.append(name, value.as_bytes()).map_err(|_| format!("{name:?}: {value:?} is no header of HTTP"))?;
    }
    if !is_head && !fields.has("content-length") {
        let length = response.body.len().to_string();
        fields.append("content-length", length.as_bytes()).map_err(|error| error.to_string())?;
    }
    let head = OutgoingResponse::new(fields);
    head.set_status_code(response.status).map_err(|()| format!("{} is no status of HTTP", response.status))?;
    Ok(head)
}

fn write(pieces: &OutputStream, data: &[u8]) -> bool {
    data.chunks(WRITE).all(|chunk| pieces.blocking_write_and_flush(chunk).is_ok())
}
