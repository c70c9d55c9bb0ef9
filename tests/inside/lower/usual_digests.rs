fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// For every architecture, type and size of heads: every field of a usual key at each of its values beside the plain ones, and all at once.
fn usual_keys(arch: Arch) -> Vec<KernelKey> {
    let heads = [(32, 32), (64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256)];
    let mut all = vec![];
    for element in [Element::F16, Element::Bf16, Element::F32] {
        for (dk, dv) in heads {
            for positions in [false, true] {
                let hopper = if arch == Arch::Sm90a { KernelKey::hopper(element, dk, dv, positions) } else { None };
                let long = hopper.map(|key| key.for_keys(usize::MAX));
                let portable = KernelKey::portable(element, dk, dv, positions, arch);
                for plain in [hopper, long, portable].into_iter().flatten() {
                    all.push(plain);
                    all.push(KernelKey { softcap: true, ..plain }.for_keys(1));
                    all.push(KernelKey { carry_in: true, ..plain });
                    all.push(KernelKey { cast_out: false, ..plain });
                    all.push(KernelKey { mask: true, ..plain });
                    all.extend([4, 2].map(|copy| KernelKey { copy, ..plain }));
                    for operand in [Operand::F32, Operand::Element] {
                        all.push(KernelKey { bias: operand, ..plain });
                        all.push(KernelKey { sinks: operand, ..plain });
                        all.push(KernelKey { bias: operand, sinks: operand, mask: true, carry_in: true, softcap: true, ..plain });
                    }
                    for fill in [MaskedScore::Replace, MaskedScore::Add] {
                        all.push(KernelKey { fill, ..plain });
                        all.push(KernelKey { fill, mask: true, bias: Operand::F32, ..plain });
                    }
                }
            }
        }
    }
    all.retain(KernelKey::exists);
    all.sort();
    all.dedup();
    all
}

/// A line for each architecture: how many kernels of the usual order, and a hash of their texts.
fn texts() -> String {
    let mut out = String::new();
    for arch in [Arch::Sm80, Arch::Sm86, Arch::Sm90a, Arch::Sm100a] {
        let keys = usual_keys(arch);
        let mut hash = Sha256::new();
        keys.iter().for_each(|key| hash.update(text(key)));
        out += &format!("{} {} texts {}\n", arch.name(), keys.len(), hex(hash));
    }
    out
}

/// A line for each architecture: how many attentions of the usual order, and a hash of what is chosen for their steps.
fn choices() -> String {
    let leaf = |dtype| Leaf { dtype, shape: [1, 1, 64, 64], by_query_rows: false };
    let tensor = Term::Tensor { operand: 4 };
    let masks = [
        vec![],
        vec![Term::Causal { offset: 0 }],
        vec![tensor.clone()],
        vec![Term::Window { left: Some(3), right: None, offset: 0 }, tensor],
    ];
    let mut out = String::new();
    for arch in Arch::ALL {
        let (mut count, mut hash) = (0, Sha256::new());
        for dtype in [DType::F16, DType::BF16, DType::F32] {
            for (scale, softcap) in [(0.125, 0.0), (0.125, 30.0), (-1.0, 0.0), (1.0, 0.0), (0.0, 50.0)] {
                for (bias, bias_in) in [(None, DType::F32), (Some(3), DType::F32), (Some(3), dtype)] {
                    for (terms, fill) in masks.iter().flat_map(|m| {
                        [mask::Fill::NegInf, mask::Fill::Replace(-1e4), mask::Fill::Add(-1e4)].map(|f| (m, f))
                    }) {
                        for (head_dim, v_head_dim) in [(64, 64), (128, 128), (60, 40), (192, 128)] {
                            let sizes = AttentionSizes {
                                batch: 1, q_heads: 4, kv_heads: 2, q_len: 64, kv_len: 64, head_dim, v_head_dim,
                            };
                            let facts = AttentionFacts {
                                sizes,
                                dtype,
                                acc: DType::F32,
                                scores: Scores::usual(scale, softcap, bias, Mask { terms: terms.clone(), fill }),
                                sinks: Some(5),
                                empty_row: EmptyRow::Zero,
                                lse: false,
                                leaves: vec![leaf(bias_in), leaf(DType::Bool), leaf(DType::F32)],
                            };
                            for (tile, keys, flag) in
                                [(Tile::Full, 64, false), (Tile::Partial, 64, true), (Tile::Partial, 1 << 14, false)]
                            {
                                // A fill that replaces scores acts on a bias of −∞ too, which kernels of the usual order leave out.
                                if bias.is_some() && matches!(fill, mask::Fill::Replace(_)) && !terms.is_empty() && tile == Tile::Partial {
                                    continue;
                                }
                                let step = Launch { tile, keys, carry_in: flag, sinks_here: !flag, cast_out: !flag };
                                let key = kernel(&facts, step, arch).unwrap();
                                count += 1;
                                hash.update(key.to_string());
                                hash.update(key.redo(arch).map_or(String::new(), |k| k.to_string()));
                                hash.update("\n");
                            }
                        }
                    }
                }
            }
        }
        out += &format!("{} {count} choices {}\n", arch.name(), hex(hash));
    }
    out
}
