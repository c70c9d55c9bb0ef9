//! Schedules proved, and run on the CPU against attention written out.

use super::case::cases;
use super::oracle::{arguments, attention, differs, local};
use annulus::check::check;
use annulus::exec::cpu::run_island;
use annulus::ring::Strategy;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn schedules_compute_the_attention(case in cases(), seed in 0u64..1000) {
        let whole = arguments(&case, seed);
        let want = attention(&case, &whole);
        let args: Vec<_> = (0..case.ranks).map(|r| local(&case, &whole, r)).collect();
        for way in Strategy::ALL {
            let schedule = case.schedule(way);
            let report = check(&schedule);
            prop_assert!(report.failed.is_empty(), "{way:?}: {:#?}", report.failed);
            let run = run_island(&schedule, &args, seed);
            prop_assert!(run.is_ok(), "{way:?}: {:?}", run.err());
            let (results, traffic) = run.unwrap();
            for (rank, results) in results.iter().enumerate() {
                let fault = differs(&case, rank, &want, results, 1e-11);
                prop_assert!(fault.is_none(), "{way:?}: {}", fault.unwrap_or_default());
            }
            prop_assert_eq!(traffic.bytes_sent, schedule.bytes_sent());
        }
    }
}
