//! Products of `tcgen05` on the simulator, of random operands in every layout that kernels use, against sums of their definition:
//! descriptors, places in tensor memory and both blocks of a pair at once.
use cuda_std::sim::{Delivery, Grid, Memory, Options, launch};
use cuda_std::thread;
use kernels_gpu::layout::descriptor::{KMajor, Major, MnMajor};
use kernels_gpu::layout::swizzle::chunk_offset;
use kernels_gpu::layout::tcgen05::{Format8, Format16, InstructionDescriptor, SmemDescriptor};
use kernels_gpu::memory::{Global, Mbarrier, Shared, TensorMemory};
use kernels_gpu::ptx::cluster::{cluster_arrive, cluster_ctarank, cluster_wait};
use kernels_gpu::ptx::mbarrier::{fence_mbarrier_init, mbarrier_init, mbarrier_wait_parity};
use kernels_gpu::ptx::memory::{dynamic_shared, ld_global_b32, ld_shared_b32, st_global_b32, st_shared_b32};
use kernels_gpu::ptx::sync::fence_proxy_async_shared;
use kernels_gpu::ptx::tcgen05::*;

/// How an operand lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tile {
    /// `[parts][rows][128 bytes]`, K along a row.
    Rows,
    /// `[rows / 8][parts][8][128 bytes]`, K along a row.
    GroupedRows,
    /// `[parts][K][128 bytes]`, M or N along a row.
    Columns,
    /// `[K / 8][parts][8][128 bytes]`, M or N along a row.
    GroupedColumns,
    /// Tensor memory, 32 bits a column.
    Lanes,
    /// As `Rows`, and copied there.
    CopiedRows,
}

/// Elements of A and B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Bf16,
    F16,
    E4m3,
    E5m2,
}

impl Format {
    const fn bytes(self) -> u32 {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::E4m3 | Self::E5m2 => 1,
        }
    }

    /// The code of an integer from -4 to 4, of which all four formats have each exactly.
    fn code(self, value: i32) -> u16 {
        let f16 = half::f16::from_f32(value as f32).to_bits();
        match self {
            Self::Bf16 => half::bf16::from_f32(value as f32).to_bits(),
            Self::F16 => f16,
            Self::E5m2 => f16 >> 8,
            Self::E4m3 => {
                let magnitude = [0, 0x38, 0x40, 0x44, 0x48][value.unsigned_abs() as usize];
                if value < 0 { magnitude | 0x80 } else { magnitude }
            }
        }
    }
}

/// Bytes of K that the test multiplies: 8 steps, two parts of a row.
const K_BYTES: u32 = 256;
const STEPS: u32 = K_BYTES / 32;
/// Where B, the allocation's address and the mbarrier are in shared memory, which begins with A.
const B: u32 = 32 << 10;
const ADDRESS: u32 = B + (64 << 10);
const BARRIER: u32 = ADDRESS + 8;
/// Columns of tensor memory; where A is in them.
const COLUMNS: u32 = 512;
const A_COLUMN: u32 = 256;

#[derive(Clone, Copy, Debug)]
struct Case {
    group: u32,
    m: u32,
    n: u32,
    format: Format,
    a: Tile,
    b: Tile,
}

/// -4 to 4.
fn element(operand: u32, row: u32, k: u32) -> i32 {
    let hash = (operand.wrapping_mul(0x9E37_79B9) ^ row.wrapping_mul(0x85EB_CA6B) ^ k.wrapping_mul(0xC2B2_AE35))
        .wrapping_mul(0x27D4_EB2F);
    (hash >> 13) as i32 % 9 - 4
}

/// Byte offset of element (row, k) of an operand of `rows` rows.
fn place(tile: Tile, format: Format, rows: u32, row: u32, k: u32) -> u32 {
    let bytes = format.bytes();
    let at = |line: u32, lines: u32, across: u32, length: u32, grouped: bool| {
        let (part, chunk, rest) = (across / 128, across % 128 / 16, across % 16);
        let pattern = if grouped { line / 8 * length.div_ceil(128) + part } else { part * lines / 8 + line / 8 };
        pattern * 1024 + chunk_offset(line % 8, chunk, 128) + rest
    };
    match tile {
        Tile::Rows | Tile::CopiedRows => at(row, rows, k * bytes, K_BYTES, false),
        Tile::GroupedRows => at(row, rows, k * bytes, K_BYTES, true),
        Tile::Columns => at(k, K_BYTES / bytes, row * bytes, rows * bytes, false),
        Tile::GroupedColumns => at(k, K_BYTES / bytes, row * bytes, rows * bytes, true),
        Tile::Lanes => row * K_BYTES + k * bytes,
    }
}

/// The bytes of a block's operand, whose rows begin at `first`.
fn image(tile: Tile, format: Format, operand: u32, rows: u32, first: u32) -> Vec<u8> {
    let mut bytes = vec![0; if operand == 0 { B } else { ADDRESS - B } as usize];
    for (row, k) in (0..rows).flat_map(|row| (0..K_BYTES / format.bytes()).map(move |k| (row, k))) {
        let at = place(tile, format, rows, row, k) as usize;
        let code = format.code(element(operand, first + row, k)).to_le_bytes();
        bytes[at..at + format.bytes() as usize].copy_from_slice(&code[..format.bytes() as usize]);
    }
    bytes
}

/// The K-major operand of `rows` rows at `start`, at a step.
fn rows_at(tile: Tile, start: Shared<u8>, rows: u32, step: u32) -> SmemDescriptor<KMajor> {
    match tile {
        Tile::Rows => SmemDescriptor::of_rows(start).step(step, rows),
        _ => SmemDescriptor::of_grouped_rows(start, K_BYTES / 128).step(step, 8),
    }
}

/// The MN-major one.
fn columns_at(tile: Tile, start: Shared<u8>, format: Format, rows: u32, step: u32) -> SmemDescriptor<MnMajor> {
    let (parts, k) = ((rows * format.bytes()).div_ceil(128), K_BYTES / format.bytes());
    match (tile, format.bytes()) {
        (Tile::Columns, bytes) => SmemDescriptor::of_columns(start, k).rows_on(32 / bytes * step, 1),
        (_, 2) => SmemDescriptor::of_grouped_columns(start, parts).grouped_step(step, parts),
        _ => SmemDescriptor::of_grouped_columns(start, parts).grouped_step_of_8_bits(step, parts),
    }
}

fn is_k_major(tile: Tile) -> bool {
    matches!(tile, Tile::Rows | Tile::GroupedRows)
}

impl Case {
    fn shape<const GROUP: u32, MA: Major, MB: Major>(&self) -> InstructionDescriptor {
        let of_16 = |kind| InstructionDescriptor::f16::<GROUP, MA, MB>(self.m, self.n, kind, kind);
        let of_8 = |kind| InstructionDescriptor::f8f6f4::<GROUP, MA, MB>(self.m, self.n, kind, kind);
        match self.format {
            Format::Bf16 => of_16(Format16::Bf16),
            Format::F16 => of_16(Format16::F16),
            Format::E4m3 => of_8(Format8::E4m3),
            Format::E5m2 => of_8(Format8::E5m2),
        }
    }

    fn ss<const GROUP: u32, MA: Major, MB: Major>(
        &self,
        d: TensorMemory,
        a: SmemDescriptor<MA>,
        b: SmemDescriptor<MB>,
        add: bool,
    ) {
        let shape = self.shape::<GROUP, MA, MB>();
        // SAFETY: the simulator checks it.
        unsafe {
            match self.format.bytes() {
                2 => tcgen05_mma_f16_ss::<GROUP, MA, MB>(d, a, b, shape, add),
                _ => tcgen05_mma_f8f6f4_ss::<GROUP, MA, MB>(d, a, b, shape, add),
            }
        }
    }

    fn ts<const GROUP: u32, MB: Major>(&self, d: TensorMemory, a: TensorMemory, b: SmemDescriptor<MB>, add: bool) {
        let shape = self.shape::<GROUP, KMajor, MB>();
        // SAFETY: the simulator checks it.
        unsafe {
            match self.format.bytes() {
                2 => tcgen05_mma_f16_ts::<GROUP, MB>(d, a, b, shape, add),
                _ => tcgen05_mma_f8f6f4_ts::<GROUP, MB>(d, a, b, shape, add),
            }
        }
    }

    /// Issues a step.
    fn issue<const GROUP: u32>(&self, d: TensorMemory, step: u32) {
        let (a_start, b_start) = (dynamic_shared(), dynamic_shared().byte_offset(B));
        let (a_rows, b_rows, add) = (self.m / GROUP, self.n / GROUP, step > 0);
        let rows_a = || rows_at(self.a, a_start, a_rows, step);
        let rows_b = || rows_at(self.b, b_start, b_rows, step);
        let columns_a = || columns_at(self.a, a_start, self.format, a_rows, step);
        let columns_b = || columns_at(self.b, b_start, self.format, b_rows, step);
        let lanes = d.at_column(A_COLUMN + 8 * step);
        if self.a == Tile::CopiedRows {
            // SAFETY: the simulator checks it.
            unsafe { tcgen05_cp_128x256b::<GROUP>(lanes, rows_at(Tile::Rows, a_start, a_rows, step)) };
        }
        match (self.a, is_k_major(self.a), is_k_major(self.b)) {
            (Tile::CopiedRows, _, _) => self.ts::<GROUP, _>(d, lanes, columns_b(), add),
            (Tile::Lanes, _, true) => self.ts::<GROUP, _>(d, lanes, rows_b(), add),
            (Tile::Lanes, _, false) => self.ts::<GROUP, _>(d, lanes, columns_b(), add),
            (_, true, true) => self.ss::<GROUP, _, _>(d, rows_a(), rows_b(), add),
            (_, true, false) => self.ss::<GROUP, _, _>(d, rows_a(), columns_b(), add),
            (_, false, true) => self.ss::<GROUP, _, _>(d, columns_a(), rows_b(), add),
            (_, false, false) => self.ss::<GROUP, _, _>(d, columns_a(), columns_b(), add),
        }
    }

    /// Columns of D in tensor memory.
    fn width(&self) -> u32 {
        if self.group == 2 && self.m == 128 { self.n / 2 } else { self.n }
    }

    /// The row of D, in its block, that is in a lane; where M = 64 has one.
    fn row(&self, lane: u32) -> Option<u32> {
        match (self.group, self.m) {
            (1, 64) => (lane % 32 < 16).then_some(lane / 32 * 16 + lane % 16),
            (2, 128) => Some(lane % 64),
            _ => Some(lane),
        }
    }

    /// What each of 128 threads of each block does.
    ///
    /// # Safety
    /// The simulator checks it.
    unsafe fn body<const GROUP: u32>(&self, input: Global<u32>, output: Global<u32>) {
        let (thread, rank) = (thread::thread_idx_x(), if GROUP == 2 { cluster_ctarank() } else { 0 });
        let (address, barrier) =
            (dynamic_shared().byte_offset(ADDRESS).cast(), dynamic_shared().byte_offset(BARRIER).cast::<Mbarrier>());
        let shared = dynamic_shared().cast::<u32>();
        let meet = || {
            tcgen05_fence_before_thread_sync();
            if GROUP == 2 {
                cluster_arrive();
                cluster_wait();
            } else {
                thread::sync_threads();
            }
            tcgen05_fence_after_thread_sync();
        };
        // SAFETY: the simulator checks it.
        unsafe {
            for word in (thread..ADDRESS / 4).step_by(128) {
                st_shared_b32(shared.at(word), ld_global_b32(input.at(rank * ADDRESS / 4 + word)));
            }
            fence_proxy_async_shared();
            if thread == 0 {
                mbarrier_init(barrier, 1);
                fence_mbarrier_init();
            }
            if GROUP == 2 {
                meet();
            }
            if thread / 32 == 0 {
                tcgen05_alloc::<GROUP>(address, COLUMNS);
                tcgen05_relinquish_alloc_permit::<GROUP>();
            }
            meet();
            let d = TensorMemory::from_bits(ld_shared_b32(address)[0]);
            let own = d.at_lane(thread / 32 * 32);
            if self.a == Tile::Lanes {
                for step in 0..STEPS {
                    let row = self.row(thread).unwrap_or(0) * K_BYTES / 4;
                    let words = core::array::from_fn(|i| ld_shared_b32(shared.at(row + 8 * step + i as u32))[0]);
                    tcgen05_st_32x32b::<8>(own.at_column(A_COLUMN + 8 * step), words);
                }
                tcgen05_wait_st();
                meet();
            }
            if rank == 0 && thread == 0 {
                (0..STEPS).for_each(|step| self.issue::<GROUP>(d, step));
                if GROUP == 2 {
                    tcgen05_commit_multicast::<GROUP>(barrier, 0b11);
                } else {
                    tcgen05_commit::<GROUP>(barrier);
                }
            }
            mbarrier_wait_parity(barrier, 0);
            tcgen05_fence_after_thread_sync();
            for column in (0..self.width()).step_by(8) {
                let words = tcgen05_wait_ld(tcgen05_ld_32x32b::<8>(own.at_column(column)));
                for (i, word) in (0..).zip(words) {
                    st_global_b32(output.at((rank * 128 + thread) * self.width() + column + i), [word]);
                }
            }
            meet();
            if thread / 32 == 0 {
                tcgen05_dealloc::<GROUP>(d, COLUMNS);
            }
        }
    }

    fn check(&self) {
        for (delivery, seed) in [(Delivery::Earliest, 0), (Delivery::Latest, 1)] {
            let memory = Memory::new();
            let images: Vec<u8> = (0..self.group)
                .flat_map(|rank| {
                    [(self.a, 0, self.m), (self.b, 1, self.n)].map(|(tile, operand, all)| {
                        let rows = all / self.group;
                        image(tile, self.format, operand, rows, rank * rows)
                    })
                })
                .flatten()
                .collect();
            let input = memory.alloc(images.len());
            memory.write(input, &images).unwrap();
            let (lanes, width) = (128 * self.group, self.width());
            let output = memory.alloc((lanes * width * 4) as usize);
            let grid = Grid {
                name: "product",
                blocks: self.group,
                threads: 128,
                shared_bytes: BARRIER + 8,
                early: false,
                cluster: self.group,
            };
            let body = || {
                let (input, output) = (Global::new(input), Global::new(output));
                // SAFETY: the simulator checks it.
                unsafe { if self.group == 2 { self.body::<2>(input, output) } else { self.body::<1>(input, output) } }
            };
            launch(&memory, &grid, &Options { delivery, seed, ..Options::default() }, &body)
                .unwrap_or_else(|error| panic!("{self:?}: {error}"));
            let mut bytes = vec![0; (lanes * width * 4) as usize];
            memory.read(output, &mut bytes).unwrap();
            let found = |lane: u32, column: u32| {
                let at = ((lane * width + column) * 4) as usize;
                f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
            };
            for (lane, column) in (0..lanes).flat_map(|lane| (0..width).map(move |column| (lane, column))) {
                let Some(row) = self.row(lane % 128) else {
                    assert!(found(lane, column).is_nan());
                    continue;
                };
                let row = lane / 128 * (self.m / self.group) + row;
                // M = 128 of two blocks: the upper lanes have the upper half of the columns.
                let of_d = if width < self.n { lane % 128 / 64 * width + column } else { column };
                let sum: i32 =
                    (0..K_BYTES / self.format.bytes()).map(|k| element(0, row, k) * element(1, of_d, k)).sum();
                assert_eq!(found(lane, column), sum as f32, "{self:?}: lane {lane}, column {column}");
            }
        }
    }
}

/// All ways for operands to lie, of M × N.
fn sweep(group: u32, m: u32, n: u32, formats: &[Format], ways: &[(Tile, Tile)]) {
    for &format in formats {
        for &(a, b) in ways {
            Case { group, m, n, format, a, b }.check();
        }
    }
}

const WAYS: [(Tile, Tile); 6] = [
    (Tile::Rows, Tile::Rows),
    (Tile::Rows, Tile::GroupedColumns),
    (Tile::GroupedRows, Tile::Columns),
    (Tile::Columns, Tile::GroupedRows),
    (Tile::GroupedColumns, Tile::Columns),
    (Tile::Lanes, Tile::GroupedColumns),
];

#[test]
fn one_block_multiplies_128_rows() {
    sweep(1, 128, 128, &[Format::Bf16, Format::E4m3], &WAYS);
    sweep(1, 128, 48, &[Format::F16, Format::E5m2], &[(Tile::Rows, Tile::Rows), (Tile::Lanes, Tile::Rows)]);
    sweep(1, 128, 256, &[Format::Bf16], &[(Tile::GroupedRows, Tile::GroupedColumns)]);
}

#[test]
fn copies_to_tensor_memory_come_before_later_products() {
    let ways = [(Tile::CopiedRows, Tile::GroupedColumns)];
    sweep(1, 128, 64, &[Format::Bf16, Format::E4m3], &ways);
    sweep(2, 256, 64, &[Format::F16], &ways);
}

#[test]
fn one_block_multiplies_64_rows() {
    sweep(1, 64, 64, &[Format::Bf16, Format::E4m3], &WAYS);
    sweep(1, 64, 8, &[Format::F16, Format::E5m2], &[(Tile::Rows, Tile::GroupedRows)]);
}

#[test]
fn two_blocks_multiply_256_rows() {
    sweep(2, 256, 256, &[Format::Bf16], &[(Tile::GroupedRows, Tile::GroupedColumns)]);
    sweep(2, 256, 128, &[Format::F16, Format::E4m3], &WAYS);
}

#[test]
fn two_blocks_multiply_128_rows() {
    sweep(2, 128, 128, &[Format::Bf16, Format::E5m2], &WAYS);
    sweep(2, 128, 32, &[Format::Bf16], &[(Tile::Rows, Tile::Rows)]);
}
