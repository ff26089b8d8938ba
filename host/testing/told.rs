//! A case's variants in a device's memory, and requests and plans that are told them.
use super::case::Case;
use super::variant::{CaseOutput, QueryCounts};
use crate::{
    AlibiSlopes, AnyOutput, Batch, Bf16, Buffer, CacheFor, DType, Decode, Device, Error, F16, F32, Mask, Output,
    Positions, QueryFormat, QueryLens, Sinks, Spans, TensorScale, TreeMask,
};

/// Bytes unused behind a token's output.
const OUTPUT_PADDING: usize = 16;

/// What a request points to besides queries and cache.
pub(super) struct Told<'c> {
    case: &'c Case,
    /// `cu_seqlens_q`.
    starts: Vec<u32>,
    sinks: Option<Buffer>,
    slopes: Option<Buffer>,
    positions: Option<Buffer>,
    spans: Option<Buffer>,
    tree: Option<Buffer>,
    /// What an e4m3 output is divided by, where the device reads it.
    output_scale: Option<Buffer>,
}

impl<'c> Told<'c> {
    /// Uploads what `case` has.
    pub(super) fn new(device: &Device, case: &'c Case) -> Result<Self, Error> {
        let words = |words: Option<Vec<[u8; 4]>>| {
            let upload = |words: Vec<[u8; 4]>| {
                let bytes = words.concat();
                let buffer = device.alloc(bytes.len().max(16))?;
                buffer.write(&bytes).map(|()| buffer)
            };
            words.map(upload).transpose()
        };
        let floats =
            |values: &Option<Vec<f32>>| words(values.as_ref().map(|v| v.iter().map(|x| x.to_le_bytes()).collect()));
        let variants = &case.variants;
        let positions = variants.positions.as_ref().map(|p| p.iter().map(|p| p.to_le_bytes()).collect());
        let spans = variants.spans.as_ref().map(|s| s.ranges.iter().flatten().map(|key| key.to_le_bytes()).collect());
        let tree = variants.tree.as_ref().map(|tree| tree.words.iter().map(|word| word.to_le_bytes()).collect());
        let output_scale = match variants.output {
            CaseOutput::Fp8E4M3 { scale, on_device: true } => Some(vec![scale.to_le_bytes()]),
            _ => None,
        };
        let start = |sequence| u32::try_from(case.query_start(sequence)).unwrap_or(u32::MAX);
        Ok(Self {
            case,
            starts: (0..=case.sequences.len()).map(start).collect(),
            sinks: floats(&variants.sinks)?,
            slopes: floats(&variants.slopes)?,
            positions: words(positions)?,
            spans: words(spans)?,
            tree: words(tree)?,
            output_scale: words(output_scale)?,
        })
    }

    pub(super) fn query_lens(&self) -> QueryLens<'_> {
        match self.case.variants.queries {
            QueryCounts::One => QueryLens::One,
            QueryCounts::Uniform(count) => QueryLens::Uniform(u32::try_from(count).unwrap_or(u32::MAX)),
            QueryCounts::Ragged(_) => QueryLens::Ragged(&self.starts),
        }
    }

    fn mask(&self) -> Mask {
        Mask { left: self.case.variants.left, right: self.case.variants.right }
    }

    /// What is to be planned for sequences of `lengths` tokens; `aligned`: as if there were no positions and spans.
    pub(super) fn batch<'a>(&'a self, lengths: &'a [u32], aligned: bool) -> Batch<'a> {
        let batch = Batch::from(lengths).query_lens(self.query_lens()).mask(self.mask());
        let anywhere = self.case.variants.positions.is_some() || self.case.variants.spans.is_some();
        if anywhere && !aligned { batch.everywhere() } else { batch }
    }

    /// Elements of a token's output, with the unused ones behind it.
    fn output_stride(&self) -> usize {
        self.case.q_heads * self.case.head_dim + OUTPUT_PADDING / self.case.variants.output.bytes()
    }

    /// Bytes of the output.
    pub(super) fn output_bytes(&self) -> usize {
        self.case.tokens() * self.output_stride() * self.case.variants.output.bytes()
    }

    /// The output in `buffer`.
    pub(super) fn output<'a>(&'a self, buffer: &'a Buffer) -> Result<AnyOutput<'a>, Error> {
        let d = self.case.head_dim;
        let (shape, strides) = ([self.case.tokens(), self.case.q_heads, d], [self.output_stride(), d]);
        Ok(match (self.case.variants.output, self.case.format) {
            (CaseOutput::Own, DType::Bf16) | (CaseOutput::Sixteen(DType::Bf16), _) => {
                Output::<Bf16>::with_strides(buffer, shape, strides)?.into()
            }
            (CaseOutput::Own, DType::F16) | (CaseOutput::Sixteen(DType::F16), _) => {
                Output::<F16>::with_strides(buffer, shape, strides)?.into()
            }
            (CaseOutput::F32, _) => Output::<F32>::with_strides(buffer, shape, strides)?.into(),
            (CaseOutput::Fp8E4M3 { scale, .. }, _) => {
                let scale = match &self.output_scale {
                    Some(buffer) => TensorScale::on_device(buffer)?,
                    None => TensorScale::value(scale)?,
                };
                Output::quantised_with_strides(buffer, shape, strides, scale)?.into()
            }
        })
    }

    /// The numbers that an output's `bytes` are, and whether some of the unused ones were written, those behind it too.
    pub(super) fn read(&self, bytes: &[u8]) -> (Vec<f32>, bool) {
        let (bytes, behind_all) = bytes.split_at(self.output_bytes().min(bytes.len()));
        let output = self.case.variants.output;
        let used = self.case.q_heads * self.case.head_dim * output.bytes();
        let tokens = bytes.chunks_exact(self.output_stride() * output.bytes());
        let behind = tokens.clone().map(|token| &token[used..]).chain([behind_all]);
        let strayed = behind.flatten().any(|&byte| byte != 0xFF);
        (tokens.flat_map(|token| output.decode(self.case.format, &token[..used])).collect(), strayed)
    }

    /// The case's sinks, if it has any.
    pub(super) fn sinks(&self) -> Result<Option<Sinks<'_>>, Error> {
        self.sinks.as_ref().map(|sinks| Sinks::new(sinks, self.case.q_heads)).transpose()
    }

    /// `decode` with the case's scale and variants.
    pub(super) fn ask<'a, Q: QueryFormat, K: CacheFor<Q>>(
        &'a self,
        decode: Decode<'a, Q, K>,
    ) -> Result<Decode<'a, Q, K>, Error> {
        let (variants, heads, tokens) = (&self.case.variants, self.case.q_heads, self.case.tokens());
        let mut decode = decode.scale(self.case.scale)?.mask(self.mask())?;
        if let Some(cap) = variants.softcap {
            decode = decode.softcap(cap)?;
        }
        if let Some(sinks) = self.sinks()? {
            decode = decode.sinks(sinks)?;
        }
        if let Some(slopes) = &self.slopes {
            decode = decode.alibi(AlibiSlopes::new(slopes, heads)?)?;
        }
        if let Some(positions) = &self.positions {
            decode = decode.positions(Positions::new(positions, tokens)?)?;
        }
        if let (Some(buffer), Some(spans)) = (&self.spans, &variants.spans) {
            decode = decode.spans(Spans::new(buffer, tokens)?, spans.in_window)?;
        }
        if let (Some(buffer), Some(tree)) = (&self.tree, &variants.tree) {
            decode = decode.tree(TreeMask::new(buffer, tokens, 32 * tree.width)?)?;
        }
        Ok(decode)
    }
}
