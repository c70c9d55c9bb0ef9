#!/usr/bin/env python3
"""Correctness, then speed, of the attention kernels on one GPU, in under ten minutes.

    tests/gpu/run.py BINARY [--out DIR] [--fa3 LIBRARY] [--quick] [--skip check,sanitizer,flex]

BINARY is the compiled test `gpu` (cargo test --release --test gpu --no-run prints its path). Python needs torch. LIBRARY is a
build of FlashAttention-3 that registers torch operators (vLLM ships one as _vllm_fa3_C.abi3.so); without it that column is empty.

Every kernel of a row runs in turn, several rounds, on random normal inputs that rotate, so that clocks and heat are shared:
a card under load changes its clock by a tenth within a second. Figures are TFLOP/s of the median launch (2·Sq·Sk·Hq·(Dk+Dv),
half of it where causal), the spread is the distance of the quartiles over the median, and ratios are of medians. Clocks and
limits of the card are left as they are.
"""

import argparse
import datetime
import math
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ROUNDS, LAUNCHES = 4, 6


class Ours:
    """The binary in its mode `serve`: a line in, a line out."""

    def __init__(self, binary):
        self.process = subprocess.Popen(
            [binary, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        print("ours:", self.process.stdout.readline().strip(), flush=True)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        answer = self.process.stdout.readline().split()
        if not answer or answer[0] != "ms":
            raise RuntimeError(" ".join(answer) or "the binary ended")
        fields = dict(zip(answer[0::2], map(float, answer[1::2])))
        return fields["ms"], fields["iqr"]


def inputs(b, hq, hkv, sq, sk, dk, dv, dtype=torch.bfloat16):
    make = lambda h, s, d: torch.randn(b, h, s, d, device="cuda", dtype=dtype)
    return make(hq, sq, dk), make(hkv, sk, dk), make(hkv, sk, dv)


def sdpa(backend):
    def make(q, k, v, causal):
        def call():
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])

        return call

    return make


def fa3(q, k, v, causal):
    b, hq, s, d = q.shape
    rows = [x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3]).contiguous() for x in (q, k, v)]
    ends = torch.arange(b + 1, device="cuda", dtype=torch.int32) * s
    none = [None] * 9
    return lambda: torch.ops._vllm_fa3_C.fwd(
        *rows, None, None, None, None, ends, ends, None, None, None, s, s, *none,
        1 / math.sqrt(d), causal, -1, -1, 0.0, True, None, 1, None, 0, None, 1, 0, None,
    )[0].view(b, s, hq, -1).transpose(1, 2)  # fmt: skip


def flex():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention)

    def make(q, k, v, causal):
        mask = None
        if causal:
            s = q.shape[2]
            mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, s, s, device="cuda")
        return lambda: compiled(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])

    return make


def event_times(call, launches):
    pairs = [[torch.cuda.Event(True) for _ in range(2)] for _ in range(launches)]
    for before, after in pairs:
        before.record()
        call()
        after.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in pairs]


def quartiles(times):
    low, middle, high = statistics.quantiles(times, n=4)
    return middle, high - low


def row(ours, peers, shape, causal, rounds=ROUNDS, more=""):
    """Median and quartile distance in ms per kernel; peers that cannot run this shape are left out."""
    b, hq, hkv, sq, sk, dk, dv = shape
    sets = [inputs(*shape) for _ in range(3)]
    calls, times = {}, {"ours": [], "spread": []}
    for name, make in peers.items():
        try:
            made = [make(*s, causal) for s in sets]
            made[0]()
            torch.cuda.synchronize()
            calls[name] = made
            times[name] = []
        except Exception as e:  # a peer that refuses is a dash in the table
            print(f"  {name} refuses {shape}: {str(e).splitlines()[0][:120]}")
    line = f"time {' '.join(map(str, shape))} {'causal' if causal else 'full'} bf16 REPEAT={LAUNCHES} {more}"
    for i in range(rounds):
        median, spread = ours.ask(line)
        times["ours"].append(median)
        times["spread"].append(spread)
        for name, made in calls.items():
            made[i % len(made)]()
            times[name] += event_times(made[(i + 1) % len(made)], LAUNCHES)
    result = {name: quartiles(t) for name, t in times.items() if name not in ("ours", "spread")}
    result["ours"] = (statistics.median(times["ours"]), statistics.median(times["spread"]))
    return result


def ceilings():
    x = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    y = torch.empty_like(x)
    copy, _ = quartiles(event_times(lambda: y.copy_(x), 10))
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product, _ = quartiles(event_times(lambda: a @ b, 20))
    return 2 * x.numel() * 2 / copy / 1e9, 2 * 8192**3 / product / 1e9


def table(title, names, rows, out):
    out(f"\n## {title}\n")
    against = names[1:]
    out("| shape | " + " | ".join([*names, *(f"ours / {n}" for n in against), "spread of ours"]) + " |")
    out("|---" * (len(names) + len(against) + 2) + "|")
    for label, flop, r in rows:
        rate = {n: flop / t / 1e9 for n, (t, _) in r.items()}
        ratio = lambda n: f"{rate['ours'] / rate[n]:.3f}" if n in rate else "–"
        cells = [f"{rate[n]:.0f}" if n in rate else "–" for n in names]
        spread = r["ours"][1] / r["ours"][0]
        out(f"| {label} | {' | '.join([*cells, *map(ratio, against)])} | {spread:.1%} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--out", default=".", help="folder of results.md and check.txt")
    parser.add_argument("--fa3", help="library that registers _vllm_fa3_C::fwd")
    parser.add_argument("--sanitize", default="zigzag", help="which checks run under compute-sanitizer, by a part of their name")
    parser.add_argument("--quick", action="store_true", help="a row of each kind")
    parser.add_argument("--skip", default="", help="parts to leave out: check, sanitizer, flex, portable, step …")
    parser.add_argument("--limit", type=float, default=500, help="seconds after which no part is begun")
    args = parser.parse_args()
    skip = set(args.skip.split(","))
    begin = time.time()
    os.makedirs(args.out, exist_ok=True)
    file = open(os.path.join(args.out, "results.md"), "w")

    def out(line):
        print(line, flush=True)
        print(line, file=file, flush=True)

    out(f"# Attention forward on {torch.cuda.get_device_name()}, {datetime.date.today()}\n")
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version,power.limit", "--format=csv,noheader"], capture_output=True, text=True
    ).stdout.strip()
    out(f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, driver and power limit {driver}. bf16.")

    failures = []

    def part(name, work):
        """A part that fails is named, and the others go on."""
        if name in skip or time.time() - begin > args.limit:
            out(f"\n{name}: left out")
            return
        try:
            work()
        except Exception as e:
            failures.append(name)
            out(f"\n{name}: failed: {' '.join(str(e).split())[:300]}")
        print(f"[{name}: {time.time() - begin:.0f} s]", flush=True)

    def check():
        done = subprocess.run([args.binary, "check"], capture_output=True, text=True, timeout=150)
        open(os.path.join(args.out, "check.txt"), "w").write(done.stdout + done.stderr)
        wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
        print("\n".join(wrong[:20]))
        out(f"\nLaunches of many variants, each against a reference in f64: {done.stdout.strip().splitlines()[-1]}.")
        if done.returncode:
            failures.append("check")

    def sanitizer():
        tool = ["compute-sanitizer", "--error-exitcode", "9", args.binary, "check", args.sanitize]
        done = subprocess.run(tool, capture_output=True, text=True, timeout=90)
        lines = done.stdout.strip().splitlines()
        out(f"\ncompute-sanitizer, memcheck, over the checks named {args.sanitize}: {' · '.join(lines[-2:])}.")
        if done.returncode:
            failures.append("sanitizer")

    part("check", check)
    part("sanitizer", sanitizer)
    part("ceilings", lambda: out("\nCeilings: copy {:.2f} TB/s read and written, product of 8192³ {:.0f} TFLOP/s.".format(*ceilings())))

    peers = {"cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION), "FA2": sdpa(SDPBackend.FLASH_ATTENTION)}
    if args.fa3:
        torch.ops.load_library(args.fa3)
        peers["FA3"] = fa3
    names = ["ours", *peers]
    ours = Ours(args.binary)
    flop = lambda b, hq, hkv, sq, sk, dk, dv, causal: 2 * b * hq * sq * sk * (dk + dv) * (0.5 if causal else 1)

    def measure(title, shapes, peers, names, more=""):
        rows = []
        for shape, causal in shapes:
            b, hq, hkv, s, _, dk, dv = shape
            label = f"{hq}/{hkv} heads, S {s}, D {dk}{f'/{dv}' if dv != dk else ''}, {'causal' if causal else 'full'}"
            rows.append((label, flop(*shape, causal), row(ours, peers, shape, causal, more=more)))
        table(title, names, rows, out)

    lengths = [8192] if args.quick else [2048, 4096, 8192, 16384, 32768]
    both = (True, False)
    of = lambda h, d, s, dv=None: (1, h, 8, s, s, d, dv or d)
    for h in (64, 32):
        shapes = [(of(h, 128, s), causal) for causal in both for s in lengths]
        part(f"{h} heads", lambda: measure(f"D 128, {h}/8 heads", shapes, peers, names))
    shapes = [(of(h, dk, 8192, dv), causal) for h, dk, dv in [(64, 64, 64), (32, 256, 256), (64, 192, 128)] for causal in both]
    part("heads of other sizes", lambda: measure("Other head sizes, S 8192", shapes, peers, names))
    part("step", lambda: steps(ours, [2048, 8192] if args.quick else [1024, 2048, 4096, 8192, 16384, 32768], out))
    portable = [(of(h, d, 8192), causal) for h, d in [(64, 64), (64, 128), (32, 256)] for causal in both]
    two = lambda name: ({name: peers[name]}, ["ours", name])
    part("portable", lambda: measure("The portable kernel, S 8192", portable, *two("FA2"), "PORTABLE=1"))
    first = [(of(64, 128, 8192), True)]
    part("drift", lambda: measure("The first kind again, after all others", first, peers, names))
    flexed = [(of(64, 128, 8192), causal) for causal in both]
    part("flex", lambda: measure("FlexAttention", flexed, {"cuDNN": peers["cuDNN"], "Flex": flex()}, ["ours", "cuDNN", "Flex"]))
    out(f"\n{time.time() - begin:.0f} s in all. " + (f"Failed: {', '.join(failures)}." if failures else "Nothing failed."))
    sys.exit(1 if failures else 0)


def steps(ours, lengths, out):
    """Steps of a ring with a carry in and out, against one launch of as many pairs without one."""
    out("\n## Steps with a carry, 32/8 heads, D 128: rate of the step over the rate of a launch without carry\n")
    out("| c rows a rank | c × c causal, carry | c × c/2 full, carry | c/2 × c full, carry | c × c full, no carry (TFLOP/s) |")
    out("|---|---|---|---|---|")
    for c in lengths:
        cells = []
        whole, _ = ours.ask(f"time 1 32 8 {c} {c} 128 128 full bf16 REPEAT=12")
        rate = lambda sq, sk, ms, causal: 2 * 32 * sq * sk * 256 * (0.5 if causal else 1) / ms / 1e9
        base = rate(c, c, whole, False)
        causal, _ = ours.ask(f"time 1 32 8 {c} {c} 128 128 causal bf16 REPEAT=12")
        for sq, sk, mask, of in [(c, c, "causal", causal), (c, c // 2, "full", None), (c // 2, c, "full", None)]:
            ms, _ = ours.ask(f"step 1 32 8 {sq} {sk} 128 128 {mask} bf16 REPEAT=12")
            against = rate(c, c, of, True) if of else base
            cells.append(f"{rate(sq, sk, ms, mask == 'causal') / against:.3f}")
        out(f"| {c} | {' | '.join(cells)} | {base:.0f} |")


if __name__ == "__main__":
    main()
