//! What every build of this project's own kernels has in common, so that what is embedded, inspected and tested is the
//! same: the folder, the launch bounds, what the kernels do not depend on, and the fault that `QKV_FAULT` names.
use crate::{CudaBuilder, Error, LaunchBounds};
use std::path::Path;

impl CudaBuilder {
    /// Of the project's kernels; `root` is its folder.
    pub fn of_project(root: &Path, entries: impl IntoIterator<Item = LaunchBounds>) -> Self {
        Self::new(root.join("kernels-gpu")).entries(entries).ignore("cuda_builder").ignore("cuda_std/src/sim")
    }

    /// With the synchronisation left out that the variable `QKV_FAULT` names, if it is set: one of `known`. A misspelt one
    /// would build shipped kernels under the name of a fault.
    ///
    /// # Errors
    /// [`Error::UnknownFault`].
    pub fn fault_from_environment(self, known: impl IntoIterator<Item = &'static str>) -> Result<Self, Error> {
        let name = std::env::var("QKV_FAULT").ok();
        Ok(self.fault(one_of(name, known.into_iter().collect())?))
    }
}

fn one_of(name: Option<String>, known: Vec<&'static str>) -> Result<Option<String>, Error> {
    match name.filter(|name| !name.is_empty()) {
        Some(name) if !known.contains(&name.as_str()) => Err(Error::UnknownFault { name, known }),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::one_of;

    #[test]
    fn a_misspelt_fault_is_refused() {
        let known = || vec!["key_wait", "key_full"];
        assert_eq!(one_of(None, known()).unwrap(), None);
        assert_eq!(one_of(Some(String::new()), known()).unwrap(), None);
        assert_eq!(one_of(Some("key_full".into()), known()).unwrap().as_deref(), Some("key_full"));
        let error = one_of(Some("key".into()), known()).unwrap_err().to_string();
        assert_eq!(error, "QKV_FAULT is \"key\"; allowed: key_wait, key_full");
    }
}
