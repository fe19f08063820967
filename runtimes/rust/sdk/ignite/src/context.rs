//! What the platform knows of an invocation.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::{Request, Result, Stream};

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

    /// A folder of this invocation alone. It is made by the first call and removed when the invocation has ended.
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

/// A folder of one invocation below the system's folder for temporary files.
#[derive(Debug, Clone)]
pub struct TempStore {
    folder: Arc<Folder>,
}

#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl TempStore {
    fn new() -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("ignite-{}-{number}", process_id()));
        fs::create_dir(&folder).map_err(|error| format!("no temporary folder: {error}"))?;
        Ok(Self { folder: Arc::new(Folder(folder)) })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.folder.0
    }

    /// Stores a value under a name, in the place of an earlier one.
    pub fn put(&self, name: &str, value: impl AsRef<[u8]>) -> Result<()> {
        Ok(fs::write(self.file(name)?, value)?)
    }

    /// The value of a name, if there is one.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.file(name)?) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a name, if it is there.
    pub fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.file(name)?) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A name is one part of a path, so that a value of the payload leads nowhere else.
    fn file(&self, name: &str) -> Result<PathBuf> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(format!("{name:?} is no name of a temporary value").into());
        }
        Ok(self.path().join(name))
    }
}

#[cfg(not(target_family = "wasm"))]
fn process_id() -> u32 {
    std::process::id()
}

#[cfg(target_family = "wasm")]
fn process_id() -> u32 {
    0
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
