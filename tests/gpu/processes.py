#!/usr/bin/env python3
"""Ranks that are processes over NCCL, all on one GPU: correctness only, and what the others say of a rank that is killed.

    cargo build --release
    tests/gpu/processes.py target/release/annulus --out OUT [--ranks 2,4] [--models FOLDER]

NCCL takes one GPU for several ranks if each has a host's name of its own (NCCL_HOSTID); it then goes by the loopback interface. Each bundled
model runs by every strategy, as processes and with all ranks in one process: the figures that both print must be the same to the last
digit. OUT gets processes.md and processes.json. Times mean nothing here: all ranks share one GPU.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time

STRATEGIES = ["ring", "ring-reverse", "all-gather", "all-gather-staged", "queries", "heads"]
SETTINGS = {
    "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1", "NCCL_NET": "Socket", "NCCL_MNNVL_ENABLE": "0", "NCCL_NVLS_ENABLE": "0", "NCCL_MAX_CTAS": "2",
}  # fmt: skip
# Longer than any of these runs takes.
LIMIT = 120


def command(args, ranks, words):
    """The ranks, each of which says that it is a host of its own."""
    shell = 'NCCL_HOSTID="rank$ANNULUS_RANK" exec "$0" "$@"'
    return [args.annulus, "launch", "-n", str(ranks), "--", "sh", "-c", shell, os.path.abspath(args.annulus), "run", *words]


def run(line, **more):
    done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, env={**os.environ, **SETTINGS}, **more)
    return done.returncode, done.stdout, done.stderr


def result(said):
    """What a run in JSON says of its outputs; lines of `launch` begin with the rank."""
    lines = [re.sub(r"^\[\d+\] ?", "", line) for line in said.splitlines()]
    whole = json.loads("\n".join(lines))
    return whole["outputs"], whole["traffic"], whole["ok"]


def same(args, ranks, model, strategy):
    words = [model, "--ranks", str(ranks), "--strategy", strategy, "--backend", "cuda", "--json"]
    results = []
    for line in (command(args, ranks, words), [args.annulus, "run", *words, "--transport", "local"]):
        code, said, errors = run(line)
        if code:
            return f"exit {code}: {' '.join(errors.split())[:300]}"
        results.append(result(said))
    if results[0] != results[1]:
        return f"processes and one process differ: {results[0]} and {results[1]}"
    return "" if results[0][2] else "not within the tolerance"


def killed(args, ranks, model):
    """The last rank is killed while it runs: every other one must end, and name it."""
    words = [model, "--ranks", str(ranks), "--strategy", "ring", "--backend", "cuda"]
    line = command(args, ranks, words)
    # It says its number before it becomes the rank.
    line[line.index("-c") + 1] = 'NCCL_HOSTID="rank$ANNULUS_RANK"; export NCCL_HOSTID; [ "$ANNULUS_RANK" = %d ] && echo "pid $$"; exec "$0" "$@"' % (ranks - 1)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **SETTINGS})
    pid = None
    for said in process.stdout:
        found = re.search(r"pid (\d+)", said)
        if found:
            pid = int(found[1])
            break
    if pid is None:
        process.kill()
        return "no rank said its number"
    time.sleep(args.after)
    os.kill(pid, signal.SIGKILL)
    begin = time.time()
    _, errors = process.communicate(timeout=LIMIT)
    took = time.time() - begin
    if process.returncode == 0:
        return "the run ends well though a rank was killed"
    return "" if took < 5 else f"the others ended after {took:.1f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("annulus")
    parser.add_argument("--out", required=True)
    parser.add_argument("--ranks", default="2,4")
    parser.add_argument("--models", default=os.path.join(os.path.dirname(__file__), "..", "models"))
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--after", type=float, default=1.0, help="seconds until a rank is killed")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    models = sorted(m.path for m in os.scandir(args.models) if os.path.exists(os.path.join(m.path, "model.onnx")))
    _, doctor, _ = run([args.annulus, "doctor"])
    rows = []
    for ranks in map(int, args.ranks.split(",")):
        for model in models:
            for strategy in args.strategies.split(","):
                rows.append((ranks, os.path.basename(model), strategy, same(args, ranks, model, strategy)))
                print(*rows[-1][:3], rows[-1][3] or "ok", flush=True)
        rows.append((ranks, os.path.basename(models[0]), "a rank is killed", killed(args, ranks, models[0])))
        print(*rows[-1][:3], rows[-1][3] or "ok", flush=True)
    library = [line for line in doctor.splitlines() if line.startswith("libnccl")]
    with open(os.path.join(args.out, "processes.md"), "w") as file:
        print(*library, "", "| ranks | model | strategy | result |", "|---|---|---|---|", sep="\n", file=file)
        for row in rows:
            print("|", " | ".join(map(str, row[:3])), "|", row[3] or "same figures as one process", "|", file=file)
    with open(os.path.join(args.out, "processes.json"), "w") as file:
        keys = ("ranks", "model", "strategy", "wrong")
        json.dump({"library": library, "rows": [dict(zip(keys, row)) for row in rows]}, file, indent=1)
    return 1 if any(row[3] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
