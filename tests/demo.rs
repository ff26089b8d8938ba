//! `qkv demo` as a program: a good file is ok, a spoiled one FAILs, and the exit status says which.
//!
//! The spoiled files are committed ones with their bytes changed; the wrong page id is set in the trial itself, since
//! the program makes its page table.
use qkv::testing::golden::Golden;
use qkv::testing::paged::Paged;
use qkv::testing::trial::Trial;
use qkv::{DType, Device};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The smallest file that the kernels take.
const FILE: &str = "qwen2-long-d64-full";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("safetensors")
}

fn demo(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qkv"));
    command.args(["demo", "--device", "sim"]).args(arguments).output().expect("the program runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A copy of [`FILE`] in a folder of this test's own, its tensors changed by `change` (name and bytes in, bytes out).
fn spoiled(name: &str, change: impl Fn(&str, &SafeTensors<'_>) -> Option<Vec<u8>>) -> PathBuf {
    let bytes = std::fs::read(golden(FILE)).expect("a committed file");
    let file = SafeTensors::deserialize(&bytes).expect("a committed file");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a committed file");
    let tensors = file.tensors();
    let changed: Vec<_> =
        tensors.iter().map(|(name, tensor)| change(name, &file).unwrap_or(tensor.data().into())).collect();
    let views = tensors.iter().zip(&changed).map(|((name, tensor), data)| {
        (name, TensorView::new(tensor.dtype(), tensor.shape().to_vec(), data).expect("the same size"))
    });
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("demo");
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(name).with_extension("safetensors");
    safetensors::serialize_to_file(views, header.metadata().clone(), &path).expect("a file");
    path
}

/// What the program says of a file named on the command line: its line, and its exit status.
fn outcome(path: &Path) -> (String, Option<i32>) {
    let output = demo(&[path.to_str().expect("a path in UTF-8")]);
    (text(&output), output.status.code())
}

#[test]
fn a_good_file_is_ok() {
    let (line, status) = outcome(&golden(FILE));
    assert_eq!(status, Some(0), "{line}");
    for part in [FILE, "sim", "decode_d64_bf16_bf16_few", "error ", "bound "] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
    assert!(line.ends_with("ok\n") && line.lines().count() == 1, "{line}");
}

#[test]
fn any_page_size_is_ok() {
    for page in ["1", "128", "1024"] {
        let output = demo(&["--page", page, "--seed", page, golden(FILE).to_str().expect("a path")]);
        assert_eq!(output.status.code(), Some(0), "page {page}: {}", text(&output));
    }
}

#[test]
fn an_answer_off_by_one_percent_fails() {
    let path = spoiled("one-percent", |name, file| {
        let out = file.tensor("out").ok().filter(|_| name == "out")?;
        let scaled = out
            .data()
            .chunks_exact(4)
            .flat_map(|b| (1.01 * f32::from_le_bytes([b[0], b[1], b[2], b[3]])).to_le_bytes());
        Some(scaled.collect())
    });
    let (line, status) = outcome(&path);
    assert!(status == Some(1) && line.contains("FAIL: unsplit: error"), "{status:?} {line}");
}

#[test]
fn keys_and_values_swapped_fail() {
    let path = spoiled("swapped", |name, file| {
        let other = match name {
            "k" => "v",
            "v" => "k",
            _ => return None,
        };
        file.tensor(other).ok().map(|tensor| tensor.data().to_vec())
    });
    let (line, status) = outcome(&path);
    assert!(status == Some(1) && line.contains("FAIL"), "{status:?} {line}");
}

#[test]
fn one_wrong_page_id_fails() {
    let golden = Golden::read(&golden(FILE)).expect("a committed file");
    let device = Device::simulator();
    let mut trial = Trial::new(&golden, 16, 0);
    let good: Paged = trial.paged.clone();
    let good_verdict = trial.judge(&device, || ()).expect("a launch");
    assert_eq!(good_verdict.failure, None);

    // Of the last sequence: a page of NaN, and the page of some other tokens in place of its newest ones.
    let row = good.block_table.len() - good.table_width;
    let newest = row + golden.tokens.div_ceil(16) - 2;
    for (entry, id) in [(row + 3, good.spare[0]), (newest, good.block_table[row])] {
        trial.paged = good.clone();
        trial.paged.block_table[entry] = id;
        let verdict = trial.judge(&device, || ()).expect("a launch");
        assert!(verdict.failure.is_some(), "page {entry} -> {id}: {verdict:?}");
    }
}

#[test]
fn what_does_not_exist_yet_is_said_and_is_status_2() {
    let window = golden("gemma4-long-d256-w512");
    let sinks = golden("gpt_oss-d64-w32");
    let (line, status) = outcome(&window);
    assert_eq!((line.as_str(), status), ("gemma4-long-d256-w512  UNSUPPORTED: window_left 511\n", Some(2)));
    let (line, status) = outcome(&sinks);
    assert_eq!((line.as_str(), status), ("gpt_oss-d64-w32  UNSUPPORTED: window_left 31, sinks\n", Some(2)));
    let output = demo(&["--page", "24"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{said}");
    assert!(said.contains("powers of two from 1 to 1024"), "{said}");

    let malformed = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let both = demo(&[window.to_str().expect("a path"), malformed.to_str().expect("a path")]);
    assert_eq!(both.status.code(), Some(1), "FAIL wins: {}", text(&both));
    assert!(text(&both).contains("FAIL: not a whole safetensors file"), "{}", text(&both));
}

#[test]
fn a_tolerance_is_made_of_inputs_alone() {
    let mut golden = Golden::read(&golden(FILE)).expect("a committed file");
    let tolerance = Trial::new(&golden, 16, 0).tolerance;
    assert_eq!(golden.format, DType::Bf16);
    assert!(tolerance.floor <= 2e-3 && tolerance.bound() < 0.01, "{tolerance}");
    for value in &mut golden.out {
        *value *= 3.0;
    }
    assert_eq!(Trial::new(&golden, 16, 0).tolerance, tolerance);
}
