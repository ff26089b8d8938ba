//! The reader of golden files: the committed ones say what their page says, and no spoiled one is taken or panics.
use common::reference::{Row, Sight, attention};
use qkv::testing::golden::{Golden, Need, Problem};
use qkv::testing::tolerance;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

mod common;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).expect("a committed file")
}

/// A file with its header changed and its data as they were.
fn with_header(file: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..8 + length]).expect("a header");
    change(&mut header);
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text, &file[8 + length..]].concat()
}

/// Of the gpt_oss file.
const SINKS: [f32; 8] =
    [0.093_261_72, -0.632_812_5, -1.382_812_5, -0.011_169_434, 2.0625, 1.710_937_5, -1.4375, -0.742_187_5];

fn problem(file: &[u8]) -> Problem {
    Golden::parse("spoiled".into(), file).expect_err("a spoiled file")
}

#[test]
fn committed_files_are_as_described() {
    let sinks = SINKS.to_vec();
    let expected = [
        ("gemma4-long-d512-full", 512, 8, 1, 1536, 24, vec![]),
        ("gemma-long-d256-full", 256, 6, 1, 1543, 40, vec![]),
        ("llama-long-d128-full", 128, 8, 2, 1801, 40, vec![]),
        ("qwen2-long-d64-full", 64, 7, 1, 2049, 64, vec![]),
        ("gemma4-long-d256-w512", 256, 8, 1, 1536, 24, vec![Need::Window(511)]),
        ("gpt_oss-d64-w32", 64, 8, 1, 150, 150, vec![Need::Window(31), Need::Sinks(sinks)]),
    ];
    for (name, head_dim, q_heads, kv_heads, tokens, queries, needs) in expected {
        let golden = Golden::read(&folder().join(format!("{name}.safetensors"))).expect(name);
        assert_eq!(golden.name, name);
        let shape = (golden.head_dim, golden.q_heads, golden.kv_heads, golden.tokens, golden.queries);
        assert_eq!(shape, (head_dim, q_heads, kv_heads, tokens, queries), "{name}");
        assert_eq!(golden.needs, needs, "{name}");
        assert_eq!(golden.length(queries - 1), tokens, "{name}");
    }
    let total: u64 = std::fs::read_dir(folder())
        .expect("the folder")
        .map(|entry| entry.and_then(|e| e.metadata()).expect("an entry").len())
        .sum();
    assert!(total <= 12 << 20, "{total} bytes");
}

#[test]
fn answers_agree_with_the_oracle() {
    for name in [
        "gemma4-long-d512-full",
        "gemma-long-d256-full",
        "llama-long-d128-full",
        "qwen2-long-d64-full",
        "gemma4-long-d256-w512",
        "gpt_oss-d64-w32",
    ] {
        let golden = Golden::read(&folder().join(format!("{name}.safetensors"))).expect(name);
        let (d, group) = (golden.head_dim, golden.q_heads / golden.kv_heads);
        let (mut left, mut softcap, mut sinks) = (None, None, None);
        for need in &golden.needs {
            match need {
                Need::Window(keys) => left = Some(*keys as u32),
                Need::SoftCap(cap) => softcap = Some(*cap as f32),
                Need::Sinks(logits) => sinks = Some(logits),
            }
        }
        let mut exact = Vec::new();
        let mut recorded = Vec::new();
        for query in [0, golden.queries / 2, golden.queries - 1] {
            for head in 0..golden.q_heads {
                let at = |token: usize| ((head / group) * golden.tokens + token) * d;
                let row = Row {
                    q: &golden.q[(head * golden.queries + query) * d..][..d],
                    scale: golden.scale,
                    softcap,
                    slope: 0.0,
                    sink: sinks.map(|sinks| sinks[head]),
                    sight: Sight { left, ..Sight::all(golden.length(query)) },
                };
                let answer = attention(&row, |t| &golden.k[at(t)..][..d], |t| &golden.v[at(t)..][..d]);
                exact.extend(answer.out);
                recorded.extend_from_slice(&golden.out[(query * golden.q_heads + head) * d..][..d]);
            }
        }
        let error = tolerance::error(&recorded, &exact).expect("finite");
        println!("{name}: recorded answer against the oracle {error:.1e}");
        // They were computed in f32: 1e-5 is a hundred roundings.
        assert!(error < 1e-5, "{name}: {error}");
    }
}

#[test]
fn truncation_at_any_offset_is_an_error() {
    let file = bytes("gpt_oss-d64-w32.safetensors");
    let header = 8 + u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let offsets = (0..header + 16).chain((header..file.len()).step_by(997)).chain([file.len() - 1]);
    for length in offsets {
        assert!(matches!(problem(&file[..length]), Problem::Container(_)), "cut at {length}");
    }
    let longer = [&file[..], &[0]].concat();
    assert!(matches!(problem(&longer), Problem::Container(_)));
}

#[test]
fn a_corrupted_header_never_panics() {
    let file = bytes("gpt_oss-d64-w32.safetensors");
    let header = 8 + u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let mut refused = 0;
    for at in 0..header {
        for flip in [0x01, 0x10, 0x80] {
            let mut spoiled = file.clone();
            spoiled[at] ^= flip;
            // Some change a name that is not interpreted, and are fine.
            refused += usize::from(Golden::parse("spoiled".into(), &spoiled).is_err());
        }
    }
    assert!(refused > 2 * header, "{refused} of {} refused", 3 * header);
}

#[test]
fn every_defect_has_its_error() {
    let file = bytes("gpt_oss-d64-w32.safetensors");
    for name in ["q", "k", "v", "out"] {
        let renamed = with_header(&file, |h| rename(h, name, "alibi"));
        assert!(matches!(problem(&renamed), Problem::MissingTensor(n) if n == name));
        let unsigned = with_header(&file, |h| h[name]["dtype"] = json!(if name == "out" { "U32" } else { "U16" }));
        assert!(matches!(problem(&unsigned), Problem::Format { name: n, .. } if n == name), "{name}");
        let shape = with_header(&file, |h| h[name]["shape"].as_array_mut().expect("a shape").reverse());
        assert!(matches!(problem(&shape), Problem::Shape { .. }), "{name}");
    }
    let unknown = with_header(&file, |h| rename(h, "sinks", "alibi"));
    assert!(matches!(problem(&unknown), Problem::UnknownTensor(name) if name == "alibi"));
    let sinks = with_header(&file, |h| h["sinks"]["shape"] = json!([4, 2]));
    assert!(matches!(problem(&sinks), Problem::Shape { name: "sinks", .. }));
    let mixed = with_header(&file, |h| h["k"]["dtype"] = json!("F16"));
    assert!(matches!(problem(&mixed), Problem::Format { name: "k", allowed: "that of q", .. }));
}

fn rename(header: &mut Value, from: &str, to: &str) {
    let tensors = header.as_object_mut().expect("an object");
    let tensor = tensors.remove(from).expect("the tensor");
    tensors.insert(to.into(), tensor);
}

#[test]
fn metadata_is_checked() {
    let file = bytes("gpt_oss-d64-w32.safetensors");
    let set = |key: &str, value: &str| with_header(&file, |h| h["__metadata__"][key] = json!(value));
    for key in ["head_dim", "q_heads", "kv_heads", "tokens", "scale", "window", "softcap"] {
        let missing = with_header(&file, |h| {
            h["__metadata__"].as_object_mut().expect("an object").remove(key);
        });
        assert!(matches!(problem(&missing), Problem::MissingMetadata(k) if k == key), "{key}");
        for value in ["", "{", "-1", "\"8\"", "1e999", "[8]", "true"] {
            let problem = problem(&set(key, value));
            assert!(
                matches!(&problem, Problem::Metadata { key: k, value: v, .. } if *k == key && v == value),
                "{problem}"
            );
        }
    }
    for (key, value) in [("head_dim", "0"), ("tokens", "18446744073709551615"), ("kv_heads", "3"), ("scale", "0")] {
        assert!(matches!(problem(&set(key, value)), Problem::Metadata { key: k, .. } if k == key), "{key} = {value}");
    }
    for (key, value) in [("head_dim", "128"), ("tokens", "149"), ("q_heads", "4"), ("tokens", "1048576")] {
        assert!(matches!(problem(&set(key, value)), Problem::Shape { .. }), "{key} = {value}");
    }
    let message = problem(&set("window", "-1")).to_string();
    assert_eq!(message, "metadata `window` is `-1`; expected null or an integer of at least 1");
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    let file = bytes("gpt_oss-d64-w32.safetensors");
    let mut spoiled = file.clone();
    let end = spoiled.len();
    spoiled[end - 2..].copy_from_slice(&0x7F80u16.to_le_bytes()); // bf16 infinity, in v
    assert!(
        matches!(problem(&spoiled), Problem::NotFinite { name: "v", index: 9599, value } if value == f32::INFINITY)
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let path = folder().join("no-such-file.safetensors");
    let error = Golden::read(&path).expect_err("no such file");
    assert!(matches!(error.problem, Problem::Io(_)));
    assert!(error.to_string().contains("no-such-file.safetensors"));
}
