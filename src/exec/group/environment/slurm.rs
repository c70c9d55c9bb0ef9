//! Slurm's words: `node[03-05,9],login` and `2(x3),1`.

/// Whether this is the number of a step that `srun` started with tasks. A shell in `salloc` or a batch script has none, or one of those that
/// Slurm keeps for itself, the greatest numbers of 32 bits.
pub(super) fn is_step(number: usize) -> bool {
    number < 0xffff_fff0
}

/// The first host of a list of nodes.
pub(super) fn first_host(list: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = list.chars();
    while let Some(c) = rest.next() {
        match c {
            ',' => break,
            '[' => {
                let inside: String = rest.by_ref().take_while(|c| *c != ']').collect();
                let first = inside.split([',', '-']).next().filter(|first| !first.is_empty())?;
                if !first.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                host += first;
            }
            c if c.is_ascii_alphanumeric() || "-._".contains(c) => host.push(c),
            _ => return None,
        }
    }
    (!host.is_empty() && host.len() <= 253).then_some(host)
}

/// How many tasks there are on a node, of `2(x3),1`: two on each of three nodes, and one on the next.
pub(super) fn tasks_on(list: &str, node: usize) -> Option<usize> {
    let mut left = node;
    for part in list.split(',') {
        let (tasks, nodes) = match part.split_once("(x") {
            Some((tasks, nodes)) => (tasks, nodes.strip_suffix(')')?.parse::<usize>().ok()?),
            None => (part, 1),
        };
        let tasks = tasks.parse().ok()?;
        if left < nodes {
            return Some(tasks);
        }
        left -= nodes;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_host_of_a_list() {
        for (list, first) in [
            ("node[03-05,9]", Some("node03")),
            ("node[9,03-05],login", Some("node9")),
            ("login,node[1-2]", Some("login")),
            ("rack[1-2]n[01-10].cluster", Some("rack1n01.cluster")),
            ("gpu-7.site.org", Some("gpu-7.site.org")),
            ("", None),
            (",a", None),
            ("a b", None),
            ("a[", None),
            ("a[x-y]", None),
            ("a]b", None),
        ] {
            assert_eq!(first_host(list).as_deref(), first, "{list}");
        }
    }

    #[test]
    fn the_tasks_on_a_node() {
        let all: Vec<Option<usize>> = (0..5).map(|node| tasks_on("2(x3),1", node)).collect();
        assert_eq!(all, [Some(2), Some(2), Some(2), Some(1), None]);
        assert_eq!(tasks_on("4", 0), Some(4));
        for wrong in ["", "2(x3", "x", "2(x)", "-1"] {
            assert_eq!(tasks_on(wrong, 0), None, "{wrong}");
        }
    }
}
