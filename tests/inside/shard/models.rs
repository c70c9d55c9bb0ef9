//! Real models: found, split, run in lockstep, compared with the stored outputs.

use super::oracle::run;
use annulus::eval::compare;
use annulus::find::{FindOptions, find};
use annulus::import::ImportOptions;
use annulus::import::case::{self, Stored};
use annulus::ir::flops::graph_flops;
use annulus::layout::LayoutKind;
use annulus::shard::{Program, Segment, ShardOptions, local_flops, shard};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Runs one model at every number of ranks; nothing may be gathered, and each rank does its share of the work.
fn passes(folder: &Path) {
    let name = folder.display();
    let case = case::load(folder, &Stored::default(), &ImportOptions::default()).unwrap();
    let inputs = case.ordered_inputs().unwrap();
    let found = find(&case.graph, &FindOptions::default());
    let manifest = case.manifest.as_ref().unwrap();
    let truth = manifest["attention_count"].as_u64().unwrap() as usize;
    let g = Arc::new(found.graph);
    for ranks in [1, 2, 3, 4, 8] {
        let other = (ranks == 3).then_some(LayoutKind::Contiguous);
        for layout in other.into_iter().map(Some).chain([None]) {
            let program = shard(g.clone(), &ShardOptions::new(ranks).layout(layout)).unwrap();
            assert_eq!((program.islands.len(), program.refused.len()), (truth, 0), "{name}: islands");
            let gathered: Vec<&Segment> =
                program.segments.iter().filter(|s| matches!(s, Segment::Gather { .. })).collect();
            assert!(gathered.is_empty(), "{name} on {ranks} ranks: {gathered:?}");
            shares(&program);
            let outputs = run(&program, &inputs);
            for ((got, (output, expected)), t) in outputs.iter().zip(&case.expected).zip(&case.tolerance) {
                let c = compare(got, expected, t.atol, t.rtol, false).unwrap();
                assert!(c.within, "{name} on {ranks} ranks: {output} is off by {:e}", c.max_abs_error);
            }
        }
    }
}

/// Each rank's work is its share of the rows. What is counted whole on every rank (key masks, positions) is little.
fn shares(program: &Program) {
    let whole = graph_flops(&program.graph) as f64;
    let layout = &program.layouts[0];
    for rank in 0..program.ranks {
        let share = whole * layout.share(rank) as f64 / layout.length as f64;
        let own = local_flops(program, rank).unwrap() as f64;
        assert!(own >= share * 0.999 && own <= share + 0.001 * whole, "rank {rank}: {own}, share {share}");
    }
}

#[test]
fn bundled_models_need_no_gather() {
    for model in ["llama", "gpt2", "mistral"] {
        passes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(model));
    }
}

/// Float32, static shapes, no past, no mask input, not fused.
fn plain(name: &str) -> bool {
    let (architecture, rest) = name.split_once('.').unwrap();
    ["llama", "gpt2", "mistral"].contains(&architecture)
        && !["fp16", "dynamic", "ortfused"].iter().any(|s| rest.ends_with(s))
}

#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn plain_models_need_no_gather() {
    let models = crate::inside::support::data::folder("models");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(models)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir() && plain(p.file_name().unwrap().to_str().unwrap()))
        .collect();
    folders.sort();
    assert_eq!(folders.len(), 15);
    folders.iter().for_each(|f| passes(f));
}
