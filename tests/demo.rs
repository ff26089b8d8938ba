//! `qkv demo` as a program: a good file is ok, decoded and by prefill, a spoiled one FAILs, and the exit status says which;
//! in a narrow cache too.
//!
//! The spoiled files are committed ones with their bytes changed; the wrong page id is set in the trial itself, since
//! the program makes its page table.
use qkv::testing::golden::Golden;
use qkv::testing::paged::Paged;
use qkv::testing::run::DeviceCase;
use qkv::testing::tolerance;
use qkv::testing::trial::{Pass, Trial, Verdict};
use qkv::{CacheDType, DType, Device, Splits};
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

/// What the program says of a file named on the command line: its lines, and its exit status.
fn outcome(path: &Path) -> (String, Option<i32>) {
    let output = demo(&[path.to_str().expect("a path in UTF-8")]);
    (text(&output), output.status.code())
}

/// Of a file that is computed: the line of its decode, and of its prefill.
fn two(said: &str) -> [&str; 2] {
    let lines: Vec<&str> = said.lines().collect();
    lines.try_into().expect("a line a pass")
}

#[test]
fn a_good_file_is_ok() {
    let (said, status) = outcome(&golden(FILE));
    assert_eq!(status, Some(0), "{said}");
    let lines = two(&said);
    let passes = ["  decode of 16 positions  ", "  prefill of all 64 positions  "];
    for (line, parts) in lines.into_iter().zip(passes.into_iter().zip(["bf16_bf16_eight  ", "bf16_bf16_many  "])) {
        for part in [FILE, parts.0, "  sim  decode_d64_", parts.1, "error ", "bound "] {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
        assert!(line.ends_with("ok"), "{line}");
    }
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
    let (said, status) = outcome(&path);
    let all = two(&said).iter().all(|line| line.contains("FAIL: unsplit: error"));
    assert!(status == Some(1) && all, "{status:?} {said}");
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
    let (said, status) = outcome(&path);
    assert!(status == Some(1) && two(&said).iter().all(|line| line.contains("FAIL")), "{status:?} {said}");
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
fn windows_and_sinks_are_ok() {
    let (window, sinks) = ("gemma4-long-d256-w512", "gpt_oss-d64-w32");
    for (name, cache, kernel) in [
        (window, "auto", "decode_d256_bf16_bf16_"),
        (sinks, "auto", "decode_d64_bf16_bf16_"),
        (sinks, "nvfp4", "decode_d64_bf16_nvfp4_"),
    ] {
        let output = demo(&["--cache", cache, golden(name).to_str().expect("a path")]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(two(&said).iter().all(|line| line.contains(kernel) && line.ends_with("ok")), "{said}");
    }
}

/// A prefill of the last positions is those of the file: each is judged by its own answer, and one answer that is another's
/// shows.
#[test]
fn a_prefill_of_the_last_positions_is_judged_by_theirs() {
    let device = Device::simulator();
    let mut golden = Golden::read(&golden("gpt_oss-d64-w32")).expect("a committed file");
    let row = golden.q_heads * golden.head_dim;
    let trial = Trial::prefill(&golden, 20, 16, 1);
    assert_eq!((trial.pass, trial.case.tokens(), trial.expected.len()), (Pass::Prefill { last: 20 }, 20, 20 * row));
    assert_eq!(Pass::Prefill { last: 1000 }.positions(golden.queries), (0..golden.queries).collect::<Vec<_>>());
    assert_eq!(trial.judge(&device, || ()).expect("a launch").failure, None);

    let (before, at) = ((golden.queries - 8) * row, (golden.queries - 7) * row);
    golden.out.copy_within(before..at, at);
    let failure = Trial::prefill(&golden, 20, 16, 1).judge(&device, || ()).expect("a launch").failure;
    assert!(failure.is_some_and(|what| what.contains("is above the bound")));
}

/// A window of one key more or less, and sinks of other heads, are other answers.
#[test]
fn a_wrong_window_and_wrong_sinks_fail() {
    let golden = Golden::read(&golden("gpt_oss-d64-w32")).expect("a committed file");
    // Of the decode and of the prefill: what one sees the other does.
    let judge = |change: &dyn Fn(&mut Trial)| {
        let failures = [Trial::new(&golden, 16, 0), Trial::prefill(&golden, 24, 16, 0)].map(|mut trial| {
            change(&mut trial);
            trial.judge(&Device::simulator(), || ()).expect("a launch").failure
        });
        assert_eq!(failures[0].is_some(), failures[1].is_some(), "{failures:?}");
        failures[0].clone()
    };
    assert_eq!(judge(&|_| ()), None);
    for left in [Some(30), Some(32), None] {
        let failure = judge(&|trial| trial.case.variants.left = left);
        assert!(failure.is_some(), "window_left {left:?} was taken");
    }
    let failure = judge(&|trial| trial.case.variants.sinks = None);
    assert!(failure.is_some(), "no sinks were taken");
    let failure = judge(&|trial| {
        if let Some(sinks) = &mut trial.case.variants.sinks {
            sinks.rotate_left(1);
        }
    });
    assert!(failure.is_some(), "other heads' sinks were taken");
}

#[test]
fn what_does_not_exist_is_said_and_is_status_2() {
    let path = golden(FILE);
    let output = demo(&["--cache", "fp16", path.to_str().expect("a path")]);
    // One line: what decode does not read, prefill does not either.
    let line = format!("{FILE}  UNSUPPORTED: q bf16 with a fp16 cache (allowed: bf16, fp8_e4m3, fp8_e5m2, nvfp4)\n");
    assert_eq!((text(&output), output.status.code()), (line, Some(2)));
    let output = demo(&["--page", "24"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{said}");
    assert!(said.contains("powers of two from 1 to 1024"), "{said}");

    let malformed = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let both = demo(&["--cache", "fp16", path.to_str().expect("a path"), malformed.to_str().expect("a path")]);
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

/// Formats that a cache has besides the file's own.
const NARROW: [CacheDType; 3] = [CacheDType::Fp8E4M3, CacheDType::Fp8E5M2, CacheDType::NvFp4];

/// A committed file with its last two queries alone.
fn short(name: &str) -> Golden {
    let mut golden = Golden::read(&golden(name)).expect("a committed file");
    let (row, before) = (golden.head_dim, golden.queries - 2);
    let q = golden.q.chunks_exact(golden.queries * row).flat_map(|head| head[before * row..].to_vec()).collect();
    golden.out.drain(..before * golden.q_heads * row);
    (golden.q, golden.queries) = (q, 2);
    golden
}

fn narrow(golden: &Golden, format: CacheDType) -> Trial {
    Trial::with_cache(golden, format, 16, 3).expect("every query reads a narrow cache")
}

fn judge(trial: &Trial) -> Verdict {
    trial.judge(&Device::simulator(), || ()).expect("a launch")
}

#[test]
fn every_narrow_cache_is_ok_at_every_head_dimension() {
    for file in ["qwen2-long-d64-full", "llama-long-d128-full", "gemma-long-d256-full", "gemma4-long-d512-full"] {
        let golden = short(file);
        let errors = NARROW.map(|format| {
            let trial = narrow(&golden, format);
            let verdict = judge(&trial);
            let quantised = verdict.quantised.expect("a narrow cache");
            assert_eq!(verdict.failure, None, "{file} {format}");
            let names = format!("{} {}", quantised.append, verdict.kernel);
            let code = format.name().trim_start_matches("fp8_");
            assert_eq!(names.matches(code).count(), 2, "{names}");
            // What the file's answer is missed by is quantising and what decode adds, and quantising is most of it.
            let added = quantised.added * tolerance::largest(&trial.narrow.as_ref().expect("a narrow cache").ideal)
                / tolerance::largest(&trial.expected);
            assert!((verdict.error - quantised.ideal_error).abs() <= 1.001 * added, "{file} {format}: {verdict:?}");
            assert!(quantised.ideal_error > 5.0 * quantised.added, "{file} {format}: {verdict:?}");
            quantised.ideal_error
        });
        assert!(errors.is_sorted() && errors[2] < 0.5, "bits cost what they cost: {errors:?}");
    }
}

#[test]
fn a_narrow_cache_in_the_program() {
    let path = golden(FILE);
    for (name, code) in [("fp8", "e4m3"), ("fp8_e4m3", "e4m3"), ("fp8_e5m2", "e5m2"), ("nvfp4", "nvfp4")] {
        let output = demo(&["--cache", name, "--page", "64", path.to_str().expect("a path")]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        let kernels = format!("sim  append_bf16_{code}  decode_d64_bf16_{code}_");
        for (line, pass) in two(&said).into_iter().zip(["decode", "prefill"]) {
            let adds = format!("  {pass} adds ");
            for part in [FILE, &kernels, "error ", ", quantising alone ", &adds, "  bound "] {
                assert!(line.contains(part), "no {part:?} in {line}");
            }
            assert!(line.ends_with("ok"), "{line}");
        }
    }
}

#[test]
fn a_cache_that_there_is_not_is_said_and_is_status_2() {
    let path = golden(FILE);
    for name in ["uint8", "FP8", "", "nvfp"] {
        let output = demo(&["--cache", name, path.to_str().expect("a path")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{said}");
        let allowed = "allowed: auto, bf16, fp16, fp8, fp8_e4m3, fp8_e5m2, nvfp4";
        assert!(said.contains(&format!("cache dtype is {name:?}; {allowed}")), "{said}");
    }
}

#[test]
fn the_files_own_format_is_auto() {
    let of = |name: &str| {
        let output = demo(&["--cache", name, golden(FILE).to_str().expect("a path")]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        // All but the times, which are last but one.
        let timed = |line: &str| line.rsplit("  ").nth(1).is_some_and(|time| time.ends_with('s'));
        let said = text(&output);
        assert!(said.lines().all(timed), "{said}");
        said.lines()
            .map(|line| {
                line.split("  ")
                    .filter(|part| !part.ends_with(" s") && !part.ends_with("ms"))
                    .map(str::to_owned)
                    .collect()
            })
            .collect::<Vec<Vec<_>>>()
    };
    assert_eq!(of("auto"), of("bf16"));
}

/// A scale that the append has wrong makes other codes; one that decode has wrong, another answer.
#[test]
fn a_wrong_scale_fails() {
    let golden = short(FILE);
    for (format, side) in NARROW.into_iter().flat_map(|format| [(format, 0), (format, 1)]) {
        let mut trial = narrow(&golden, format);
        trial.case.factors[side] *= 1.25;
        let failure = judge(&trial).failure.expect("other codes");
        assert!(failure.starts_with("append: ") && failure.contains("are not the reference's"), "{failure}");

        let device = Device::simulator();
        let wrong = DeviceCase::new(&device, &trial.case, &trial.paged).and_then(|on| on.run(Splits::Auto));
        let ideal = &trial.narrow.as_ref().expect("a narrow cache").ideal;
        let error = tolerance::error(&wrong.expect("a launch").out, ideal).expect("numbers");
        assert!(!trial.tolerance.admits(error), "{format}, side {side}: {error}");
    }
}

/// Also what has nothing to do with quantising is seen through it.
#[test]
fn a_wrong_file_fails_in_a_narrow_cache() {
    let mut wrong = short(FILE);
    for value in &mut wrong.out {
        *value *= 1.01;
    }
    let failure = judge(&narrow(&wrong, CacheDType::NvFp4)).failure.expect("another answer");
    assert!(failure.starts_with("the file's out is 1.00e-2 from"), "{failure}");

    let mut trial = narrow(&short(FILE), CacheDType::Fp8E4M3);
    trial.paged.block_table[3] = trial.paged.spare[0];
    let failure = judge(&trial).failure.expect("a page of NaN");
    assert!(failure.starts_with("unsplit: out[0][0][0] is NaN"), "{failure}");
}
