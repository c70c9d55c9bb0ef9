"""Steps of a ring: a pair of chunks with a carry in and out, against one whole launch, against a merge of its own, and against what
torch does."""

import os
import tempfile

import torch

import bench

HEADS, KV_HEADS, D = 32, 8, 128


def rate(sq, sk, ms, causal):
    return 2 * HEADS * sq * sk * 2 * D * (0.5 if causal else 1) / ms / 1e9


def torch_step(name, c, sq, sk, causal):
    """A partial of torch's, merged into what it has for c rows."""
    attend = bench.partial(name)
    sets = bench.several(1, HEADS, KV_HEADS, sq, sk, D, D)
    state = [
        (torch.randn(1, HEADS, c, D, device="cuda"), torch.randn(1, HEADS, c, 1, device="cuda")) for _ in range(bench.SETS)
    ]
    call = lambda s, t: bench.merged(*t, *attend(*s, causal), second_half=sq < c)
    return bench.Called([lambda s=s, t=t: call(s, t) for s, t in zip(sets, state)])


def steps(ours, lengths, r):
    shapes = lambda c: [
        ("c × c causal", c, c, "causal"),
        ("c × c/2 full", c, c // 2, "full"),
        ("c/2 × c full", c // 2, c, "full"),
    ]
    found = {}
    for c in lengths:
        if not r.time_left():
            r.failed(f"steps: c {c}", "left out, the time is up")
            continue
        held = lambda verb, sq, sk, mask: ours.hold(f"{verb} 1 {HEADS} {KV_HEADS} {sq} {sk} {D} {D} {mask} bf16")
        kernels = {"ours whole full": lambda: held("time", c, c, "full"), "ours whole causal": lambda: held("time", c, c, "causal")}
        for name, sq, sk, mask in shapes(c):
            for verb in ("step", "part", "apart"):
                kernels[f"ours {verb} {name}"] = lambda verb=verb, sq=sq, sk=sk, mask=mask: held(verb, sq, sk, mask)
            for peer in ("cuDNN", "FA2"):
                kernels[f"{peer} {name}"] = lambda peer=peer, sq=sq, sk=sk, mask=mask: torch_step(peer, c, sq, sk, mask == "causal")
        try:
            found[c] = bench.alternate(kernels, r.log("steps", f"c {c}"), r.refused(f"steps: c {c}"), seconds=5)
        except Exception as e:
            r.failed(f"steps: c {c}", e)
    out = r.out
    for c, times in found.items():
        for name, t in times.items():
            r.record("steps", rows=c, kernel=name, median_ms=t.median, least_ms=t.least, spread=t.spread)
    out(f"\n## Steps with a carry, {HEADS}/{KV_HEADS} heads, D {D}: rate of the step over the rate of a whole launch of the same mask\n")
    out("| c rows a rank | " + " | ".join(f"{name}, carry" for name, *_ in shapes(1)) + " | whole causal, TFLOP/s | whole full, TFLOP/s |")
    out("|---" * 6 + "|")
    for c, t in found.items():
        whole = {m: rate(c, c, t[f"ours whole {m}"].median, m == "causal") for m in ("causal", "full")}
        cells = [
            f"{rate(sq, sk, (s := t[f'ours step {name}']).median, mask == 'causal') / whole[mask]:.3f} ({s.spread:.1%})"
            for name, sq, sk, mask in shapes(c)
        ]
        out(f"| {c} | {' | '.join(cells)} | {whole['causal']:.0f} | {whole['full']:.0f} |")
    out("\n## Merges: milliseconds of a step, and how many times as long the others take\n")
    out("Fused: the carry goes through the kernel. Apart: the kernel writes a partial, then a kernel merges it. cuDNN, FA2: torch's")
    out("partial, then the operations of torch's merge. The kernel alone is the partial of `apart`, without the merge.\n")
    out("| c | step | fused, ms | kernel alone | apart | cuDNN and torch's merge | FA2 and torch's merge |")
    out("|---" * 7 + "|")
    for c, t in found.items():
        for name, *_ in shapes(c):
            fused = t[f"ours step {name}"]
            cell = lambda kind: f"{x.median / fused.median:.2f} ({x.spread:.1%})" if (x := t.get(f"{kind} {name}")) else "–"
            cells = [cell(kind) for kind in ("ours part", "ours apart", "cuDNN", "FA2")]
            out(f"| {c} | {name} | {fused.median:.4f} ({fused.spread:.1%}) | {' | '.join(cells)} |")


def read(dir, name, *shape, dtype=torch.bfloat16):
    path = os.path.join(dir, name)
    count = 1
    for extent in shape:
        count *= extent
    if os.path.getsize(path) != count * dtype.itemsize:
        raise RuntimeError(f"{name} has {os.path.getsize(path)} bytes, not {count * dtype.itemsize}")
    return torch.from_file(path, size=count, dtype=dtype).cuda().view(shape)


def error(x, expected):
    x, expected = x.double(), expected.double()
    return ((x - expected).norm() / expected.norm()).item()


def exact(q, k, v, causal, rows):
    """In f64, of some query rows: out and lse."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1).double() for x in (k, v))
    scores = q[:, :, rows].double() @ k.transpose(2, 3) / q.shape[3] ** 0.5
    if causal:
        scores.masked_fill_(torch.arange(k.shape[2], device=q.device) > rows[:, None], float("-inf"))
    return torch.softmax(scores, -1) @ v, torch.logsumexp(scores, -1)


def against_cudnn(ours, r, s=8192, hq=8, hkv=2):
    """Our results at a length that no CPU reference reaches, beside cuDNN's, and some rows beside f64."""
    out, wrong = r.out, r.failed
    out(f"\n## Values at S {s}, {hq}/{hkv} heads, bf16\n")
    out("Relative error of the whole output against cuDNN (limit 1e-2), largest difference of lse (limit 1e-3), and of 66 rows against f64.")
    out("Under `step` and `apart`: o/l and m + ln l of the carry.\n")
    out("| D | mask | launch | out to cuDNN | lse to cuDNN | out to f64 | lse to f64 | cuDNN's out to f64 |")
    out("|---" * 8 + "|")
    rows = torch.cat([torch.tensor([0, s - 1]), torch.randperm(s, generator=torch.Generator().manual_seed(6))[:64]]).cuda()
    attend = bench.partial("cuDNN")
    kinds = [(d, dv, mask, "time") for d, dv in [(64, 64), (128, 128), (256, 256), (192, 128)] for mask in ("causal", "full")]
    kinds += [(128, 128, mask, verb) for mask in ("causal", "full") for verb in ("step", "apart")]
    for d, dv, mask, verb in kinds:
        label = f"| {d}{f'/{dv}' if dv != d else ''} | {mask} | {verb} |"
        try:
            with tempfile.TemporaryDirectory() as dir:
                held = ours.hold(f"{verb} 1 {hq} {hkv} {s} {s} {d} {dv} {mask} bf16")
                ours.ask(f"write {held.name} {dir}")
                held.close()
                q, k, v = read(dir, "q", 1, hq, s, d), read(dir, "k", 1, hkv, s, d), read(dir, "v", 1, hkv, s, dv)
                if verb == "time":
                    o, lse = read(dir, "out", 1, hq, s, dv), read(dir, "lse", 1, hq, s, dtype=torch.float32)
                else:
                    carry = read(dir, "carry", hq * s * (dv + 2), dtype=torch.float32)
                    o, m, l = carry.split([hq * s * dv, hq * s, hq * s])
                    m, l = m.view(1, hq, s), l.view(1, hq, s)
                    o, lse = o.view(1, hq, s, dv) / l[..., None], m + l.log()
            true, true_lse = exact(q, k, v, mask == "causal", rows)
            mine = error(o[:, :, rows], true), (lse[:, :, rows].double() - true_lse).abs().max().item()
            try:
                theirs, their_lse = attend(q, k, v, mask == "causal")
                beside = error(o, theirs), (lse - their_lse[..., 0]).abs().max().item()
                theirs = f"{error(theirs[:, :, rows], true):.1e}"
            except Exception as e:  # then f64 judges alone
                print(f"  cuDNN refuses: {' '.join(str(e).split())[:160]}")
                beside, theirs = None, "–"
            told = [f"{x:.1e}" for x in beside] if beside else ["–", "–"]
            out(f"{label} {' | '.join(told)} | {mine[0]:.1e} | {mine[1]:.1e} | {theirs} |")
            errors = {"out_to_f64": mine[0], "lse_to_f64": mine[1], "to_cudnn": beside}
            r.record("values", d=d, dv=dv, mask=mask, launch=verb, **errors)
            # NaN is no small error.
            if not all(a < 1e-2 and b < 1e-3 for a, b in [mine, *([beside] if beside else [])]):
                wrong(f"values of {verb} {d}/{dv} {mask}")
        except Exception as e:
            out(f"{label} failed: {' '.join(str(e).split())[:200]} | | | | |")
            wrong(f"values of {verb} {d}/{dv} {mask}")
