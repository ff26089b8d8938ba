//! What the PTX of a crate depends on: its files, the locked versions of what it uses, and nothing else.
//!
//! The hash names the output in the cache, so a file that is left out here would be a stale kernel, and one too many a
//! needless minute of compiling.
use crate::Error;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::Xxh3;

/// 128 bits of the parts, in hexadecimal; where one part ends and the next begins matters.
pub(crate) fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut state = Xxh3::new();
    for part in parts {
        state.update(&(part.len() as u64).to_le_bytes());
        state.update(part);
    }
    format!("{:032x}", state.digest128())
}

/// The files that a build of the crate at `root` reads: Rust and TOML, outside hidden folders, `target` and `ignored`
/// (paths below `root`). Sorted.
pub(crate) fn files(root: &Path, ignored: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let ignored: BTreeSet<PathBuf> = ignored.iter().map(|path| root.join(path)).chain([root.join("target")]).collect();
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).map_err(Error::io(&dir))? {
            let path = entry.map_err(Error::io(&dir))?.path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden || ignored.contains(&path) {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "toml") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The hash of `files` with their paths below `root`.
pub(crate) fn hash_files(root: &Path, files: &[PathBuf]) -> Result<String, Error> {
    let mut parts = Vec::new();
    for file in files {
        parts.push(file.strip_prefix(root).unwrap_or(file).as_os_str().as_encoded_bytes().to_vec());
        parts.push(fs::read(file).map_err(Error::io(file))?);
    }
    Ok(hash(parts.iter().map(Vec::as_slice)))
}

/// The `name` in the manifest at `manifest`.
pub(crate) fn package_name(manifest: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(manifest).map_err(Error::io(manifest))?;
    let reason = "no [package] with a name";
    text.lines()
        .skip_while(|line| line.trim() != "[package]")
        .skip(1)
        .take_while(|line| !line.trim_start().starts_with('['))
        .find_map(|line| line.trim().strip_prefix("name")?.trim_start().strip_prefix('='))
        .map(|value| value.trim().trim_matches('"').to_owned())
        .ok_or(Error::NotAPackage { path: manifest.to_owned(), reason })
}

/// The part of the nearest `Cargo.lock` above `root` that `package` reaches; empty without a lock file.
///
/// The whole file would do, but then a new test dependency of the host would compile the kernels again.
pub(crate) fn locked(root: &Path, package: &str) -> Result<String, Error> {
    let Some(path) = root.ancestors().map(|dir| dir.join("Cargo.lock")).find(|path| path.is_file()) else {
        return Ok(String::new());
    };
    Ok(reached(&fs::read_to_string(&path).map_err(Error::io(&path))?, package))
}

fn reached(lock: &str, package: &str) -> String {
    let blocks: Vec<&str> = lock.split("[[package]]").skip(1).collect();
    let name = |block: &str| -> Option<String> {
        let line = block.lines().find_map(|line| line.strip_prefix("name = "))?;
        Some(line.trim_matches('"').to_owned())
    };
    let mut by_name: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for block in blocks {
        by_name.entry(name(block).unwrap_or_default()).or_default().push(block);
    }
    let (mut seen, mut open) = (BTreeSet::new(), vec![package.to_owned()]);
    while let Some(package) = open.pop() {
        if !seen.insert(package.clone()) {
            continue;
        }
        for block in by_name.get(&package).into_iter().flatten() {
            // A dependency reads ` "name",` or ` "name 1.2.3",` where two versions are locked.
            let dependencies = block.lines().filter_map(|line| line.strip_prefix(" \"")?.strip_suffix("\","));
            open.extend(dependencies.map(|line| line.split(' ').next().unwrap_or(line).to_owned()));
        }
    }
    seen.iter().filter_map(|name| by_name.get(name)).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::{files, hash, hash_files, package_name, reached};
    use std::{fs, path::PathBuf};

    #[test]
    fn the_hash_knows_where_parts_end() {
        assert_ne!(hash([&b"ab"[..], b"c"]), hash([&b"a"[..], b"bc"]));
        assert_eq!(hash([]).len(), 32);
    }

    #[test]
    fn a_lock_is_cut_to_what_the_package_reaches() {
        let lock = "version = 4\n\n[[package]]\nname = \"kernels\"\nversion = \"1\"\ndependencies = [\n \"std\",\n]\n\n\
                    [[package]]\nname = \"std\"\nversion = \"2\"\n\n[[package]]\nname = \"cli\"\ndependencies = [\n \"std\",\n]\n";
        let cut = reached(lock, "kernels");
        assert!(cut.contains("\"kernels\"") && cut.contains("version = \"2\"") && !cut.contains("\"cli\""), "{cut}");
    }

    #[test]
    fn only_what_the_kernels_are_made_of_counts() {
        let root = std::env::temp_dir().join(format!("qkv-source-test-{}", std::process::id()));
        for dir in ["src", "target", "sim", ".git"] {
            fs::create_dir_all(root.join(dir)).unwrap();
            fs::write(root.join(dir).join("a.rs"), dir).unwrap();
        }
        fs::write(root.join("Cargo.toml"), "[package]\nname = \"k\"\n").unwrap();
        fs::write(root.join("notes.md"), "").unwrap();
        let ignored = [PathBuf::from("sim")];
        let found = files(&root, &ignored).unwrap();
        assert_eq!(found, [root.join("Cargo.toml"), root.join("src/a.rs")]);
        assert_eq!(package_name(&found[0]).unwrap(), "k");
        let before = hash_files(&root, &found).unwrap();
        fs::write(&found[1], "changed").unwrap();
        assert_ne!(hash_files(&root, &found).unwrap(), before);
        fs::remove_dir_all(root).unwrap();
    }
}
