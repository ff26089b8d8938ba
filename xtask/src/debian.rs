//! Debian's pair of compiler and matching library source, downloaded and unpacked without root.
//!
//! Debian carries a newer rustc than its own, for browsers, as `rustc-web`, with `rust-web-src` of the same build. As
//! installed packages they conflict with `rustc` and `rustup`; unpacked into a folder they disturb nothing. Versions
//! are whatever the archive has (1.96 or newer), and libraries that the machine lacks are unpacked beside them.
use crate::{step, step::Step};
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// What is wanted; the rest follows from their dependencies.
const WANTED: [&str; 3] = ["rustc-web", "rust-web-src", "rust-web-clippy"];

/// Dependencies that every machine that builds Rust has, or that only linking for the host needs.
const GIVEN: [&str; 5] = ["libc6", "libc-dev", "gcc", "binutils", "libgcc-s1"];

/// What no build of `core` reads: most of the files, and most of the time that unpacking takes.
const UNUSED: [&str; 3] = ["./usr/src/*/compiler", "./usr/src/*/src", "./usr/share"];

/// A package of the archive.
struct Package {
    version: String,
    bytes: u64,
    depends: Vec<String>,
}

/// Unpacks the compiler to `target` (`usr/bin/rustc` below it).
pub fn install(target: &Path) -> Result<()> {
    let work = target.with_extension("draft");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    }
    fs::create_dir_all(&work)?;
    let work = fs::canonicalize(&work)?;
    let result = Apt::new(&work).and_then(|apt| {
        let packages = apt.closure()?;
        apt.download(&packages, target)?;
        unpack(&work, target)
    });
    // What is left of a failed or finished installation is of no use to anybody.
    let _ = fs::remove_dir_all(&work);
    result
}

/// The package tools, on the system's lists or on private ones.
struct Apt {
    work: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// On the system's lists where they know the compiler, else on fresh ones in `work`, which needs no root.
    fn new(work: &Path) -> Result<Self> {
        let mut apt = Self { work: work.to_owned(), options: Vec::new() };
        if apt.newest().is_ok() {
            return Ok(apt);
        }
        for dir in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(work.join(dir))?;
        }
        let here = work.display();
        apt.options = [
            format!("Dir::State::lists={here}/lists"),
            format!("Dir::Cache={here}/cache"),
            "APT::Sandbox::User=root".to_owned(), // as root, apt would change to a user that cannot write here
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect();
        let step = Step::begin("fetching Debian's lists of packages");
        step::output(apt.command("apt-get").args(["-q", "update"]))?;
        step.end();
        apt.newest()?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).env("LC_ALL", "C").current_dir(&self.work);
        command
    }

    /// Checks that the archive's compiler is new enough.
    fn newest(&self) -> Result<()> {
        let package = self.show("rustc-web")?;
        let mut numbers = package.version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        ensure!(release >= (1, 96), "the archive's rustc-web is {}, older than 1.96", package.version);
        Ok(())
    }

    /// The archive's newest `name`.
    fn show(&self, name: &str) -> Result<Package> {
        let text = step::output(self.command("apt-cache").args(["show", "--no-all-versions", name]))?;
        parse(&text).with_context(|| format!("the archive has no {name}"))
    }

    /// What is wanted and what that needs and the machine lacks.
    fn closure(&self) -> Result<BTreeMap<String, Package>> {
        let mut packages = BTreeMap::new();
        let mut open: Vec<String> = WANTED.map(str::to_owned).to_vec();
        while let Some(name) = open.pop() {
            // The compiler looks for its own parts beside itself, wherever else they are installed.
            if packages.contains_key(&name) || (!name.contains("rust") && is_installed(&name)) {
                continue;
            }
            let package = self.show(&name)?;
            open.extend(package.depends.iter().filter(|name| !GIVEN.contains(&name.as_str())).cloned());
            packages.insert(name, package);
        }
        Ok(packages)
    }

    fn download(&self, packages: &BTreeMap<String, Package>, target: &Path) -> Result<()> {
        let versions: Vec<String> = packages.iter().map(|(name, p)| format!("{name}={}", p.version)).collect();
        eprintln!("    unpacking {} to {}", versions.join(", "), target.display());
        let bytes = packages.values().map(|package| package.bytes).sum();
        let step = Step::begin_bytes("downloading a compiler for the kernels", bytes);
        let log = fs::File::create(self.work.join("apt.log"))?;
        let mut child = self
            .command("apt-get")
            .args(["-q", "download"])
            .args(&versions)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run apt-get")?;
        watch(&mut child, || step.position(debs(&self.work).iter().map(|(_, bytes)| bytes).sum()))
            .with_context(|| fs::read_to_string(self.work.join("apt.log")).unwrap_or_default())?;
        step.end();
        Ok(())
    }
}

/// Waits for `child`, calling `tick` every now and then.
fn watch(child: &mut Child, tick: impl Fn()) -> Result<()> {
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "apt-get download failed ({status})");
            return Ok(());
        }
        tick();
        thread::sleep(Duration::from_millis(200));
    }
}

/// The downloaded packages and their bytes.
fn debs(dir: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "deb"))
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len())))
        .collect()
}

fn unpack(work: &Path, target: &Path) -> Result<()> {
    let root = work.join("root");
    fs::create_dir(&root)?;
    let step = Step::begin("unpacking");
    for (deb, _) in debs(work) {
        let mut tar = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&deb).stdout(Stdio::piped()).spawn()?;
        let archive = tar.stdout.take().context("dpkg-deb has no standard output")?;
        let excluded = UNUSED.map(|pattern| format!("--exclude={pattern}"));
        step::run(
            Command::new("tar").arg("--no-wildcards-match-slash").args(excluded).arg("-xC").arg(&root).stdin(archive),
        )?;
        ensure!(tar.wait()?.success(), "dpkg-deb cannot read {}", deb.display());
        fs::remove_file(deb)?;
    }
    if target.exists() {
        fs::remove_dir_all(target).with_context(|| format!("cannot replace {}", target.display()))?;
    }
    fs::rename(&root, target).with_context(|| format!("cannot write {}", target.display()))?;
    step.end();
    Ok(())
}

fn is_installed(name: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f=${Status}", name]).env("LC_ALL", "C").output();
    query.is_ok_and(|output| output.stdout == b"install ok installed")
}

/// The first stanza of `apt-cache show`; of alternatives the first.
fn parse(text: &str) -> Result<Package> {
    let field = |name: &str| {
        let mut lines = text.lines().take_while(|line| !line.is_empty());
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
    };
    let version = field("Version").to_owned();
    if version.is_empty() {
        bail!("`apt-cache show` names no version");
    }
    let name = |dependency: &str| {
        let end = |c: char| c.is_whitespace() || c == ':' || c == '|' || c == '(';
        dependency.trim_start().split(end).next().unwrap_or_default().to_owned()
    };
    let depends = field("Depends").split(',').map(name).filter(|name| !name.is_empty()).collect();
    Ok(Package { version, bytes: field("Size").parse().unwrap_or(0), depends })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_stanza_gives_version_size_and_names() {
        let text = "Package: libllvm22\nVersion: 1:22.1.8-1~deb12u1\nSize: 29378692\n\
                    Depends: libc6 (>= 2.36), libz3-4:any | libz3-5, libxml2\nDescription: a\n\nPackage: older\nVersion: 2\n";
        let package = parse(text).unwrap();
        assert_eq!((package.version.as_str(), package.bytes), ("1:22.1.8-1~deb12u1", 29_378_692));
        assert_eq!(package.depends, ["libc6", "libz3-4", "libxml2"]);
        assert!(parse("").is_err());
    }
}
