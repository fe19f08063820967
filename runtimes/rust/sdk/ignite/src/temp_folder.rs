//! Temporary values of a native program: files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::Result;

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
    pub(crate) fn new() -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("ignite-{}-{number}", std::process::id()));
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
