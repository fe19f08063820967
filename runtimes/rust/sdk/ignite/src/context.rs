//! What the platform knows of an invocation.

use std::sync::{Arc, Mutex};

use crate::{Request, Result, Stream, TempStore};

/// What the platform knows of an invocation, and what it lends to it.
#[derive(Clone)]
pub struct Context {
    execution_id: String,
    function_id: String,
    organization_id: String,
    temp: Arc<Mutex<Option<TempStore>>>,
    stream: Stream,
}

impl Context {
    pub(crate) fn of(request: &Request, stream: Stream) -> Self {
        let header = |name| request.header(name).unwrap_or_default().to_owned();
        Self {
            execution_id: header("x-ignite-execution-id"),
            function_id: header("x-ignite-function-id"),
            organization_id: header("x-ignite-organization-id"),
            temp: Arc::default(),
            stream,
        }
    }

    /// The invocation.
    pub fn execution_id(&self) -> &str {
        &self.execution_id
    }

    /// The function, as `org/name`.
    pub fn function_id(&self) -> &str {
        &self.function_id
    }

    /// The organization.
    pub fn organization_id(&self) -> &str {
        &self.organization_id
    }

    /// A variable of the app's environment.
    pub fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    /// Temporary values of this invocation alone. They are made by the first call and removed when the invocation has
    /// ended: a folder in a native program, memory in a component.
    pub fn temp_store(&self) -> Result<TempStore> {
        let mut made = self.temp.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(store) = &*made {
            return Ok(store.clone());
        }
        let store = TempStore::new()?;
        *made = Some(store.clone());
        Ok(store)
    }

    /// The answer, piece by piece: what is sent goes out at once, and what the handler returns is the last piece.
    pub fn stream(&self) -> Stream {
        self.stream.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_value_ends_with_its_invocation() {
        let context = Context::of(&Request::default(), Stream::closed());
        let store = context.temp_store().unwrap();
        let folder = store.path().to_owned();
        store.put("a", b"1").unwrap();
        assert_eq!(context.temp_store().unwrap().get("a").unwrap().as_deref(), Some(&b"1"[..]));
        store.remove("a").unwrap();
        store.remove("a").unwrap();
        assert_eq!(store.get("a").unwrap(), None);
        drop(store);
        assert!(folder.is_dir());
        drop(context);
        assert!(!folder.exists());
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let context = Context::of(&Request::default(), Stream::closed());
        let store = context.temp_store().unwrap();
        for name in ["", ".", "..", "../x", "/etc/passwd", "a/b"] {
            assert!(store.put(name, b"x").is_err(), "{name}");
        }
    }

    #[test]
    fn the_platforms_headers_are_the_context() {
        let request = Request::new("POST", "/", "")
            .with_header("x-ignite-execution-id", "e-1")
            .with_header("x-ignite-function-id", "acme/hello");
        let context = Context::of(&request, Stream::closed());
        assert_eq!(context.execution_id(), "e-1");
        assert_eq!(context.function_id(), "acme/hello");
        assert_eq!(context.organization_id(), "");
        assert_eq!(context.env("PATH"), std::env::var("PATH").ok());
    }
}
