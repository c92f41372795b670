//! Independent pieces of work on several threads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// What `work` makes of each number below `count`, in their order. The numbers are handed out in their order to `threads`
/// threads (at least one), so that work on neighbours happens at the same time; after an error no more are.
///
/// # Errors
/// The error of the lowest number that has one.
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
        let threads: Vec<_> = (0..threads.clamp(1, count.max(1))).map(|_| scope.spawn(run)).collect();
        let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        joined.flat_map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    made.sort_by_key(|(number, _)| *number);
    made.into_iter().map(|(_, result)| result).collect()
}

/// As many threads as the system says are worth having.
pub fn available() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_the_first_error_wins() {
        for threads in [0, 1, 3, 50] {
            assert_eq!(in_order(20, threads, |number| Ok::<_, ()>(number * 2)), Ok((0..20).map(|n| n * 2).collect()));
            assert_eq!(in_order(20, threads, |number| if number < 7 { Ok(number) } else { Err(number) }), Err(7));
            assert_eq!(in_order(0, threads, Ok::<_, ()>), Ok(vec![]));
        }
    }
}
