//! Bundled descriptions are right, and faults are told by line and field.

use super::Device;
use crate::ir::DType;

#[test]
fn every_bundled_description_is_read() {
    for name in Device::bundled() {
        assert_eq!(Device::named(name).unwrap().name, name);
    }
    assert_eq!(Device::named("h300"), None);
}

#[test]
fn the_default_is_the_smallest_that_holds_the_ranks() {
    let name = |ranks| Device::default_for(ranks).name;
    assert_eq!(
        (name(1), name(8), name(9), name(64)),
        ("h200x8".into(), "h200x8".into(), "h200x8x8".into(), "h200x8x8".into())
    );
    assert!(!Device::default_for(65).holds(65));
    assert!(Device::named("cpu").unwrap().holds(1 << 20));
}

#[test]
fn ranks_of_a_node_share_its_links() {
    let d = Device::named("h200x8x8").unwrap();
    assert_eq!(d.link(0, 7), &d.node);
    assert_eq!(d.link(7, 8), &d.network);
    assert_eq!(d.link(63, 0), &d.network);
}

#[test]
fn rates_follow_the_head_size() {
    let d = Device::named("h200x8").unwrap();
    let rate = |size| d.flops(DType::BF16, size) / 1e12;
    assert_eq!((rate(64.0), rate(96.0), rate(128.0), rate(512.0)), (513.0, 584.0, 655.0, 730.0));
    assert_eq!(rate(16.0), 513.0 / 4.0);
}

#[test]
fn faults_name_line_and_field() {
    let good = include_str!("h200x8.toml");
    let told = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        Device::parse(&good.replacen(from, to, 1), "d.toml").unwrap_err().to_string()
    };
    let mut out = String::new();
    for (from, to) in [
        ("nodes = 1", "nodes = 0"),
        ("nodes = 1", "nodes = \"one\""),
        ("nodes = 1\n", ""),
        ("kind = \"gpu\"", "kind = \"tpu\""),
        ("launch_us = 3.0", "launch_us = nan"),
        ("launch_us = 3.0", "launch_us = -1"),
        ("memory_gb_s = 4280.0", "memory_gb_s = 0"),
        ("memory_gb_s = 4280.0", "memory = 0"),
        ("tile = [128, 128]", "tile = [128]"),
        ("tile = [128, 128]", "tile = [128, 0]"),
        ("slowdown = 0.05", "slowdown = inf"),
        ("256 = 730.0", "d = 730.0"),
        ("128 = 35.0", "128 = 1e300"),
        ("[tflops.f16]", "[tflops.i64]"),
        ("[tflops.f64]\n64 = 20.0\n128 = 25.0\n", ""),
        ("gb_s = 45.0", "gb_s = fast"),
        ("latency_us = 14.0", "latency_ms = 14.0"),
        ("[link.network]", "[link.internet]"),
    ] {
        out += &format!("{} -> {}\n  {}\n", from.trim(), to, told(from, to).replace('\n', "\n  "));
    }
    let alone = "name = \"x\"\nkind = \"gpu\"\n";
    out += &format!("{:?}\n  {}\n", alone, Device::parse(alone, "d.toml").unwrap_err());
    out += &format!("{:?}\n  {}\n", "", Device::parse("", "d.toml").unwrap_err());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots/device");
    insta::with_settings!({snapshot_path => path, prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("faults", out);
    });
}
