//! The race check against its definition: random programs of loads, stores and barriers, judged by the simulator's
//! clocks and by plain reachability in the graph of what happens before what.
//!
//! A program is one sequence of steps, which every thread filters for its own: so it never deadlocks, and its graph has
//! an edge from each step to a thread's next, barriers having one thread's steps for each participant.
use cuda_std::sim::op::*;
use cuda_std::sim::{Grid, Kind, Memory, Options, launch};

const WARPS: u32 = 4;
const WORDS: u32 = 3;
/// Lanes of each warp that load and store; all lanes meet at barriers.
const ACTIVE_LANES: u32 = 2;

/// Mbarriers, each of one phase.
const MBARRIERS: u32 = 20;

fn mbarrier_at(index: u32) -> u32 {
    dynamic_shared() + 64 + 8 * index
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Load {
        thread: u32,
        word: u32,
    },
    Store {
        thread: u32,
        word: u32,
    },
    /// A store of one byte of the words.
    StoreByte {
        thread: u32,
        byte: u32,
    },
    /// The one arrival at an mbarrier.
    Arrive {
        thread: u32,
        mbarrier: u32,
    },
    /// A wait for it.
    Wait {
        thread: u32,
        mbarrier: u32,
    },
    /// A barrier of the warps of a mask: `bar.warp.sync` for one, `bar.sync` for several.
    Meet {
        warps: u32,
    },
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % u64::from(bound)) as u32
    }

    /// Of loads, stores, arrivals and waits for earlier ones, and few barriers.
    fn program_of_mbarriers(&mut self) -> Vec<Step> {
        let mut arrivals = 0;
        (0..4 + self.below(16))
            .map(|_| {
                let thread = self.below(WARPS) * 32 + self.below(ACTIVE_LANES);
                let word = self.below(WORDS);
                match self.below(8) {
                    0 | 1 => Step::Load { thread, word },
                    2 => Step::Store { thread, word },
                    3 | 4 => {
                        arrivals += 1;
                        Step::Arrive { thread, mbarrier: arrivals - 1 }
                    }
                    5 | 6 if arrivals > 0 => Step::Wait { thread, mbarrier: self.below(arrivals) },
                    _ => Step::Meet { warps: 1 << self.below(WARPS) },
                }
            })
            .collect()
    }

    /// With stores of bytes, if there are `bytes`.
    fn program(&mut self, bytes: bool) -> Vec<Step> {
        (0..2 + self.below(14))
            .map(|_| {
                let thread = self.below(WARPS) * 32 + self.below(ACTIVE_LANES);
                let word = self.below(WORDS);
                match self.below(5) {
                    0 | 1 => Step::Load { thread, word },
                    2 if bytes => Step::StoreByte { thread, byte: self.below(4 * WORDS) },
                    2 => Step::Store { thread, word },
                    _ => Step::Meet { warps: 1 + self.below((1 << WARPS) - 1) },
                }
            })
            .collect()
    }
}

fn takes_part(step: Step, thread: u32) -> bool {
    match step {
        Step::Load { thread: own, .. }
        | Step::Store { thread: own, .. }
        | Step::StoreByte { thread: own, .. }
        | Step::Arrive { thread: own, .. }
        | Step::Wait { thread: own, .. } => own == thread,
        Step::Meet { warps } => warps >> (thread / 32) & 1 != 0,
    }
}

/// Whether two accesses of different threads to one byte, one of them a store, have no path from one to the other.
fn has_race(program: &[Step]) -> bool {
    let threads = || (0..WARPS * ACTIVE_LANES).map(|i| i / ACTIVE_LANES * 32 + i % ACTIVE_LANES);
    let shares_a_thread = |a, b| threads().any(|thread| takes_part(a, thread) && takes_part(b, thread));
    let observes = |a, b| match (a, b) {
        (Step::Arrive { mbarrier, .. }, Step::Wait { mbarrier: observed, .. }) => mbarrier == observed,
        _ => false,
    };
    let mut before = vec![vec![false; program.len()]; program.len()];
    for later in 0..program.len() {
        for earlier in (0..later).rev() {
            before[earlier][later] = shares_a_thread(program[earlier], program[later])
                || observes(program[earlier], program[later])
                || (earlier + 1..later).any(|between| before[earlier][between] && before[between][later]);
        }
    }
    let access = |step| match step {
        Step::Load { word, .. } => Some((4 * word..4 * word + 4, false)),
        Step::Store { word, .. } => Some((4 * word..4 * word + 4, true)),
        Step::StoreByte { byte, .. } => Some((byte..byte + 1, true)),
        Step::Meet { .. } | Step::Arrive { .. } | Step::Wait { .. } => None,
    };
    (0..program.len()).any(|later| {
        (0..later).any(|earlier| match (access(program[earlier]), access(program[later])) {
            (Some((a, stores)), Some((b, stores_too))) => {
                let meet = a.start < b.end && b.start < a.end;
                meet && (stores || stores_too) && !before[earlier][later]
            }
            _ => false,
        })
    })
}

/// Runs `program` on shared memory or, where `global` is an address, there; in either case on words written before.
fn run(program: &[Step], seed: u64, global: Option<(&Memory, u64)>) -> Option<Kind> {
    let own = Memory::new();
    let memory = global.map_or(&own, |(memory, _)| memory);
    let body = || {
        let me = thread_idx_x();
        if me == 0 {
            (0..WORDS).for_each(|word| st_shared_b32(dynamic_shared() + word * 4, [0]));
            (0..MBARRIERS).for_each(|index| mbarrier_init(mbarrier_at(index), 1));
        }
        sync_threads();
        for &step in program.iter().filter(|&&step| takes_part(step, me)) {
            match (step, global) {
                (Step::Load { word, .. }, None) => {
                    ld_shared_b32(dynamic_shared() + word * 4);
                }
                (Step::Load { word, .. }, Some((_, at))) => {
                    ld_global_b32(at + u64::from(word) * 4);
                }
                (Step::Store { word, .. }, None) => st_shared_b32(dynamic_shared() + word * 4, [me]),
                (Step::Store { word, .. }, Some((_, at))) => st_global_b32(at + u64::from(word) * 4, [me]),
                (Step::StoreByte { byte, .. }, global) => {
                    st_global_b8(global.expect("no such store in shared memory").1 + u64::from(byte), me);
                }
                (Step::Meet { warps }, _) if warps.is_power_of_two() => bar_warp_sync(u32::MAX),
                (Step::Arrive { mbarrier, .. }, _) => mbarrier_arrive(mbarrier_at(mbarrier)),
                (Step::Wait { mbarrier, .. }, _) => while !mbarrier_try_wait_parity(mbarrier_at(mbarrier), 0) {},
                // One barrier for each set of warps, of the 15 that there are besides 0.
                (Step::Meet { warps }, _) => bar_sync(warps, warps.count_ones() * 32),
            }
        }
    };
    let grid = Grid {
        name: "program",
        blocks: 1,
        threads: WARPS * 32,
        shared_bytes: 64 + 8 * MBARRIERS,
        early: false,
        cluster: 1,
    };
    launch(memory, &grid, &Options { seed, ..Options::default() }, &body).err().map(|error| error.kind)
}

#[test]
fn clocks_find_a_race_exactly_where_there_is_one() {
    let mut races = 0;
    let memory = Memory::new();
    let words = memory.alloc(WORDS as usize * 4);
    memory.write(words, &[0; WORDS as usize * 4]).unwrap();
    let programs = 3000;
    for seed in 0..programs {
        let program = Random(seed).program(false);
        let race = has_race(&program);
        let expected = race.then_some(Kind::Race);
        assert_eq!(run(&program, seed, None), expected, "shared memory, seed {seed}: {program:?}");
        assert_eq!(run(&program, !seed, Some((&memory, words))), expected, "global memory, seed {seed}: {program:?}");
        races += u64::from(race);
    }
    assert!((programs / 5..programs * 4 / 5).contains(&races), "{races} of {programs} programs race");
}

/// A byte's history is its own, also where its word had one before.
#[test]
fn clocks_find_a_race_of_bytes_exactly_where_there_is_one() {
    let mut races = 0;
    let memory = Memory::new();
    let words = memory.alloc(WORDS as usize * 4);
    memory.write(words, &[0; WORDS as usize * 4]).unwrap();
    let programs = 3000;
    for seed in 0..programs {
        let program = Random(seed).program(true);
        let race = has_race(&program);
        let found = run(&program, seed, Some((&memory, words)));
        assert_eq!(found, race.then_some(Kind::Race), "seed {seed}: {program:?}");
        races += u64::from(race);
    }
    assert!((programs / 8..programs * 4 / 5).contains(&races), "{races} of {programs} programs race");
}

/// An arrival that was waited for orders as a barrier does, through any number of threads; one that was not, nothing.
#[test]
fn clocks_find_a_race_around_mbarriers_exactly_where_there_is_one() {
    let mut races = 0;
    let programs = 3000;
    for seed in 0..programs {
        let program = Random(seed).program_of_mbarriers();
        let race = has_race(&program);
        assert_eq!(run(&program, seed, None), race.then_some(Kind::Race), "seed {seed}: {program:?}");
        races += u64::from(race);
    }
    assert!((programs / 8..programs * 7 / 8).contains(&races), "{races} of {programs} programs race");
}
