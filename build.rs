//! Embeds the kernels: asks `cuda_builder` for their PTX (or takes it from `QKV_PTX_DIR`), deflates it and writes
//! `OUT_DIR/images.rs`, the table that `host/module.rs` includes.
//!
//! Nothing is built without the feature `cuda`. `QKV_ARCH` (`sm_80,sm_90a`) narrows the architectures. Without ptxas
//! PTX alone is embedded, and a driver compiles it when a program first uses a kernel.

#[cfg(feature = "cuda")]
fn main() -> std::process::ExitCode {
    embed::main()
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}

#[cfg(feature = "cuda")]
mod embed {
    use cuda_builder::{Arch, Built, Cache, CudaBuilder, Error, LaunchBounds, in_parallel};
    use kernels_gpu::{fault::Fault, kernels::ENTRIES};
    use std::{
        env, fs,
        path::{Path, PathBuf},
        process::ExitCode,
    };

    /// What changes the outcome besides files. `HOME`, `PATH` and the like are left out: a search that failed is
    /// repeated anyway, and one that succeeded stands.
    const VARIABLES: [&str; 8] =
        ["QKV_PTX_DIR", "QKV_ARCH", "QKV_RUSTC", "QKV_PTXAS", "QKV_CACHE", "QKV_FAULT", "RUSTUP_TOOLCHAIN", "DOCS_RS"];

    /// Level of deflation: the slowest, for a table that is written once and shipped often.
    const LEVEL: u8 = 9;

    /// Raised when the same kernels are embedded as something else: part of what names them in the cache.
    const FORMAT: u32 = 1;

    /// One kernel for one target.
    struct Image<'a> {
        target: &'a str,
        entry: &'a str,
        ptx: &'a [u8],
        cubin: Option<&'a [u8]>,
    }

    pub fn main() -> ExitCode {
        println!("cargo::rerun-if-changed=build.rs");
        for name in VARIABLES {
            println!("cargo::rerun-if-env-changed={name}");
        }
        match embed() {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                for line in message.lines() {
                    println!("cargo::error={line}");
                }
                ExitCode::FAILURE
            }
        }
    }

    fn embed() -> Result<(), String> {
        let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?);
        if variable("DOCS_RS").is_some() {
            // Documentation is built without a network, hence without a compiler for PTX, and needs no kernel.
            return write(&out, &[], "nothing: documentation alone").map_err(|error| error.to_string());
        }
        let archs = variable("QKV_ARCH").map(|list| Arch::parse_list(&list)).transpose();
        let archs = archs.map_err(|error| format!("QKV_ARCH: {error}"))?;
        match variable("QKV_PTX_DIR") {
            Some(dir) => from_folder(Path::new(&dir), archs, &out).map_err(|error| format!("QKV_PTX_DIR: {error}")),
            None => compiled(archs, &out),
        }
    }

    fn variable(name: &str) -> Option<String> {
        env::var(name).ok().filter(|value| !value.is_empty())
    }

    /// The names of what is embedded: the entries that the architecture has, and for tests the probes.
    fn entries(arch: Arch) -> impl Iterator<Item = &'static str> {
        let arch = arch.name();
        let entries = ENTRIES.iter().filter(move |entry| entry.is_for(arch)).map(|entry| entry.name);
        #[cfg(feature = "probe")]
        let entries = {
            use kernels_gpu::probe::{PROBES, hopper::HOPPER_PROBES};
            let probes = PROBES.iter().filter(move |probe| probe.is_for(arch)).map(|probe| probe.name);
            let hopper = HOPPER_PROBES.iter().filter(move |probe| probe.is_for(arch)).map(|probe| probe.name);
            entries.chain(probes).chain(hopper)
        };
        entries
    }

    /// The bounds of what is compiled.
    fn bounds() -> impl Iterator<Item = LaunchBounds> {
        let entries = ENTRIES
            .iter()
            .map(|entry| LaunchBounds::new(entry.name, entry.threads, entry.min_blocks, |arch| entry.is_for(arch)));
        // Without bounds ptxas would ignore `setmaxnreg`.
        #[cfg(feature = "probe")]
        let entries = entries.chain(
            kernels_gpu::probe::hopper::HOPPER_PROBES
                .iter()
                .map(|probe| LaunchBounds::new(probe.name, probe.threads, 1, |arch| probe.is_for(arch))),
        );
        entries
    }

    /// `<dir>/<arch>/<entry>.ptx`, and `.cubin` where there is one, as `cargo xtask ptx` writes them.
    fn from_folder(dir: &Path, archs: Option<Vec<Arch>>, out: &Path) -> Result<(), String> {
        let archs =
            archs.unwrap_or_else(|| Arch::ALL.iter().copied().filter(|arch| dir.join(arch.name()).is_dir()).collect());
        if archs.is_empty() {
            let names: Vec<&str> = Arch::ALL.iter().map(|arch| arch.name()).collect();
            return Err(format!("{} has no folder of kernels: none of {}", dir.display(), names.join(", ")));
        }
        let mut images = Vec::new();
        for arch in archs {
            let folder = dir.join(arch.name());
            let missing: Vec<&str> =
                entries(arch).filter(|name| !folder.join(format!("{name}.ptx")).is_file()).collect();
            if !missing.is_empty() {
                return Err(format!("{} lacks {} (.ptx)", folder.display(), missing.join(", ")));
            }
            for entry in entries(arch) {
                let read = |extension: &str| -> Result<Vec<u8>, String> {
                    let path = folder.join(format!("{entry}.{extension}"));
                    println!("cargo::rerun-if-changed={}", path.display());
                    fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
                };
                let has_cubin = folder.join(format!("{entry}.cubin")).is_file();
                let cubin = if has_cubin { Some(read("cubin")?) } else { None };
                let ptx = read("ptx")?;
                let target =
                    target(&ptx).ok_or_else(|| format!("{}: {entry}.ptx names no target", folder.display()))?;
                images.push((target, entry, ptx, cubin));
            }
        }
        let images: Vec<Image> = images
            .iter()
            .map(|(target, entry, ptx, cubin)| Image { target, entry, ptx, cubin: cubin.as_deref() })
            .collect();
        write(out, &images, "QKV_PTX_DIR").map_err(|error| error.to_string())
    }

    /// What `.target` says.
    fn target(ptx: &[u8]) -> Option<String> {
        let text = core::str::from_utf8(ptx).ok()?;
        text.lines().find_map(|line| line.strip_prefix(".target ")).map(|target| target.trim().to_owned())
    }

    /// Compiled and deflated now, or found in the cache of earlier builds.
    fn compiled(archs: Option<Vec<Arch>>, out: &Path) -> Result<(), String> {
        let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets no CARGO_MANIFEST_DIR")?);
        let stamp = Cache::of_user().and_then(|cache| cache.stamp()).map_err(|error| error.to_string())?;
        println!("cargo::rerun-if-changed={}", stamp.display());
        let mut builder = CudaBuilder::of_project(&root, bounds())
            .archs(archs.unwrap_or_default())
            .fault_from_environment(Fault::ALL.iter().map(|fault| fault.name()))
            .map_err(|error| error.to_string())?;
        if cfg!(feature = "probe") {
            builder = builder.feature("probe");
        }
        let explained = |error| match error {
            Error::NoCompiler { .. } => format!("{error}\n{}", remedies(&root)),
            other => other.to_string(),
        };
        let prepared = builder.prepare().map_err(explained)?;
        for path in prepared.sources() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
        if prepared.assembler().is_none() {
            println!("cargo::warning=no ptxas: PTX alone is embedded, and the driver compiles it at first use");
        }
        let folder =
            prepared.derive(&format!("images-{FORMAT}"), |dir, built| write(dir, &images(built), &made_by(built)));
        copy(&folder.map_err(explained)?, out).map_err(|error| error.to_string())
    }

    fn images(built: &Built) -> Vec<Image<'_>> {
        let entries = built.modules.iter().flat_map(|module| &module.entries);
        entries
            .map(|entry| Image {
                target: entry.target,
                entry: &entry.name,
                ptx: entry.ptx.as_bytes(),
                cubin: entry.assembled.as_ref().map(|assembled| assembled.cubin.as_slice()),
            })
            .collect()
    }

    fn made_by(built: &Built) -> String {
        let assembler = built.assembler.as_ref();
        let assembler = assembler.map_or_else(|| "no ptxas".to_owned(), |one| format!("ptxas {}", one.version));
        format!("rustc {}, {assembler}", built.compiler.release)
    }

    /// What to type where no compiler was found; said in another project's build too, so it needs no checkout of this.
    fn remedies(root: &Path) -> String {
        let manifest = root.join("Cargo.toml");
        // A published package has no xtask; a checkout, cargo's own of a git dependency too, has.
        let unpack = if root.join("xtask").is_dir() {
            format!(
                "\x20 cargo run --manifest-path {} --package xtask -- setup\n\
                 \x20     (the same two packages and ptxas, unpacked into your cache folder without root)\n",
                manifest.display()
            )
        } else {
            String::new()
        };
        format!(
            "Any one of these mends it:\n\
             \x20 rustup toolchain install nightly --profile minimal --component rust-src\n\
             \x20     (found on disk from then on; your own toolchain stays the active one)\n\
             \x20 apt-get install --no-remove rustc-web rust-web-src\n\
             \x20     (Debian 12 and newer, as root; not beside Debian's own rustc or rustup packages)\n\
             {unpack}\x20 QKV_PTX_DIR=DIR cargo build\n\
             \x20     (DIR written by `cargo xtask ptx DIR` on any machine)\n\
             Or do without GPUs: qkv = {{ default-features = false, features = [\"sim\"] }}"
        )
    }

    /// `images.rs` and the files that it includes.
    fn write(dir: &Path, images: &[Image<'_>], made_by: &str) -> Result<(), Error> {
        // A build script is not optimised: 250 MB take a core a minute.
        let rows = in_parallel(images, |Image { target, entry, ptx, cubin }| {
            let ptx = deflated(dir, &format!("{target}-{entry}.ptx.z"), &without_lines(ptx))?;
            let cubin = match cubin {
                Some(cubin) => format!("Some({})", deflated(dir, &format!("{target}-{entry}.cubin.z"), cubin)?),
                None => "None".to_owned(),
            };
            Ok(format!("    Image {{ target: {target:?}, entry: {entry:?}, ptx: {ptx}, cubin: {cubin} }},\n"))
        })?;
        let table = format!(
            "/// Every kernel for every target of this build.\npub static IMAGES: &[Image] = &[\n{}];\n\n\
             /// What compiled and assembled them.\npub const MADE_BY: &str = {made_by:?};\n",
            rows.concat()
        );
        let path = dir.join("images.rs");
        fs::write(&path, table).map_err(|source| Error::Io { path, source })
    }

    /// The files of one folder to another.
    fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(())
    }

    /// PTX without what refers to source lines (directives, the labels between which a line's code lies, comments):
    /// nobody asks a program's own copy for them, and they are a quarter of it. `cargo xtask ptx` writes them.
    fn without_lines(ptx: &[u8]) -> Vec<u8> {
        const BEGINNINGS: [&[u8]; 4] = [b".loc", b".file", b"$L__tmp", b"//"];
        let is_kept = |line: &&[u8]| !BEGINNINGS.iter().any(|beginning| line.trim_ascii_start().starts_with(beginning));
        ptx.split_inclusive(|&byte| byte == b'\n').filter(is_kept).flatten().copied().collect()
    }

    /// Writes the deflated bytes and gives the expression that includes them.
    fn deflated(dir: &Path, name: &str, bytes: &[u8]) -> Result<String, Error> {
        let path = dir.join(name);
        fs::write(&path, miniz_oxide::deflate::compress_to_vec(bytes, LEVEL))
            .map_err(|source| Error::Io { path, source })?;
        Ok(format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\"))"))
    }
}
