//! What a launch reads and writes, so that nothing is written that another part of it reads or writes too.

use super::error::CudaError;

/// Ranges of the device's memory.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<Range>);

#[derive(Debug)]
struct Range {
    name: &'static str,
    begin: u64,
    end: u64,
    written: bool,
}

impl Ranges {
    /// Notes a range that is read, and returns where it begins.
    pub(super) fn read(&mut self, name: &'static str, begin: u64, bytes: Option<usize>) -> u64 {
        self.note(name, begin, bytes, false)
    }

    /// Notes a range that is written, or read and written.
    pub(super) fn written(&mut self, name: &'static str, begin: u64, bytes: Option<usize>) -> u64 {
        self.note(name, begin, bytes, true)
    }

    fn note(&mut self, name: &'static str, begin: u64, bytes: Option<usize>, written: bool) -> u64 {
        let end = begin.saturating_add(bytes.unwrap_or(usize::MAX) as u64);
        self.0.push(Range { name, begin, end, written });
        begin
    }

    /// # Errors
    /// A range that is written shares bytes with another.
    pub(super) fn disjoint(&self) -> Result<(), CudaError> {
        for (i, a) in self.0.iter().enumerate() {
            for b in &self.0[..i] {
                if (a.written || b.written) && a.begin < b.end && b.begin < a.end {
                    return Err(CudaError::Launch(format!("{} overlaps {}", a.name, b.name)));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_overlaps_nothing() {
        let case = |ranges: &[(u64, usize, bool)]| {
            let mut all = Ranges::default();
            for &(begin, bytes, written) in ranges {
                all.note("x", begin, Some(bytes), written);
            }
            all.disjoint().is_ok()
        };
        assert!(case(&[(0, 10, true), (10, 10, true), (20, 10, false), (25, 10, false)]));
        assert!(!case(&[(0, 10, true), (9, 10, false)]));
        assert!(!case(&[(5, 1, false), (0, 10, true)]));
        assert!(case(&[(5, 0, false), (0, 5, true)]));
    }
}
