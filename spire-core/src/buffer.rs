//! A pool of pixel buffers.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// A `Vec<f32>` that returns its memory to a pool of the current thread when it is dropped. Fresh memory costs a page
/// fault every few kilobytes, which takes longer than most operators on a picture.
#[derive(Default, PartialEq)]
pub struct Buffer(Vec<f32>);

/// Number of buffers that a thread keeps. A degradation uses a few at once.
const MOST_SPARE: usize = 8;

/// Smaller buffers are not kept: the allocator serves them fast enough.
const SMALL: usize = 1 << 12;

thread_local! {
    static SPARE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

impl Buffer {
    /// An empty buffer with room for `capacity` values.
    pub fn with_capacity(capacity: usize) -> Self {
        let spare = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            // The smallest sufficient buffer, but not one more than four times too large: a small picture must not take
            // the buffer of a large one.
            let fitting =
                spare.iter().enumerate().filter(|(_, buffer)| (capacity..=4 * capacity).contains(&buffer.capacity()));
            let place = fitting.min_by_key(|(_, buffer)| buffer.capacity()).map(|(place, _)| place)?;
            Some(spare.swap_remove(place))
        });
        Self(spare.ok().flatten().unwrap_or_else(|| Vec::with_capacity(capacity)))
    }

    /// `length` zeros.
    pub fn zeroed(length: usize) -> Self {
        let mut buffer = Self::with_capacity(length);
        buffer.0.resize(length, 0.0);
        buffer
    }

    /// The values; their memory does not return to the pool.
    pub fn into_vec(mut self) -> Vec<f32> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        if buffer.capacity() < SMALL {
            return;
        }
        buffer.clear();
        // At the end of a thread the pool is gone.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() == MOST_SPARE {
                spare.remove(0);
            }
            spare.push(buffer);
        });
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::with_capacity(self.len());
        copy.extend_from_slice(self);
        copy
    }
}

impl Deref for Buffer {
    type Target = Vec<f32>;

    fn deref(&self) -> &Vec<f32> {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<f32> {
        &mut self.0
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(values: Vec<f32>) -> Self {
        Self(values)
    }
}

impl<'a> IntoIterator for &'a Buffer {
    type Item = &'a f32;
    type IntoIter = std::slice::Iter<'a, f32>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a mut Buffer {
    type Item = &'a mut f32;
    type IntoIter = std::slice::IterMut<'a, f32>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut()
    }
}

impl FromIterator<f32> for Buffer {
    fn from_iter<I: IntoIterator<Item = f32>>(values: I) -> Self {
        let values = values.into_iter();
        let mut buffer = Self::with_capacity(values.size_hint().0);
        buffer.extend(values);
        buffer
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_buffer_is_empty() {
        std::thread::spawn(|| {
            let first = Buffer::from(vec![1.0; 5000]);
            let address = first.as_ptr();
            drop(first);
            let again = Buffer::zeroed(4500);
            assert_eq!((again.as_ptr(), again.len(), again.iter().sum::<f32>()), (address, 4500, 0.0));
            assert_ne!(Buffer::with_capacity(4500).as_ptr(), address);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_keeps_a_bounded_number_of_buffers() {
        std::thread::spawn(|| {
            drop((0..30).map(|i| Buffer::zeroed(5000 + i)).collect::<Vec<_>>());
            assert_eq!(SPARE.with(|spare| spare.borrow().len()), MOST_SPARE);
        })
        .join()
        .unwrap();
    }
}
