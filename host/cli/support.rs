//! `qkv support`: the table of what is supported, as Markdown, from the same [`crate::support`] that plans ask; or its
//! answer to one combination. `docs/support.md` is [`page`].
use super::{CliError, Outcome, say};
use crate::{
    ARCHES, Arch, CacheDType, Code, Family, KernelChoice, KernelId, MAX_QUERY_TOKENS, OutputKind, QueryDType,
    SupportRow, Variant, kernels, support_table,
};

/// Arguments of `qkv support`: without any, the table.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Prints docs/support.md
    #[arg(long)]
    pub markdown: bool,
    /// Asks for one combination: this head dimension, and the options below
    #[arg(long)]
    pub head_dim: Option<usize>,
    /// Compute capability, as in sm_90
    #[arg(long, default_value = "sm_90", value_parser = arch, requires = "head_dim")]
    pub arch: Arch,
    /// Format of queries: bf16, f16, e4m3
    #[arg(long, default_value = "bf16", requires = "head_dim")]
    pub q: QueryDType,
    /// Format of the cache: auto, bf16, fp16, fp8, fp8_e4m3, fp8_e5m2, nvfp4
    #[arg(long, default_value = "auto", requires = "head_dim")]
    pub cache: String,
    /// Tokens a page
    #[arg(long, default_value_t = 16, requires = "head_dim")]
    pub page: usize,
    /// Query heads a KV head
    #[arg(long, default_value_t = 1, requires = "head_dim")]
    pub group: usize,
    /// The most query tokens of a sequence
    #[arg(long, default_value_t = 1, requires = "head_dim")]
    pub q_len: usize,
    /// Scales of an FP8 cache a token and head, not of all of it
    #[arg(long, requires = "head_dim")]
    pub token_scales: bool,
    /// Format of outputs: bf16, f16, f32, e4m3; the queries' if not given
    #[arg(long, value_parser = output, requires = "head_dim")]
    pub output: Option<OutputKind>,
    /// A window to the left or right
    #[arg(long, requires = "head_dim")]
    pub window: bool,
    /// A soft cap
    #[arg(long, requires = "head_dim")]
    pub softcap: bool,
    /// Sinks
    #[arg(long, requires = "head_dim")]
    pub sinks: bool,
    /// ALiBi slopes
    #[arg(long, requires = "head_dim")]
    pub alibi: bool,
    /// Positions of the query tokens
    #[arg(long, requires = "head_dim")]
    pub positions: bool,
    /// Spans that query tokens see besides
    #[arg(long, requires = "head_dim")]
    pub spans: bool,
    /// A tree mask
    #[arg(long, requires = "head_dim")]
    pub tree: bool,
    /// A prefix that the batch shares
    #[arg(long, requires = "head_dim")]
    pub shared_prefix: bool,
    /// What must answer: the name of a family or of a kernel
    #[arg(long, default_value = "auto", value_parser = choice, requires = "head_dim")]
    pub kernel: KernelChoice,
}

impl Options {
    const fn variant(&self) -> Variant {
        let Self {
            q_len,
            window,
            softcap,
            sinks,
            alibi,
            positions,
            spans,
            tree,
            shared_prefix,
            token_scales,
            output,
            kernel,
            ..
        } = *self;
        Variant {
            q_len,
            window,
            softcap,
            sinks,
            alibi,
            positions,
            spans,
            tree,
            shared_prefix,
            token_scales,
            output,
            kernel,
        }
    }
}

/// "auto", a family, or a kernel.
fn choice(name: &str) -> Result<KernelChoice, String> {
    if name == "auto" {
        return Ok(KernelChoice::Auto);
    }
    let family = Family::ALL.iter().copied().find(|family| family.name() == name).map(KernelChoice::Family);
    family.or_else(|| KernelId::named(name).map(KernelChoice::Kernel)).ok_or_else(|| {
        let families: Vec<_> = Family::ALL.iter().map(|family| family.name()).collect();
        format!("allowed: auto, {}, a kernel of the table", families.join(", "))
    })
}

fn output(name: &str) -> Result<OutputKind, String> {
    match name {
        "bf16" => Ok(OutputKind::Bf16),
        "f16" => Ok(OutputKind::F16),
        "f32" => Ok(OutputKind::F32),
        "e4m3" => Ok(OutputKind::Fp8E4M3),
        _ => Err("allowed: bf16, f16, f32, e4m3".into()),
    }
}

/// "sm_90", or "9.0".
fn arch(text: &str) -> Result<Arch, String> {
    let number = |digits: &str| digits.parse::<u32>().ok();
    let parsed = match text.strip_prefix("sm_") {
        Some(digits) => {
            let digits = digits.trim_end_matches(['a', 'f']);
            digits.len().checked_sub(1).and_then(|last| digits.split_at_checked(last))
        }
        None => text.split_once('.'),
    };
    match parsed.map(|(major, minor)| (number(major), number(minor))) {
        Some((Some(major), Some(minor))) => Ok(Arch { major, minor }),
        _ => Err("allowed: a compute capability, such as sm_90 or 9.0".into()),
    }
}

/// Prints the table, or the answer to one combination.
///
/// # Errors
/// A cache format that there is not.
pub fn run(options: &Options) -> Result<Outcome, CliError> {
    let Some(head_dim) = options.head_dim else {
        // What is printed ends its last line.
        say(format_args!("{}", if options.markdown { page() } else { body() }.trim_end()));
        return Ok(Outcome::Ok);
    };
    let cache = CacheDType::named(&options.cache, options.q)?;
    let Options { arch, q, page, group, .. } = *options;
    match kernels(arch, head_dim, q, cache, page, group, options.variant()) {
        Ok(kernels) => {
            kernels.iter().for_each(|kernel| say(format_args!("{kernel}")));
            Ok(Outcome::Ok)
        }
        Err(unsupported) => {
            unsupported.needs.iter().for_each(|need| say(format_args!("UNSUPPORTED: {need}")));
            Ok(Outcome::Unsupported)
        }
    }
}

/// The page `docs/support.md`.
pub fn page() -> String {
    let head = "# What is supported\n\nWritten by `BLESS=1 cargo test --features cli --test cli` from `qkv::support_table`, \
                which asks `qkv::support` as plans do.\n`qkv support --head-dim 512 --cache nvfp4 --arch sm_75` answers for one \
                combination: the kernels in order of preference, or every\nneed that is unmet.\n";
    format!("{head}\n{}", body())
}

fn body() -> String {
    let tables: String = groups().iter().map(|group| format!("## {}\n\n{}\n", group.title(), group.table())).collect();
    format!("{GPUS}\n{}\n{BEHIND}\n{tables}{BESIDES}\n{VARIANTS}\n{}\n{EXCEPT}", gpus(), variants())
}

/// What the table of GPUs says.
const GPUS: &str = "\
## GPUs

Each takes the kernels of the first family that answers, and of a kernel the first code that the build and the driver have: of the
newest target, machine code before PTX, which the driver compiles.
";

/// What the families are.
const BEHIND: &str = "\
`portable` is `mma.sync` and `cp.async`, all of it within the 99 KiB of shared memory that every one of these chips has for a block,
head_dim 512 and NVFP4 too; `wgmma` is Hopper's warpgroup products, `tcgen05` the tensor memory of Blackwell in data centres. Targets without a letter run on later chips too, those with an
`f` on one family, those with an `a` on one chip: only kernels with instructions of these have such a target. A chip that is later
than all of these takes the kernels of sm_80's table as its driver compiles them.

Up to 64 query rows of 16-bit formats the portable kernel comes first everywhere. `PlanOptions::kernel` names the family or the
kernel that must answer (`--kernel`): where it cannot, every reason is the error.
";

/// The GPUs, their families and their code.
fn gpus() -> String {
    let mut rows = vec![["GPU", "families", "machine code of", "PTX of", "KiB a block"].map(str::to_owned)];
    let later = Arch { major: 13, minor: 0 };
    rows.extend(ARCHES.into_iter().chain([later]).map(|arch| {
        let families: Vec<_> =
            Family::ALL.iter().filter(|&&family| arch.runs(family)).map(|family| family.name()).collect();
        let code = |ptx: bool| {
            let of_form = Code::taken_by(arch).into_iter().filter(|code| code.ptx == ptx);
            let targets: Vec<_> = of_form.map(|code| code.target.to_string()).collect();
            if targets.is_empty() { "none".to_owned() } else { targets.join(", ") }
        };
        let name = if arch == later { "later ones".to_owned() } else { arch.to_string() };
        [name, families.join(", "), code(false), code(true), (arch.shared_per_block() >> 10).to_string()]
    }));
    markdown(&rows)
}

/// GPUs whose lines of the table are the same.
struct Group {
    archs: Vec<Arch>,
    rows: Vec<SupportRow>,
}

/// The table's lines by GPU, those of equal lines together.
fn groups() -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for arch in ARCHES {
        let rows: Vec<_> = support_table().into_iter().filter(|row| row.arch == arch).collect();
        let same = |group: &&mut Group| {
            let pairs = group.rows.iter().zip(&rows);
            group.rows.len() == rows.len() && pairs.into_iter().all(|(a, b)| SupportRow { arch, ..*a } == *b)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.archs.push(arch),
            None => groups.push(Group { archs: vec![arch], rows }),
        }
    }
    groups
}

impl Group {
    /// The GPUs.
    fn title(&self) -> String {
        self.archs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    fn table(&self) -> String {
        let header = ["head_dim", "q", "cache", "1 to 8 query rows", "9 to 16, or 32", "up to 64", "more", "status"];
        let mut rows = vec![header.map(str::to_owned)];
        rows.extend(self.rows.iter().map(|row| {
            [
                row.head_dim.to_string(),
                row.q.to_string(),
                row.kv.to_string(),
                row.eight.to_string(),
                row.few.to_string(),
                row.many.to_string(),
                more(row),
                row.status.to_string(),
            ]
        }));
        markdown(&rows)
    }
}

/// The kernels for more query rows than decode's hold, those for many keys last.
fn more(row: &SupportRow) -> String {
    let Some(prefill) = row.prefill else { return row.many.to_string() };
    let long = prefill.long.map(|kernel| format!(", {kernel}")).unwrap_or_default();
    format!("{}{long}", prefill.kernel)
}

/// What holds for every line of the table.
const BESIDES: &str = "\
Query rows are query heads a KV head (1 to 64, any integer) times query tokens of a sequence, the most of the batch; 17 to 32 are
the second kernel's up to head_dim 256. More than a kernel holds are several blocks on the same keys.

FP8 queries (e4m3, a scale of all of them) have caches of e4m3 with one scale of all of K and one of all of V, and kernels that take
prompts, drafts and single tokens alike.

Page sizes: powers of two from 1 to 1024 (NVFP4 in one buffer with its scales: see `Error::PageSize`). The simulator runs every
kernel.
";

/// What every kernel has.
const VARIANTS: &str = "\
## Variants

Every kernel has all of them, alone and together:
";

/// What there is not together.
const EXCEPT: &str = "\
A tree mask and spans exclude each other, and so do spans and a shared prefix. A left window or ALiBi with a shared prefix needs
positions.
";

/// What each variant is, and where a request is given it.
fn variants() -> String {
    let tokens = format!("1 to {MAX_QUERY_TOKENS}, as many in each or any (0 too)");
    let rows = [
        ["variant", "what is allowed", "given to"],
        ["query tokens a sequence", &tokens, "`QueryLens`"],
        ["window", "any number of keys to the left and to the right, 0 too; causal without", "`Mask`"],
        ["softmax scale", "above 0", "`Decode::scale`"],
        ["soft cap", "1e-30 to 1e30", "`Decode::softcap`"],
        ["sinks", "an f32 logit a query head", "`Decode::sinks`"],
        ["ALiBi", "an f32 slope a query head", "`Decode::alibi`"],
        ["positions", "an i32 a query token", "`Decode::positions`"],
        ["spans (prefix-LM)", "a range of keys a query token, clamped by the window or not", "`Decode::spans`"],
        ["tree mask", "a bit for each pair of a sequence's query tokens", "`Decode::tree`"],
        ["output", "bf16, f16, f32, e4m3 with a scale", "`Output`"],
        ["log-sum-exp", "f32, natural, without the sink", "`Decode::lse`"],
        ["shared prefix", "whole pages, in all sequences of a batch", "`PrefixPlan`"],
        ["merge of states", "1 to 512 results in f32 over disjoint keys", "`MergeStates`"],
    ];
    markdown(&rows.map(|row| row.map(str::to_owned)))
}

/// Rows as a Markdown table, the first its header, columns padded to line up.
pub fn markdown<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = core::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let line = |cells: [String; N]| format!("| {} |\n", cells.join(" | "));
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        text += &line(core::array::from_fn(|i| format!("{:<width$}", row[i], width = widths[i])));
        if index == 0 {
            text += &line(core::array::from_fn(|i| "-".repeat(widths[i])));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_lines_up() {
        let rows = [["a", "bcd"], ["efgh", "i"]].map(|row| row.map(str::to_owned));
        assert_eq!(markdown(&rows), "| a    | bcd |\n| ---- | --- |\n| efgh | i   |\n");
    }

    #[test]
    fn the_tables_have_every_kernel_that_has_items() {
        let table = body();
        for entry in kernels_gpu::kernels::ENTRIES.iter().filter(|e| e.tiling().is_some()) {
            assert!(table.contains(entry.name), "{} is missing", entry.name);
        }
        assert!(table.contains("assembled and simulated, not run"));
    }

    #[test]
    fn choices() {
        assert_eq!(choice("auto"), Ok(KernelChoice::Auto));
        assert_eq!(choice("wgmma"), Ok(KernelChoice::Family(Family::Wgmma)));
        assert!(choice("decode_d64_f16_f16_few").is_ok_and(|choice| matches!(choice, KernelChoice::Kernel(_))));
        assert_eq!(choice("mma"), Err("allowed: auto, tcgen05, wgmma, portable, a kernel of the table".into()));
    }

    #[test]
    fn compute_capabilities() {
        let parsed = |text| arch(text).map(|a| (a.major, a.minor)).ok();
        assert_eq!((parsed("sm_75"), parsed("sm_90a"), parsed("10.0")), (Some((7, 5)), Some((9, 0)), Some((10, 0))));
        assert_eq!(parsed("sm_120"), Some((12, 0)));
        for text in ["", "sm_", "sm_a", "9", "hopper", "sm_9x"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
