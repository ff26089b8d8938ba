//! Shapes of the prefill kernels: their tuning numbers, shared by host and device.
mod tcgen05;

use crate::config::Tiling;
pub use tcgen05::{TENSOR_COLUMNS, TENSOR_ROWS, TensorPlaces, narrow_tcgen05_shape, tcgen05_shape};

/// Threads of a warpgroup.
pub const WARPGROUP: u32 = 128;

/// Query rows of one `wgmma`.
pub const GROUP_ROWS: u32 = 64;

/// Bytes of a row of 64 columns of 16 bits: what a swizzle's pattern is wide, and a box of a tensor map.
pub const COLUMNS_BYTES: u32 = 128;

/// Rows that are swizzled together: a pattern of 1024 bytes.
pub const PATTERN_ROWS: u32 = 8;

/// Parts of 64 columns that a slot has of K, and of V, where it has not all of D.
pub const KEY_PARTS: u32 = 2;
/// As [`KEY_PARTS`].
pub const VALUE_PARTS: u32 = 4;

/// Bytes of P that a warpgroup is given for a step by the one with the same rows: 64 rows of 64 keys.
pub const PEER_BYTES: u32 = GROUP_ROWS * 64 * 2;

/// Bytes of what it is told of its rows.
pub const STAT_BYTES: u32 = GROUP_ROWS * 4;

/// Items that a block has in mind: one whose rows are stored, the next, and one that is known ahead. A power of two.
pub const ITEM_SLOTS: u32 = 4;

/// Bytes that a block keeps of an item beside its rows.
pub const ITEM_BYTES: u32 = 64;

/// The logit of 8-bit queries and keys, in base 2 and of either sign, above which, once a row's maximum is, a warp works tiles' logits out
/// again on Hopper (`sharp`): of D = 128 one of 48 is wrong by some 0.02, so its weight by 1.5 %, where P is rounded by up to 6 %.
pub const LARGE_LOGIT: f32 = 48.0;

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `wgmma` of Hopper (sm_90a): accumulators are registers of the warpgroups that issue it.
    Wgmma,
    /// `tcgen05` of Blackwell (10.0 and 10.3): accumulators are in tensor memory, and one thread issues.
    Tcgen05,
}

/// The shape of a prefill kernel.
///
/// Of Hopper (sm_90a): a warpgroup that copies, and warpgroups that multiply. Those have 64 query
/// rows and all columns each (`multiply`); at D = 512, where that would be 256 registers of O, the two blocks of a cluster have
/// the same rows and half the columns each (`pair`).
///
/// Of Blackwell: a warpgroup that copies, of which a warp issues the products, one that corrects O and stores it, and
/// one of softmax for every 128 query rows; at D = 512 the two blocks of a cluster have 64 rows each (`tcgen05`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefillShape {
    /// What multiplies.
    pub unit: Unit,
    /// D.
    pub head_dim: u32,
    /// Warpgroups that multiply, or of softmax.
    pub consumers: u32,
    /// Keys a step.
    pub tile_keys: u32,
    /// Slots of each of the two rings of K's and of V's tiles, or at D = 512 of the one ring of both.
    pub stages: u32,
    /// Blocks of a cluster, which have an item's rows together.
    pub cluster: u32,
    /// Registers a thread of the warpgroups that multiply or of softmax, of the one that copies, and of the one that corrects.
    pub registers: [u32; 3],
    /// Bytes of an element of the queries and the cache: 2, or 1, whose V is transposed before it is multiplied (`transpose`).
    pub element_bytes: u32,
    /// Slots of the ring of transposed tiles of V; 0 where V is multiplied as it is.
    pub transposed: u32,
    /// Whether warps that multiply have their query rows in registers, and give them back before the first product.
    pub queries_held: bool,
}

/// The shape for a head dimension, of 16-bit queries and caches.
pub const fn prefill_shape(head_dim: u32) -> PrefillShape {
    match head_dim {
        // Measured at 2 x 8192 and 8 x 1024, causal and not, on an H100: 96 keys 532, 561, 332, 444 TFLOP/s; 112 523, 552, 318, 404;
        // two warpgroups 489, 502, 303, 435. In another run, means of two rounds: 96 keys 566, 555, 345, 467; with query rows in registers 570,
        // 561, 353, 484; 128 keys without 569, 561, 336, 509.
        64 => {
            PrefillShape { consumers: 3, tile_keys: 96, registers: [160, 32, 0], queries_held: true, ..wide(head_dim) }
        }
        // Measured likewise, means of three rounds: with query rows in registers 721, 702, 467, 644; without 709, 712, 466, 621.
        128 => PrefillShape { queries_held: true, ..wide(head_dim) },
        256 => PrefillShape { tile_keys: 80, stages: 2, ..wide(head_dim) },
        _ => PrefillShape { stages: 5, cluster: 2, registers: [232, 40, 0], ..wide(head_dim) },
    }
}

/// The shape of D = 128 for many keys a query row: more of them a step. Measured as [`prefill_shape`]'s: 717, 743, 412, 571, and at 1 x 32768 702,
/// 721 where that has 678, 702. 160 keys: 724, 736, 435, 556 in another run, where 176 had 721, 760, 417, 576.
pub const fn long_prefill_shape(head_dim: u32) -> PrefillShape {
    PrefillShape { tile_keys: 176, stages: 2, registers: [232, 40, 0], ..wide(head_dim) }
}

/// What most shapes have.
const fn wide(head_dim: u32) -> PrefillShape {
    PrefillShape {
        unit: Unit::Wgmma,
        head_dim,
        consumers: 2,
        tile_keys: 128,
        stages: 3,
        cluster: 1,
        registers: [224, 56, 0],
        element_bytes: 2,
        transposed: 0,
        queries_held: false,
    }
}

/// The shape for a head dimension of 64, 128 or 256, of queries and caches of 8 bits. Tiles of keys are whole rows of a transposed tile
/// of V, 128 bytes, or a part of them.
pub const fn narrow_prefill_shape(head_dim: u32) -> PrefillShape {
    let narrow = PrefillShape { element_bytes: 1, ..wide(head_dim) };
    match head_dim {
        // 24 KiB of query rows, 4 tiles of K and of V of 16 KiB, half of which are zeros, and 3 transposed ones of 8. S, O and P are 112
        // registers, where at 128 they are 124: so 128 keys, a whole row of a transposed tile. 514, 554 TFLOP/s at 2 x 8192.
        64 => PrefillShape { consumers: 3, stages: 4, transposed: 3, registers: [160, 32, 0], ..narrow },
        // 24 KiB of query rows, 4 tiles of K and of V of 12 KiB and 3 transposed ones of 16. Measured at 2 x 8192, causal and not, on an
        // H100, TFLOP/s: 902, 938; two warpgroups with 128 keys 839, 861, with 160 832, 862, with 192 830, 872; three with 64 786, 839.
        128 => {
            PrefillShape { consumers: 3, tile_keys: 96, stages: 4, transposed: 3, registers: [160, 32, 0], ..narrow }
        }
        // 32 KiB, two tiles of 24 of K and of V, and three of 32. With 128 keys S, O and P are 208 registers, and spill 32 bytes.
        _ => PrefillShape { tile_keys: 96, stages: 2, transposed: 3, registers: [232, 40, 0], ..narrow },
    }
}

impl PrefillShape {
    /// Its items.
    pub const fn tiling(&self) -> Tiling {
        let rows = if self.exchanges() { self.block_rows() } else { self.cluster * self.block_rows() };
        Tiling { head_dim: self.head_dim, rows, tile_keys: self.tile_keys, teams: 1 }
    }

    /// Whether it is of Blackwell.
    pub const fn tensor_memory(&self) -> bool {
        matches!(self.unit, Unit::Tcgen05)
    }

    /// Whether the blocks of a cluster divide keys and columns.
    pub const fn pair(&self) -> bool {
        self.cluster == 2
    }

    /// Whether they do so of the same rows, of which they tell each other.
    pub const fn exchanges(&self) -> bool {
        self.pair() && !self.tensor_memory()
    }

    /// Query rows of a block.
    pub const fn block_rows(&self) -> u32 {
        if self.tensor_memory() { TENSOR_ROWS / self.cluster * self.consumers } else { GROUP_ROWS * self.consumers }
    }

    /// Rings of slots.
    pub const fn rings(&self) -> u32 {
        if self.exchanges() { 1 } else { 2 }
    }

    /// Parts of [`COLUMNS_BYTES`] of a row. At D = 64 in 8 bits a row is half of one, and zeros behind it, as its box is wider than the
    /// tensor: a tile of rows of 64 bytes (and a swizzle of 64) is none that single tokens can be copied to, which want multiples of 128.
    pub const fn parts(&self) -> u32 {
        (self.head_dim * self.element_bytes).div_ceil(COLUMNS_BYTES)
    }

    /// Columns of a row's parts: D, and those of zeros.
    pub const fn part_columns(&self) -> u32 {
        self.parts() * COLUMNS_BYTES / self.element_bytes
    }

    /// Warps that transpose V.
    pub const fn transposers(&self) -> u32 {
        if self.transposed > 0 { 1 } else { 0 }
    }

    /// Threads that copy query rows where no tensor copy can: of the copying warpgroup what neither copies nor transposes keys and
    /// values, nor issues products.
    pub const fn query_threads(&self) -> u32 {
        WARPGROUP - 64 - if self.tensor_memory() { 32 } else { 32 * self.transposers() }
    }

    /// Steps of 32 bytes of query rows that are held in registers, four words each.
    pub const fn held_steps(&self) -> u32 {
        if self.queries_held { self.head_dim * self.element_bytes / 32 } else { 0 }
    }

    /// Parts of 64 columns of 16 bits, or 128 of 8, of the boxes of K and of V.
    pub const fn box_parts(&self) -> [u32; 2] {
        match self.unit {
            Unit::Tcgen05 => [self.cut(false).parts, self.cut(true).parts],
            Unit::Wgmma if self.pair() => [KEY_PARTS, VALUE_PARTS],
            Unit::Wgmma => [self.parts(); 2],
        }
    }

    /// Who reads a slot of K or V, so many arrivals: warps that multiply; of V that is transposed, who does that; products that are done.
    pub const fn slot_readers(&self, value: bool) -> u32 {
        match self.unit {
            Unit::Tcgen05 => 1,
            Unit::Wgmma if value && self.transposed > 0 => self.transposers(),
            Unit::Wgmma => self.warps(),
        }
    }

    /// Who reads query rows, likewise.
    pub const fn query_readers(&self) -> u32 {
        if self.tensor_memory() { 1 } else { self.warps() }
    }

    /// Warps that read an item, and that nothing else keeps from falling behind: what copies K, V or transposes, and of Blackwell all
    /// but the one that tells of it.
    pub const fn item_readers(&self) -> u32 {
        2 + if self.tensor_memory() { self.warps() + WARPGROUP / 32 + 1 } else { self.transposers() }
    }

    /// Warps that multiply, or of softmax.
    pub const fn warps(&self) -> u32 {
        self.consumers * WARPGROUP / 32
    }

    /// Whether a tile's exponentials come before the wait for O, and not behind it, where the other warpgroup's products are under way.
    /// Measured at 2 x 8192, causal and not, TFLOP/s so and otherwise: D = 64 527, 530 and 537, 548; 128 710, 711 and 718, 736; 256 791, 740
    /// and 728, 738; of 8 bits 128 832, 863 and 781, 807; 256 950, 921 and 938, 913; 64 not yet.
    pub const fn exponentials_first(&self) -> bool {
        self.head_dim == 256 || self.element_bytes == 1
    }

    /// Whether a tile's logits are compared as integers first, which are fewer instructions, and as floats where those do not tell
    /// (`softmax`). Measured as above, means of two rounds, so and otherwise: D = 64 562, 553 and 546, 540; 128 710, 730 and 700, 690; of 8
    /// bits 128 861, 900 and 901, 941; 256 750, 741 and 786, 736. Not measured of 8 bits at 64.
    pub const fn bounds_maxima(&self) -> bool {
        self.head_dim <= 128 && self.element_bytes == 2
    }

    /// Threads of a block.
    pub const fn threads(&self) -> u32 {
        WARPGROUP * (self.consumers + if self.tensor_memory() { 2 } else { 1 })
    }

    /// The most tokens of a box of the tensor maps: 16, which divide every tile. Of more a copy would be longer (128 tokens for 16
    /// are 1 % more of the products' rate), and a box of which rows see a part is copied token by token.
    pub const fn most_box_tokens(&self) -> u32 {
        16
    }

    /// Bytes of a ring's slot: a tile of K or of V, `[keys / 8][D / 64][8][64]`, or at D = 512 64 keys of 128 columns of K or 32 of
    /// 256 of V, laid out alike.
    pub const fn slot_bytes(&self) -> u32 {
        match self.unit {
            Unit::Tcgen05 => self.cut(false).bytes(),
            Unit::Wgmma if self.pair() => 64 * KEY_PARTS * COLUMNS_BYTES,
            Unit::Wgmma => self.tile_keys * self.parts() * COLUMNS_BYTES,
        }
    }

    /// Bytes of a block's query rows, behind which the rings begin.
    pub const fn query_bytes(&self) -> u32 {
        self.block_rows() * self.parts() * COLUMNS_BYTES
    }

    /// Bytes of a transposed tile of V, `[keys / 128][D][128]`, swizzled.
    pub const fn transposed_bytes(&self) -> u32 {
        self.tile_keys.div_ceil(COLUMNS_BYTES) * self.head_dim * COLUMNS_BYTES
    }

    /// Where transposed tiles begin.
    pub const fn transposed_offset(&self) -> u32 {
        self.query_bytes() + self.rings() * self.stages * self.slot_bytes()
    }

    /// Where P begins that a block is given by the other: of each warpgroup, of each of 4 steps, 16 bytes a thread. Of Blackwell, what
    /// [`TensorPlaces`] says.
    pub const fn exchange_offset(&self) -> u32 {
        self.transposed_offset() + self.transposed * self.transposed_bytes()
    }

    /// Where the maxima and sums begin that it is told, `[2][warpgroup][32][2]` f32: of the rows `r` and `r + 8` that a thread has.
    pub const fn stats_offset(&self) -> u32 {
        self.exchange_offset() + if self.exchanges() { self.consumers * PEER_BYTES } else { 0 }
    }

    /// Where the items begin.
    pub const fn items_offset(&self) -> u32 {
        match self.unit {
            Unit::Tcgen05 => self.stats_offset() + self.tensor_places().bytes,
            Unit::Wgmma if self.pair() => self.stats_offset() + 2 * self.consumers * STAT_BYTES,
            Unit::Wgmma => self.stats_offset(),
        }
    }

    /// Where the mbarriers begin.
    pub const fn barriers_offset(&self) -> u32 {
        // Between them, how many items there are, and a scale.
        self.items_offset() + ITEM_SLOTS * ITEM_BYTES + 16
    }

    /// Dynamic shared memory of a block.
    pub const fn shared_bytes(&self) -> u32 {
        self.barriers_offset() + 8 * self.barriers()
    }

    /// Mbarriers: the rings', full and empty of Q and of each item; of what each warpgroup is told and given.
    pub const fn barriers(&self) -> u32 {
        let more = match self.unit {
            Unit::Tcgen05 => self.tensor_places().barriers,
            Unit::Wgmma if self.pair() => 3 * self.consumers,
            Unit::Wgmma => 0,
        };
        self.own_barriers() + more
    }

    /// Of these, those that every kernel has.
    pub const fn own_barriers(&self) -> u32 {
        self.ring_barriers() + 2 + 2 * ITEM_SLOTS
    }

    /// The rings' mbarriers: full and empty, of each stage of K and of V, and of V transposed.
    pub const fn ring_barriers(&self) -> u32 {
        2 * self.rings() * self.stages + 2 * self.transposed
    }
}

const _: () = {
    let shapes = [
        prefill_shape(64),
        prefill_shape(128),
        long_prefill_shape(128),
        prefill_shape(256),
        prefill_shape(512),
        narrow_prefill_shape(64),
        narrow_prefill_shape(128),
        narrow_prefill_shape(256),
        tcgen05_shape(64),
        tcgen05_shape(128),
        tcgen05_shape(256),
        tcgen05_shape(512),
        narrow_tcgen05_shape(64),
        narrow_tcgen05_shape(128),
        narrow_tcgen05_shape(256),
        narrow_tcgen05_shape(512),
    ];
    let mut i = 0;
    while i < shapes.len() {
        let shape = shapes[i];
        assert!(shape.shared_bytes() <= 227 * 1024);
        // What the warpgroups have in the end is what the launch gave the block: of 64 Ki registers multiples of 8 a thread.
        let given = 64 * 1024 / shape.threads() / 8 * 8 * shape.threads();
        let [most, copies, corrects] = shape.registers;
        assert!(WARPGROUP * (most * shape.consumers + copies + corrects) <= given);
        // A tile begins with a pattern of its swizzle.
        assert!(shape.slot_bytes().is_multiple_of(1024) && shape.transposed_bytes().is_multiple_of(1024));
        assert!(shape.tile_keys.is_multiple_of(shape.most_box_tokens()));
        // Of 8 bits they are read again where logits are large (`sharp`).
        assert!(!shape.queries_held || shape.element_bytes == 2);
        i += 1;
    }
};
