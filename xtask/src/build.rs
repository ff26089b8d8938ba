//! cargo, as these commands use it: on this workspace from any folder, with a list of what it made.
use crate::step::Failed;
use anyhow::{Context as _, Result};
use std::{
    env,
    io::BufRead as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A program that cargo made.
#[derive(Clone, Debug)]
pub struct Executable {
    /// Name of the package.
    pub package: String,
    /// Name of the library, test, program or example.
    pub target: String,
    /// `lib`, `test`, `bin`, `example`, ….
    pub kind: String,
    /// Whether it is a test harness: cargo lists the plain programs that tests may run too.
    pub is_test: bool,
    /// The folder of its package's manifest.
    pub manifest_dir: PathBuf,
    /// The file.
    pub path: PathBuf,
}

/// The workspace's folder.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// `cargo <subcommand>` on this workspace; the current folder stays the user's.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(program());
    command.arg(subcommand).arg("--manifest-path").arg(root().join("Cargo.toml"));
    command
}

/// The cargo that runs us.
pub fn program() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Runs a build and gives its executables, in cargo's order; diagnostics go to the screen.
pub fn executables(command: &mut Command) -> Result<Vec<Executable>> {
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped()).current_dir(root());
    let mut child = command.spawn().context("cannot run cargo")?;
    let messages = child.stdout.take().context("cargo has no standard output")?;
    let mut found = Vec::new();
    for line in std::io::BufReader::new(messages).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?).context("cargo's messages are not JSON")?;
        found.extend(executable(&message));
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(found);
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(0);
    Err(Failed { program: "cargo".to_owned(), code }.into())
}

/// The executable of a `compiler-artifact` message.
fn executable(message: &serde_json::Value) -> Option<Executable> {
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let manifest_dir = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
    Some(Executable {
        path: PathBuf::from(message["executable"].as_str()?),
        package: package_name(message["package_id"].as_str()?),
        target: text(&message["target"]["name"])?,
        kind: text(&message["target"]["kind"][0])?,
        is_test: message["profile"]["test"].as_bool().unwrap_or(false),
        manifest_dir,
    })
}

/// The name in `path+file:///…/folder#name@0.1.0`, or, where folder and name agree, `path+file:///…/name#0.1.0`.
fn package_name(id: &str) -> String {
    let (path, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => path.rsplit('/').next().unwrap_or(path).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{executable, package_name};

    #[test]
    fn both_forms_of_a_package_id_give_its_name() {
        assert_eq!(package_name("path+file:///a/main#qkv@0.1.0"), "qkv");
        assert_eq!(package_name("path+file:///a/kernels-gpu#0.1.0"), "kernels-gpu");
    }

    #[test]
    fn messages_without_an_executable_are_passed_over() {
        assert!(executable(&serde_json::json!({ "reason": "build-finished", "success": true })).is_none());
        let artifact = serde_json::json!({
            "reason": "compiler-artifact", "package_id": "path+file:///a/x#0.1.0", "manifest_path": "/a/x/Cargo.toml",
            "target": { "name": "gpu", "kind": ["test"] }, "executable": "/a/target/gpu-1", "profile": { "test": true },
        });
        let found = executable(&artifact).unwrap();
        assert_eq!((found.package.as_str(), found.target.as_str(), found.kind.as_str()), ("x", "gpu", "test"));
        assert!(found.is_test);
        assert!(executable(&serde_json::json!({ "executable": null, "manifest_path": "/a/Cargo.toml" })).is_none());
    }
}
