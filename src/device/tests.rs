//! Bundled descriptions are right, and faults are told by line and field.

use super::{Device, DeviceBuilder, DeviceKind, Link};
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
        ("slowdown = 0.01", "slowdown = inf"),
        ("sms = 132", "sms = 100000"),
        ("sms = 132", "sms = -1"),
        ("sms = 132 ", "# "),
        ("sms = 16", "sms = 12"),
        ("sms = 16", "sms = 256"),
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

#[test]
fn what_is_written_is_read_as_it_was() {
    let mut devices: Vec<Device> = Device::bundled().map(|n| Device::named(n).unwrap()).collect();
    devices[0].name = "odd \"name\" \\ of\ntwo lines, µ \u{1}".into();
    for device in devices {
        assert_eq!(device.check(), Ok(()));
        assert_eq!(Device::parse(&device.to_toml(), "d.toml"), Ok(device));
    }
}

#[test]
fn what_is_built_is_held_to_the_ranges_of_a_file() {
    let link = Link::new(8.0, 2.0, 1.0);
    let full = || {
        let floats = DType::ALL.into_iter().filter(|d| d.is_float());
        let b = Device::builder("mine", DeviceKind::Gpu).nodes(1).ranks_per_node(2).launch_us(1.0);
        let b = b.memory_gb_s(10.0).tile([64, 256]).slowdown(0.0).node(link);
        floats.fold(b, |b, d| b.tflops(d, 64, 1.0))
    };
    assert_eq!(full().sms(9).node(link.sms(8)).build().unwrap().budgets(), [1, 2, 4, 8]);
    assert_eq!(
        (full().sms(9).build().unwrap().budgets(), full().build().unwrap().budgets()),
        (vec![0], vec![])
    );
    let built = full().build().unwrap();
    assert_eq!((built.ranks(), built.network), (Some(2), link));
    let why = |b: DeviceBuilder| b.build().unwrap_err().to_string();
    for (builder, what) in [
        (full().nodes(0), "device mine, nodes: want 1 to 2^20, not 0"),
        (full().nodes(2), "device mine, link.network: it is missing"),
        (full().ranks_per_node(usize::MAX), "device mine, ranks_per_node: want 1 to 2^20"),
        (full().launch_us(-1.0), "device mine, launch_us: want a number from 0.0"),
        (full().memory_gb_s(0.0), "device mine, memory_gb_s: want a number from 1e-6"),
        (full().tile([0, 1]), "device mine, tile: want two sizes"),
        (full().slowdown(f64::INFINITY), "device mine, slowdown: want a number"),
        (full().sms(5000), "device mine, sms: want 0 to 4096, not 5000"),
        (full().node(link.sms(2)), "device mine, link.node.sms: 2 of how many?"),
        (full().sms(100).node(link.sms(128)), "device mine, link.node.sms: want fewer than the 100"),
        (full().sms(100).network(link.sms(3)), "device mine, link.network.sms: want a power of two, not 3"),
        (full().tflops(DType::BF16, 0, 1.0), "device mine, tflops.bf16.0: want a head size"),
        (full().tflops(DType::I64, 64, 1.0), "device mine, tflops.i64: only floating types have a rate"),
        (full().tflops(DType::F32, 64, f64::NAN), "device mine, tflops.f32.64: want a number"),
        (full().node(Link::new(8.0, -1.0, 0.0)), "device mine, link.node.latency_us: want a number"),
        (full().network(Link::new(0.0, 1.0, 0.0)), "device mine, link.network.gb_s: want a number"),
        (Device::builder("mine", DeviceKind::Cpu), "device mine, link.node: it is missing"),
        (Device::builder("mine", DeviceKind::Gpu), "device mine, nodes: it is missing"),
    ] {
        assert!(why(builder.clone()).starts_with(what), "{}", why(builder));
    }
}
