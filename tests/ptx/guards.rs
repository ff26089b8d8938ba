//! Every wait and barrier of the kernels can be left out by a planted fault, so that tests can ask whether anybody would
//! notice: read off the source, whose blocks rustfmt's indentation shows.
use kernels_gpu::fault::Fault;
use std::collections::BTreeSet;
use std::path::Path;

/// What orders memory between threads, copies and grids.
const WAITS: [&str; 22] = [
    "bar_sync",
    "bar_warp_sync",
    "sync_threads",
    "cp_async_wait_group",
    "griddepcontrol_wait",
    "mbarrier_wait_parity",
    "mbarrier_wait_parity_unbounded",
    "mbarrier_wait_parity_cluster",
    "mbarrier_arrive",
    "mbarrier_arrive_cluster",
    "mbarrier_arrive_expect_tx",
    "cluster_arrive",
    "cluster_arrive_relaxed",
    "cluster_wait",
    "fence_mbarrier_init",
    "fence_release_shared",
    "fence_proxy_async_shared",
    "tcgen05_fence_before_thread_sync",
    "tcgen05_fence_after_thread_sync",
    "tcgen05_wait_st",
    "tcgen05_commit",
    "tcgen05_commit_multicast",
];

struct Source {
    name: String,
    lines: Vec<String>,
}

/// The folders of the kernels' loops, in groups whose functions that wait have no callers outside and names of their own.
const FOLDERS: [&[&str]; 2] = [&["attention", "tile"], &["prefill", "prefill/tcgen05"]];

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in folders {
        let dir = super::root().join("kernels-gpu/src").join(folder);
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.expect("an entry of the folder").path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(read(&path));
            }
        }
    }
    assert!(found.len() >= 9, "{} files", found.len());
    found
}

fn read(path: &Path) -> Source {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Source { name: path.display().to_string(), lines: text.lines().map(str::to_owned).collect() }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Whether the line calls `function`: its name, not part of another, before `(` or `::<`; no comment, import, definition.
fn calls(line: &str, function: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    if code.trim_start().starts_with("use ") || code.contains(&format!("fn {function}")) {
        return false;
    }
    code.match_indices(function).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + function.len()..];
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_') && (after.starts_with('(') || after.starts_with("::<"))
    })
}

/// The lines that open the blocks around line `at`, innermost first.
fn openings(source: &Source, at: usize) -> impl Iterator<Item = &str> {
    let mut outside = indent(&source.lines[at]);
    source.lines[..at].iter().rev().filter_map(move |line| {
        let opens = !line.trim().is_empty() && indent(line) < outside;
        if opens {
            outside = indent(line);
        }
        opens.then_some(line.as_str())
    })
}

/// The faults that the line asks for, to leave out what follows or to do it too early.
fn planted(line: &str) -> BTreeSet<String> {
    let Some((_, asked)) = line.split_once("planted(") else { return BTreeSet::new() };
    let name = |rest: &str| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned();
    asked.split("Fault::").skip(1).map(name).collect()
}

/// The name in `fn name(` or `fn name<`.
fn defined(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("fn ")?;
    rest.split(['(', '<']).next()
}

/// The faults that guard the call at line `at`: of the nearest block that a fault guards, else those of all callers of
/// the function that it is in. Fails where there is none.
fn guards(sources: &[Source], source: &Source, at: usize, depth: u32) -> BTreeSet<String> {
    for line in openings(source, at) {
        let faults = planted(line);
        if !faults.is_empty() {
            return faults;
        }
        if let Some(function) = defined(line) {
            let definitions =
                sources.iter().flat_map(|source| &source.lines).filter(|line| defined(line) == Some(function));
            assert_eq!(definitions.count(), 1, "{}:{}: {function} has not a name of its own", source.name, at + 1);
            let faults = callers(sources, function, depth + 1);
            assert!(!faults.is_empty(), "{}:{}: no fault leaves this out", source.name, at + 1);
            return faults;
        }
    }
    panic!("{}:{}: in no function", source.name, at + 1);
}

fn callers(sources: &[Source], function: &str, depth: u32) -> BTreeSet<String> {
    assert!(depth < 4, "{function}: a helper's helper's helper");
    let mut faults = BTreeSet::new();
    for source in sources {
        for (at, line) in source.lines.iter().enumerate() {
            if calls(line, function) {
                faults.extend(guards(sources, source, at, depth));
            }
        }
    }
    faults
}

#[test]
fn every_wait_and_barrier_stands_behind_a_fault_and_every_fault_before_one() {
    let groups = FOLDERS.map(sources);
    let mut guarding = BTreeSet::new();
    for wait in WAITS {
        let faults: BTreeSet<_> = groups.iter().flat_map(|sources| callers(sources, wait, 0)).collect();
        assert!(!faults.is_empty(), "{wait} is nowhere called, or its calls are not recognised");
        guarding.extend(faults);
    }
    let all: BTreeSet<String> = Fault::ALL.iter().map(|fault| format!("{fault:?}")).collect();
    assert_eq!(guarding, all);
}

#[test]
fn an_unguarded_call_is_noticed() {
    let source = |text: &str| Source { name: "test".into(), lines: text.lines().map(str::to_owned).collect() };
    let guarded = [source(
        "fn step() {\n    if !planted(Fault::KeyWait) {\n        wait();\n    }\n}\nfn wait() {\n    bar_sync(1, 64);\n}\n",
    )];
    assert_eq!(callers(&guarded, "bar_sync", 0), BTreeSet::from(["KeyWait".to_owned()]));
    let after =
        [source("fn step() {\n    if !planted(Fault::KeyWait) {\n        wait();\n    }\n    bar_sync(1, 64);\n}\n")];
    assert!(std::panic::catch_unwind(|| callers(&after, "bar_sync", 0)).is_err());
    let two = BTreeSet::from(["KeyTileFull".to_owned(), "ValueTileFull".to_owned()]);
    assert_eq!(planted("if !planted(side.either(Fault::KeyTileFull, Fault::ValueTileFull)) {"), two);
    assert!(!calls("    // bar_sync(1, 2);", "bar_sync") && !calls("use a::{bar_sync};", "bar_sync"));
    assert!(
        !calls("    bar_warp_sync();", "sync")
            && calls("        2 => cp_async_wait_group::<2>(),", "cp_async_wait_group")
    );
}
