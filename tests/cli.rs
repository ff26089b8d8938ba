//! The commands that need no kernel to run: `support`, `doctor`, `bench`'s refusals, and the exit statuses in the help.
use kernels_gpu::kernels::ENTRIES;
use std::process::{Command, Output};

fn qkv(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qkv")).args(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn support_lists_every_kernel_and_says_what_was_not_run() {
    let output = qkv(&["support"]);
    assert_eq!(output.status.code(), Some(0));
    let table = text(&output.stdout);
    for entry in ENTRIES.iter().filter(|entry| entry.tiling().is_some()) {
        assert!(table.contains(entry.name), "no {}", entry.name);
    }
    // The lines of the table behind the heading that names Blackwell, up to the next.
    let of_blackwell = |section: &&str| section.lines().next().is_some_and(|heading| heading.contains("sm_100"));
    let section = table.split("## ").find(of_blackwell).expect("a section");
    let blackwell: Vec<&str> = section.lines().filter(|line| line.starts_with("| 512")).collect();
    for (gpu, families, code) in [("sm_90", "wgmma, portable", "sm_90a, sm_90"), ("sm_121", "portable", "none")] {
        let line = table.lines().find(|line| line.starts_with(&format!("| {gpu} "))).expect("a line");
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(cells[2..4], [families, code], "{line}");
    }
    for variant in ["window", "soft cap", "sinks", "ALiBi", "tree mask", "spans", "shared prefix", "merge of states"] {
        assert!(table.lines().any(|line| line.starts_with(&format!("| {variant}"))), "no {variant}");
    }
    assert!(!blackwell.is_empty() && blackwell.iter().all(|line| line.contains("assembled and simulated, not run")));
}

#[test]
fn support_answers_for_one_combination() {
    let output = qkv(&["support", "--head-dim", "512", "--arch", "sm_90", "--q", "f16", "--group", "12"]);
    // The second for a plan of few short sequences.
    let preferred = "decode_d512_f16_f16_few\ndecode_d512_f16_f16_eight\nprefill_d512_f16_f16";
    assert_eq!((output.status.code(), text(&output.stdout).trim_end()), (Some(0), preferred));
    let long = ["support", "--head-dim", "512", "--arch", "9.0", "--q-len", "100"];
    let output = qkv(&long);
    let preferred = "prefill_d512_bf16_bf16\ndecode_d512_bf16_bf16_many";
    assert_eq!((output.status.code(), text(&output.stdout).trim_end()), (Some(0), preferred));
    let output = qkv(&[&long[..], &["--kernel", "portable"]].concat());
    assert_eq!(text(&output.stdout).trim_end(), "decode_d512_bf16_bf16_many");
    let output = qkv(&["support", "--head-dim", "512", "--arch", "sm_120", "--kernel", "wgmma"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("UNSUPPORTED: the choice of wgmma on architecture sm_120 (allowed: sm_90)"), "{said}");
    let drafts = ["support", "--head-dim", "512", "--q-len", "5", "--group", "2", "--output", "f32"];
    let output = qkv(&[&drafts[..], &["--window", "--sinks", "--softcap", "--alibi", "--tree"]].concat());
    assert_eq!(
        (output.status.code(), text(&output.stdout).trim_end()),
        (Some(0), "decode_d512_bf16_bf16_few\ndecode_d512_bf16_bf16_eight\nprefill_d512_bf16_bf16")
    );
    let impossible =
        ["support", "--head-dim", "96", "--arch", "sm_75", "--page", "24", "--group", "65", "--q-len", "524289"];
    let with = ["--cache", "fp16", "--tree", "--spans", "--shared-prefix", "--window"];
    let output = qkv(&[&impossible[..], &with].concat());
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stdout);
    let needs = [
        "sm_75",
        "head_dim 96",
        "fp16 cache",
        "page_size 24",
        "65 query heads",
        "524289 query tokens",
        "tree mask with spans",
        "spans with a shared prefix",
        "no positions",
    ];
    assert_eq!(said.lines().count(), needs.len(), "{said}");
    for (line, need) in said.lines().zip(needs) {
        assert!(line.starts_with("UNSUPPORTED: ") && line.contains(need), "{line}");
    }
    let output = qkv(&["support", "--head-dim", "64", "--cache", "uint8"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("allowed: auto, bf16"), "{output:?}");
    let output = qkv(&["support", "--head-dim", "64", "--output", "e5m2"]);
    assert!(text(&output.stderr).contains("allowed: bf16, f16, f32, e4m3"), "{output:?}");
}

/// `BLESS=1` writes the page anew.
#[test]
fn the_support_page_is_what_support_says() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/support.md");
    let page = text(&qkv(&["support", "--markdown"]).stdout);
    if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &page).expect("the page is written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/support.md is stale: BLESS=1 cargo test --features cli --test cli");
}

#[test]
fn doctor_names_toolchain_driver_device_and_every_kernel() {
    let output = qkv(&["doctor"]);
    let report = text(&output.stdout);
    for word in ["qkv ", "compiler ", "ptxas ", "GPU code ", "device "] {
        assert!(report.lines().any(|line| line.starts_with(word)), "no {word}in {report}");
    }
    let simulator = report.contains("\ndevice        sim,");
    let mut refusals = 0;
    for entry in ENTRIES {
        let line = report.lines().find(|line| line.trim_start().starts_with(&format!("{} ", entry.name)));
        let runs = line.is_some_and(|line| line.contains("  yes  "));
        let refused = line.is_some_and(|line| line.contains("  no   "));
        // The simulator runs every kernel; a GPU may not, with its reason.
        assert!(runs || (refused && !simulator), "{}: {report}", entry.name);
        // Those of Hopper alone are refused elsewhere.
        refusals += u32::from(refused && !entry.prefills());
    }
    assert_eq!(output.status.code(), Some(i32::from(refusals > 0)), "{report}");
}

#[test]
fn help_has_the_exit_statuses() {
    let help = text(&qkv(&["--help"]).stdout);
    assert!(help.contains("Exit status:"), "{help}");
    assert_eq!(qkv(&["no-such-command"]).status.code(), Some(2));
}

#[cfg(feature = "cuda")]
mod bench {
    use super::{qkv, text};
    use std::path::PathBuf;

    const CASES: &str = r#"{"models": {"small": {"d": 64, "hq": 8, "hkv": 1}},
        "decode": {"page": 16, "loads": [[1, 1024]], "kv": ["bf16"]}}"#;

    fn file(name: &str, content: &str) -> PathBuf {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, content).expect("a file");
        path
    }

    fn refused(arguments: &[&str]) -> String {
        let output = qkv(&[&["bench"], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        text(&output.stderr)
    }

    #[test]
    fn the_simulator_is_not_timed() {
        let cases = file("cases.json", CASES);
        let said = refused(&["--cases", cases.to_str().expect("a path"), "--device", "sim"]);
        assert!(said.contains("--device is sim; allowed: cuda"), "{said}");
    }

    #[test]
    fn files_and_models_are_checked_before_the_device() {
        let (cases, broken) = (file("good.json", CASES), file("broken.json", "{"));
        let said = refused(&["--cases", "no-such-file.json"]);
        assert!(said.contains("no-such-file.json"), "{said}");
        let said = refused(&["--cases", broken.to_str().expect("a path")]);
        assert!(said.contains("not a file of cases"), "{said}");
        let said = refused(&["--cases", cases.to_str().expect("a path"), "--models", "large"]);
        assert!(said.contains("--models is large; allowed: small"), "{said}");
        let said = refused(&["--cases", cases.to_str().expect("a path"), "--kind", "decode,prefill"]);
        assert!(said.contains("--kind is prefill; allowed: kinds that the file of cases has a section of"), "{said}");
        let said = refused(&["--cases", cases.to_str().expect("a path"), "--chunk", "64"]);
        assert!(said.contains("--chunk is 64; allowed: with --kind prefill alone"), "{said}");
    }

    #[test]
    fn arguments_that_mean_nothing_are_status_2() {
        let cases = file("arguments.json", CASES);
        for (arguments, part) in [
            (["--page", "24"], "powers of two from 1 to 1024"),
            (["--page", "2048"], "powers of two from 1 to 1024"),
            (["--kind", "append"], "decode, prefill"),
        ] {
            let output = qkv(&[&["bench", "--cases", cases.to_str().expect("a path")], &arguments[..]].concat());
            let said = text(&output.stderr);
            assert!(output.status.code() == Some(2) && said.contains(part), "{said}");
        }
    }
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_qkv"))
        .arg("support")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take()); // before it has written: every write fails
    let output = child.wait_with_output().expect("the program ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panicked"), "{errors}");
    assert!(output.status.success(), "{} {errors}", output.status);
}
