//! Finds ptxas and runs it on one entry: a cubin and a report.
//!
//! The order: `QKV_PTXAS`, the project's own installation, `PATH`, `/usr/local/cuda/bin`. It needs no GPU. A build goes
//! on without it (the driver compiles the same PTX when a program starts); the tests do not.
use crate::{
    Arch, Cache, Error, Rejected, Report, builder::FORMAT, cache::cuda_installation, cache::wheel_program, source,
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest release that knows `sm_100a`.
const OLDEST: (u32, u32) = (12, 8);

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
        rejected.push(Rejected { place: everywhere, reason: "no ptxas of release 12.8 or newer".to_owned() });
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
    pub(crate) fn assemble(&self, arch: Arch, entry: &str, ptx: &Path, cubin: &Path) -> Result<String, Error> {
        let output = Command::new(&self.ptxas)
            .arg(format!("-arch={arch}"))
            .args(["-O3", "-v", "-o"])
            .args([cubin, ptx])
            .output()
            .map_err(Error::spawn(self.ptxas.display().to_string()))?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            let entry = entry.to_owned();
            // One wrong instruction in an unrolled loop is hundreds of lines.
            let output_text = said.lines().take(12).collect::<Vec<_>>().join("\n");
            return Err(Error::Assemble { arch, entry, status: output.status, output: output_text });
        }
        Ok(said)
    }

    /// The cubin and the report of `entry`, whose module is `ptx`: from the cache, or made now.
    pub(crate) fn cached(&self, cache: &Cache, arch: Arch, entry: &str, ptx: &str) -> Result<(Vec<u8>, Report), Error> {
        let key = source::hash([FORMAT, &self.version, arch.name(), ptx].map(str::as_bytes));
        let dir = match cache.get("cubin", &key) {
            Some(dir) => dir,
            None => cache.put("cubin", &key, |dir| {
                let text = dir.join("entry.ptx");
                fs::write(&text, ptx).map_err(Error::io(&text))?;
                let said = self.assemble(arch, entry, &text, &dir.join("entry.cubin"))?;
                let report = dir.join("report");
                fs::write(&report, said).map_err(Error::io(report))
            })?,
        };
        let (cubin, report) = (dir.join("entry.cubin"), dir.join("report"));
        let said = fs::read_to_string(&report).map_err(Error::io(&report))?;
        let report = Report::parse(&said)
            .ok_or_else(|| Error::Ptx { arch, reason: format!("ptxas reports no registers of {entry}: {said}") })?;
        Ok((fs::read(&cubin).map_err(Error::io(&cubin))?, report))
    }
}
