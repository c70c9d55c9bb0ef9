//! Dealing blocks of work out to ranks.

/// A deal is good enough where the most loaded rank has this much over the mean, in hundredths.
const GOOD: u128 = 2;
/// At most so many blocks for each rank: more of them are more messages' pieces and more kernels.
const MOST_BLOCKS: usize = 16;

/// Cuts the rows in n blocks and gives each rank as many of them, so that the largest load is as small as a greedy deal
/// finds; the fewest blocks that are good enough. `areas(n)` tells the work of each of n blocks. Returns each rank's blocks,
/// ascending.
///
/// The largest block that is left goes to the rank with the least work that still has room (Graham's longest processing
/// time first, with equal counts). The least possible load is max(Σ/P, the largest block).
pub(super) fn deal(ranks: usize, length: usize, areas: impl Fn(usize) -> Vec<u128>) -> Vec<Vec<usize>> {
    let mut best: Option<(u128, Vec<Vec<usize>>)> = None;
    let mut per_rank = 1;
    while per_rank <= MOST_BLOCKS && (per_rank == 1 || per_rank * ranks <= length) {
        let areas = areas(per_rank * ranks);
        let total: u128 = areas.iter().sum();
        let (most, owned) = greedy(ranks, per_rank, &areas);
        if best.as_ref().is_none_or(|(least, _)| most < *least) {
            best = Some((most, owned));
        }
        if best.as_ref().is_some_and(|(most, _)| most * ranks as u128 * 100 <= total * (100 + GOOD)) {
            break;
        }
        per_rank *= 2;
    }
    best.map_or_else(Vec::new, |(_, owned)| owned)
}

/// The largest load, and each rank's blocks.
fn greedy(ranks: usize, per_rank: usize, areas: &[u128]) -> (u128, Vec<Vec<usize>>) {
    let mut order: Vec<usize> = (0..areas.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(areas[i]));
    if per_rank == 1 {
        // One each: the order of the rows is as good as any.
        return (areas.iter().copied().max().unwrap_or(0), (0..ranks).map(|r| vec![r]).collect());
    }
    let mut room: std::collections::BTreeSet<(u128, usize)> = (0..ranks).map(|r| (0, r)).collect();
    let mut owned = vec![Vec::with_capacity(per_rank); ranks];
    let mut most = 0;
    for block in order {
        let Some((load, r)) = room.pop_first() else { break };
        let load = load + areas[block];
        most = most.max(load);
        owned[r].push(block);
        if owned[r].len() < per_rank {
            room.insert((load, r));
        }
    }
    owned.iter_mut().for_each(|o| o.sort_unstable());
    (most, owned)
}
