"""Schedules on one GPU: bundled models, all ranks of islands beside one rank, and one rank played alone.

BINARY `ranks` and `played` print a JSON object a line (tests/gpu/ranks.rs, played.rs); here they become tables.
"""

import json
import os


def models(r, run, last):
    """Whole models through the command line: eagerly, and by a graph."""
    if not r.args.annulus:
        return r.failed("models", "left out: --annulus names no program")
    folder = r.args.models
    names = sorted(n for n in os.listdir(folder) if os.path.exists(os.path.join(folder, n, "model.onnx")))
    r.out("\n## Bundled models by `run --backend cuda`, all ranks on one GPU\n")
    r.out("| model | ranks | graph | what it says |\n|---|---|---|---|")
    for name in names:
        for count in (1, 2, 4, 8):
            for graph in (True, False):
                if not r.time_left():
                    return r.failed("models", "left out, the time is up")
                command = [r.args.annulus, "run", os.path.join(folder, name), "--ranks", str(count), "--backend", "cuda"]
                status, output = run(command + ([] if graph else ["--no-graph"]), 60)
                r.out(f"| {name} | {count} | {'yes' if graph else 'no'} | {last(output)} |")
                r.record("models", model=name, ranks=count, graph=graph, status=status, said=last(output))
                if status:
                    r.failed(f"models: {name} on {count} ranks", last(output))


def lines(r, run, last, part, seconds):
    """What the binary prints, an object a line; what it refuses is named."""
    command = [r.args.binary, part] + (["quick"] if r.args.quick else [])
    status, output = run(command, seconds)
    with open(os.path.join(r.args.out, f"{part}.txt"), "w") as file:
        file.write(output)
    found = []
    for line in output.splitlines():
        if line.startswith("{"):
            found.append(json.loads(line))
            r.record(part, **found[-1])
        elif line.startswith(("WRONG", "refused")):
            r.failed(part, line)
    if status:
        r.failed(part, f"status {status}: {last(output)}")
    return found


def ranks(r, run, last):
    found = lines(r, run, last, "ranks", 120)
    r.out("\n## All ranks of an island on one GPU, beside one rank\n")
    r.out("Differences are the largest of any element, against one rank and between repeats (eager and by a graph): bits must be equal.")
    r.out("Host: what telling the device costs, for each operation of the device programs eagerly, and for each step of the schedule by a")
    r.out("graph (goal: less than 5 µs).\n")
    r.out("| island | strategy | ranks | difference to one rank | equal bits | one rank, ms | eager, ms | graph, ms | host: eager, µs an operation | graph, µs a step |")
    r.out("|---" * 10 + "|")
    for f in found:
        cells = [f["island"], f["strategy"], f["ranks"], f"{f['difference']:.1e}", "yes" if f["equal"] else "NO"]
        cells += [f"{f[ms]:.3f}" for ms in ("one_ms", "eager_ms", "graph_ms")]
        cells += [f"{f['host_eager_us'] / f['operations']:.2f}", f"{f['host_graph_us'] / f['steps']:.2f}"]
        r.out(f"| {' | '.join(map(str, cells))} |")
        if not f["equal"] or f["difference"] > f["within"]:
            r.failed(f"ranks: {f['island']}, {f['strategy']} on {f['ranks']}", f"difference {f['difference']}")


def played(r, run, last):
    found = lines(r, run, last, "played", 150)
    r.out("\n## One rank played alone: what others send comes from its own memory, by copies that keep the pace of a link\n")
    r.out("Steps alone: its kernels without any message. Efficiency: their time over that of the rank (goal at 370 GB/s: 0.98); exposed: the")
    r.out("rest. Predicted: by the schedule's cost model for the same link. To one GPU: whole attention of all rows there, over the ranks and this time.\n")
    r.out("| rows a rank | strategy | GB/s | SMs held | rank, ms | steps alone, ms | efficiency | exposed, ms | predicted, ms | predicted exposed, ms | to one GPU |")
    r.out("|---" * 11 + "|")
    for f in found:
        exposed = f["ms"] - f["steps_ms"]
        whole = f"{f['one_gpu_ms'] / f['ranks'] / f['ms']:.3f}" if f["one_gpu_ms"] else "–"
        cells = [f["rows"], f"{f['strategy']} on {f['ranks']}", f["gb_s"], "as they find" if f["sms"] is None else f["sms"], f"{f['ms']:.3f}", f"{f['steps_ms']:.3f}"]
        cells += [f"{f['steps_ms'] / f['ms']:.3f}", f"{exposed:.3f}", f"{f['predicted_ms']:.3f}", f"{f['predicted_exposed_ms']:.3f}", whole]
        r.out(f"| {' | '.join(map(str, cells))} |")
