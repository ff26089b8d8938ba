//! Threads as coroutines: one worker runs one block at a time, one thread of it at a time, round robin.
//!
//! A thread runs until it has to wait for others (it suspends itself in [`suspend`]) or returns. Twins reach their block
//! through a pointer of the OS thread that [`Worker::run`] sets. After an error every thread that has begun is resumed
//! once more to unwind, so that what its body owns is dropped; one that has not begun is simply forgotten.
use super::block::{Block, Checked};
use super::error::Kind;
use super::launch::{Launch, random};
use super::panics;
use super::site::Operation;
use super::stacks::Stacks;
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::Cell;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr::null_mut;

thread_local! {
    /// The block that this OS thread runs; null outside of launches.
    static BLOCK: Cell<*mut Block<'static>> = const { Cell::new(null_mut()) };
}

/// Whether the caller is a simulated thread.
pub(super) fn is_inside() -> bool {
    !BLOCK.get().is_null()
}

/// Lets `act` at the block that this OS thread runs.
///
/// # Panics
/// Outside of a launch: instructions have no meaning there.
#[inline(always)]
fn visit<R>(act: impl FnOnce(&mut Block<'_>) -> R) -> R {
    let block = BLOCK.get();
    assert!(!block.is_null(), "an instruction of a kernel was called outside of `cuda_std::sim::launch`");
    // SAFETY: `Worker::run` keeps the block alive while the pointer is set, on this OS thread alone, and reaches it only
    // through here; no `act` suspends, calls a twin or visits, so this is the only reference while it lives.
    act(unsafe { &mut *block })
}

/// Lets the calling simulated thread at its block; an error becomes the block's, and the thread unwinds.
#[inline(always)]
pub(super) fn with_block<R>(act: impl FnOnce(&mut Block<'_>) -> Checked<R>) -> R {
    let outcome = visit(|block| {
        act(block).map_err(|error| {
            block.failure.get_or_insert(error);
        })
    });
    outcome.unwrap_or_else(|()| panics::abandon())
}

/// Suspends the calling simulated thread until another one has made it runnable.
pub(super) fn suspend() {
    let yielder = visit(|block| block.threads[block.current as usize].yielder);
    // SAFETY: the running thread set it when it began (`begin`), and a yielder lives as long as its coroutine.
    unsafe { &*yielder }.suspend(());
    if visit(|block| block.failure.is_some()) {
        panics::abandon();
    }
}

type Simulated<'s> = Coroutine<(), (), (), &'s mut DefaultStack>;

/// One OS thread's means to run blocks.
pub(super) struct Worker<'a> {
    block: Block<'a>,
    stacks: Stacks,
}

impl<'a> Worker<'a> {
    pub fn new(launch: &'a Launch<'a>) -> Checked<Self> {
        let block = Block::new(launch);
        match Stacks::take(block.threads.len()) {
            Ok(stacks) => Ok(Self { block, stacks }),
            Err(error) => {
                let detail =
                    format!("the operating system gives no stacks for {} threads: {error}", block.threads.len());
                Err(block.error(Kind::BoundExceeded, detail))
            }
        }
    }

    /// Calls by operation, over all blocks so far.
    pub fn counts(&self) -> [u64; Operation::ALL.len()] {
        self.block.counts
    }

    /// Runs block (cluster) `index`; returns its operations.
    pub fn run(&mut self, index: u32, body: &(dyn Fn() + Sync)) -> Checked<u64> {
        let mut state = self.block.launch.options.seed ^ u64::from(index);
        let first = random(&mut state) % self.block.threads.len() as u64;
        self.block.begin(index, first as u32);
        panics::install_hook();
        let _entered = Entered::new((&raw mut self.block).cast());
        let mut threads: Vec<Simulated<'_>> = (0..)
            .zip(&mut self.stacks.0)
            // SAFETY: the coroutines end before `body` and the stacks do: they are dropped in this function.
            .map(|(thread, stack)| unsafe {
                Coroutine::with_stack_unchecked(stack, move |yielder, ()| begin(thread, yielder, body))
            })
            .collect();
        while let Some(thread) = visit(|block| block.next()) {
            if let CoroutineResult::Return(()) = panics::quietly(|| threads[thread as usize].resume(())) {
                visit(|block| block.exit());
            }
        }
        visit(|block| block.check_stalled());
        if visit(|block| block.failure.is_some()) {
            for (thread, coroutine) in (0..).zip(&mut threads) {
                if coroutine.started() && !coroutine.done() {
                    visit(|block| block.current = thread);
                    panics::quietly(|| coroutine.resume(()));
                }
            }
        }
        drop(threads);
        visit(|block| block.failure.take().map_or(Ok(block.operations), Err))
    }
}

/// The bottom of a simulated thread's stack.
fn begin(thread: u32, yielder: &Yielder<(), ()>, body: &(dyn Fn() + Sync)) {
    visit(|block| block.threads[thread as usize].yielder = yielder);
    if let Err((message, location)) = panics::catch(|| staggered(thread % 16, body)) {
        visit(|block| {
            let mut error = block.error(Kind::Panic, message);
            error.location = location.or(error.location);
            block.failure.get_or_insert(error);
        });
    }
}

/// Calls `body` `depth` × 0.8 KiB further down the stack. Stacks begin at multiples of their size: without this the same
/// variables of all threads would fall into the same few sets of the cache.
#[inline(never)]
fn staggered(depth: u32, body: &(dyn Fn() + Sync)) {
    let padding = MaybeUninit::<[u8; 832]>::uninit();
    black_box(&padding);
    if depth == 0 {
        body()
    } else {
        staggered(depth - 1, body)
    }
    black_box(&padding);
}

/// Sets the OS thread's block while it lives.
struct Entered(());

impl Entered {
    fn new(block: *mut Block<'static>) -> Self {
        BLOCK.set(block);
        Self(())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        BLOCK.set(null_mut());
    }
}
