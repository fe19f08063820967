//! The front of a native program: HTTP/1.1 on $PORT, at most so many handlers at once, an end after TERM.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::{poll_fn, Future};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::{pin, Pin};
use std::sync::Arc;
use std::task::{Context as Waker, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{Context, IntoResponse, Request, Response, Result};

const DEFAULT_CONCURRENCY: usize = 64;
const BODY_LIMIT: usize = 64 << 20;
const HEAD_LIMIT: usize = 64 << 10;
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
const BODY_TIMEOUT: Duration = Duration::from_secs(300);
const QUEUE_TIMEOUT: Duration = Duration::from_secs(60);
const STREAM_PIECES: usize = 16;

type Answering = Pin<Box<dyn Future<Output = Result<Response, String>> + Send>>;
type Handler = Arc<dyn Fn(Request, Context) -> Answering + Send + Sync>;

/// Serves an async handler until TERM.
pub fn asynchronous<F, Fut, T, E>(handler: F)
where
    F: Fn(Request, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    T: IntoResponse,
    E: Display,
{
    let handler = Arc::new(handler);
    serve(Arc::new(move |request, context| {
        let handler = handler.clone();
        Box::pin(Caught(Box::pin(async move { answer(handler(request, context).await) })))
    }));
}

/// Serves a handler that blocks until TERM. Each call has a thread of its own.
pub fn synchronous<F, T, E>(handler: F)
where
    F: Fn(Request, Context) -> Result<T, E> + Send + Sync + 'static,
    T: IntoResponse,
    E: Display,
{
    let handler = Arc::new(handler);
    serve(Arc::new(move |request, context| {
        let handler = handler.clone();
        Box::pin(async move {
            let called = tokio::task::spawn_blocking(move || answer(handler(request, context)));
            called.await.unwrap_or_else(|failed| match failed.try_into_panic() {
                Ok(panic) => Err(panic_text(&*panic)),
                Err(failed) => Err(failed.to_string()),
            })
        })
    }));
}

fn answer<T: IntoResponse, E: Display>(found: Result<T, E>) -> Result<Response, String> {
    found.map_err(|error| error.to_string())?.into_response().map_err(|error| error.to_string())
}

/// A future whose panic is an error.
struct Caught(Answering);

impl Future for Caught {
    type Output = Result<Response, String>;

    fn poll(mut self: Pin<&mut Self>, waker: &mut Waker<'_>) -> Poll<Self::Output> {
        let inner = self.0.as_mut();
        match catch_unwind(AssertUnwindSafe(|| inner.poll(waker))) {
            Ok(polled) => polled,
            Err(panic) => Poll::Ready(Err(panic_text(&*panic))),
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("of a value that is no text"))
}

fn serve(handler: Handler) {
    let limit = concurrency(std::env::var("IGNITE_MAX_CONCURRENCY").ok().as_deref());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(limit).build();
    let served = runtime.and_then(|runtime| runtime.block_on(listen(handler, limit)));
    if let Err(error) = served {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn concurrency(setting: Option<&str>) -> usize {
    match setting.and_then(|text| text.parse().ok()) {
        Some(limit) if limit > 0 => Semaphore::MAX_PERMITS.min(limit),
        _ => DEFAULT_CONCURRENCY,
    }
}

async fn listen(handler: Handler, limit: usize) -> std::io::Result<()> {
    let port = match std::env::var("PORT") {
        Ok(text) if !text.is_empty() => {
            text.parse().map_err(|_| std::io::Error::other(format!("PORT={text} is no port")))?
        }
        _ => 80,
    };
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?, // a kernel without IPv6
    };
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let (stop, stopping) = watch::channel(());
    let front = Arc::new(Front { handler, slots: Arc::new(Semaphore::new(limit)), patience: QUEUE_TIMEOUT });
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let _ = socket.set_nodelay(true);
                    open.spawn(connection(socket, front.clone(), stopping.clone()));
                }
                Err(error) => {
                    eprintln!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await; // no descriptors left: one may become free
                }
            },
            Some(_) = open.join_next() => {}
            _ = term.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    drop(listener);
    drop(stop);
    while open.join_next().await.is_some() {}
    Ok(())
}

/// One connection, until its peer has gone or the program stops and nothing is in flight on it.
async fn connection(socket: tokio::net::TcpStream, front: Arc<Front>, mut stopping: watch::Receiver<()>) {
    let service = service_fn(move |request| {
        let front = front.clone();
        async move { Ok::<_, Infallible>(front.respond(request).await) }
    });
    let mut serving = pin!(http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LIMIT)
        .half_close(true)
        .serve_connection(TokioIo::new(socket), service));
    tokio::select! {
        _ = serving.as_mut() => return,
        _ = stopping.changed() => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}

struct Front {
    handler: Handler,
    slots: Arc<Semaphore>,
    patience: Duration,
}

impl Front {
    async fn respond(&self, request: hyper::Request<Incoming>) -> hyper::Response<Answer> {
        let (head, body) = request.into_parts();
        if head.uri.path() == "/healthz" && (head.method == Method::GET || head.method == Method::HEAD) {
            return Response::new(200)
                .with_body("ok\n")
                .with_header("content-type", "text/plain; charset=utf-8")
                .whole();
        }
        let body = match timeout(BODY_TIMEOUT, collect(body)).await {
            Ok(Ok(body)) => body,
            Ok(Err((status, message))) => return Response::error(status, &message).whole(),
            Err(_) => return Response::error(408, "the body did not arrive in time").whole(),
        };
        let Ok(Ok(slot)) = timeout(self.patience, self.slots.clone().acquire_owned()).await else {
            let message = format!("no handler became free within {} s", self.patience.as_secs());
            return Response::error(503, &message).whole();
        };
        let request = Request {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect(),
            body,
        };
        let (sender, mut pieces) = mpsc::channel(STREAM_PIECES);
        let context = Context::of(&request, Stream { sender });
        let mut answering = (self.handler)(request, context);
        tokio::select! {
            biased;
            Some(first) = pieces.recv() => {
                let running = Some((answering, slot));
                hyper::Response::new(Answer { next: Some(first), pieces: Some(pieces), running })
            }
            found = answering.as_mut() => {
                // What was sent and not read yet comes before what was returned.
                let mut sent = Vec::new();
                while let Ok(piece) = pieces.try_recv() {
                    sent.extend_from_slice(&piece);
                }
                let mut response = found.unwrap_or_else(|message| Response::error(500, &message));
                response.body.splice(0..0, sent);
                response.whole()
            }
        }
    }
}

async fn collect(mut body: Incoming) -> Result<Vec<u8>, (u16, String)> {
    let mut found = Vec::with_capacity(body.size_hint().lower().min(1 << 20) as usize);
    while let Some(frame) = poll_fn(|waker| Pin::new(&mut body).poll_frame(waker)).await {
        let frame = frame.map_err(|error| (400, error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            if found.len() + data.len() > BODY_LIMIT {
                return Err((413, format!("the payload is larger than {BODY_LIMIT} bytes")));
            }
            found.extend_from_slice(&data);
        }
    }
    Ok(found)
}

/// A body: one piece, or pieces as a handler sends them, which runs on meanwhile.
struct Answer {
    next: Option<Bytes>,
    pieces: Option<mpsc::Receiver<Bytes>>,
    running: Option<(Answering, OwnedSemaphorePermit)>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, waker: &mut Waker<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(Some(Ok(Frame::data(next))));
        }
        let mut last = None;
        if let Some((answering, _)) = &mut self.running {
            if let Poll::Ready(found) = answering.as_mut().poll(waker) {
                self.running = None;
                match found {
                    Ok(response) => last = (!response.body.is_empty()).then(|| Bytes::from(response.body)),
                    Err(message) => {
                        // The status has gone out: an end that is no end of a body is all that can still be answered.
                        eprintln!("the handler failed after it began to answer: {message}");
                        return Poll::Ready(Some(Err(std::io::Error::other(message))));
                    }
                }
            }
        }
        match self.pieces.as_mut().map(|pieces| pieces.poll_recv(waker)) {
            Some(Poll::Ready(Some(piece))) => {
                self.next = last;
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Some(Poll::Pending) if self.running.is_some() => Poll::Pending,
            _ => Poll::Ready(last.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && self.pieces.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.pieces {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.next.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

impl Response {
    /// This answer as one piece. A status or header that is none is an error of the handler.
    fn whole(self) -> hyper::Response<Answer> {
        let Ok(status) = StatusCode::from_u16(self.status) else {
            return Self::error(500, &format!("{} is no status of HTTP", self.status)).whole();
        };
        let body = (!self.body.is_empty()).then(|| Bytes::from(self.body));
        let mut whole = hyper::Response::new(Answer { next: body, pieces: None, running: None });
        *whole.status_mut() = status;
        for (name, value) in &self.headers {
            match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => whole.headers_mut().insert(name, value),
                _ => return Self::error(500, &format!("{name:?}: {value:?} is no header of HTTP")).whole(),
            };
        }
        whole
    }
}

/// The answer of an invocation, piece by piece. It ends when the handler has ended.
#[derive(Clone)]
pub struct Stream {
    sender: mpsc::Sender<Bytes>,
}

impl Stream {
    #[cfg(test)]
    pub(crate) fn closed() -> Self {
        Self { sender: mpsc::channel(1).0 }
    }

    /// Sends one piece; waits while the caller reads more slowly than that. Fails when the caller has gone.
    pub async fn send(&self, piece: impl Into<Vec<u8>>) -> Result<()> {
        self.sender.send(Bytes::from(piece.into())).await.map_err(|_| "the caller has gone".into())
    }

    /// `send` for a handler that is not async.
    pub fn send_blocking(&self, piece: impl Into<Vec<u8>>) -> Result<()> {
        self.sender.blocking_send(Bytes::from(piece.into())).map_err(|_| "the caller has gone".into())
    }
}
