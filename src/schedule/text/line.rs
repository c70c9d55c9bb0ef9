//! Where a step stands in a text.

/// Where a step stands in a text that holds schedules: the number of its line, from 1, and the line. `nth` counts the schedules
/// of the text from 0.
pub fn line_of(text: &str, nth: usize, rank: usize, step: usize) -> Option<(usize, &str)> {
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let mut seen = 0;
    lines.find(|(_, line)| {
        seen += usize::from(line.starts_with("schedule "));
        seen > nth
    })?;
    let (rank, step) = (format!("rank {rank} "), format!("#{step} "));
    lines.find(|(_, line)| line.starts_with(&rank))?;
    lines.take_while(|(_, line)| *line != "}").find(|(_, line)| line.starts_with(&step))
}
