//! Memory for intermediate results, which a thread keeps and uses again: fresh memory costs zeros that nobody reads, and page
//! faults. In a profile of BSRNet they took an eighth of the time.

use std::cell::RefCell;

/// The most numbers that a buffer keeps.
const MOST: usize = 1 << 22;

/// The most buffers that a thread keeps. It needs more than one when it starts other work while it waits.
const BUFFERS: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(vec![]) };
}

/// Calls `work` with `len` numbers of any values.
pub fn with<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        // Zeros from the system: each thread touches first what it writes.
        buffer = vec![0.0; len];
    }
    let result = work(&mut buffer[..len]);
    if buffer.len() <= MOST {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < BUFFERS {
                spare.push(buffer);
            }
        });
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_within_each_other_have_buffers_of_their_own() {
        with(3, |outer| {
            outer.fill(1.0);
            with(5, |inner| inner.fill(2.0));
            assert_eq!(outer, [1.0; 3]);
        });
        with(4, |again| assert_eq!(again.len(), 4));
        with(MOST + 1, |large| large[MOST] = 1.0);
        assert!(SPARE.with_borrow(|spare| spare.iter().all(|buffer| buffer.len() <= MOST)));
    }
}
