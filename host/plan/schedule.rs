//! Who does what. Of a decode kernel one item a block, the longest first, so that the hardware, which starts the next block
//! wherever one ends, levels the multiprocessors. (Blocks with lists of items, dealt out beforehand, took 9 to 26 % longer on
//! an H100: docs/decode.md.) A prefill kernel's blocks are alone on their multiprocessors and load the next item's keys
//! behind the last one's products, so they have lists ([`super::deal`]). What is left to decide is how often each unit is cut.
use crate::plan::cost::Cost;
use crate::plan::deal;
use crate::plan::problem::{Problem, RowTile};
use crate::select::CLUSTERS;
use kernels_gpu::abi::{MergeItem, WorkItem};
use kernels_gpu::config::MAX_SPLITS;

/// Items, a block each, and the merges that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) items: Vec<WorkItem>,
    pub(crate) merges: Vec<MergeItem>,
    /// Partial results.
    pub(crate) partials: u32,
    /// Blocks of a decode kernel's clusters, each of which has a share in consecutive parts; 1 without clusters.
    pub(crate) cluster: u32,
}

/// How units are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Not at all.
    Whole,
    /// Into equal shares of about this many tiles, none shorter than a block's step (a tile a team).
    About(u32),
    /// Every this many tiles, whatever else is in the batch.
    Every(u32),
    /// As often as a merge allows, down to single tiles.
    Most,
}

impl Cut {
    /// Shares of a unit of `tiles` tiles; at least one.
    pub(crate) fn shares(self, tiles: u32, teams: u32) -> u32 {
        match self {
            Self::Whole => 1,
            // What is below comes to one here too; most units are, and divisions are most of the time that planning takes.
            Self::About(size) if 2 * u64::from(tiles) < 3 * u64::from(size) => 1,
            Self::About(size) => {
                // Twice the quotient, to round it: a unit a little above the size stays in one piece.
                let rounded = (tiles.saturating_mul(2) / size.max(1)).div_ceil(2).max(1);
                rounded.min((tiles / teams).max(1)).min(MAX_SPLITS)
            }
            Self::Every(size) => tiles.div_ceil(size.max(1)).max(1),
            Self::Most => tiles.clamp(1, MAX_SPLITS),
        }
    }

    /// Tiles of the longest of `shares` shares.
    fn longest(self, shares: u32, tiles: u32) -> u32 {
        match self {
            Self::Every(size) => size.min(tiles),
            _ if shares == 1 => tiles,
            _ => tiles.div_ceil(shares),
        }
    }

    /// Where share `index` of `shares` begins.
    pub(crate) fn begin(self, index: u32, shares: u32, tiles: u32) -> u32 {
        match self {
            Self::Every(size) => index.saturating_mul(size).min(tiles),
            _ => (u64::from(tiles) * u64::from(index) / u64::from(shares)) as u32,
        }
    }
}

/// Shares a worker that are weighed against each other and against not cutting at all, the most last. Partial results of
/// prefill kernels are large: six would be 138 MB of them at D = 256.
pub(crate) const fn shares_weighed(problem: &Problem<'_>) -> &'static [u64] {
    if problem.persistent { &[1, 2, 3, 4] } else { &[1, 2, 3, 4, 6] }
}

/// The size of the clusters of captured launches, which serve plans of any lengths: the largest worth its cost of which every unit has
/// one, each block alone on its multiprocessor.
pub(crate) fn cluster_of_any(problem: &Problem<'_>, units: u64) -> u32 {
    let most = match &problem.cost {
        Cost::Decode(cost) => cost.most_cluster(),
        Cost::Prefill(_) => 1,
    };
    let fits = |&cluster: &u32| cluster <= most && (1..=problem.room(cluster).into()).contains(&units.max(1));
    CLUSTERS.into_iter().filter(fits).max().unwrap_or(1)
}

/// The cut and the size of clusters that end first by the cost model, and when that is, in nanoseconds; of equals those with fewer shares and smaller
/// clusters. The size may be given.
pub(crate) fn cheapest(problem: &Problem<'_>, cluster: Option<u32>) -> (Cut, u32, f64) {
    let of_a_head = problem.all().iter().map(|&tiles| u64::from(tiles)).sum::<u64>();
    let total = of_a_head * u64::from(problem.kv_heads);
    let share = |shares: u64| total.div_ceil(shares).clamp(1, u32::MAX.into()) as u32;
    let whole = Sums::new(problem, Cut::Whole);
    let even = u64::from(whole.longest) * problem.all().len() as u64 == of_a_head;
    let estimate = |cut, sums: &Sums, cluster: u32| match &problem.cost {
        Cost::Decode(cost) => cost.estimate(sums, total, even, cluster, problem.room(cluster)),
        Cost::Prefill(cost) => deal::fullest(problem, cut, cost) + cost.merge(sums.partials),
    };
    let mut best: Option<(Cut, u32, f64)> = None;
    let mut weigh = |cut, sums: &Sums, cluster| {
        let time = estimate(cut, sums, cluster);
        if best.is_none_or(|(.., least)| time < least) {
            best = Some((cut, cluster, time));
        }
    };
    let weighed = |size: u32| match (cluster, &problem.cost) {
        (Some(given), _) => size == given,
        (None, Cost::Decode(cost)) => size == 1 || problem.room(size) > 0 && cost.weighs(whole.items, size),
        (None, Cost::Prefill(_)) => size == 1,
    };
    for cluster in [1].into_iter().chain(CLUSTERS).filter(|&size| weighed(size)) {
        weigh(Cut::Whole, &whole, cluster);
        let of_workers = shares_weighed(problem).iter().map(|shares| shares * u64::from(problem.workers));
        let sizes = of_workers.map(|shares| share(shares).saturating_mul(cluster));
        // And as many clusters as have places of their own.
        let of_places = (cluster > 2).then(|| share(problem.room(cluster).into()));
        for size in sizes.chain(of_places) {
            let cut = Cut::About(size);
            // Cuts nothing, as where there are many items a worker: not even the unit with the most tiles.
            if cut.shares(whole.longest, problem.tiling.teams) == 1 {
                continue;
            }
            weigh(cut, &Sums::new(problem, cut), cluster);
        }
    }
    best.unwrap_or((Cut::Whole, 1, f64::INFINITY))
}

/// What a cut makes, KV heads told apart.
pub(crate) struct Sums {
    pub(crate) items: u64,
    pub(crate) partials: u64,
    /// Tiles of the longest item.
    pub(crate) longest: u32,
    /// Most shares of a unit.
    pub(crate) shares: u32,
}

impl Sums {
    pub(crate) fn new(problem: &Problem<'_>, cut: Cut) -> Self {
        let (mut items, mut partials, mut longest, mut most) = (0, 0, 0, 0);
        for &tiles in problem.all() {
            let shares = cut.shares(tiles, problem.tiling.teams);
            items += u64::from(shares);
            partials += if shares > 1 { u64::from(shares) } else { 0 };
            longest = longest.max(cut.longest(shares, tiles));
            most = most.max(shares);
        }
        let heads = u64::from(problem.kv_heads);
        Self { items: heads * items, partials: heads * partials, longest, shares: most }
    }
}

/// How many items a cut makes.
pub(crate) fn items(problem: &Problem<'_>, cut: Cut) -> u64 {
    Sums::new(problem, cut).items
}

/// Sequences in the order of their longest shares, the longest first; last those without query tokens.
pub(crate) fn longest_first(problem: &Problem<'_>, cut: Cut) -> impl Iterator<Item = u32> {
    let longest = |&tiles: &u32| cut.longest(cut.shares(tiles, problem.tiling.teams), tiles);
    // One number for both, as sorting them is a good part of planning: what the longest share lacks of the most that there
    // may be (2^31 keys), and the sequence, which keeps those of one length in order.
    let key = |sequence: u32| {
        let lacks =
            problem.tiles(sequence).iter().map(longest).max().map_or(u32::MAX, |longest| u32::MAX - 1 - longest);
        u64::from(lacks) << 32 | u64::from(sequence)
    };
    let mut keys: Vec<u64> = (0..problem.lengths.len() as u32).map(key).collect();
    keys.sort_unstable();
    keys.into_iter().map(|key| key as u32)
}

/// The items and merges of a cut: the sequences with the longest shares first, and query tiles of one KV head together, as
/// they read the same keys; of a persistent kernel as its blocks take them.
pub(crate) fn schedule(problem: &Problem<'_>, cut: Cut, cluster: u32) -> Schedule {
    let items = items(problem, cut) as usize * cluster as usize;
    let mut schedule = Schedule { items: Vec::with_capacity(items), merges: Vec::new(), partials: 0, cluster };
    let mut units = Vec::new();
    for sequence in longest_first(problem, cut) {
        if let &[tiles] = problem.tiles(sequence)
            && cut.shares(tiles, problem.tiling.teams) == 1
            && cluster == 1
        {
            schedule.push_whole(problem, sequence, tiles);
        } else {
            schedule.push_cut(problem, sequence, cut, &mut units);
        }
    }
    if problem.persistent {
        deal::deal(&mut schedule.items, problem);
    }
    schedule
}

impl Schedule {
    /// Adds the items of a sequence's one query tile, whose keys are not cut: as a loop over KV heads alone, since large batches
    /// are of these.
    fn push_whole(&mut self, problem: &Problem<'_>, sequence: u32, tiles: u32) {
        let [q_start, q_len] = problem.tokens.of(sequence);
        let length_bound = problem.lengths[sequence as usize];
        // As in `push`: rows without keys have one item, all of nothing.
        let (last, of) = (tiles.max(1), tiles.max(1));
        let item = WorkItem { sequence, last, of, length_bound, q_start, q_len, ..WorkItem::NOTHING };
        // Copies first, in 16 bytes at a time, then what differs: put together one by one they take twice as long.
        let begin = self.items.len();
        self.items.resize(begin + problem.kv_heads as usize, item);
        self.items[begin..].iter_mut().zip(0..).for_each(|(item, kv_head)| item.kv_head = kv_head);
    }

    /// Adds the shares of a sequence's keys, each in as many parts as a cluster has blocks, and the merges of those that are several. Of a decode kernel
    /// the KV heads of a share are side by side, as those of a whole sequence are: the keys of a token lie side by side too, and blocks that begin
    /// together read them together. `units` is what it needs room for, to be used again.
    fn push_cut(&mut self, problem: &Problem<'_>, sequence: u32, cut: Cut, units: &mut Vec<Unit>) {
        let [q_start, q_len] = problem.tokens.of(sequence);
        let length_bound = problem.lengths[sequence as usize];
        units.clear();
        for kv_head in 0..problem.kv_heads {
            // Later rows see more keys where attention is causal.
            for tile in problem.row_tiles(sequence).rev() {
                let shares = cut.shares(tile.tiles, problem.tiling.teams);
                let RowTile { first_row, rows, .. } = tile;
                let item = WorkItem { sequence, kv_head, first_row, length_bound, q_start, q_len, ..WorkItem::NOTHING };
                units.push(Unit { item, tiles: tile.tiles, shares, first_partial: self.partials });
                if shares > 1 {
                    let (first_head, first_partial) = (kv_head * problem.group, self.partials);
                    self.merges.push(MergeItem {
                        q_start,
                        first_head,
                        first_row,
                        rows,
                        first_partial,
                        partials: shares,
                    });
                    self.partials += shares;
                }
            }
        }
        if problem.persistent {
            // Pair by pair, as `deal` wants them.
            units.iter().for_each(|unit| (0..unit.shares).for_each(|share| self.push(unit, cut, share)));
            return;
        }
        for share in 0..units.iter().map(|unit| unit.shares).max().unwrap_or(0) {
            units.iter().filter(|unit| share < unit.shares).for_each(|unit| self.push(unit, cut, share));
        }
    }

    /// Adds a share of a unit.
    fn push(&mut self, unit: &Unit, cut: Cut, share: u32) {
        let Unit { item, tiles, shares, first_partial } = *unit;
        let partial = if shares == 1 { WorkItem::WHOLE } else { first_partial + share };
        let [begin, end] = [share, share + 1].map(|share| cut.begin(share, shares, tiles));
        for part in 0..self.cluster {
            // Rows without keys have one item, all of nothing, which writes their zeros.
            let (first, last, of) = match tiles {
                0 => (0, 1, 1),
                tiles => {
                    let at = |part| begin + (u64::from(end - begin) * u64::from(part) / u64::from(self.cluster)) as u32;
                    (at(part), at(part + 1), tiles)
                }
            };
            self.items.push(WorkItem { first, last, of, partial, ..item });
        }
    }
}

/// A query tile of a KV head whose keys are cut.
struct Unit {
    /// Its item, without a share.
    item: WorkItem,
    /// Key tiles.
    tiles: u32,
    shares: u32,
    /// Slot of its first share, where there are several.
    first_partial: u32,
}
