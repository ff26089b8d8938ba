//! The driver's side without a driver: a small C library stands in for `libcuda.so.1` and prints what it is told, so that
//! the order of calls, the handling of contexts and every error of a device are tested where there is no GPU.
//!
//! A process loads one driver: each case runs in a child process, which is this program again.
#![cfg(feature = "cuda")]
use qkv::{
    Bf16, BlockTable, Buffer, CacheLayout, CacheShape, Decode, Device, Error, Event, Graph, HeadDim, KvCache, Output,
    Plan, PlanOptions, Query, SeqLens, Stream, Workspace,
};
use std::path::PathBuf;
use std::process::Command;

/// Builds the stand-in with these definitions, and gives its folder.
fn driver(definitions: &[&str], device: &str, case: &str) -> PathBuf {
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("driver-{case}-{device}{}", definitions.concat()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/driver/libcuda.c");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(folder.join("libcuda.so.1"));
    assert!(cc.arg(source).args(definitions).status().expect("a C compiler").success());
    folder
}

/// Runs `case` of [`child`] on the stand-in, and gives what both printed.
fn with_driver(definitions: &[&str], device: &str, case: &str) -> String {
    let folder = driver(definitions, device, case);
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child.args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"]);
    child.env("LD_LIBRARY_PATH", folder).env("FAKE_DEVICE", device).env("CASE", case);
    let output = child.output().expect("a child process");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text
}

/// Asserts that `lines` occur in `text` in this order.
fn assert_in_order(text: &str, lines: &[&str]) {
    let mut rest = text;
    for line in lines {
        let (_, after) = rest.split_once(line).unwrap_or_else(|| panic!("no {line:?} where expected in\n{text}"));
        rest = after;
    }
}

#[test]
#[ignore = "the others run it, each in a process of its own"]
fn child() -> Result<(), Error> {
    match std::env::var("CASE").unwrap_or_default().as_str() {
        "decode" => decode(),
        "contexts" => contexts(),
        "errors" => {
            for ordinal in [0, 5] {
                println!("error: {}", Device::cuda(ordinal).map_or_else(|e| e.to_string(), |_| "none".into()));
            }
            // SAFETY: NULL is refused before anything is done with it.
            let null = unsafe { Device::from_context(core::ptr::null_mut()) };
            println!("error: {}", null.map_or_else(|e| e.to_string(), |_| "none".into()));
            Ok(())
        }
        #[cfg(feature = "probe")]
        "probes" => {
            let device = Device::cuda(0)?;
            for name in ["probe_tensor_4d", "probe_multicast"] {
                let probe = qkv::probe::HOPPER_PROBES.iter().find(|probe| probe.name == name).expect("a probe");
                let input = vec![0; 32 * probe.input_words as usize];
                let done = qkv::probe::run_hopper(&device, probe, &input);
                println!("error: {}", done.map_or_else(|e| e.to_string(), |_| "none".into()));
            }
            Ok(())
        }
        "memory" => {
            let device = Device::cuda(0)?;
            for bytes in [8, 7] {
                println!("error: {}", device.alloc(bytes).map_or_else(|e| e.to_string(), |_| "none".into()));
            }
            Ok(())
        }
        case => panic!("{case:?} is no case"),
    }
}

/// Plans two batches into one workspace, launches, captures, replays, checks.
fn decode() -> Result<(), Error> {
    let device = Device::cuda(0)?;
    let stream = device.new_stream()?;
    let zeros = |bytes: usize| {
        let buffer = device.alloc(bytes)?;
        buffer.write(&vec![0; bytes])?;
        Ok::<Buffer, Error>(buffer)
    };
    let shape = CacheShape { pages: 600, page_size: 16, kv_heads: 1, head_dim: HeadDim::D64 };
    let (k, v, q, out) = (zeros(600 * 16 * 128)?, zeros(600 * 16 * 128)?, zeros(256)?, zeros(256)?);
    let (table, lengths) = (zeros(2400)?, zeros(4)?);
    let request = Decode::<Bf16, Bf16>::new(
        Query::new(&q, [1, 2, 64])?,
        KvCache::new(&k, &v, shape, CacheLayout::Nhd)?,
        BlockTable::new(&table, 1, 600)?,
        SeqLens::new(&lengths, 1)?,
        Output::new(&out, [1, 2, 64])?,
    )?;
    let plan = |length| Plan::new(request.geometry(), &[length], device.properties(), &PlanOptions::default());
    let (short, long) = (plan(20)?, plan(9000)?);
    let memory = device.alloc(long.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    println!("short");
    short.upload(&stream, &mut workspace)?.prepare(&request)?.launch(&stream)?;
    println!("long");
    let planned = long.upload(&stream, &mut workspace)?;
    let mut prepared = planned.prepare(&request)?;
    prepared.launch(&stream)?;
    let mut graph = Graph::capture(&stream, || prepared.launch(&stream))?;
    // SAFETY: all that it uses is alive, and nothing else is at work.
    unsafe { graph.launch(&stream)? };
    let refused = Graph::capture(&stream, || prepared.launch_checked(&stream)).err();
    println!("error: {}", refused.map_or_else(String::new, |e| e.to_string()));
    let begin = Event::new(&device)?;
    begin.record(&stream)?;
    assert!(begin.milliseconds_to(&begin)? > 1.0);
    let refused = Graph::capture(&stream, || short.upload(&stream, &mut workspace).map(|_| ())).err();
    println!("error: {}", refused.map_or_else(String::new, |e| e.to_string()));
    Ok(())
}

#[test]
fn a_decode_is_these_calls() {
    let text = with_driver(&[], "hopper", "decode");
    // What clusters of 16 have; the plan's of 8 have less.
    let shared = "attribute 8 = 102848";
    // The merge tells what code the driver takes.
    let calls = ["retain", "load cubin into 0x1000", "combine: ", "short", "load cubin into 0x1000"];
    assert_in_order(&text, &[&calls[..], &["decode_d64_bf16_bf16_eight: ", shared]].concat());
    // 20 keys are one item of a cluster of 8; 9000 are 12 of them, merged by a kernel that starts early.
    let combine = "launch combine <<<1, 128, 2048>>> with attribute 6 = 1";
    let eager = "launch decode_d64_bf16_bf16_eight <<<96, 128, 84416>>> with attribute 4 = 8";
    // A captured grid has room for any later plan: six shares a multiprocessor, and one item that is whole, in whole clusters.
    let captured = "launch decode_d64_bf16_bf16_eight <<<800, 128, 84416>>> with attribute 4 = 8";
    let short = ["pin", "copy", "launch decode_d64_bf16_bf16_eight <<<8, 128, 84416>>> with attribute 4 = 8"];
    assert_in_order(&text, &short);
    let long = ["long", "pin", "copy", eager, combine, "begin", captured, combine, "end", "replay"];
    assert_in_order(&text, &long);
    let refusals =
        ["begin", "end", "error: the stream is being captured, and the check of the page ids waits", "begin"];
    assert_in_order(&text, &refusals);
    assert!(text.contains("error: the stream is being captured, and a plan is copied from pinned memory"), "{text}");
    // Everything is given back, and what was current before is current again.
    assert_in_order(&text, &["unpin", "unpin", "unload", "unload", "release", "at exit 0x2000 is current, 0 below"]);
}

#[test]
fn an_older_driver_launches_without_attributes() {
    let text = with_driver(&["-DBEFORE_11_8"], "hopper", "decode");
    assert!(text.contains("launch combine <<<2, 128, 2048>>>\n") && !text.contains("with attribute"), "{text}");
}

#[test]
fn a_driver_that_refuses_the_machine_code_gets_the_ptx() {
    let text = with_driver(&["-DBEFORE_13"], "hopper", "decode");
    assert!(text.contains("launch combine"), "{text}");
    // Without ptxas the build has no machine code to be refused.
    if text.contains("load cubin") {
        assert_in_order(&text, &["load cubin into", "load ptx into", "load cubin into", "load ptx into"]);
    } else {
        assert!(text.contains("load ptx into"), "{text}");
    }
}

/// A build has code behind the code: where a driver knows neither the machine code nor the newer PTX, that for sm_80, which does
/// not wait for the kernel before it. Found when a plan is uploaded, not by the first launch.
#[test]
fn a_driver_older_than_the_targets_gets_the_ptx_of_sm_80() {
    let text = with_driver(&["-DBEFORE_HOPPER"], "hopper", "decode");
    let one = ["load cubin into", "load ptx into", "of .target sm_90\n", "load ptx into", "of .target sm_80\n"];
    assert_in_order(&text, &[&one[..], &one[..], &["launch", "launch combine <<<2, 128, 2048>>>\n"]].concat());
    assert!(!text.contains("with attribute"), "{text}");
}

/// Chips that no pass of the compiler is for: machine code of their generation, or PTX of an older one, and no more shared memory
/// than they have.
#[test]
fn chips_take_the_code_of_others() {
    let text = with_driver(&[], "ultra", "decode");
    assert!(text.contains("load cubin into") && !text.contains("load ptx"), "{text}");
    let text = with_driver(&[], "spark", "decode");
    let compiled =
        ["load ptx into", "of .target sm_100\n", "attribute 8 = 65920", "of .target sm_100\n", "launch combine"];
    assert_in_order(&text, &compiled);
    assert!(!text.contains("load cubin"), "{text}");
}

/// With the feature `probe` alone: what else has tensor maps and clusters comes with prefill.
#[cfg(feature = "probe")]
#[test]
fn tensor_maps_and_clusters_are_these_calls() {
    let text = with_driver(&[], "hopper", "probes");
    let map = "map of type 0, swizzle 1: 32 of 64 3 of 4 by 64 3 of 3 by 256 2 of 2 by 512\n";
    assert_in_order(&text, &[map, "launch probe_tensor_4d <<<32, 64, 2048>>>\n", "error: none"]);
    let map = "map of type 1, swizzle 3: 64 of 100 8 of 63 by 256\n";
    let launch = "launch probe_multicast <<<32, 64, 3072>>> with attribute 4 = 2\n";
    assert_in_order(&text, &[map, launch, "unload", "error: none"]);
    let text = with_driver(&["-DBEFORE_12"], "hopper", "probes");
    let words = "error: the CUDA driver has no cuTensorMapEncodeTiled: it needs to be of CUDA 12.0 or newer";
    assert_in_order(&text, &[words, words]);
    let text = with_driver(&["-DBEFORE_11_8"], "hopper", "probes");
    let words = "error: the CUDA driver has no cuLaunchKernelEx: it needs to be of CUDA 11.8 or newer";
    assert_in_order(&text, &["launch probe_tensor_4d", "error: none", words]);
    assert!(!text.contains("launch probe_multicast"), "{text}");
}

/// The primary context and somebody else's, in turn.
fn contexts() -> Result<(), Error> {
    let primary = Device::cuda(0)?;
    // SAFETY: the stand-in's second context, which is never destroyed.
    let foreign = unsafe { Device::from_context(0x3000 as *mut _) }?;
    for device in [&primary, &foreign, &primary] {
        // SAFETY: handles of the default streams are valid in every context.
        for stream in [0, 1, 2].map(|raw| unsafe { device.stream(raw as *mut _) }) {
            launch_nothing(device, &stream)?;
        }
    }
    Ok(())
}

/// A batch whose one sequence has no keys.
fn launch_nothing(device: &Device, stream: &Stream) -> Result<(), Error> {
    let (memory, out) = (device.alloc(1 << 16)?, device.alloc(1 << 16)?);
    let shape = CacheShape { pages: 0, page_size: 1, kv_heads: 1, head_dim: HeadDim::D512 };
    let request = Decode::<Bf16, Bf16>::new(
        Query::new(&memory, [1, 1, 512])?,
        KvCache::new(&memory, &memory, shape, CacheLayout::Hnd)?,
        BlockTable::new(&memory, 1, 0)?,
        SeqLens::new(&memory, 1)?,
        Output::new(&out, [1, 1, 512])?,
    )?;
    let plan = Plan::new(request.geometry(), &[0], device.properties(), &PlanOptions::default())?;
    let memory = device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    plan.upload(stream, &mut workspace)?.prepare(&request)?.launch(stream)?;
    stream.synchronize()
}

#[test]
fn each_context_has_modules_of_its_own() {
    let text = with_driver(&[], "hopper", "contexts");
    let count = |line: &str| text.matches(line).count();
    // Two kernels each, however often they are used.
    assert_eq!((count("load cubin into 0x1000"), count("load cubin into 0x3000")), (2, 2), "{text}");
    assert_eq!(count("launch decode_d512_bf16_bf16_eight <<<16, 128"), 9, "{text}");
    assert!(text.contains("at exit 0x2000 is current, 0 below"), "{text}");
}

#[test]
fn what_is_wrong_with_a_device_is_said() {
    let context = "error: context is NULL; allowed: live CUDA contexts";
    let text = with_driver(&[], "turing", "errors");
    let old = "error: no kernel for architecture sm_75 (allowed: sm_80 and newer)";
    assert_in_order(&text, &[old, "error: no CUDA device 5: the driver sees 1", context]);
    let text = with_driver(&[], "none", "errors");
    assert!(text.contains("error: no CUDA device 0: the driver sees 0"), "{text}");
    let text = with_driver(&["-DBEFORE_11_4"], "hopper", "errors");
    let missing = "error: the CUDA driver has no cuEventElapsedTime: it needs to be of CUDA 11.4 or newer";
    assert!(text.contains(missing), "{text}");
}

/// A GPU that cannot be used is a failure; where there is none, the simulator is described.
#[cfg(feature = "cli")]
#[test]
fn doctor_fails_where_the_gpu_cannot_be_used() {
    let doctor = |device: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qkv"));
        let folder = driver(&[], device, "doctor");
        let output = command.arg("doctor").env("LD_LIBRARY_PATH", folder).env("FAKE_DEVICE", device).output();
        let output = output.expect("the program runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (status, report) = doctor("turing");
    let words = "device        cannot be used: no kernel for architecture sm_75";
    assert!(status == Some(1) && report.contains(words) && !report.contains("  yes  "), "{status:?} {report}");
    // A kernel that is not for this chip is no failure, and says which one it is for.
    let (status, report) = doctor("ampere");
    let words = "  no   this build has no code of prefill_d64_bf16_bf16 that runs on sm_80; it has: sm_90a";
    assert!(
        status == Some(0) && report.contains(words) && report.contains("  yes  sm_80 machine code"),
        "{status:?} {report}"
    );
    let (status, report) = doctor("none");
    assert!(status == Some(0) && report.contains("device        sim,") && !report.contains("  no   "), "{report}");
}

/// All of a benchmark but the kernels: what was never computed has no time, which the lines, the report and the guard say.
#[cfg(feature = "cli")]
#[test]
fn a_benchmark_on_a_gpu_that_computes_nothing_fails_in_every_way() {
    let folder = driver(&["-DSILENT"], "hopper", "bench");
    let file = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).expect("a file");
        folder.join(name)
    };
    let cases = r#"{"models": {"m": {"d": 64, "hq": 8, "hkv": 1}}, "decode": {"page": 16, "loads": [[64, 4096]], "kv": ["bf16"]}}"#;
    let case = r#""name": "qkv", "model": "m", "b": 64, "s": 4096, "kv": "bf16""#;
    let time = r#""us": 30.0, "gbps": 2236.9"#;
    let ceiling = r#"{"kind": "ceiling", "name": "read", "gbps": 3000.0}"#;
    let record = format!("{ceiling}\n{{\"kind\": \"decode\", {case}, {time}}}\n");
    let (cases, record) = (file("cases.json", cases), file("record.txt", &record));
    let bench = |ceilings: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qkv"));
        command.env("LD_LIBRARY_PATH", &folder).env("FAKE_DEVICE", "hopper").arg("bench").args(ceilings);
        command.arg("--cases").arg(&cases).arg("--against").arg(&record).arg("--report").arg(folder.join("out"));
        let output = command.output().expect("the program runs");
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), out, err)
    };
    let (status, out, err) = bench(&[]);
    let words = "error: --ceiling is without \"read\"; allowed: with --against every ceiling of its cases";
    assert!(status == Some(1) && out.is_empty() && err.starts_with(words), "{out}{err}");
    let (status, out, err) = bench(&["--ceiling", "read=2900"]);
    assert_eq!(status, Some(1), "{out}{err}");
    let wrong = "the timed output has NaN at element 0";
    let machine =
        "{\"kind\":\"machine\",\"name\":\"Fake 0\"}\n{\"kind\":\"ceiling\",\"name\":\"read\",\"gbps\":2900.0}\n";
    assert!(out.starts_with(machine), "{out}");
    assert_in_order(
        &out,
        &["{\"kind\":\"error\"", "\"of\":\"decode\"", wrong, "74.6 %", "FAIL: ", wrong, "1 cases, 1 failed"],
    );
    let page = std::fs::read_to_string(folder.join("out/index.html")).expect("a page");
    assert!(page.contains("<h1>qkv on Fake 0</h1>") && page.contains(wrong), "{page}");
}

#[test]
fn the_driver_s_own_errors_are_passed_on() {
    let text = with_driver(&[], "refuses", "memory");
    let known = "error: cuMemAlloc failed: CUDA_ERROR_OF_THE_TEST (2): words of the test";
    // A code that no list has, not even the driver's.
    let unknown = "error: cuMemAlloc failed: CUDA_ERROR_UNKNOWN (98765): the driver has no words for this code";
    assert_in_order(&text, &[known, unknown]);
}
