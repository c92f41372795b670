//! What ranks say to each other. All of them call the same, in the same order, and wait for each other.

/// One rank's view of the others.
pub trait World {
    fn rank(&self) -> usize;

    fn size(&self) -> usize;

    /// The name of this machine.
    fn host(&self) -> String;

    /// The sum of what each rank has.
    fn sum(&self, value: f64) -> f64;

    /// The sums of rows with `lengths`, the same on every rank; each rank's own rows are `read` in their order.
    fn sums(&self, lengths: &[usize], read: &dyn Fn(usize) -> Vec<f32>) -> Vec<Vec<f32>>;

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
