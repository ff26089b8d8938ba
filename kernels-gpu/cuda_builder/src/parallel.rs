//! Work on a list with all cores: architectures are compiled, and entries assembled, independently of each other.
use std::{collections::BTreeMap, sync::Mutex, thread};

/// `work` on every item, as many at a time as there are cores.
///
/// # Errors
/// The first in the items' order.
pub fn in_parallel<T: Sync, R: Send, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = Mutex::new(items.iter().enumerate());
    let results: Mutex<BTreeMap<usize, Result<R, E>>> = Mutex::new(BTreeMap::new());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores.min(items.len()) {
            scope.spawn(|| {
                // A worker's panic poisons these locks; the scope then carries the panic on, so what they hold is not used.
                let take = || next.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
                while let Some((index, item)) = take() {
                    let result = work(item);
                    results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(index, result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::in_parallel;
    use crate::Error;

    #[test]
    fn results_are_in_order_and_the_first_error_wins() {
        let items: Vec<u32> = (0..100).collect();
        assert_eq!(
            in_parallel(&items, |&i| Ok::<_, Error>(2 * i)).unwrap(),
            (0..100).map(|i| 2 * i).collect::<Vec<_>>()
        );
        let odd = |&i: &u32| if i % 2 == 1 { Err(Error::UnknownArch { name: i.to_string() }) } else { Ok(i) };
        assert!(matches!(in_parallel(&items, odd), Err(Error::UnknownArch { name }) if name == "1"));
        assert!(in_parallel(&[] as &[u32], |&i| Ok::<_, Error>(i)).unwrap().is_empty());
    }
}
