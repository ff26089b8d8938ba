//! A build whose tools are found and whose sources are read: its name in the cache, and its outputs.
//!
//! Settings that the kernels cannot do without are passed here, not left to a manifest's profile: where the project is
//! a dependency, the profile of the workspace around it would win.
use crate::{
    Arch, Assembled, Assembler, Built, Cache, Compiler, CudaBuilder, Entry, Error, Module, in_parallel, source, split,
    target,
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

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

/// What [`CudaBuilder::prepare`] found.
pub struct Prepared {
    pub(crate) builder: CudaBuilder,
    pub(crate) cache: Cache,
    pub(crate) compiler: Compiler,
    pub(crate) assembler: Option<Assembler>,
    pub(crate) root: PathBuf,
    pub(crate) package: String,
    pub(crate) files: Vec<PathBuf>,
    /// The hash of `files`.
    pub(crate) sources: String,
    /// The locked versions of what the package uses.
    pub(crate) locked: String,
}

impl Prepared {
    /// What compiles.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// What assembles, if anything.
    pub fn assembler(&self) -> Option<&Assembler> {
        self.assembler.as_ref()
    }

    /// The files that the build reads: what a build script should watch.
    pub fn sources(&self) -> &[PathBuf] {
        &self.files
    }

    /// Fills a folder of the cache by `make`, which is given the outputs, or finds the one that `make` filled with the same outputs
    /// before; nothing is built then. `kind` names what `make` does, and changes where that does.
    ///
    /// # Errors
    /// As [`CudaBuilder::build`]'s and `make`'s.
    pub fn derive(self, kind: &str, make: impl FnOnce(&Path, &Built) -> Result<(), Error>) -> Result<PathBuf, Error> {
        let key = self.key();
        if let Some(dir) = self.cache.get(kind, &key) {
            return Ok(dir);
        }
        let cache = self.cache.clone();
        let built = self.build()?;
        cache.put(kind, &key, |dir| make(dir, &built))
    }

    /// Hash of all that the outputs depend on.
    fn key(&self) -> String {
        let modules: Vec<String> = self.archs().iter().map(|&arch| self.module_key(arch)).collect();
        let assembler = self.assembler.as_ref().map_or("", |assembler| assembler.version.as_str());
        let (bounds, gate) = (format!("{:?}", self.builder.bounds), self.builder.gate.to_string());
        let parts = [assembler, &bounds, &gate].into_iter().chain(modules.iter().map(String::as_str));
        source::hash(parts.map(str::as_bytes))
    }

    fn archs(&self) -> Vec<Arch> {
        if self.builder.archs.is_empty() { Arch::ALL.to_vec() } else { self.builder.archs.clone() }
    }

    /// Compiles, splits, assembles and checks.
    ///
    /// # Errors
    /// As [`CudaBuilder::build`].
    pub fn build(self) -> Result<Built, Error> {
        let modules = in_parallel(&self.archs(), |&arch| {
            let text = self.compile(arch)?;
            self.module(arch, &text)
        })?;
        let Self { builder, compiler, assembler, files, .. } = self;
        let built = Built { modules, compiler, assembler, sources: files };
        let findings = built.findings();
        if builder.gate && !findings.is_empty() {
            return Err(Error::Gate { findings });
        }
        Ok(built)
    }

    /// Hash of all that the PTX for `arch` depends on.
    fn module_key(&self, arch: Arch) -> String {
        let (features, fault) = (self.builder.features.join(","), self.builder.fault.as_deref().unwrap_or_default());
        let (flags, profile) = (flags(arch).join("\n"), PROFILE.join("\n"));
        let parts = [FORMAT, &self.compiler.version, &flags, &profile, &features, fault, &self.package];
        let parts = parts.into_iter().chain([self.sources.as_str(), self.locked.as_str()]);
        source::hash(parts.map(str::as_bytes))
    }

    /// The PTX of the whole crate for `arch`.
    fn compile(&self, arch: Arch) -> Result<String, Error> {
        let key = self.module_key(arch);
        let (features, fault) = (self.builder.features.join(","), self.builder.fault.as_deref().unwrap_or_default());
        let cached = |dir: PathBuf| {
            let path = dir.join("module.ptx");
            fs::read_to_string(&path).map_err(Error::io(path))
        };
        if let Some(dir) = self.cache.get("ptx", &key) {
            return cached(dir);
        }
        // One build at a time in a target folder; who waited may find that its output has been made meanwhile.
        let folder = format!("{}-{arch}", &source::hash([self.compiler.version.as_bytes()])[..12]);
        let _lock = self.cache.lock(&folder)?;
        if let Some(dir) = self.cache.get("ptx", &key) {
            return cached(dir);
        }
        (self.builder.progress)(&format!("compiling {} for {arch} with {}", self.package, self.compiler));
        let target_dir = self.cache.root().join("target").join(folder);
        cached(self.cache.put("ptx", &key, |dir| {
            let mut command = self.compiler.cargo_command("rustc");
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
                .args(["-p", &self.package, "--features", &features, "--manifest-path"])
                .arg(self.root.join("Cargo.toml"))
                .arg("--target-dir")
                .arg(target_dir)
                .current_dir(&self.root)
                .env("CARGO_ENCODED_RUSTFLAGS", flags(arch).join("\x1f"))
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
            fs::write(&path, self.relative_paths(&text)).map_err(Error::io(path))
        })?)
    }

    /// Splits `text`, adds the launch bounds and assembles.
    fn module(&self, arch: Arch, text: &str) -> Result<Module, Error> {
        let unexpected = |reason| Error::Ptx { arch, reason };
        let mut modules = split::split(text).map_err(unexpected)?;
        self.check_entries(arch, &modules)?;
        for bounds in &self.builder.bounds {
            if let Some(ptx) = modules.get_mut(&bounds.name) {
                *ptx = split::with_bounds(ptx, &bounds.name, bounds.threads, bounds.min_blocks).map_err(unexpected)?;
            }
        }
        for (name, ptx) in &mut modules {
            *ptx = split::with_aligned_maps(ptx, name);
        }
        if self.assembler.is_some() {
            (self.builder.progress)(&format!("assembling {} entries for {arch}", modules.len()));
        }
        let modules: Vec<(String, String)> = modules.into_iter().collect();
        let entries = in_parallel(&modules, |(name, ptx)| {
            let (target, ptx) = target::of_entry(arch, ptx).map_err(unexpected)?;
            let assembled = match &self.assembler {
                Some(assembler) => {
                    let (cubin, report) = assembler.cached(&self.cache, target, name, &ptx)?;
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
            .builder
            .bounds
            .iter()
            .filter(|bounds| bounds.archs.contains(&arch))
            .map(|bounds| bounds.name.as_str())
            .collect();
        let missing: Vec<String> =
            listed.iter().filter(|name| !modules.contains_key(**name)).map(|name| (*name).to_owned()).collect();
        let open_list =
            self.builder.bounds.is_empty() || self.builder.features.iter().any(|feature| feature == "probe");
        let unlisted: Vec<String> =
            modules.keys().filter(|name| !open_list && !listed.contains(&name.as_str())).cloned().collect();
        if missing.is_empty() && unlisted.is_empty() { Ok(()) } else { Err(Error::Entries { arch, missing, unlisted }) }
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
