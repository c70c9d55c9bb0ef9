//! How many pairs a mask keeps, by this room's own count: what the rows of a balanced layout are dealt out by.
//!
//! Within a document the first key of a row and the key behind its last one are made of numbers that stand still or move with
//! the row, by least and greatest: both rise by 0 or by 1 from row to row. Where such a number rises by nothing or by as much
//! as it can over some rows, it is linear there, and its sum is known; else the rows are halved.

use super::kept::{Entry, Kept, TooLong, begun};

impl Kept {
    /// How many pairs of a query row in `first..end` and a key in `0..keys` are kept, as the mean over the batch entries, rounded
    /// up. `Err` if counting takes more than `budget` steps, which are paid from it.
    pub(super) fn area(
        &self,
        first: usize,
        end: usize,
        keys: usize,
        budget: &mut u64,
    ) -> Result<u128, TooLong> {
        let mut sum = 0u128;
        for (entry, &times) in self.entries.iter().zip(&self.times) {
            let one = entry.area(first as i128, end as i128, keys as i128, budget)?;
            sum = one.checked_mul(times).and_then(|n| sum.checked_add(n)).ok_or(TooLong)?;
        }
        Ok(sum.div_ceil(self.times.iter().sum::<u128>().max(1)))
    }
}

impl Entry {
    fn area(&self, first: i128, end: i128, keys: i128, budget: &mut u64) -> Result<u128, TooLong> {
        let (mut at, mut sum) = (first, 0);
        while at < end {
            // Up to the next row at which a document begins.
            let (mut low, mut high, mut stop) = (self.keys.0.max(0), self.keys.1.min(keys - 1), end);
            for (starts, offset) in &self.documents {
                let n = begun(starts, at + offset);
                low = n.checked_sub(1).map_or(low, |i| low.max(starts[i] as i128));
                if let Some(&next) = starts.get(n) {
                    high = high.min(next as i128 - 1);
                    stop = stop.min(next as i128 - offset);
                }
            }
            let begin = |row: i128| {
                let moving = self.band.least.map_or(low, |least| low.max(row + least));
                // A row that begins behind all keys has none, however far behind.
                moving.min(high + 1)
            };
            let behind = |row: i128| {
                let last = self.band.most.map_or(high, |most| high.min(row + most));
                let last = self.prefixes.iter().fold(last, |last, &(length, most)| {
                    // The keys of the prefix, or those up to the row.
                    last.min((length - 1).max(row + most))
                });
                (last + 1).max(begin(row))
            };
            sum += total(behind, at, stop, budget)? - total(begin, at, stop, budget)?;
            at = stop;
        }
        u128::try_from(sum).map_err(|_| TooLong)
    }
}

/// The sum over some rows of a number that rises by 0 or 1 from row to row.
fn total(of: impl Fn(i128) -> i128, from: i128, end: i128, budget: &mut u64) -> Result<i128, TooLong> {
    let mut sum = 0i128;
    let mut open = vec![(from, end)];
    while let Some((from, end)) = open.pop() {
        *budget = budget.checked_sub(1).ok_or(TooLong)?;
        let rows = end - from;
        let (first, last) = (of(from), of(end - 1));
        if last - first == 0 || last - first == rows - 1 {
            let twice = (first + last).checked_mul(rows).ok_or(TooLong)?;
            sum = sum.checked_add(twice / 2).ok_or(TooLong)?;
        } else {
            let middle = from + rows / 2;
            open.extend([(from, middle), (middle, end)]);
        }
    }
    Ok(sum)
}
