//! The golden files on the GPU: activations of published models, judged by the answers that came with them.
use super::test;
use libtest_mimic::{Failed, Trial};
use qkv::Device;
use qkv::testing::golden::Golden;
use qkv::testing::trial;
use std::path::Path;

/// The files in `tests/golden`.
const FILES: [&str; 6] = [
    "gemma4-long-d512-full",
    "gemma-long-d256-full",
    "llama-long-d128-full",
    "qwen2-long-d64-full",
    "gemma4-long-d256-w512",
    "gpt_oss-d64-w32",
];

pub fn tests() -> Vec<Trial> {
    FILES.map(|name| test(format!("golden::{name}"), move |device| judge(device, name))).into()
}

fn judge(device: &Device, name: &str) -> Result<(), Failed> {
    let golden = Golden::read(&Path::new("tests/golden").join(format!("{name}.safetensors")))?;
    for (page_size, seed) in [(16, 1), (1, 2), (1024, 3)] {
        let decode = trial::Trial::new(&golden, page_size, seed);
        for trial in [decode, trial::Trial::prefill(&golden, golden.queries, page_size, seed)] {
            let verdict = trial.judge(device, || {})?;
            if let Some(failure) = verdict.failure {
                let pass = trial.pass.name();
                return Err(format!("{pass} by {}, pages of {page_size}: {failure}", verdict.kernel).into());
            }
        }
    }
    Ok(())
}
