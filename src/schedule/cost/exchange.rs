//! How long an exchange outside of islands takes: a gather or a reduce, in which every rank sends what it has to every other.

use crate::device::{Device, DeviceKind, Link};

/// The time in µs in which each rank sends `parts[rank]` bytes to every other rank: the latency of the farthest link, and for each
/// link the time of each message and of the bytes, in and out apart, the links of both levels at the same time. This is the time
/// that a group of transfers takes in an island.
///
/// Complexity: linear in the ranks.
pub(crate) fn exchange_us(device: &Device, parts: &[usize]) -> f64 {
    let per_node = if device.kind == DeviceKind::Cpu { parts.len() } else { device.ranks_per_node };
    let nodes: Vec<&[usize]> = parts.chunks(per_node.max(1)).collect();
    // Of a group of ranks how many have something to send, and how much.
    let load = |parts: &[usize]| {
        let senders = parts.iter().filter(|&&p| p > 0).count();
        (senders as f64, parts.iter().map(|&p| p as f64).sum::<f64>())
    };
    let (senders, bytes) = load(parts);
    let time = |link: &Link, messages: f64, bytes: f64| match messages {
        0.0 => (0.0, 0.0),
        _ => (link.latency_us, messages * link.message_us + bytes / link.gb_s * 1e-3),
    };
    // The longer of what goes out and what comes in, over the links to the same node and to the others.
    let both = |near: (f64, f64), far: (f64, f64)| {
        let (near, far) = (time(&device.node, near.0, near.1), time(&device.network, far.0, far.1));
        near.0.max(far.0) + near.1.max(far.1)
    };
    let mut longest = 0.0f64;
    for node in nodes {
        let (near_senders, near_bytes) = load(node);
        for &own in node {
            let own = own as f64;
            let sends = if own > 0.0 { 1.0 } else { 0.0 };
            let (near, far) = (node.len() as f64 - 1.0, (parts.len() - node.len()) as f64);
            let out = both((sends * near, own * near), (sends * far, own * far));
            let into =
                both((near_senders - sends, near_bytes - own), (senders - near_senders, bytes - near_bytes));
            longest = longest.max(out).max(into);
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_and_empty_parts_take_no_time() {
        let device = Device::named("h200x8x8").unwrap();
        assert_eq!(exchange_us(&device, &[]), 0.0);
        assert_eq!(exchange_us(&device, &[1 << 30]), 0.0);
        assert_eq!(exchange_us(&device, &[0; 64]), 0.0);
    }

    /// Within a node the bytes of seven ranks come in one after another; over nodes those of the farther ranks take longer, and the
    /// near ones run beside them.
    #[test]
    fn it_is_the_sum_of_what_comes_in() {
        let device = Device::named("h200x8x8").unwrap();
        let (node, network) = (&device.node, &device.network);
        let mb = 1_000_000usize;
        let want = node.latency_us + 7.0 * (node.message_us + 1e3 / node.gb_s);
        assert!((exchange_us(&device, &[mb; 8]) - want).abs() < 1e-9 * want);
        let want = node.latency_us.max(network.latency_us) + 56.0 * (network.message_us + 1e3 / network.gb_s);
        assert!((exchange_us(&device, &[mb; 64]) - want).abs() < 1e-9 * want);
        // One sender: it sends seven times.
        let mut one = [0; 8];
        one[3] = mb;
        let want = node.latency_us + 7.0 * (node.message_us + 1e3 / node.gb_s);
        assert!((exchange_us(&device, &one) - want).abs() < 1e-9 * want);
    }
}
