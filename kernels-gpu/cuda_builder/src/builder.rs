//! The build: one rustc pass an architecture, then one PTX module, one cubin and one report an entry.
//!
//! Settings that the kernels cannot do without are passed here, not left to a manifest's profile: where the project is
//! a dependency, the profile of the workspace around it would win.
use crate::{Arch, Assembler, Built, Cache, Compiler, Error, Prepared, source};
use std::{fs, path::PathBuf};

/// The launch bounds of an entry, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchBounds {
    /// The entry.
    pub name: String,
    /// Threads of a block: `.maxntid`.
    pub threads: u32,
    /// Blocks that a multiprocessor should hold: `.minnctapersm`.
    pub min_blocks: u32,
    /// The architectures whose PTX has it.
    pub archs: Vec<Arch>,
}

impl LaunchBounds {
    /// Of an entry of the architectures whose names `is_for` takes.
    pub fn new(name: impl Into<String>, threads: u32, min_blocks: u32, is_for: impl Fn(&str) -> bool) -> Self {
        let archs = Arch::ALL.iter().copied().filter(|arch| is_for(arch.name())).collect();
        Self { name: name.into(), threads, min_blocks, archs }
    }
}

/// A build of a kernels crate.
pub struct CudaBuilder {
    path: PathBuf,
    pub(crate) archs: Vec<Arch>,
    pub(crate) bounds: Vec<LaunchBounds>,
    pub(crate) features: Vec<String>,
    ignored: Vec<PathBuf>,
    pub(crate) fault: Option<String>,
    assemble: bool,
    pub(crate) gate: bool,
    cache: Option<Cache>,
    pub(crate) progress: Box<dyn Fn(&str) + Sync>,
}

impl CudaBuilder {
    /// Of the crate whose manifest is in `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            archs: Vec::new(),
            bounds: Vec::new(),
            features: Vec::new(),
            ignored: Vec::new(),
            fault: None,
            assemble: true,
            gate: true,
            cache: None,
            progress: Box::new(|_| {}),
        }
    }

    /// For this architecture too; for all of them where none is named.
    pub fn arch(mut self, arch: Arch) -> Self {
        self.archs.push(arch);
        self
    }

    /// For these architectures too.
    pub fn archs(mut self, archs: impl IntoIterator<Item = Arch>) -> Self {
        self.archs.extend(archs);
        self
    }

    /// The entries that the crate must have, with their launch bounds; an architecture that one is not for must not have
    /// it. With none given, entries get no bounds; with the feature `probe` there may be more entries than listed.
    pub fn entries(mut self, bounds: impl IntoIterator<Item = LaunchBounds>) -> Self {
        self.bounds.extend(bounds);
        self
    }

    /// With this cargo feature.
    pub fn feature(mut self, feature: impl Into<String>) -> Self {
        self.features.push(feature.into());
        self
    }

    /// The kernels do not depend on this path, relative to the crate (host code, another crate in its folder).
    pub fn ignore(mut self, path: impl Into<PathBuf>) -> Self {
        self.ignored.push(path.into());
        self
    }

    /// With a synchronisation left out, for the tests of the tools that should find it: `QKV_FAULT` of the kernels.
    pub fn fault(mut self, fault: Option<String>) -> Self {
        self.fault = fault.filter(|name| !name.is_empty());
        self
    }

    /// Whether to run ptxas where there is one (yes).
    pub fn assemble(mut self, yes: bool) -> Self {
        self.assemble = yes;
        self
    }

    /// Whether an entry with stack, spills or a C75xx note fails the build (yes).
    pub fn gate(mut self, yes: bool) -> Self {
        self.gate = yes;
        self
    }

    /// With this cache in place of the user's.
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Calls `progress` with a line at each step that takes time.
    pub fn on_progress(mut self, progress: impl Fn(&str) + Sync + 'static) -> Self {
        self.progress = Box::new(progress);
        self
    }

    /// The files that a build reads.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sources(&self) -> Result<Vec<PathBuf>, Error> {
        source::files(&self.root()?, &self.ignored)
    }

    /// Finds compiler and assembler and reads the sources: all that a build depends on.
    ///
    /// # Errors
    /// No cache, no compiler; [`Error::Io`]; a manifest of no package.
    pub fn prepare(self) -> Result<Prepared, Error> {
        let cache = self.cache.clone().map_or_else(Cache::of_user, Ok)?;
        let compiler = Compiler::find(&cache)?;
        let assembler = if self.assemble { Assembler::find(&cache).ok() } else { None };
        let (root, files) = (self.root()?, self.sources()?);
        let package = source::package_name(&root.join("Cargo.toml"))?;
        let (sources, locked) = (source::hash_files(&root, &files)?, source::locked(&root, &package)?);
        Ok(Prepared { builder: self, cache, compiler, assembler, root, package, files, sources, locked })
    }

    /// Compiles, splits, assembles and checks.
    ///
    /// # Errors
    /// Every variant of [`Error`].
    pub fn build(self) -> Result<Built, Error> {
        self.prepare()?.build()
    }

    fn root(&self) -> Result<PathBuf, Error> {
        fs::canonicalize(&self.path).map_err(Error::io(&self.path))
    }
}
