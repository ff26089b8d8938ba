//! Finds a rustc that can compile kernels: 1.96 or newer, with the source of its own `core` beside it.
//!
//! `core` for `nvptx64` is shipped by nobody and must be built from the *same* release as the compiler. The order:
//! `QKV_RUSTC`, the project's own installation, the active rustc, rustup's toolchains, Debian's `/usr/bin/rustc`.
//! What was looked at and refused is kept with the reason: a failed search has to say what would mend it.
use crate::{Cache, Error, cache::rust_installation};
use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest release whose PTX backend takes these kernels (LLVM 22, `convergent` on every function).
const OLDEST: Release = Release { major: 1, minor: 96 };

/// A compiler's release: 1.96.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// 1.
    pub major: u32,
    /// 96.
    pub minor: u32,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Release {
    /// From the `release:` line of `rustc -vV`.
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(['.', '-']);
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

/// How a compiler was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `QKV_RUSTC` names it.
    Named,
    /// The project installed it in its cache folder.
    Installed,
    /// The rustc that `RUSTC` or `PATH` gives.
    Active,
    /// A rustup toolchain that is not the active one.
    Rustup,
    /// `/usr/bin/rustc`, Debian's `rustc-web`.
    System,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Named => "QKV_RUSTC",
            Self::Installed => "the project's own installation",
            Self::Active => "the active toolchain",
            Self::Rustup => "a rustup toolchain",
            Self::System => "the system's package",
        })
    }
}

/// A compiler that was looked at and cannot be used.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// Where it is, or would be.
    pub place: String,
    /// Why not.
    pub reason: String,
}

/// A rustc that can compile kernels.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// The program.
    pub rustc: PathBuf,
    /// How it was found.
    pub origin: Origin,
    /// Its release.
    pub release: Release,
    /// All that `rustc -vV` says: part of what an output depends on.
    pub version: String,
    /// Its folder of libraries and sources.
    pub sysroot: PathBuf,
    /// Where its shared libraries are, if it was unpacked and not installed.
    library_path: Option<PathBuf>,
}

impl Compiler {
    /// The first that serves.
    ///
    /// # Errors
    /// [`Error::NoCompiler`] with every reason.
    pub fn find(cache: &Cache) -> Result<Self, Error> {
        let mut rejected = Vec::new();
        if let Some(named) = env::var_os("QKV_RUSTC").filter(|value| !value.is_empty()) {
            // Whoever names a compiler wants that one: no other is looked for.
            return Self::at(Path::new(&named), Origin::Named).map_err(|reason| {
                rejected.push(Rejected { place: format!("QKV_RUSTC={}", named.display()), reason });
                Error::NoCompiler { rejected }
            });
        }
        for (rustc, origin) in candidates(cache) {
            match Self::at(&rustc, origin) {
                Ok(compiler) => return Ok(compiler),
                Err(reason) => rejected.push(Rejected { place: format!("{origin} ({})", rustc.display()), reason }),
            }
        }
        Err(Error::NoCompiler { rejected })
    }

    /// The one at `rustc`, or why it does not serve.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn at(rustc: &Path, origin: Origin) -> Result<Self, String> {
        let library_path = unpacked_libraries(rustc);
        let ask = |argument: &[&str]| -> Result<String, String> {
            let mut command = Command::new(rustc);
            command.args(argument);
            set_library_path(&mut command, library_path.as_deref());
            let output = command.output().map_err(|error| error.to_string())?;
            if output.status.success() {
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            } else {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(said.lines().next().unwrap_or("fails without a word").to_owned())
            }
        };
        let version = ask(&["-vV"])?;
        let release = version
            .lines()
            .find_map(|line| line.strip_prefix("release: "))
            .and_then(Release::parse)
            .ok_or("`rustc -vV` names no release")?;
        if release < OLDEST {
            return Err(format!("is {release}, older than {OLDEST}"));
        }
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
        if !core_source(&sysroot).is_file() {
            return Err(format!("is {release} but lacks the source of `core` ({})", core_source(&sysroot).display()));
        }
        Ok(Self { rustc: rustc.to_owned(), origin, release, version, sysroot, library_path })
    }

    /// The cargo that goes with it: its own, else that of the build that asks, else the one on `PATH`.
    pub fn cargo(&self) -> PathBuf {
        let own = self.rustc.with_file_name("cargo");
        if self.origin != Origin::Active && own.is_file() {
            return own;
        }
        env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
    }

    /// A cargo command that uses this compiler and inherits nothing of a cargo that runs us.
    ///
    /// cargo sets `CARGO_ENCODED_RUSTFLAGS` for build scripts, empty as it may be, and clippy its wrapper: a child with
    /// the first silently loses its flags, one with the second runs clippy in place of the compiler.
    pub fn cargo_command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(self.cargo());
        command.arg(subcommand).env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", "1");
        let inherited = env::vars_os().map(|(name, _)| name).filter(is_cargos);
        for name in inherited {
            command.env_remove(name);
        }
        set_library_path(&mut command, self.library_path.as_deref());
        command
    }

    /// Where the source of its standard library is.
    pub fn library_source(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust/library")
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rustc {} from {} ({})", self.release, self.origin, self.rustc.display())
    }
}

/// Variables by which an outer cargo, clippy or user would change what the kernels are compiled with.
fn is_cargos(name: &OsString) -> bool {
    let Some(name) = name.to_str() else { return false };
    matches!(
        name,
        "RUSTFLAGS"
            | "RUSTC_WRAPPER"
            | "RUSTC_WORKSPACE_WRAPPER"
            | "CLIPPY_ARGS"
            | "CARGO_ENCODED_RUSTFLAGS"
            | "CARGO_TARGET_DIR"
            | "CARGO_INCREMENTAL"
            | "QKV_FAULT"
    ) || ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_FEATURE_", "CARGO_CFG_", "CARGO_PKG_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn candidates(cache: &Cache) -> Vec<(PathBuf, Origin)> {
    let active = env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
    let mut all = vec![(rust_installation(cache).join("usr/bin/rustc"), Origin::Installed), (active, Origin::Active)];
    all.extend(rustup_toolchains().into_iter().map(|rustc| (rustc, Origin::Rustup)));
    all.push((PathBuf::from("/usr/bin/rustc"), Origin::System));
    all
}

/// The rustc of every toolchain, nightlies first (their names sort after the releases' numbers).
fn rustup_toolchains() -> Vec<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".rustup")));
    let toolchains = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok());
    let found: BTreeSet<PathBuf> = toolchains
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .map(|toolchain| toolchain.join("bin/rustc"))
        .filter(|rustc| rustc.is_file())
        .collect();
    found.into_iter().rev().collect()
}

fn core_source(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs")
}

/// `<root>/usr/lib/<triplet>` of a compiler unpacked to `<root>`: the system's loader does not look there.
fn unpacked_libraries(rustc: &Path) -> Option<PathBuf> {
    let usr = rustc.parent()?.parent()?;
    if usr == Path::new("/usr") || usr.file_name()? != "usr" {
        return None;
    }
    let triplet = format!("{}-linux-gnu", env::consts::ARCH);
    Some(usr.join("lib").join(triplet)).filter(|dir| dir.is_dir())
}

fn set_library_path(command: &mut Command, first: Option<&Path>) {
    let Some(first) = first else { return };
    let mut paths = vec![first.to_owned()];
    if let Some(others) = env::var_os("LD_LIBRARY_PATH") {
        paths.extend(env::split_paths(&others).filter(|path| !path.as_os_str().is_empty()));
    }
    // Fails only for a path with a colon; the plain path then at least lets the compiler start.
    command.env("LD_LIBRARY_PATH", env::join_paths(paths).unwrap_or_else(|_| first.into()));
}

#[cfg(test)]
mod tests {
    use super::{Compiler, OLDEST, Origin, Release, is_cargos};
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, path::PathBuf};

    #[test]
    fn releases_compare_by_number() {
        let nightly = Release::parse("1.100.0-nightly").unwrap();
        assert!(nightly > OLDEST && Release::parse("1.95.0").unwrap() < OLDEST);
        assert_eq!(Release::parse("stable"), None);
    }

    #[test]
    fn what_an_outer_cargo_sets_does_not_reach_the_kernels() {
        for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_PROFILE_RELEASE_LTO", "QKV_FAULT"] {
            assert!(is_cargos(&name.into()), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER", "PATH", "RUSTUP_TOOLCHAIN"] {
            assert!(!is_cargos(&name.into()), "{name}");
        }
    }

    /// A program that answers as a rustc of `release` whose sysroot is its folder.
    fn fake(name: &str, release: &str, with_source: bool) -> PathBuf {
        let root = std::env::temp_dir().join(format!("qkv-rustc-{name}-{}", std::process::id()));
        let source = root.join("lib/rustlib/src/rust/library/core/src");
        fs::create_dir_all(&source).unwrap();
        if with_source {
            fs::write(source.join("lib.rs"), "").unwrap();
        }
        let rustc = root.join("rustc");
        let text = format!("#!/bin/sh\n[ \"$1\" = -vV ] && echo 'release: {release}' || echo '{}'\n", root.display());
        fs::write(&rustc, text).unwrap();
        fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).unwrap();
        rustc
    }

    #[test]
    fn a_compiler_is_refused_with_the_reason() {
        let old = Compiler::at(&fake("old", "1.95.0", true), Origin::Active).unwrap_err();
        assert_eq!(old, "is 1.95, older than 1.96");
        let bare = Compiler::at(&fake("bare", "1.97.0-nightly", false), Origin::Active).unwrap_err();
        assert!(bare.contains("lacks the source of `core`"), "{bare}");
        assert!(Compiler::at(Path::new("/nowhere/rustc"), Origin::Named).is_err());
        let good = Compiler::at(&fake("good", "1.97.0-nightly", true), Origin::Rustup).unwrap();
        assert_eq!(good.release, Release { major: 1, minor: 97 });
    }
}
