#!/usr/bin/env python3
"""Correctness, then speed, of the attention kernels and of schedules on one GPU, in less than ten minutes.

    cargo build --release; cargo test --release --test gpu --no-run        # the second prints the path of BINARY; neither needs a GPU
    tests/gpu/run.py BINARY --out OUT [--annulus PROGRAM] [--fa3 LIBRARY] [--quick] [--skip PART,…] [--only PART,…] [--limit SECONDS]

Python needs torch 2.11, the machine NVRTC and, for two parts, compute-sanitizer. The first part, `compile`, fills the kernel cache
with what `check` and `serve` use, on all cores (BINARY cubins I/N is one share of it); where the cache is full it takes no time.
LIBRARY is a build of FlashAttention-3 that registers torch operators: vLLM ships one, _vllm_fa3_C.abi3.so, and that of 0.26.0 takes
the arguments that bench.py gives. Without it that column is empty. PROGRAM is the command line, target/release/annulus: without it the
part `models` is left out.

Every part (PARTS below, in their order) fails alone and is named; past LIMIT no part and no row of a table is begun. OUT gets
results.md, the same for programs in results.json, times.csv with every launch, and the logs of the checks.

Kernels run one launch each in turn, in an order that rotates (bench.py). Figures are TFLOP/s of the median launch
(2·Sq·Sk·Hq·(Dk+Dv), half of it where causal), then of the fastest one, and the distance of the quartiles over the median; ratios are
of medians. Clocks and limits of the card are left as they are.
"""

import argparse
import csv
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

PARTS = [
    "compile", "check", "models", "ranks", "played", "values", "ceilings", "copies", "heads64", "heads32", "sizes", "steps", "portable", "drift", "flex",
    "memcheck", "racecheck",
]  # fmt: skip
# In a process of their own: what they might break is not used after them. With the seconds that they may take.
ALONE = {"ceilings": 60, "copies": 60, "flex": 120}


class Run:
    def __init__(self, args):
        self.args, self.begin = args, args.begin or time.time()
        self.failures, self.first = [], {}
        os.makedirs(args.out, exist_ok=True)
        # Appended to, for a part in a process of its own writes there too.
        files = [os.path.join(args.out, name) for name in ("results.md", "times.csv", "results.jsonl")]
        if not args.child:
            for file in files:
                open(file, "w").close()
        self.file, self.times, self.lines = open(files[0], "a"), open(files[1], "a", newline=""), open(files[2], "a")
        self.csv = csv.writer(self.times)
        if not args.child:
            self.csv.writerow(["part", "shape", "kernel", "round", "ms"])

    def out(self, line):
        print(line, flush=True)
        print(line, file=self.file, flush=True)

    def record(self, part, **what):
        """One result for programs."""
        print(json.dumps({"part": part, **what}), file=self.lines, flush=True)

    def close(self, **machine):
        """All records become one file."""
        self.lines.close()
        with open(self.lines.name) as lines:
            records = [json.loads(line) for line in lines]
        whole = {**machine, "seconds": round(self.seconds(), 1), "failed": self.failures, "records": records}
        with open(os.path.join(self.args.out, "results.json"), "w") as file:
            json.dump(whole, file, indent=1)
            file.write("\n")
        os.remove(self.lines.name)

    def seconds(self):
        return time.time() - self.begin

    def time_left(self):
        return self.seconds() < self.args.limit

    def log(self, part, shape):
        return lambda kernel, i, ms: self.csv.writerow([part, shape, kernel, i, f"{ms:.5f}"])

    def refused(self, where):
        return lambda kernel, why: self.out(f"\n{where}: {kernel} is left out: {why}")

    def failed(self, what, why=""):
        self.failures.append(what)
        if why:
            self.out(f"\n{what}: failed: {' '.join(str(why).split())[:300]}")

    def part(self, name, work):
        """A part that fails is named, and the others go on."""
        only, skip = self.args.only, self.args.skip
        if (only and name not in only) or name in skip:
            return
        if not self.time_left():
            return self.failed(name, "left out, the time is up")
        before = self.seconds()
        try:
            if name in ALONE and not self.args.child:
                self.alone(name)
            else:
                work()
        except Exception as e:
            self.failed(name, e)
        self.times.flush()
        print(f"[{name}: {self.seconds() - before:.1f} s, {self.seconds():.0f} s in all]", flush=True)

    def alone(self, name):
        """The same script with this part only, in a process of its own."""
        self.times.flush()
        command = [sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--only", name, "--child", "--begin", str(self.begin)]
        status, _ = run(command, ALONE[name], capture=False)
        if status:
            self.failed(name, f"its process ends with {status}")


def run(command, seconds, capture=True):
    """Status and output of a command; it and what it started are ended after so many seconds."""
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} if capture else {}
    process = subprocess.Popen(command, start_new_session=True, **pipe)
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output or ""
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return f"no end after {seconds} s", output or ""


def last(output, n=1):
    return " · ".join(output.strip().splitlines()[-n:])


def environment():
    """Where the binary finds NVRTC, that of torch last, and keeps its kernels."""
    import nvidia

    folders = [os.path.join(root, "cu13", "lib") for root in nvidia.__path__]
    there = [os.environ["LD_LIBRARY_PATH"]] if os.environ.get("LD_LIBRARY_PATH") else []
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(there + [f for f in folders if os.path.isdir(f) and f not in there])
    if not os.environ.get("HOME"):
        os.environ.setdefault("XDG_CACHE_HOME", os.path.join(tempfile.gettempdir(), "annulus-cache"))


def compile_all(r):
    n = os.cpu_count() or 1
    shares = [subprocess.Popen([r.args.binary, "cubins", f"{i}/{n}"], stdout=subprocess.PIPE, text=True) for i in range(n)]
    end = time.monotonic() + 150
    for i, share in enumerate(shares):
        try:
            output, _ = share.communicate(timeout=max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            share.kill()
            output, _ = share.communicate()
        if share.returncode:
            r.failed(f"compile, share {i} of {n}", last(output) or f"status {share.returncode}")


def checks(r):
    status, output = run([r.args.binary, "check"], 150)
    open(os.path.join(r.args.out, "check.txt"), "w").write(output)
    print("\n".join([line for line in output.splitlines() if line.startswith("WRONG")][:20]))
    r.out(f"\nLaunches of many variants, each against a reference in f64: {last(output)}.")
    r.record("check", said=last(output), status=status)
    if status:
        r.failed("check", status)


def sanitizer(r, tool, which, seconds):
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", r.args.binary, "check", which]
    status, output = run(command, seconds)
    open(os.path.join(r.args.out, f"{tool}.txt"), "w").write(output)
    r.record(tool, said=last(output, 2), status=status)
    r.out(f"\ncompute-sanitizer, {tool}, over the checks named {which}: {last(output, 2)}.")
    if status:
        r.failed(tool, status)


def table(r, title, names, rows, part):
    """`rows`: label, FLOP and the times by kernel. Ratios are of "ours" over each other."""
    against = [n for n in names if n != "ours"]
    r.out(f"\n## {title}\n")
    r.out("| shape | " + " | ".join([*names, *(f"ours / {n}" for n in against)]) + " |")
    r.out("|---" * (1 + len(names) + len(against)) + "|")
    for label, flop, times in rows:
        rate = lambda ms: f"{flop / ms / 1e9:.0f}"
        cell = lambda t: f"{rate(t.median)} ({rate(t.least)}, {t.spread:.1%})" if t else "–"
        ratio = lambda t: f"{t.median / times['ours'].median:.3f}" if t else "–"
        cells = [cell(times.get(n)) for n in names] + [ratio(times.get(n)) for n in against]
        r.out(f"| {label} | {' | '.join(cells)} |")
        for name, t in times.items():
            r.record(part, shape=label, kernel=name, flop=flop, median_ms=t.median, least_ms=t.least, spread=t.spread)


def shape(h, s, d=128, dv=None):
    return (1, h, 8, s, s, d, dv or d)


def label_of(shape, causal):
    _, hq, hkv, s, _, dk, dv = shape
    return f"{hq}/{hkv} heads, S {s}, D {dk}{f'/{dv}' if dv != dk else ''}, {'causal' if causal else 'full'}"


def measure(r, ours, part, title, shapes, peers, more="", also=None):
    """A table of shapes; a shape that fails is named. `also(shape, causal)`: more kernels of ours, {name: options}."""
    import bench

    rows, names = [], ["ours"]
    for of, causal in shapes:
        label = label_of(of, causal)
        if not r.time_left():
            r.failed(f"{part}: {label}", "left out, the time is up")
            continue
        request = f"time {' '.join(map(str, of))} {'causal' if causal else 'full'} bf16"
        kernels = {"ours": lambda: ours.hold(f"{request} {more}")}
        for name, options in (also(of, causal) if also else {}).items():
            kernels[name] = lambda options=options: ours.hold(f"{request} {options}")
        names += [n for n in kernels if n not in names]
        try:
            sets = bench.several(*of)
            for name, make in peers.items():
                kernels[name] = lambda make=make: bench.Called(make(sets, causal))
            times = bench.alternate(kernels, r.log(part, label), r.refused(label))
            b, hq, _, sq, sk, dk, dv = of
            rows.append((label, 2 * b * hq * sq * sk * (dk + dv) * (0.5 if causal else 1), times))
            r.first.setdefault((of, causal), times)
        except Exception as e:
            r.failed(f"{part}: {label}", e)
        finally:
            sets = kernels = None
    table(r, title, names + list(peers), rows, part)
    return rows


def drift(r, ours, peers):
    shapes = [(shape(64, 8192), True)]
    before = r.first.get(shapes[0])
    for _, _, again in measure(r, ours, "drift", "Drift: one of the first shapes again, after all others", shapes, peers):
        if before:
            parts = [f"{name} {before[name].median / t.median:.3f}" for name, t in again.items() if name in before]
            r.out(f"\nRates over those of the first time: {', '.join(parts)}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda text: {x for x in text.split(",") if x}
    parser.add_argument("binary")
    parser.add_argument("--out", default=".", help="folder of results.md, times.csv and logs")
    parser.add_argument("--annulus", help="the command line of annulus, for the part models")
    parser.add_argument("--models", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models"), help="folder of models")
    parser.add_argument("--fa3", help="library that registers _vllm_fa3_C::fwd")
    parser.add_argument("--memcheck", default="zigzag", help="which checks run under memcheck, by a part of their name")
    parser.add_argument("--racecheck", default="129x127", help="and under racecheck")
    parser.add_argument("--quick", action="store_true", help="few lengths")
    parser.add_argument("--skip", type=names, default=set(), help="parts to leave out")
    parser.add_argument("--only", type=names, default=set(), help="the parts to run")
    parser.add_argument("--limit", type=float, default=480, help="seconds after which no part is begun")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=float, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := (args.skip | args.only) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    r = Run(args)

    import torch
    from torch.nn.attention import SDPBackend

    import bench
    import ceilings
    import ranks
    import steps

    if not args.child:
        try:
            environment()
        except ImportError:
            pass  # torch has no NVRTC of its own: the toolkit's is taken
        r.out(f"# Attention forward on {torch.cuda.get_device_name()}, {datetime.date.today()}\n")
        asked = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
        driver = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
        machine = {"device": torch.cuda.get_device_name(), "date": str(datetime.date.today()), "torch": torch.__version__}
        machine |= {"cudnn": torch.backends.cudnn.version(), "driver, power limit, highest clock": driver}
        r.out(f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}; driver, power limit and highest clock {driver}. bf16.")
        r.out("Each kernel launched in turn; TFLOP/s of the median launch (of the fastest, distance of the quartiles over the median).")

    ours = bench.Ours(args.binary)
    peers = {"cuDNN": bench.sdpa(SDPBackend.CUDNN_ATTENTION), "FA2": bench.sdpa(SDPBackend.FLASH_ATTENTION)}
    if args.fa3:
        try:
            torch.ops.load_library(args.fa3)
            peers["FA3"] = bench.fa3
        except Exception as e:
            r.failed("FA3", e)
    lengths = [2048, 8192] if args.quick else [2048, 4096, 8192, 16384, 32768]
    both = (True, False)
    heads = lambda h: [(shape(h, s), causal) for causal in both for s in lengths]
    others = [(64, 64, 64), (32, 256, 256), (64, 192, 128)]
    sizes = [(shape(h, 8192, dk, dv), causal) for h, dk, dv in others for causal in both]
    portable = [(shape(h, 8192, d), causal) for h, d in [(64, 64), (64, 128), (32, 256)] for causal in both]
    flexed = [(shape(64, s), causal) for s in ([8192] if args.quick else [8192, 2048, 32768]) for causal in both]
    pairs = [2048, 8192] if args.quick else [1024, 2048, 4096, 8192, 16384, 32768]
    only = lambda name: {name: peers[name]}
    # A causal kernel is followed by one that does the rows with values that are not finite; what that costs where there are none.
    alone = lambda of, causal: {"ours, no second launch": "REDO=0"} if causal and of[3] in (2048, 8192) else {}

    r.part("compile", lambda: compile_all(r))
    r.part("check", lambda: checks(r))
    r.part("models", lambda: ranks.models(r, run, last))
    r.part("ranks", lambda: ranks.ranks(r, run, last))
    r.part("played", lambda: ranks.played(r, run, last))
    r.part("values", lambda: steps.against_cudnn(ours, r))
    r.part("ceilings", lambda: ceilings.ceilings(r))
    r.part("copies", lambda: ceilings.copies(r, ours))
    r.part("heads64", lambda: measure(r, ours, "heads64", "D 128, 64/8 heads", heads(64), peers, also=alone))
    r.part("heads32", lambda: measure(r, ours, "heads32", "D 128, 32/8 heads", heads(32), peers))
    r.part("sizes", lambda: measure(r, ours, "sizes", "Other head sizes, S 8192", sizes, peers))
    r.part("steps", lambda: steps.steps(ours, pairs, r))
    r.part("portable", lambda: measure(r, ours, "portable", "The portable kernel, S 8192", portable, only("FA2"), "PORTABLE=1"))
    r.part("drift", lambda: drift(r, ours, peers))
    r.part("flex", lambda: measure(r, ours, "flex", "FlexAttention", flexed, {**only("cuDNN"), "Flex": bench.flex()}))
    ours.stop()
    r.part("memcheck", lambda: sanitizer(r, "memcheck", args.memcheck, 60))
    r.part("racecheck", lambda: sanitizer(r, "racecheck", args.racecheck, 60))
    if not args.child:
        r.close(**machine)
        r.out(f"\n{r.seconds():.0f} s in all. " + (f"Failed: {', '.join(r.failures)}." if r.failures else "Nothing failed."))
    sys.exit(1 if r.failures else 0)


if __name__ == "__main__":
    main()
