//! Tensor maps and the copies by them: boxes of a tensor in global memory, in tiles of shared memory.
//!
//! A chip's tensor map is 128 opaque bytes that its driver encodes; here they are a [`TiledMap`]'s fields. A tile's rows are
//! the box's rows, packed, the first dimension innermost. A swizzle exchanges 16-byte chunks by the *address* they go to:
//! bits 4 and up are combined by exclusive or with as many bits from bit 7. What of a box is outside the tensor is zeros.
use super::block::{Block, Checked, SHARED_ORIGIN, shared_stride};
use super::bulk::Piece;
use super::error::Kind;
use super::mbarrier;

/// Marks the words of a map.
const MAGIC: u64 = 0x7469_6C65;
/// What a box's first byte in its rows is a multiple of: the H100 takes no other (measured; an illegal instruction).
const CHUNK_BYTES: i64 = 16;
/// What a tile's address is a multiple of.
const TILE_ALIGN: usize = 128;

/// A tensor in global memory and the box that one copy moves: what a simulated tensor map holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TiledMap {
    /// Of element 0.
    pub address: u64,
    /// Dimensions, 1 to 5.
    pub rank: u32,
    /// 1 or 2.
    pub element_bytes: u32,
    /// Elements of each dimension, the innermost first.
    pub sizes: [u64; 5],
    /// Bytes from one index to the next of each dimension but the innermost, whose elements are side by side.
    pub strides: [u64; 4],
    /// Elements of the box in each dimension.
    pub box_sizes: [u32; 5],
    /// log2 of the chunks of a row that are exchanged: 0, 1, 2 or 3 for none, 32, 64 and 128 bytes.
    pub swizzle: u32,
}

impl TiledMap {
    /// The map as its 128 bytes.
    pub fn to_words(&self) -> [u64; 16] {
        let mut words = [0; 16];
        words[0] = MAGIC << 32 | u64::from(self.rank << 16 | self.element_bytes << 8 | self.swizzle);
        words[1] = self.address;
        words[2..7].copy_from_slice(&self.sizes);
        words[7..11].copy_from_slice(&self.strides);
        words[11..16].copy_from_slice(&self.box_sizes.map(u64::from));
        words
    }

    /// The map that [`Self::to_words`] gave, or `None`.
    pub fn from_words(words: &[u64; 16]) -> Option<Self> {
        let byte = |shift: u32| (words[0] >> shift) as u32 & 0xFF;
        let map = Self {
            address: words[1],
            rank: byte(16),
            element_bytes: byte(8),
            sizes: std::array::from_fn(|i| words[2 + i]),
            strides: std::array::from_fn(|i| words[7 + i]),
            box_sizes: std::array::from_fn(|i| words[11 + i] as u32),
            swizzle: byte(0),
        };
        (words[0] >> 32 == MAGIC && (1..=5).contains(&map.rank)).then_some(map)
    }

    /// Bytes of a row of the box.
    fn row_bytes(&self) -> usize {
        (self.box_sizes[0] * self.element_bytes) as usize
    }

    fn rows(&self) -> usize {
        self.box_sizes[1..self.rank as usize].iter().map(|&size| size as usize).product()
    }

    /// Of row `row` of the box at `coordinates`: the address of its first element inside of the tensor, how many bytes into
    /// the row that is, and how many bytes are inside. `None`: none.
    fn row(&self, coordinates: &[i32], row: usize) -> Option<(u64, usize, usize)> {
        let mut rest = row;
        let mut address = self.address;
        for (dimension, &coordinate) in coordinates.iter().enumerate().skip(1) {
            let size = self.box_sizes[dimension] as usize;
            let index = i64::from(coordinate) + (rest % size) as i64;
            rest /= size;
            if !(0..self.sizes[dimension] as i64).contains(&index) {
                return None;
            }
            address = address.wrapping_add(self.strides[dimension - 1].wrapping_mul(index as u64));
        }
        let start = i64::from(coordinates[0]);
        let (first, end) = (start.max(0), (start + i64::from(self.box_sizes[0])).min(self.sizes[0] as i64));
        let bytes = |elements: i64| elements as usize * self.element_bytes as usize;
        (first < end).then(|| (address + bytes(first) as u64, bytes(first - start), bytes(end - first)))
    }

    /// What a copy of the box at `coordinates` moves to the tile at offset `to`, whose address is `address`.
    fn pieces(&self, coordinates: &[i32], to: usize, address: usize) -> Vec<Piece> {
        let width = self.row_bytes();
        // Swizzled, 16 bytes stay together.
        let together = if self.swizzle == 0 { width } else { 16 };
        let mut pieces = Vec::with_capacity(self.rows() * (width / together + 2));
        for row in 0..self.rows() {
            let (from, before, inside) = self.row(coordinates, row).unwrap_or((0, width, 0));
            for start in (0..width).step_by(together) {
                let end = start + together;
                let place = row * width + start;
                let exchanged = (address + place) >> 7 & ((1 << self.swizzle) - 1);
                let chunk = (to + place) ^ exchanged << 4;
                let (first, last) = (start.max(before).min(end), end.min(before + inside).max(start));
                let mut push = |from: Option<u64>, at: usize, until: usize| {
                    if at < until {
                        pieces.push(Piece { from, to: chunk + at - start, len: until - at });
                    }
                };
                if first >= last {
                    push(None, start, end);
                    continue;
                }
                push(None, start, first);
                push(Some(from + (first - before) as u64), first, last);
                push(None, last, end);
            }
        }
        pieces
    }
}

impl Block<'_> {
    /// The map, checked for a copy of `coordinates` and a tile at `tile` of the cluster's window; and the tile's offset.
    fn tile(&self, map: &[u64; 16], coordinates: &[i32], tile: u32) -> Checked<(TiledMap, usize)> {
        let Some(map) = TiledMap::from_words(map) else {
            return Err(self.error(Kind::BadOperand, "it is given no tensor map".to_owned()));
        };
        if map.rank as usize != coordinates.len() {
            let detail = format!("{} coordinates for a tensor map of {} dimensions", coordinates.len(), map.rank);
            return Err(self.error(Kind::BadOperand, detail));
        }
        let innermost = i64::from(coordinates[0]) * i64::from(map.element_bytes);
        if innermost % CHUNK_BYTES != 0 {
            let detail = format!(
                "the box begins {innermost} bytes into a row; multiples of {CHUNK_BYTES} are allowed, others are an illegal instruction"
            );
            return Err(self.error(Kind::BadOperand, detail));
        }
        let offset = self.cluster_range(tile, TILE_ALIGN, map.rows() * map.row_bytes())?;
        Ok((map, offset))
    }

    /// `cp.async.bulk.tensor.Nd.shared::cluster.global.tile.mbarrier::complete_tx::bytes`, with `.multicast::cluster` to the
    /// blocks of `ranks` where there are any: to the same places in each, completing on the mbarrier at its place in each.
    pub fn tensor_copy(
        &mut self,
        site: u16,
        [tile, barrier]: [u32; 2],
        map: &[u64; 16],
        coordinates: &[i32],
        ranks: Option<u32>,
    ) -> Checked<()> {
        let (map, to) = self.tile(map, coordinates, tile)?;
        let barrier = self.cluster_range(barrier, mbarrier::BYTES, mbarrier::BYTES)?;
        let stride = shared_stride(self.launch.grid).max(1);
        let address = SHARED_ORIGIN as usize + to % stride;
        let cluster = self.cluster;
        let Some(ranks) = ranks else {
            return self.start_bulk(site, barrier, map.pieces(coordinates, to, address));
        };
        if ranks == 0 || ranks >> cluster != 0 {
            let detail = format!("ranks {ranks:#b}; some of the cluster's {cluster} blocks are allowed");
            return Err(self.error(Kind::BadOperand, detail));
        }
        for rank in (0..cluster).filter(|rank| ranks >> rank & 1 != 0) {
            self.check_alive(rank)?;
            let there = |offset: usize| rank as usize * stride + offset % stride;
            self.start_bulk(site, there(barrier), map.pieces(coordinates, there(to), address))?;
        }
        Ok(())
    }

    /// `cp.async.bulk.tensor.Nd.global.shared::cta.tile.bulk_group`.
    pub fn tensor_store(&mut self, site: u16, map: &[u64; 16], coordinates: &[i32], tile: u32) -> Checked<()> {
        self.shared_range(self.current, tile, 1)?;
        let (map, from) = self.tile(map, coordinates, tile)?;
        if coordinates[0] < 0 {
            let detail =
                format!("a store to column {}; what begins before a row is an illegal instruction", coordinates[0]);
            return Err(self.error(Kind::BadOperand, detail));
        }
        let stride = shared_stride(self.launch.grid).max(1);
        let address = SHARED_ORIGIN as usize + from % stride;
        self.start_store(site, map.pieces(coordinates, from, address))
    }

    /// `prefetch.tensormap`: nothing but a check.
    pub fn prefetch_map(&self, map: &[u64; 16]) -> Checked<()> {
        match TiledMap::from_words(map) {
            Some(_) => Ok(()),
            None => Err(self.error(Kind::BadOperand, "it is given no tensor map".to_owned())),
        }
    }
}
