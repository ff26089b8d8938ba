//! The build: one rustc pass an architecture, then one PTX module, one cubin and one report an entry.
//!
//! Settings that the kernels cannot do without are passed here, not left to a manifest's profile: where the project is
//! a dependency, the profile of the workspace around it would win.
use crate::{
    Arch, Assembled, Assembler, Built, Cache, Compiler, Entry, Error, Module, parallel::in_parallel, source, split,
    target,
};
use std::{collections::BTreeMap, fs, path::PathBuf};

/// Part of every key: raised when this crate compiles the same source to something else.
pub(crate) const FORMAT: &str = "2";

/// What `--release` is to mean: one module, fully inlined; a panic is a loop; line numbers for the profiler (more debug
/// information than that makes PTX that ptxas refuses).
const PROFILE: [&str; 8] = [
    "profile.release.opt-level=3",
    "profile.release.lto=\"fat\"",
    "profile.release.codegen-units=1",
    "profile.release.panic=\"abort\"",
    "profile.release.debug=\"line-directives-only\"",
    "profile.release.debug-assertions=false",
    "profile.release.overflow-checks=false",
    "profile.release.incremental=false",
];

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
    archs: Vec<Arch>,
    bounds: Vec<LaunchBounds>,
    features: Vec<String>,
    ignored: Vec<PathBuf>,
    fault: Option<String>,
    assemble: bool,
    gate: bool,
    cache: Option<Cache>,
    progress: Box<dyn Fn(&str) + Sync>,
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

    /// Compiles, splits, assembles and checks.
    ///
    /// # Errors
    /// Every variant of [`Error`].
    pub fn build(self) -> Result<Built, Error> {
        let cache = self.cache.clone().map_or_else(Cache::of_user, Ok)?;
        let compiler = Compiler::find(&cache)?;
        let assembler = if self.assemble { Assembler::find(&cache).ok() } else { None };
        let (root, sources) = (self.root()?, self.sources()?);
        let package = source::package_name(&root.join("Cargo.toml"))?;
        let inputs = Inputs {
            sources: source::hash_files(&root, &sources)?,
            locked: source::locked(&root, &package)?,
            root,
            package,
            compiler: &compiler,
            cache: &cache,
        };
        let archs = if self.archs.is_empty() { Arch::ALL.to_vec() } else { self.archs.clone() };
        let modules = in_parallel(&archs, |&arch| {
            let text = self.compile(&inputs, arch)?;
            self.module(&cache, assembler.as_ref(), arch, &text)
        })?;
        let built = Built { modules, compiler, assembler, sources };
        let findings = built.findings();
        if self.gate && !findings.is_empty() {
            return Err(Error::Gate { findings });
        }
        Ok(built)
    }

    fn root(&self) -> Result<PathBuf, Error> {
        fs::canonicalize(&self.path).map_err(Error::io(&self.path))
    }

    /// The PTX of the whole crate for `arch`.
    fn compile(&self, inputs: &Inputs<'_>, arch: Arch) -> Result<String, Error> {
        let flags = Inputs::flags(arch);
        let (features, fault) = (self.features.join(","), self.fault.as_deref().unwrap_or_default());
        let version = inputs.compiler.version.as_str();
        let parts = [FORMAT, version, &flags.join("\n"), &PROFILE.join("\n"), &features, fault, &inputs.package];
        let parts = parts.into_iter().chain([inputs.sources.as_str(), inputs.locked.as_str()]);
        let key = source::hash(parts.map(str::as_bytes));
        let cached = |dir: PathBuf| {
            let path = dir.join("module.ptx");
            fs::read_to_string(&path).map_err(Error::io(path))
        };
        if let Some(dir) = inputs.cache.get("ptx", &key) {
            return cached(dir);
        }
        // One build at a time in a target folder; who waited may find that its output has been made meanwhile.
        let folder = format!("{}-{arch}", &source::hash([version.as_bytes()])[..12]);
        let _lock = inputs.cache.lock(&folder)?;
        if let Some(dir) = inputs.cache.get("ptx", &key) {
            return cached(dir);
        }
        (self.progress)(&format!("compiling {} for {arch} with {}", inputs.package, inputs.compiler));
        let target_dir = inputs.cache.root().join("target").join(folder);
        cached(inputs.cache.put("ptx", &key, |dir| {
            let mut command = inputs.compiler.cargo_command("rustc");
            command
                .args([
                    "--release",
                    "--target",
                    "nvptx64-nvidia-cuda",
                    "-Zbuild-std=core",
                    "--lib",
                    "--crate-type=cdylib",
                ])
                .args(PROFILE.iter().flat_map(|setting| ["--config", setting]))
                .args(["-p", &inputs.package, "--features", &features, "--manifest-path"])
                .arg(inputs.root.join("Cargo.toml"))
                .arg("--target-dir")
                .arg(target_dir)
                .current_dir(&inputs.root)
                .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
                // The path is new in every build, so cargo never takes the output of other features for this one's.
                .arg("--")
                .arg(format!("--emit=asm={}", dir.join("module.ptx").display()));
            if !fault.is_empty() {
                command.env("QKV_FAULT", fault);
            }
            let output = command.output().map_err(Error::spawn("cargo"))?;
            if !output.status.success() {
                let output_text = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(Error::Compile { arch, status: output.status, output: output_text });
            }
            let path = dir.join("module.ptx");
            let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
            fs::write(&path, inputs.relative_paths(&text)).map_err(Error::io(path))
        })?)
    }

    /// Splits `text`, adds the launch bounds and assembles.
    fn module(&self, cache: &Cache, assembler: Option<&Assembler>, arch: Arch, text: &str) -> Result<Module, Error> {
        let unexpected = |reason| Error::Ptx { arch, reason };
        let mut modules = split::split(text).map_err(unexpected)?;
        self.check_entries(arch, &modules)?;
        for bounds in &self.bounds {
            if let Some(ptx) = modules.get_mut(&bounds.name) {
                *ptx = split::with_bounds(ptx, &bounds.name, bounds.threads, bounds.min_blocks).map_err(unexpected)?;
            }
        }
        for (name, ptx) in &mut modules {
            *ptx = split::with_aligned_maps(ptx, name);
        }
        if assembler.is_some() {
            (self.progress)(&format!("assembling {} entries for {arch}", modules.len()));
        }
        let modules: Vec<(String, String)> = modules.into_iter().collect();
        let entries = in_parallel(&modules, |(name, ptx)| {
            let (target, ptx) = target::of_entry(arch, ptx).map_err(unexpected)?;
            let assembled = match assembler {
                Some(assembler) => {
                    let (cubin, report) = assembler.cached(cache, target, name, &ptx)?;
                    Some(Assembled { cubin, report })
                }
                None => None,
            };
            Ok(Entry { name: name.clone(), target, ptx, assembled })
        })?;
        Ok(Module { arch, entries })
    }

    fn check_entries(&self, arch: Arch, modules: &BTreeMap<String, String>) -> Result<(), Error> {
        let listed: Vec<&str> = self
            .bounds
            .iter()
            .filter(|bounds| bounds.archs.contains(&arch))
            .map(|bounds| bounds.name.as_str())
            .collect();
        let missing: Vec<String> =
            listed.iter().filter(|name| !modules.contains_key(**name)).map(|name| (*name).to_owned()).collect();
        let open_list = self.bounds.is_empty() || self.features.iter().any(|feature| feature == "probe");
        let unlisted: Vec<String> =
            modules.keys().filter(|name| !open_list && !listed.contains(&name.as_str())).cloned().collect();
        if missing.is_empty() && unlisted.is_empty() { Ok(()) } else { Err(Error::Entries { arch, missing, unlisted }) }
    }
}

/// What the passes of one build have in common.
struct Inputs<'a> {
    root: PathBuf,
    package: String,
    sources: String,
    locked: String,
    compiler: &'a Compiler,
    cache: &'a Cache,
}

impl Inputs<'_> {
    /// Nothing here names a folder: `core` is then compiled once for all checkouts and crates.
    fn flags(arch: Arch) -> [String; 5] {
        [
            format!("-Ctarget-cpu={}", arch.cpu()),
            format!("-Ctarget-feature=+{}", arch.isa()),
            format!("--cfg=qkv_sm=\"{}\"", arch.cfg()),
            // No linker for PTX is packaged anywhere; fat LTO has merged everything before one would be needed.
            "-Clinker=/bin/true".to_owned(),
            // Arrays stay in registers only if every index is a constant after unrolling.
            "-Cllvm-args=-unroll-threshold=20000".to_owned(),
        ]
    }

    /// The `.file` directives of `ptx` with paths that mean something on another machine.
    fn relative_paths(&self, ptx: &str) -> String {
        let library = self.compiler.library_source();
        [(self.root.as_path(), self.package.as_str()), (library.as_path(), "library")]
            .iter()
            .fold(ptx.to_owned(), |text, (dir, name)| {
                text.replace(&format!("\"{}/", dir.display()), &format!("\"{name}/"))
            })
    }
}
