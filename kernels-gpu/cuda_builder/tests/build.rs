//! The builder end to end, on small kernels with the real compiler and assembler. `cargo xtask setup` provides both;
//! without them these tests fail: a build that was never tried must not look tested.
use cuda_builder::{Arch, Built, Cache, CudaBuilder, Error, LaunchBounds};
use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    thread,
};

fn kernels() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kernels")
}

fn bounds(name: &str) -> LaunchBounds {
    LaunchBounds::new(name, 128, 2, |_| true)
}

fn builder() -> CudaBuilder {
    CudaBuilder::new(kernels()).arch(Arch::Sm90a).entries([bounds("clean"), bounds("with_stack")])
}

fn ptx<'a>(built: &'a Built, entry: &str) -> &'a str {
    &built.modules[0].entries.iter().find(|e| e.name == entry).expect("the entry was asked for").ptx
}

#[test]
fn each_entry_is_a_module_with_its_bounds_and_a_report() {
    let built = builder().gate(false).build().unwrap();
    let entries = &built.modules[0].entries;
    assert_eq!(entries.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["clean", "with_stack"]);
    let clean = ptx(&built, "clean");
    assert!(clean.contains(".target sm_90\n") && clean.contains(".maxntid 128, 1, 1\n.minnctapersm 2"), "{clean}");
    assert!(clean.contains("shared_memory") && !ptx(&built, "with_stack").contains("shared_memory"));
    assert!(
        clean.contains(".file") && clean.contains("builder-test-kernels/src/lib.rs"),
        "paths are relative: {clean}"
    );
    let report = |i: usize| &entries[i].assembled.as_ref().expect("ptxas is installed").report;
    assert!(report(0).findings().is_empty() && report(0).registers > 0, "{}", report(0));
    assert!(report(1).stack_bytes >= 256, "{}", report(1));
    assert!(entries[0].assembled.as_ref().unwrap().cubin.starts_with(b"\x7fELF"));
    // Later chips take the same text.
    let assembler = built.assembler.as_ref().expect("ptxas is installed");
    let later = assembler.report("sm_120", "clean", clean).unwrap();
    assert!(later.findings().is_empty() && later.registers > 0, "{later}");
    assert!(
        matches!(assembler.report("sm_80", "clean", clean), Err(Error::Assemble { target, .. }) if target == "sm_80")
    );
}

#[test]
fn the_gate_refuses_stack_by_name() {
    match builder().build() {
        Err(Error::Gate { findings }) => {
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].starts_with("sm_90 with_stack: 256 bytes of stack"), "{findings:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_made_of_the_outputs_is_made_once_for_each_build() {
    let kind = |of: &str| format!("derive-test-{}-{of}", std::process::id());
    let calls = Cell::new(0);
    let derived = |builder: CudaBuilder, of: &str| {
        let make = |dir: &Path, built: &Built| {
            calls.set(calls.get() + 1);
            let (path, names) = (dir.join("names"), format!("{} entries", built.modules[0].entries.len()));
            fs::write(&path, names).map_err(|source| Error::Io { path, source })
        };
        let dir = builder.prepare().unwrap().derive(&kind(of), make).unwrap();
        (fs::read_to_string(dir.join("names")).unwrap(), calls.get())
    };
    let plain = || builder().gate(false);
    assert_eq!(derived(plain(), "one"), ("2 entries".to_owned(), 1));
    assert_eq!(derived(plain(), "one"), ("2 entries".to_owned(), 1));
    assert_eq!(derived(plain(), "other").1, 2);
    assert_eq!(derived(plain().feature("probe"), "one"), ("3 entries".to_owned(), 3));
    assert_eq!(derived(plain().assemble(false), "one").1, 4);
    let other_bounds = CudaBuilder::new(kernels()).arch(Arch::Sm90a).gate(false);
    assert_eq!(derived(other_bounds, "one").1, 5);
    assert_eq!(derived(plain(), "one").1, 5);
    for of in ["one", "other"] {
        fs::remove_dir_all(Cache::of_user().unwrap().root().join(kind(of))).unwrap();
    }
}

#[test]
fn the_list_and_the_entries_must_agree() {
    let missing = builder().entries([bounds("not_there")]).build();
    assert!(matches!(missing, Err(Error::Entries { missing, .. }) if missing == ["not_there"]));
    let unlisted = CudaBuilder::new(kernels()).arch(Arch::Sm90a).entries([bounds("clean")]).build();
    assert!(matches!(unlisted, Err(Error::Entries { unlisted, .. }) if unlisted == ["with_stack"]));
    // An entry of another architecture may be missing here, and must.
    let elsewhere = |name| LaunchBounds::new(name, 128, 2, |arch| arch == "sm_80");
    let other = builder().gate(false).entries([elsewhere("not_there")]).build().unwrap();
    assert_eq!(other.modules[0].entries.len(), 2);
    let entries = [bounds("clean"), elsewhere("with_stack")];
    let here = CudaBuilder::new(kernels()).arch(Arch::Sm90a).entries(entries).build();
    assert!(matches!(here, Err(Error::Entries { unlisted, .. }) if unlisted == ["with_stack"]));
}

#[test]
fn features_faults_and_plain_builds_do_not_mix() {
    let mark = |built: &Built| [9000, 9001].map(|mark| ptx(built, "clean").contains(&format!(", {mark};")));
    for _ in 0..2 {
        assert_eq!(mark(&builder().gate(false).build().unwrap()), [true, false]);
        assert_eq!(mark(&builder().gate(false).fault(Some("seven".to_owned())).build().unwrap()), [false, true]);
        let probe = builder().gate(false).feature("probe").build().unwrap();
        assert!(ptx(&probe, "probe_only").contains(".entry probe_only"));
    }
}

#[test]
fn many_may_build_at_once() {
    let builds: Vec<_> = (0..4).map(|_| thread::spawn(|| builder().gate(false).build().unwrap())).collect();
    let built: Vec<Built> = builds.into_iter().map(|build| build.join().unwrap()).collect();
    assert!(built.windows(2).all(|pair| ptx(&pair[0], "clean") == ptx(&pair[1], "clean")));
}

#[test]
fn a_compile_error_carries_the_compilers_words() {
    let root = std::env::temp_dir().join(format!("qkv-broken-{}", std::process::id()));
    std::fs::create_dir_all(root.join("src")).unwrap();
    for file in ["Cargo.toml", "Cargo.lock"] {
        std::fs::copy(kernels().join(file), root.join(file)).unwrap();
    }
    std::fs::write(root.join("src/lib.rs"), "#![no_std]\nfn f() -> u32 { missing }\n").unwrap();
    match CudaBuilder::new(&root).arch(Arch::Sm90a).build() {
        Err(Error::Compile { arch: Arch::Sm90a, output, .. }) => {
            assert!(output.contains("cannot find value `missing`"))
        }
        other => panic!("{other:?}"),
    }
    std::fs::remove_dir_all(root).unwrap();
}
