//! Finds ptxas and runs it on one entry: a cubin and a report.
//!
//! The order: `QKV_PTXAS`, the project's own installation, `PATH`, `/usr/local/cuda/bin`. It needs no GPU. A build goes
//! on without it (the driver compiles the same PTX when a program starts); the tests do not.
use crate::{Cache, Error, Rejected, Report, cache::cuda_installation, cache::wheel_program, prepared::FORMAT, source};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest release that knows `sm_100f`.
const OLDEST: (u32, u32) = (12, 9);

/// A ptxas.
#[derive(Clone, Debug)]
pub struct Assembler {
    /// The program.
    pub ptxas: PathBuf,
    /// Its release as it says it: `13.5, V13.5.37`. Part of what a cubin depends on.
    pub version: String,
}

impl Assembler {
    /// The first that serves; else what was looked at.
    ///
    /// # Errors
    /// Every place, with the reason.
    pub fn find(cache: &Cache) -> Result<Self, Vec<Rejected>> {
        let mut rejected = Vec::new();
        if let Some(named) = env::var_os("QKV_PTXAS").filter(|value| !value.is_empty()) {
            return Self::at(Path::new(&named)).map_err(|reason| {
                rejected.push(Rejected { place: format!("QKV_PTXAS={}", named.display()), reason });
                rejected
            });
        }
        let installed = cuda_installation(cache);
        let mut places: Vec<PathBuf> = wheel_program(&installed, "ptxas").into_iter().collect();
        places.extend(env::var_os("PATH").iter().flat_map(env::split_paths).map(|dir| dir.join("ptxas")));
        places.push(PathBuf::from("/usr/local/cuda/bin/ptxas"));
        for place in places.iter().filter(|place| place.is_file()) {
            match Self::at(place) {
                Ok(assembler) => return Ok(assembler),
                Err(reason) => rejected.push(Rejected { place: place.display().to_string(), reason }),
            }
        }
        let everywhere = format!("QKV_PTXAS, {}, PATH, /usr/local/cuda/bin", installed.display());
        rejected.push(Rejected { place: everywhere, reason: "no ptxas of release 12.9 or newer".to_owned() });
        Err(rejected)
    }

    /// The one at `ptxas`, or why it does not serve.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn at(ptxas: &Path) -> Result<Self, String> {
        let output = Command::new(ptxas).arg("--version").output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split_once("release ").and_then(|(_, rest)| rest.lines().next()).unwrap_or_default().trim();
        let mut numbers = version.split(['.', ',']).map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            return Err("`ptxas --version` names no release".to_owned());
        };
        if (major, minor) < OLDEST {
            return Err(format!("is {major}.{minor}, older than {}.{}", OLDEST.0, OLDEST.1));
        }
        Ok(Self { ptxas: ptxas.to_owned(), version: version.to_owned() })
    }

    /// Assembles the one entry of `ptx`.
    pub(crate) fn assemble(&self, target: &str, entry: &str, ptx: &Path, cubin: &Path) -> Result<String, Error> {
        let output = Command::new(&self.ptxas)
            .arg(format!("-arch={target}"))
            .args(["-O3", "-v", "-o"])
            .args([cubin, ptx])
            .output()
            .map_err(Error::spawn(self.ptxas.display().to_string()))?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            let entry = entry.to_owned();
            // One wrong instruction in an unrolled loop is hundreds of lines.
            let output_text = said.lines().take(12).collect::<Vec<_>>().join("\n");
            return Err(Error::Assemble {
                target: target.to_owned(),
                entry,
                status: output.status,
                output: output_text,
            });
        }
        Ok(said)
    }

    /// What ptxas says of `entry`, whose module is `ptx`, for another chip than its target, such as `sm_120`: what a driver
    /// would compile there, from the user's cache or made now.
    ///
    /// # Errors
    /// ptxas refuses it, or [`Error::Io`].
    pub fn report(&self, target: &str, entry: &str, ptx: &str) -> Result<Report, Error> {
        self.cached(&Cache::of_user()?, target, entry, ptx).map(|(_, report)| report)
    }

    /// The cubin for `target` and the report of `entry`, whose module is `ptx`: from the cache, or made now.
    pub(crate) fn cached(
        &self,
        cache: &Cache,
        target: &str,
        entry: &str,
        ptx: &str,
    ) -> Result<(Vec<u8>, Report), Error> {
        let key = source::hash([FORMAT, &self.version, target, ptx].map(str::as_bytes));
        let dir = match cache.get("cubin", &key) {
            Some(dir) => dir,
            None => cache.put("cubin", &key, |dir| {
                let text = dir.join("entry.ptx");
                fs::write(&text, ptx).map_err(Error::io(&text))?;
                let said = self.assemble(target, entry, &text, &dir.join("entry.cubin"))?;
                let report = dir.join("report");
                fs::write(&report, said).map_err(Error::io(report))
            })?,
        };
        let (cubin, report) = (dir.join("entry.cubin"), dir.join("report"));
        let said = fs::read_to_string(&report).map_err(Error::io(&report))?;
        let report = Report::parse(&said).ok_or_else(|| Error::NoReport {
            target: target.to_owned(),
            entry: entry.to_owned(),
            output: said,
        })?;
        Ok((fs::read(&cubin).map_err(Error::io(&cubin))?, report))
    }
}
