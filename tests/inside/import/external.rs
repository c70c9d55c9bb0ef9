//! Tensors in other files: what is read, and every way out of the folder that others had to close.
#![cfg(target_os = "linux")]

use super::build::*;
use crate::inside::support::scratch;
use annulus::eval::{Precision, eval};
use annulus::import::case::{Stored, load};
use annulus::import::proto::{ModelProto, StringStringEntryProto};
use annulus::import::{ImportOptions, graph};
use prost::Message;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A new folder `name/model`, beside which `name/secret` holds 1, 2, 3, 4 as f32.
fn folder(name: &str) -> PathBuf {
    let at = scratch().join("external").join(name);
    let _ = fs::remove_dir_all(&at);
    fs::create_dir_all(at.join("model/inside")).unwrap();
    fs::write(at.join("secret"), bytes()).unwrap();
    at.join("model")
}

fn bytes() -> Vec<u8> {
    (1..5u8).flat_map(|i| f32::from(i).to_le_bytes()).collect()
}

/// y = x + c, c: f32[2] kept where the entries say.
fn model(entries: &[(&str, &str)]) -> ModelProto {
    let mut m = Single::new("Add", &[count(&[2])], &[Some(count(&[2]))]).model();
    let c = &mut m.graph.as_mut().unwrap().initializer[0];
    c.raw_data = None;
    c.data_location = 1;
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    c.external_data = entries.iter().map(entry).collect();
    m
}

/// The values that are read, or why not.
fn read_from(at: &Path, external: Option<&Path>, m: &ModelProto) -> Result<Vec<f64>, String> {
    let file = at.join("model.onnx");
    fs::write(&file, m.encode_to_vec()).unwrap();
    let stored = Stored { external: external.map(Path::to_owned), ..Stored::default() };
    let case = load(&file, &stored, &ImportOptions::default()).map_err(|e| e.to_string())?;
    let zero = floats(&[2], &[0.0, 0.0]);
    Ok(eval(&case.graph, &[zero], Precision::Declared).unwrap()[0].to_f64())
}

fn read(at: &Path, entries: &[(&str, &str)]) -> Result<Vec<f64>, String> {
    read_from(at, None, &model(entries))
}

#[test]
fn tensors_are_read_from_the_models_folder_or_the_one_that_is_named() {
    let at = folder("right");
    fs::write(at.join("inside/w.bin"), bytes()).unwrap();
    assert_eq!(read(&at, &[("location", "inside/w.bin"), ("length", "8")]).unwrap(), [1.0, 2.0]);
    assert_eq!(read(&at, &[("location", "./inside/w.bin"), ("offset", "4")]).unwrap(), [2.0, 3.0]);
    assert_eq!(
        read(&at, &[("location", "inside/w.bin"), ("offset", "8"), ("length", "8"), ("checksum", "x")])
            .unwrap(),
        [3.0, 4.0]
    );
    let named = read_from(&at, Some(&at.join("inside")), &model(&[("location", "w.bin")]));
    assert_eq!(named.unwrap(), [1.0, 2.0]);
    // Only that one, then.
    let other = read_from(&at, Some(&at.join("inside")), &model(&[("location", "inside/w.bin")]));
    assert!(other.unwrap_err().contains("cannot be opened"));
    // A model without a file has no folder.
    let alone = graph(&model(&[("location", "inside/w.bin")]), &ImportOptions::default()).unwrap_err();
    assert!(alone.to_string().contains("in another file"));
}

#[test]
fn tensors_in_attributes_are_read_too() {
    let at = folder("attribute");
    fs::write(at.join("w.bin"), bytes()).unwrap();
    let mut m = model(&[("location", "w.bin")]);
    let g = m.graph.as_mut().unwrap();
    let t = g.initializer.remove(0);
    let mut constant = node("Constant", &[], &["c0"], vec![int("value", 0)]);
    constant.attribute[0].r#type = annulus::import::proto::attribute_type::TENSOR;
    constant.attribute[0].t = Some(t);
    g.node.insert(0, constant);
    assert_eq!(read_from(&at, None, &m).unwrap(), [1.0, 2.0]);
}

/// Tensors of functions, their attributes' defaults among them, and of graphs inside nodes.
#[test]
fn tensors_of_bodies_are_read_too() {
    use annulus::import::proto::{
        AttributeProto, FunctionProto, GraphProto, OperatorSetIdProto, ValueInfoProto,
    };
    use annulus::import::proto::{TensorProto, attribute_type};
    let at = folder("bodies");
    fs::write(at.join("w.bin"), bytes()).unwrap();
    let outside = || -> TensorProto {
        let mut m = model(&[("location", "w.bin"), ("offset", "4")]);
        m.graph.as_mut().unwrap().initializer.remove(0)
    };
    let constant = |name: &str| {
        let mut constant = node("Constant", &[], &[name], vec![int("value", 0)]);
        (constant.attribute[0].r#type, constant.attribute[0].t) = (attribute_type::TENSOR, Some(outside()));
        constant
    };
    let names = |list: &[&str]| list.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
    let import = |domain: &str| OperatorSetIdProto { domain: domain.to_owned(), version: 1 };
    // F(a) = a + a constant + the default of an attribute.
    let mut own = constant("d");
    let default = AttributeProto { name: "w".into(), ..std::mem::take(&mut own.attribute[0]) };
    own.attribute[0] = AttributeProto {
        name: "value".into(),
        ref_attr_name: "w".into(),
        r#type: attribute_type::TENSOR,
        ..AttributeProto::default()
    };
    let f = FunctionProto {
        name: "F".into(),
        domain: "own".into(),
        input: names(&["a"]),
        output: names(&["b"]),
        attribute_proto: vec![default],
        node: vec![
            constant("c"),
            own,
            node("Add", &["c", "d"], &["e"], vec![]),
            node("Add", &["a", "e"], &["b"], vec![]),
        ],
        ..FunctionProto::default()
    };
    let mut m = Single::new("own::F", &[count(&[2])], &[]).model();
    m.opset_import.push(import("own"));
    m.functions = vec![f];
    assert_eq!(read_from(&at, None, &m).unwrap(), [4.0, 6.0]);

    // Scores that a graph replaces by a tensor of another file: softmax(2, 3) · (0, 1).
    let inside = GraphProto {
        name: "inside".into(),
        node: vec![node("Mul", &["s", "zero"], &["t"], vec![]), node("Add", &["t", "c0"], &["r"], vec![])],
        initializer: vec![outside(), tensor("zero", &floats(&[], &[0.0]))],
        input: vec![ValueInfoProto { name: "s".into(), r#type: None }],
        output: vec![ValueInfoProto { name: "r".into(), r#type: None }],
        ..GraphProto::default()
    };
    let graph = AttributeProto {
        name: "score_mod".into(),
        r#type: attribute_type::GRAPH,
        g: Some(inside.encode_to_vec()),
        ..AttributeProto::default()
    };
    let x = count(&[1, 1, 2, 1]);
    let single = Single::new("ai.onnx.preview::FlexAttention", &[x.clone(), x.clone(), x.clone()], &[]);
    let mut m = single.opset(26).with(graph).model();
    m.opset_import.push(import("ai.onnx.preview"));
    let file = at.join("model.onnx");
    fs::write(&file, m.encode_to_vec()).unwrap();
    let case = load(&file, &Stored::default(), &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let y = eval(&case.graph, &[x.clone(), x.clone(), x], Precision::Declared).unwrap()[0].to_f64();
    let want = 1.0 / (1.0 + (-1f64).exp());
    assert!(y.iter().all(|y| (y - want).abs() < 1e-6), "{y:?}");
}

/// The classes of CVE-2022-25882 (a prefix that only looks like the folder), CVE-2024-27318 (`..` behind a folder),
/// CVE-2026-27489 and 34447 (symbolic links), 34446 (hard links), 34445 (keys, huge lengths).
#[test]
fn nothing_is_read_beyond_the_folder() {
    let at = folder("beyond");
    fs::write(at.join("w.bin"), bytes()).unwrap();
    fs::create_dir_all(at.with_file_name("model2")).unwrap();
    fs::write(at.with_file_name("model2").join("w.bin"), bytes()).unwrap();
    symlink(at.with_file_name("secret"), at.join("link")).unwrap();
    symlink("w.bin", at.join("link_inside")).unwrap();
    symlink(at.parent().unwrap(), at.join("up")).unwrap();
    symlink("/proc/self/cwd", at.join("magic")).unwrap();
    fs::hard_link(at.with_file_name("secret"), at.join("hard")).unwrap();
    let absolute = at.join("w.bin").to_str().unwrap().to_owned();
    let fifo = std::process::Command::new("mkfifo").arg(at.join("pipe")).status();
    let cases: &[(&str, &str)] = &[
        (&absolute, "names no file within"),
        ("/etc/passwd", "names no file within"),
        ("../secret", "names no file within"),
        ("../model/w.bin", "names no file within"),
        ("inside/../../secret", "names no file within"),
        ("inside/../w.bin", "names no file within"),
        ("inside/./../../secret", "names no file within"),
        ("inside//w.bin", "names no file within"),
        ("..\\secret", "names no file within"),
        ("w.bin\0", "names no file within"),
        ("", "names no file within"),
        ("../model2/w.bin", "names no file within"),
        ("link", "cannot be opened"),
        ("link_inside", "cannot be opened"),
        ("up/secret", "cannot be opened"),
        ("up/model/w.bin", "cannot be opened"),
        ("magic/Cargo.toml", "cannot be opened"),
        ("nothing", "cannot be opened"),
        ("hard", "2 names"),
        ("inside", "no regular file"),
        (".", "no regular file"),
    ];
    for (location, why) in cases {
        let got = read(&at, &[("location", location)]).expect_err(location);
        assert!(got.contains(why), "{location:?}: {got}");
    }
    if fifo.is_ok_and(|s| s.success()) {
        assert!(read(&at, &[("location", "pipe")]).unwrap_err().contains("no regular file"));
    }
    let w = ("location", "w.bin");
    let entries: &[(&[(&str, &str)], &str)] = &[
        (&[], "no entry says which file"),
        (&[w, w], "two entries"),
        (&[w, ("offset", "-1")], "its offset is \"-1\""),
        (&[w, ("offset", "+1")], "its offset is \"+1\""),
        (&[w, ("offset", "9")], "has 16 bytes, not 8 from 9 on"),
        (&[w, ("offset", "18446744073709551615")], "its offset is"),
        (&[w, ("offset", "9223372036854775807")], "not 8 from 9223372036854775807 on"),
        (&[w, ("length", "9223372036854775807")], "want 8 bytes"),
        (&[w, ("length", "4")], "want 8 bytes"),
        (&[w, ("length", "")], "its length is \"\""),
        (&[w, ("__class__", "x")], "has no \"__class__\""),
        (&[w, ("basepath", "/")], "a folder of their own"),
    ];
    for (entries, why) in entries {
        let got = read(&at, entries).expect_err(why);
        assert!(got.contains(why), "{entries:?}: {got}");
    }
    let mut both = model(&[w]);
    both.graph.as_mut().unwrap().initializer[0].raw_data = Some(vec![0; 8]);
    assert!(read_from(&at, None, &both).unwrap_err().contains("here and in another file"));
    let mut odd = model(&[w]);
    odd.graph.as_mut().unwrap().initializer[0].data_location = 2;
    assert!(read_from(&at, None, &odd).unwrap_err().contains("in place 2"));
    let mut inside = model(&[w]);
    inside.graph.as_mut().unwrap().initializer[0].data_location = 0;
    assert!(read_from(&at, None, &inside).is_err());
    let mut huge = model(&[w]);
    huge.graph.as_mut().unwrap().initializer[0].dims = vec![1 << 38];
    assert!(read_from(&at, None, &huge).unwrap_err().contains("has 16 bytes"));
}

#[test]
fn many_tensors_cannot_make_much_of_one_file() {
    let at = folder("shared");
    let n = 1usize << 24;
    fs::write(at.join("w.bin"), vec![0u8; n]).unwrap();
    let mut m = model(&[("location", "w.bin")]);
    let g = m.graph.as_mut().unwrap();
    let mut t = g.initializer[0].clone();
    t.dims = vec![1 << 22];
    for i in 0..9 {
        t.name = format!("w{i}");
        g.initializer.push(t.clone());
    }
    assert!(read_from(&at, None, &m).unwrap_err().contains("bytes of files that have 16777216"));
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    /// The file is exchanged for a link to the secret and back, as fast as may be: what is read is never the secret.
    #[test]
    fn a_race_is_never_won() {
        let at = folder("race");
        let inside: Vec<u8> = [7f32, 7.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let (file, other) = (at.join("w.bin"), at.join("other"));
        fs::write(&file, inside).unwrap();
        symlink(at.with_file_name("secret"), &other).unwrap();
        let m = model(&[("location", "w.bin")]);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                let aside = at.join("aside");
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    for (from, to) in [(&file, &aside), (&other, &file), (&file, &other), (&aside, &file)] {
                        let _ = fs::rename(from, to);
                    }
                }
            });
            let mut read_once = 0;
            for _ in 0..10_000 {
                match read_from(&at, None, &m) {
                    Ok(got) => {
                        assert_eq!(got, [7.0, 7.0]);
                        read_once += 1;
                    }
                    Err(why) => assert!(why.contains("cannot be opened"), "{why}"),
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(read_once > 0);
        });
    }
}
