//! Random draws for degradations. None panics, whatever the settings.

use rand::RngExt;

use crate::rng::Rng;

/// True with `probability`.
pub(super) fn chance(probability: f64, rng: &mut Rng) -> bool {
    rng.random::<f64>() < probability
}

/// Uniform between the two ends.
pub(super) fn uniform([low, high]: [f64; 2], rng: &mut Rng) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// A uniform integer from `low` to `high`, both included.
pub(super) fn whole([low, high]: [u8; 2], rng: &mut Rng) -> u8 {
    rng.random_range(low..=high.max(low))
}

/// A uniform odd number from `low` to `high`; both are odd.
pub(super) fn odd([low, high]: [usize; 2], rng: &mut Rng) -> usize {
    2 * rng.random_range(low / 2..=(high / 2).max(low / 2)) + 1
}

/// One of `choices`, with these probabilities.
pub(super) fn choose<T: Copy, const N: usize>(choices: [T; N], probabilities: [f64; N], rng: &mut Rng) -> T {
    let mut left = rng.random::<f64>() * probabilities.iter().sum::<f64>();
    for (choice, probability) in choices.into_iter().zip(probabilities) {
        left -= probability;
        if left < 0.0 {
            return choice;
        }
    }
    choices[N - 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::rng;

    #[test]
    fn choices_follow_their_probabilities() {
        let mut rng = rng(0, "test", 0);
        let mut counts = [0; 3];
        for _ in 0..10_000 {
            counts[choose([0_usize, 1, 2], [0.2, 0.7, 0.1], &mut rng)] += 1;
        }
        for (count, want) in counts.into_iter().zip([2000, 7000, 1000_i32]) {
            assert!((want - count).abs() < 200, "{counts:?}");
        }
    }

    #[test]
    fn odd_numbers_reach_both_ends() {
        let mut rng = rng(0, "test", 1);
        let mut drawn: Vec<usize> = (0..500).map(|_| odd([7, 21], &mut rng)).collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, [7, 9, 11, 13, 15, 17, 19, 21]);
    }
}
