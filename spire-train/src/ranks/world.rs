//! What ranks say to each other. All of them call the same, in the same order, and wait for each other.

use std::time::Duration;

/// A rank's own row of that number, when it is there; where it is not, this waits for it, but no longer than it is told.
pub type Rows<'a> = dyn FnMut(usize, Duration) -> Option<Vec<f32>> + 'a;

/// The row `i` of a rank's own, for as long as it takes.
pub fn wait_for(i: usize, own: &mut Rows) -> Vec<f32> {
    loop {
        if let Some(row) = own(i, Duration::from_secs(1)) {
            return row;
        }
    }
}

/// One rank's view of the others.
pub trait World {
    fn rank(&self) -> usize;

    fn size(&self) -> usize;

    /// The name of this machine.
    fn host(&self) -> String;

    /// The sum of what each rank has.
    fn sum(&self, value: f64) -> f64;

    /// The sums of rows with `lengths`, the same on every rank. Each rank's own are asked for in their order, and travel
    /// while the next is waited for.
    fn sums(&self, lengths: &[usize], own: &mut Rows) -> Vec<Vec<f32>>;

    /// What the rank `from` says.
    fn broadcast(&self, from: usize, own: &str) -> String;

    /// What each rank says, by their numbers.
    fn texts(&self, own: &str) -> Vec<String> {
        (0..self.size()).map(|rank| self.broadcast(rank, own)).collect()
    }

    /// Until all have come here.
    fn wait(&self);

    /// Ends all ranks.
    fn abort(&self) -> !;
}
