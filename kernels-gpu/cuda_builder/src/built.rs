//! What a build gives: an architecture's entries as PTX and machine code, with what ptxas says of them.
use crate::{Arch, Assembler, Compiler, Error, Report};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Everything that was built.
#[derive(Debug)]
pub struct Built {
    /// One an architecture, in the order asked for.
    pub modules: Vec<Module>,
    /// What compiled it.
    pub compiler: Compiler,
    /// What assembled it, if anything.
    pub assembler: Option<Assembler>,
    /// The files that it was built from: what a build script should watch.
    pub sources: Vec<PathBuf>,
}

/// The kernels for one architecture.
#[derive(Debug)]
pub struct Module {
    /// The architecture.
    pub arch: Arch,
    /// By name.
    pub entries: Vec<Entry>,
}

/// One kernel for one architecture.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it is compiled for: the architecture's plain target, or its own where an instruction needs that.
    pub target: &'static str,
    /// A module with this entry alone.
    pub ptx: String,
    /// What ptxas made of it, where there is one.
    pub assembled: Option<Assembled>,
}

/// What ptxas made of an entry.
#[derive(Debug)]
pub struct Assembled {
    /// The binary.
    pub cubin: Vec<u8>,
    /// What it says of it.
    pub report: Report,
}

impl Built {
    /// What ptxas says that a shipped kernel must not have, one line an entry; empty is good.
    pub fn findings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for module in &self.modules {
            for entry in &module.entries {
                let of_entry =
                    entry.assembled.as_ref().map(|assembled| assembled.report.findings()).unwrap_or_default();
                if !of_entry.is_empty() {
                    lines.push(format!("{} {}: {}", entry.target, entry.name, of_entry.join(", ")));
                }
            }
        }
        lines
    }

    /// Writes `DIR/<arch>/<entry>.ptx` and, where assembled and asked for, `.cubin`: what `QKV_PTX_DIR` takes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, dir: &Path, cubins: bool) -> Result<(), Error> {
        for module in &self.modules {
            let folder = dir.join(module.arch.name());
            fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
            for entry in &module.entries {
                let path = folder.join(format!("{}.ptx", entry.name));
                fs::write(&path, &entry.ptx).map_err(Error::io(&path))?;
                if let (true, Some(assembled)) = (cubins, &entry.assembled) {
                    let path = folder.join(format!("{}.cubin", entry.name));
                    fs::write(&path, &assembled.cubin).map_err(Error::io(&path))?;
                }
            }
        }
        Ok(())
    }
}
