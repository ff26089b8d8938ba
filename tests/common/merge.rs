//! A context whose keys are cut into shares, merged.
use super::judge::Exact;
use super::pieces::shares;
use super::variants::{answer, judge};
use qkv::testing::case::CaseShape;
use qkv::testing::merge::{State, merge};
use qkv::{Device, Splits};

/// A context spread over devices, one a share: each decodes its keys, the first merges. Judged as one pass over all keys is.
pub fn spread(devices: &[&Device], shape: &CaseShape, cuts: &[usize], splits: Splits) -> Result<(), String> {
    let case = shape.build();
    let states = shares(&case, cuts).into_iter().zip(devices.iter().cycle()).map(|(share, device)| {
        let answer = answer(device, shape, &share, splits)?;
        Ok::<State, String>((answer.out, answer.lse))
    });
    let states = states.collect::<Result<Vec<State>, String>>()?;
    let merged = merge(devices[0], &case, &states).map_err(|error| error.to_string())?;
    Exact::new(&case).judge(&merged).map_err(|what| format!("merged: {what}"))?;
    judge(devices[0], shape, &case, &[splits]).map(|_| ()).map_err(|what| format!("one pass: {what}"))
}
