"""Random attentions, compiled, and their schedules run by `schedule.py`: run.py ANNULUS [SCHEDULES] [SEED].

Each schedule of the strategies `queries` and `heads` is run in six random orders and compared with attention written out in f64; the
orders must agree to the bit. The last line says whether all were right.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import schedule

ORDERS = 6


def attention(head, args):
    """Attention written out, on whole arguments."""
    q, k, v = (x.astype(np.float64) for x in args[:3])
    out = np.zeros((head.batch, head.hq, head.sq, head.dv))
    lse = np.zeros(out.shape[:3])
    keys = list(range(head.sk))
    for b, h, i in np.ndindex(head.batch, head.hq, head.sq):
        kv = h // (head.hq // head.hkv)

        def leaf(n, b=b, h=h, i=i):
            x = args[n]
            row = x[b % x.shape[0], h if x.shape[1] > 1 else 0, i if x.shape[2] > 1 else 0]
            return row.astype(np.float64)

        s = schedule.score(head, k[b, kv] @ q[b, h, i], i, keys, leaf)
        if head.sinks is not None:
            s = np.append(s, leaf(head.sinks))
        top = s.max() if len(s) else -np.inf
        if top == -np.inf:
            out[b, h, i], lse[b, h, i] = (0.0 if head.empty == "zero" else np.nan), -np.inf
            continue
        p = np.exp(s - top)
        lse[b, h, i] = top + np.log(p.sum())
        p = p[: head.sk] / p.sum()
        out[b, h, i] = p[p != 0] @ v[b, kv][p != 0]
    return out, lse


def graph(rng):
    """The text of a random attention, and its arguments."""
    kind = ["f32", "f64"][rng.integers(2)]
    batch, hkv, group = rng.integers(1, 3), rng.integers(1, 5), rng.integers(1, 5)
    hq, sq = hkv * group, int(rng.choice([0, 1, 2, 5, 8, 13, 24]))
    sk = sq if rng.integers(2) else int(rng.choice([1, 3, 8, 17, 32]))
    dk, dv = rng.integers(1, 6), rng.integers(1, 6)
    shapes = [(batch, hq, sq, dk), (batch, hkv, sk, dk), (batch, hkv, sk, dv)]
    large = 1e4 if rng.integers(8) == 0 else 1.0
    args = [rng.standard_normal(s).astype(schedule.TYPES[kind]) for s in shapes]
    args[0] = (args[0] * large).astype(args[0].dtype)
    names, steps = ["q", "k", "v"], ["factor 0.5"]
    inputs = [f"  input %{n}: {kind}[{','.join(map(str, x.shape))}]" for n, x in zip(names, args)]

    def leaf(name, dtype, last, values):
        one = rng.integers(2, size=3)
        shape = tuple(1 if o else n for o, n in zip(one, (batch, hq, sq))) + (last,)
        args.append(values(shape))
        names.append(name)
        inputs.append(f"  input %{name}: {dtype}[{','.join(map(str, shape))}]")
        return len(args) - 1

    if rng.integers(3) == 0:
        steps.append("softcap 3.0")
    if rng.integers(2):
        bias = leaf("bias", kind, sk, lambda s: rng.standard_normal(s).astype(schedule.TYPES[kind]))
        steps.append(f"add {bias}")
    masks = ["causal(0)", f"causal({rng.integers(-3, 4)})", "segments(2,7)"]
    for _ in range(rng.integers(3)):
        how = ["-inf", "-inf", "replace(-10000.0)", "add(-10000.0)"][rng.integers(4)]
        mask = masks[rng.integers(3)]
        if rng.integers(4) == 0:
            mask = f"tensor({leaf(f'mask{len(args)}', 'bool', sk, lambda s: rng.random(s) < 0.6)})"
        steps.append(f"fill {how} unless {mask}")
    sinks = ""
    if rng.integers(3) == 0:
        n = leaf("sinks", kind, 1, lambda s: rng.standard_normal(s).astype(schedule.TYPES[kind]))
        sinks = f", sinks={n}"
    acc = "f64" if kind == "f64" else "f32"
    empty = ["zero", "nan"][rng.integers(2)]
    lse = rng.integers(2)
    types = f"{kind}[{batch},{hq},{sq},{dv}]" + (f", {acc}[{batch},{hq},{sq}]" if lse else "")
    results = "%o, %l" if lse else "%o"
    operands = ", ".join(f"%{n}" for n in names)
    line = f"  {results}: {types} = attention {operands} {{scores=[{' | '.join(steps)}]{sinks}, acc={acc}, empty={empty}{', lse' if lse else ''}}}"
    outputs = ['  output "o" = %o'] + (['  output "l" = %l'] if lse else [])
    return "\n".join(['graph "random" {', *inputs, line, *outputs, "}"]) + "\n", args


def main():
    annulus, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 500
    rng = np.random.default_rng(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    done, refused = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.txt"
        while done < count:
            text, args = graph(rng)
            file.write_text(text)
            ranks, strategy = int(rng.integers(1, 9)), ["queries", "heads"][rng.integers(2)]
            layout = ["contiguous", "zigzag", "stripe", "balanced"][rng.integers(4)]
            command = [annulus, "compile", str(file), "--ranks", str(ranks), "--strategy", strategy]
            nodes = int(rng.choice([n for n in range(1, ranks + 1) if ranks % n == 0]))
            command += ["--layout", layout, "--nodes", str(nodes), "--emit", "schedule"]
            compiled = subprocess.run(command, capture_output=True, text=True, check=False)
            if compiled.returncode == 1 and refused < count:
                refused += 1
                continue
            if compiled.returncode != 0:
                sys.exit(f"{' '.join(command)} ends with {compiled.returncode}: {compiled.stderr}\n{text}")
            first = None
            for _ in range(ORDERS):
                head, out, lse = schedule.run(compiled.stdout, args, rng)
                if first is None:
                    first = (out, lse)
                    want = attention(head, args)
                    near = 1e-9 if head.dtype == np.float64 else 2e-4
                    for got, want in zip(first[: 1 + head.lse], want):
                        scale = max(1.0, np.abs(want[np.isfinite(want)]).max(initial=0.0))
                        same = np.isclose(got, want, rtol=near, atol=near * scale, equal_nan=True)
                        if not same.all():
                            sys.exit(f"wrong: {strategy}, {layout}, {ranks} ranks on {nodes} nodes\n{text}\n{compiled.stdout}\n{got}\n{want}")
                elif any(a.tobytes() != b.tobytes() for a, b in zip(first, (out, lse))):
                    sys.exit(f"another order gives other bits: {strategy}, {layout}, {ranks} ranks on {nodes} nodes\n{text}")
            done += 1
            if done % 50 == 0:
                print(f"{done} of {count} schedules right, {refused} graphs refused", flush=True)
    print(f"all {done} schedules are right, in {ORDERS} orders each; {refused} graphs were refused")


main()
