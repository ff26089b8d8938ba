//! The project's folder in the user's cache: compilers that the project installed, and outputs by content.
//!
//! `QKV_CACHE`, else `$XDG_CACHE_HOME/qkv`, else `~/.cache/qkv`. It lies outside cargo's target folders, because debug,
//! release, clippy and doc builds have one each and would compile the kernels again. An output is a folder named by the
//! hash of all it depends on; it appears complete, by a rename, so any number of processes may build at once.
use crate::Error;
use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

/// Outputs not used for this long are removed.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

/// Where the project keeps what it installs and builds.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// The root of the project's own unpacked rustc (`usr/bin/rustc` below it).
pub fn rust_installation(cache: &Cache) -> PathBuf {
    cache.root.join("rust")
}

/// The folder of the project's own CUDA command-line tools (`nvidia/cu13/bin/ptxas` below it).
pub fn cuda_installation(cache: &Cache) -> PathBuf {
    cache.root.join("cuda")
}

impl Cache {
    /// The user's.
    ///
    /// # Errors
    /// [`Error::NoCache`] where no variable says where it is.
    pub fn of_user() -> Result<Self, Error> {
        Self::locate(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
            .ok_or(Error::NoCache)
    }

    /// At `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn locate(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<Self> {
        let root = variable("QKV_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("qkv")))
            .or_else(|| variable("HOME").map(|dir| dir.join(".cache").join("qkv")))?;
        Some(Self { root })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file that changes when the project installs something: what a build script watches, because cargo takes a
    /// watched file that does not exist for one that always changed.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be made.
    pub fn stamp(&self) -> Result<PathBuf, Error> {
        let path = self.root.join("installed");
        if !path.is_file() {
            self.touch_stamp()?;
        }
        Ok(path)
    }

    /// Says that something was installed.
    ///
    /// # Errors
    /// [`Error::Io`] where the stamp cannot be written.
    pub fn touch_stamp(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.root).map_err(Error::io(&self.root))?;
        let path = self.root.join("installed");
        fs::write(&path, "").map_err(Error::io(path))
    }

    /// The output folder of `kind` whose inputs hash to `key`, if it was built before.
    pub(crate) fn get(&self, kind: &str, key: &str) -> Option<PathBuf> {
        let dir = self.root.join(kind).join(key);
        // The time of last use, for the removal of old outputs; a read-only cache is still a cache.
        let _ = File::open(&dir).ok()?.set_modified(SystemTime::now());
        Some(dir)
    }

    /// Fills a folder by `make` and publishes it under `key`.
    pub(crate) fn put(
        &self,
        kind: &str,
        key: &str,
        make: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        static UNIQUE: AtomicU32 = AtomicU32::new(0);
        let parent = self.root.join(kind);
        fs::create_dir_all(&parent).map_err(Error::io(&parent))?;
        self.remove_old(&parent);
        let draft = parent.join(format!(".{key}.{}.{}", process::id(), UNIQUE.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&draft).map_err(Error::io(&draft))?;
        let made = make(&draft).and_then(|()| {
            let dir = parent.join(key);
            match fs::rename(&draft, &dir) {
                Ok(()) => Ok(dir),
                // Another process was first, with the same inputs and so the same output.
                Err(_) if dir.is_dir() => Ok(dir),
                Err(source) => Err(Error::Io { path: dir, source }),
            }
        });
        let _ = fs::remove_dir_all(&draft);
        made
    }

    /// Holds the lock `name` until the file is dropped; waits for whoever has it.
    pub(crate) fn lock(&self, name: &str) -> Result<File, Error> {
        let path = self.root.join("locks").join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        let file = File::create(&path).map_err(Error::io(&path))?;
        file.lock().map_err(Error::io(&path))?;
        Ok(file)
    }

    /// Best effort: what cannot be removed stays.
    fn remove_old(&self, parent: &Path) {
        let Ok(entries) = fs::read_dir(parent) else { return };
        for entry in entries.flatten() {
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > KEEP) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// The first file called `name` in `<dir>/nvidia/*/bin`, where NVIDIA's Python packages put their programs.
pub(crate) fn wheel_program(dir: &Path, name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let name = name.as_ref();
    let mut found: Vec<PathBuf> = fs::read_dir(dir.join("nvidia"))
        .ok()?
        .flatten()
        .map(|entry| entry.path().join("bin").join(name))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop()
}

#[cfg(test)]
mod tests {
    use super::Cache;
    use crate::Error;
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    #[test]
    fn the_projects_variable_comes_first() {
        let all = |name: &str| Some(PathBuf::from(format!("/{name}")));
        assert_eq!(Cache::locate(all).unwrap().root(), Path::new("/QKV_CACHE"));
        let home = |name: &str| (name == "HOME").then(|| PathBuf::from("/h"));
        assert_eq!(Cache::locate(home).unwrap().root(), Path::new("/h/.cache/qkv"));
        assert!(Cache::locate(|_| None).is_none());
    }

    #[test]
    fn a_failed_output_leaves_nothing_and_a_second_finds_the_first() {
        let root = std::env::temp_dir().join(format!("qkv-cache-test-{}", std::process::id()));
        let cache = Cache::at(&root);
        let failed = cache.put("kind", "key", |_| Err(Error::NoCache));
        assert!(matches!(failed, Err(Error::NoCache)));
        assert!(cache.get("kind", "key").is_none());
        let write = |text: &'static str| move |dir: &Path| fs::write(dir.join("file"), text).map_err(Error::io(dir));
        let dir = cache.put("kind", "key", write("first")).unwrap();
        assert_eq!(cache.put("kind", "key", write("second")).unwrap(), dir);
        assert_eq!(cache.get("kind", "key").unwrap(), dir);
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "first");
        assert_eq!(fs::read_dir(root.join("kind")).unwrap().count(), 1, "drafts are removed");
        fs::remove_dir_all(root).unwrap();
    }
}
