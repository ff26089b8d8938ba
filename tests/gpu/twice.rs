//! A case on the GPU, cut in several ways, each run twice: against the f64 oracle, and bit by bit against itself.
use super::common::judge::{Exact, bits};
use libtest_mimic::Failed;
use qkv::testing::case::CaseShape;
use qkv::testing::paged::Paged;
use qkv::testing::run::{DeviceCase, RunOptions};
use qkv::testing::variant::{CaseOutput, SinkShape, TreeShape, VariantShape};
use qkv::{Device, KernelChoice, Splits};

/// A variant: its name, and what it changes.
pub type Variant = (&'static str, fn(&mut VariantShape));

/// Each but the window.
pub const VARIANTS: [Variant; 7] = [
    ("full", |variant| variant.right = None),
    ("softcap", |variant| variant.softcap = Some(2.0)),
    ("sinks", |variant| variant.sinks = Some(SinkShape::Drawn)),
    ("alibi", |variant| variant.alibi = true),
    ("tree", |variant| variant.tree = Some(TreeShape::Forest)),
    ("f32", |variant| variant.output = CaseOutput::F32),
    ("e4m3", |variant| variant.output = CaseOutput::Fp8E4M3 { scale: 1.0 / 64.0, on_device: true }),
];

/// All that must not be read is NaN or a page id far outside.
pub fn check(device: &Device, shape: &CaseShape, splits: &[Splits], kernel: KernelChoice) -> Result<(), Failed> {
    let case = shape.build();
    let mut paged = Paged::new(&case, shape.page_size, shape.arrangement, shape.seed);
    paged.forget_unseen(&case);
    let on = DeviceCase::new(device, &case, &paged)?;
    let exact = Exact::on_chip(&case);
    for &splits in splits {
        let options = || RunOptions { kernel, ..splits.into() };
        let answer = on.run(options())?;
        let error = exact.judge(&answer).map_err(|what| format!("{splits:?}: {what}"))?;
        if bits(&on.run(options())?) != bits(&answer) {
            return Err(format!("{splits:?}: another run, another answer").into());
        }
        if matches!(kernel, KernelChoice::Kernel(kernel) if kernel != answer.kernel) {
            return Err(format!("{splits:?}: {} ran", answer.kernel).into());
        }
        println!("{splits:?}: {}, error {error:.2e}", answer.kernel);
    }
    Ok(())
}
