//! The stacks of simulated threads, pooled over the process: a fresh one costs 9 µs, a block has up to 1024.
use corosensei::stack::DefaultStack;
use std::sync::{Mutex, PoisonError};

/// Address space of one stack; pages are committed as they are touched, a few a thread. Room for a panic's backtrace.
const STACK_BYTES: usize = 256 << 10;
/// Stacks kept for later launches: two blocks of 1024 threads.
const KEPT: usize = 2048;

static POOL: Mutex<Vec<DefaultStack>> = Mutex::new(Vec::new());

/// Stacks lent to one worker; they go back to the pool when dropped.
pub(super) struct Stacks(pub Vec<DefaultStack>);

impl Stacks {
    /// `count` stacks, or why the operating system gives no more.
    pub fn take(count: usize) -> std::io::Result<Self> {
        let mut stacks = {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = pool.len().saturating_sub(count);
            Self(pool.split_off(kept))
        };
        while stacks.0.len() < count {
            stacks.0.push(DefaultStack::new(STACK_BYTES)?);
        }
        Ok(stacks)
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT.saturating_sub(pool.len());
        pool.extend(self.0.drain(..).take(room));
    }
}
