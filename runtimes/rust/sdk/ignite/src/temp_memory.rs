//! Temporary values of a component: memory, since its host need not lend it a file system.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Result;

/// Temporary values of one invocation.
#[derive(Debug, Clone)]
pub struct TempStore {
    values: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl TempStore {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { values: Arc::default() })
    }

    /// Stores a value under a name, in the place of an earlier one.
    pub fn put(&self, name: &str, value: impl AsRef<[u8]>) -> Result<()> {
        checked(name)?;
        self.lock().insert(name.to_owned(), value.as_ref().to_vec());
        Ok(())
    }

    /// The value of a name, if there is one.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        checked(name)?;
        Ok(self.lock().get(name).cloned())
    }

    /// Removes a name, if it is there.
    pub fn remove(&self, name: &str) -> Result<()> {
        checked(name)?;
        self.lock().remove(name);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names are those of a native program's files.
fn checked(name: &str) -> Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(format!("{name:?} is no name of a temporary value").into());
    }
    Ok(())
}
