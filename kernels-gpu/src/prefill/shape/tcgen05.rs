//! Shapes of the prefill kernels of Blackwell (10.0 and 10.3).
use super::{COLUMNS_BYTES, PrefillShape, Unit, WARPGROUP};

/// Rows of an accumulator of `tcgen05.mma`: one a lane of tensor memory, or at D = 512 64 of each block of a pair.
pub const TENSOR_ROWS: u32 = 128;

/// Columns of tensor memory, all of which a block allocates: it is the only one of its multiprocessor.
pub const TENSOR_COLUMNS: u32 = 512;

/// Keys of a tile, whatever D is: N of S = Q K^T, of which shared memory reads as many bytes as of Q's 128 rows in the 64 clocks that
/// it takes; with 64 keys the reads of Q would take longer than the product.
const TILE_KEYS: u32 = 128;

/// Bytes of a slot where a tile does not fit one.
const SLOT_BYTES: u32 = 16 * 1024;

/// The shape for a head dimension, of 16-bit queries and caches.
pub const fn tcgen05_shape(head_dim: u32) -> PrefillShape {
    let wide = PrefillShape {
        unit: Unit::Tcgen05,
        head_dim,
        consumers: 2,
        tile_keys: TILE_KEYS,
        queries_held: false,
        stages: 2,
        cluster: 1,
        // 512 threads: S is 128 registers of a thread of softmax.
        registers: [192, 56, 72],
        element_bytes: 2,
        transposed: 0,
    };
    let single = PrefillShape { consumers: 1, registers: [232, 112, 152], ..wide };
    match head_dim {
        // 32 KiB of query rows, and tiles of 16.
        64 => PrefillShape { stages: 4, ..wide },
        // 64 KiB, and tiles of 32.
        128 => wide,
        // O has half of tensor memory, S of two tiles the other: one softmax. 64 KiB, and five slots of K and of V, of four a tile.
        256 => PrefillShape { stages: 5, ..single },
        // 64 KiB of a block's 64 rows, 16 of P, and four slots of K and of V.
        _ => PrefillShape { stages: 4, cluster: 2, ..single },
    }
}

/// The shape for a head dimension, of queries and caches of 8 bits.
pub const fn narrow_tcgen05_shape(head_dim: u32) -> PrefillShape {
    let narrow = PrefillShape { element_bytes: 1, ..tcgen05_shape(head_dim) };
    match head_dim {
        // At 64 as at 128, half of it zeros.
        64 | 128 => PrefillShape { stages: 4, ..narrow },
        _ => narrow,
    }
}

/// How tiles of K or of V are cut into slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Slots of a tile.
    pub slots: u32,
    /// Keys of a slot.
    pub keys: u32,
    /// Parts of [`COLUMNS_BYTES`] of a key in a slot.
    pub parts: u32,
    /// From a slot to the next of its tile: keys, and parts.
    pub step: [u32; 2],
    /// From a block of a cluster to the next: keys, and parts.
    pub of_rank: [u32; 2],
}

impl Cut {
    /// Bytes of a slot.
    pub const fn bytes(&self) -> u32 {
        self.keys * self.parts * COLUMNS_BYTES
    }
}

/// What a kernel of Blackwell has in shared memory beside rings and items, from the end of the rings on: P where it is not in tensor
/// memory, and what softmax tells of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorPlaces {
    /// Bytes of P.
    pub weights: u32,
    /// All bytes: behind P, 128 factors of each of two tiles of S, as many maxima and sums of each softmax, of a pair twice as many
    /// maxima of a tile besides, and where tensor memory was allocated.
    pub bytes: u32,
    /// Mbarriers.
    pub barriers: u32,
}

impl PrefillShape {
    /// How tiles of K, or of V, are cut into slots: K by columns, V by keys. Of a pair each block has half of the keys of K, and half of
    /// the columns of V.
    pub const fn cut(&self, value: bool) -> Cut {
        let tile = self.tile_keys * self.parts() * COLUMNS_BYTES / self.cluster;
        let slots = if self.consumers > 1 { 1 } else { tile / SLOT_BYTES };
        if value {
            let (keys, parts) = (self.tile_keys / slots, self.parts() / self.cluster);
            Cut { slots, keys, parts, step: [keys, 0], of_rank: [0, parts] }
        } else {
            let (keys, parts) = (self.tile_keys / self.cluster, self.parts() / slots);
            Cut { slots, keys, parts, step: [0, parts], of_rank: [keys, 0] }
        }
    }

    /// What there is in shared memory besides.
    pub const fn tensor_places(&self) -> TensorPlaces {
        let weights = if self.pair() { TENSOR_ROWS / 2 * self.tile_keys * self.element_bytes } else { 0 };
        // S, P, what is told of O, and O of each buffer; sums of each softmax and their release; of a pair what the other block has of
        // each slot and of the query rows.
        let barriers = 4 * 2 + 2 * self.consumers + if self.pair() { 2 * self.stages + 1 } else { 0 };
        let told = 2 + 2 * self.consumers + if self.pair() { 2 } else { 0 };
        TensorPlaces { weights, bytes: weights + told * WARPGROUP * 4 + 16, barriers }
    }
}

const _: () = {
    let shapes = [
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
        let (k, v) = (shape.cut(false), shape.cut(true));
        assert!(k.bytes() == v.bytes() && k.slots * k.parts == shape.parts() && v.slots * v.keys == shape.tile_keys);
        // Two tiles of S, and O of every softmax, or of half of the rows and all columns.
        let s = 2 * shape.tile_keys / shape.cluster;
        assert!(s + shape.consumers * shape.part_columns() / shape.cluster <= TENSOR_COLUMNS);
        i += 1;
    }
};
