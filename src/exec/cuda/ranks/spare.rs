//! Things that are handed out and come back by themselves: events between ranks.

use std::collections::VecDeque;
use std::sync::Arc;

/// What was handed out before. A thing is handed out again when nobody else holds it any more, whichever thread that was.
#[derive(Debug)]
pub(super) struct Spare<T>(VecDeque<Arc<T>>);

impl<T> Spare<T> {
    /// Nothing was handed out yet.
    pub(super) fn new() -> Spare<T> {
        Spare(VecDeque::new())
    }

    /// One that nobody else holds: the one that was handed out longest ago, else a new one.
    pub(super) fn take<E>(&mut self, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let mut oldest = self.0.pop_front();
        let free = oldest.take_if(|one| Arc::get_mut(one).is_some());
        self.0.extend(oldest);
        let one = free.map_or_else(|| make().map(Arc::new), Ok)?;
        self.0.push_back(one.clone());
        Ok(one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_holds_is_not_handed_out_again() {
        let (mut spare, mut made) = (Spare::new(), 0..);
        let mut take = || spare.take(|| Ok::<i32, ()>(made.next().unwrap_or(0))).unwrap();
        let (held, gone) = (take(), *take());
        assert_eq!((*held, gone), (0, 1));
        // The held one is passed over, at the cost of a new one; the other one comes again, each time.
        assert_eq!(*take(), 2);
        for _ in 0..3 {
            assert_ne!(*take(), *held);
        }
        drop(held);
        let mut again: Vec<i32> = (0..3).map(|_| *take()).collect();
        again.sort_unstable();
        assert_eq!(again.len(), 3);
        assert!(again.contains(&0), "{again:?}");
    }
}
