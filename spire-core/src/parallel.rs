//! Ordered parallel loops.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// The most threads of a loop.
const MOST_THREADS: usize = 1024;

/// Calls `work` for each number below `count` on `threads` threads (at least one, at most 1024) and returns the results in order.
/// Numbers are handed out in ascending order, so that neighbours are processed at the same time. After an error no new
/// work is started.
///
/// # Errors
/// The error of the lowest failed number.
pub fn in_order<T: Send, E: Send>(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let run = || {
        let mut made = vec![];
        while !failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            let result = work(number);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            made.push((number, result));
        }
        made
    };
    let mut made: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.clamp(1, count.clamp(1, MOST_THREADS))).map(|_| scope.spawn(run)).collect();
        let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        joined.flat_map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    made.sort_by_key(|(number, _)| *number);
    made.into_iter().map(|(_, result)| result).collect()
}

/// The parallelism that the system reports; 1 if it reports none.
pub fn available() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_ordered_and_the_first_error_is_returned() {
        for threads in [0, 1, 3, 50] {
            assert_eq!(in_order(20, threads, |number| Ok::<_, ()>(number * 2)), Ok((0..20).map(|n| n * 2).collect()));
            assert_eq!(in_order(20, threads, |number| if number < 7 { Ok(number) } else { Err(number) }), Err(7));
            assert_eq!(in_order(0, threads, Ok::<_, ()>), Ok(vec![]));
        }
    }
}
