#!/usr/bin/env python3
"""Attention over a long context, written out in many spellings, beside the same as one operator.

    python3 tests/long_contexts.py target/release/annulus [ROWS [HEADS]]

For each spelling, as text and as ONNX, what `find` and `compile --ranks 8` take: processor seconds and the peak of memory. The
scores of 32 heads and 1,048,576 rows would be 128 TiB; nothing here may hold a part of them. Exits with 1 if a spelling is not found
with its mask, or if its schedule is not the operator's. Needs no package.
"""

import os
import struct
import sys
import tempfile

DEPTH = 128
LEAST = -3.4028234663852886e38
RANKS = 8


def window(rows):
    """How many keys a window has, the own one among them."""
    return max(rows // 256, 1)


def text(name, rows, heads, lines, scores):
    lines = lines.replace("= W\n", f"= {window(rows)}\n")
    body = f"""graph "{name}" {{
  input %q: f32[1,H,S,D]
  input %k: f32[1,H,S,D]
  input %v: f32[1,H,S,D]
  const %scale: f32[] = 0.08838834764831845
  const %zero: f32[] = 0.0
  const %inf: f32[] = -inf
  const %least: f32[] = -3.4028235e38
{lines}
  %s: f32[1,H,S,S] = contract %q, %k {{bhid,bhjd->bhij}}
  %t: f32[1,H,S,S] = mul %s, %scale
  %x: f32[1,H,S,S] = {scores}
  %p: f32[1,H,S,S] = softmax %x {{axis=3}}
  %o: f32[1,H,S,D] = contract %p, %v {{bhij,bhjd->bhid}}
  output "o" = %o
}}
"""
    for letter, extent in (("S", rows), ("H", heads), ("D", DEPTH)):
        for before in "[,":
            for after in ",]":
                body = body.replace(f"{before}{letter}{after}", f"{before}{extent}{after}")
                body = body.replace(f"{before}{letter}{after}", f"{before}{extent}{after}")
    return body.encode()


POSITIONS = "  %i: i64[S,1] = iota {axis=0}\n  %j: i64[S] = iota {axis=0}\n"
CAUSAL = POSITIONS + "  %m: bool[S,S] = le %j, %i"
WINDOW = (
    POSITIONS
    + "  const %none: i64[] = 0\n  const %w: i64[] = W\n  %d: i64[S,S] = sub %i, %j\n"
    + "  %near: bool[S,S] = lt %d, %w\n  %past: bool[S,S] = ge %d, %none\n  %m: bool[S,S] = and %near, %past"
)
TRIANGLE = (
    "  %all: f32[S,S] = broadcast %least\n  %row: i64[S,S] = iota {axis=0}\n  %column: i64[S,S] = iota {axis=1}\n"
    "  %upper: bool[S,S] = gt %column, %row\n  %f: f32[S,S] = select %upper, %all, %zero\n  %b: f32[1,1,S,S] = reshape %f"
)
ADDED = CAUSAL + "\n  %f: f32[S,S] = select %m, %zero, %inf\n  %b: f32[1,1,S,S] = reshape %f"
PADDED = "  input %pad: bool[1,1,1,S]\n" + POSITIONS + "  %c: bool[S,S] = le %j, %i\n  %m: bool[1,1,S,S] = and %c, %pad"
# Name, lines, what is done to the scores, the mask that `find` must say, the operator with the same schedule.
TEXTS = [
    ("no mask", "", "add %t, %zero", "none", "none"),
    ("causal, where −∞", CAUSAL, "select %m, %t, %inf", "causal(0)", "causal(0)"),
    ("causal, where the least number", CAUSAL, "select %m, %t, %least", "causal(0)", "causal(0)"),
    ("causal, added −∞", ADDED, "add %t, %b", "causal(0)", "causal(0)"),
    ("causal, an added triangle", TRIANGLE, "add %t, %b", "causal(0)", "causal(0)"),
    ("window, where −∞", WINDOW, "select %m, %t, %inf", "window(W,0,0)", "window(W,0,0)"),
    ("window, where the least number", WINDOW, "select %m, %t, %least", "window(W,0,0)", "window(W,0,0)"),
    ("causal and padding of an input", PADDED, "select %m, %t, %inf", "causal(0) & tensor(m)", None),
]


def operator(rows, heads, mask):
    ty = f"f32[1,{heads},{rows},{DEPTH}]"
    mask = mask.replace("W", str(window(rows) - 1))
    attention = f"{{scores=[factor 0.0883883461356163 | fill -inf unless {mask}], acc=f32, empty=nan}}"
    inputs = "".join(f"  input %{x}: {ty}\n" for x in "qkv")
    return f'graph "operator" {{\n{inputs}  %o: {ty} = attention %q, %k, %v {attention}\n  output "o" = %o\n}}\n'.encode()


# As much of protocol buffers as an ONNX model takes.
def varint(n):
    n &= (1 << 64) - 1
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, kind, dims, data):
    dims = b"".join(field(1, d) for d in dims)
    return field(5, dims + field(2, kind) + field(8, name) + field(9, data))


def floating(name, number):
    return tensor(name, 1, [], struct.pack("<f", number))


def whole(name, *numbers, scalar=False):
    return tensor(name, 7, [] if scalar else [len(numbers)], struct.pack(f"<{len(numbers)}q", *numbers))


def node(op, inputs, output, **attributes):
    lists = b""
    for key, value in attributes.items():
        if isinstance(value, list):
            lists += field(5, field(1, key) + b"".join(field(8, v) for v in value) + field(20, 7))
        else:
            lists += field(5, field(1, key) + field(3, value) + field(20, 2))
    named = b"".join(field(1, x) for x in inputs)
    return field(1, named + field(2, output) + field(3, output) + field(4, op) + lists)


def value(number, name, dims):
    shape = b"".join(field(1, field(1, d)) for d in dims)
    return field(number, field(1, name) + field(2, field(1, field(1, 1) + field(2, shape))))


def onnx(rows, heads, nodes, constants):
    shape = [1, heads, rows, DEPTH]
    graph = node("Transpose", ["k"], "kt", perm=[0, 1, 3, 2]) + node("MatMul", ["q", "kt"], "s")
    graph += node("Mul", ["s", "scale"], "t") + nodes + node("Softmax", ["x"], "p", axis=-1)
    graph += node("MatMul", ["p", "v"], "o") + field(2, "long")
    graph += floating("scale", 0.08838834764831845) + constants
    graph += b"".join(value(11, x, shape) for x in "qkv") + value(12, "o", shape)
    return field(1, 9) + field(7, graph) + field(8, field(1, "") + field(2, 20))


def onnx_models(rows, heads):
    count = node("Range", ["from", "to", "by"], "r") + node("Unsqueeze", ["r", "last"], "i")
    numbers = whole("from", 0, scalar=True) + whole("to", rows, scalar=True) + whole("by", 1, scalar=True) + whole("last", 1)
    causal = count + node("LessOrEqual", ["r", "i"], "m")
    full = node("Expand", ["fill", "square"], "e") + node("Trilu", ["e", "one"], "b", upper=1)
    square = whole("square", rows, rows) + whole("one", 1, scalar=True)
    near = count + node("Sub", ["i", "r"], "d") + node("Less", ["d", "w"], "near") + node("GreaterOrEqual", ["d", "from"], "past")
    near += node("And", ["near", "past"], "m")
    yield "ONNX: Range and Where −∞", causal + node("Where", ["m", "t", "inf"], "x"), numbers + floating("inf", float("-inf")), "causal(0)"
    yield "ONNX: Range and Where the least number", causal + node("Where", ["m", "t", "fill"], "x"), numbers + floating("fill", LEAST), "causal(0)"
    yield "ONNX: Trilu of the least number", full + node("Add", ["t", "b"], "x"), square + floating("fill", LEAST), "causal(0)"
    yield "ONNX: window by distances", near + node("Where", ["m", "t", "inf"], "x"), numbers + whole("w", window(rows), scalar=True) + floating("inf", float("-inf")), "window(W,0,0)"


def run(arguments):
    """Exit status, output, processor seconds and peak memory in MiB."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(read)
        os.execv(arguments[0], arguments)
    os.close(write)
    with os.fdopen(read, "rb") as out:
        output = out.read().decode()
    _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), output, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def measured(binary, path):
    find = run([binary, "find", path])
    compile_ = run([binary, "compile", path, "--ranks", str(RANKS)])
    schedule = run([binary, "compile", path, "--ranks", str(RANKS), "--emit", "schedule"])[1]
    return find, compile_, schedule.split("\n", 1)[-1]


def main():
    binary, rows, heads = sys.argv[1], int((sys.argv[2:] or [1048576])[0]), int((sys.argv[3:] or [32])[0])
    wrong = 0
    print(f"{heads} heads, {rows} rows, {RANKS} ranks\n")
    print("| spelling | find s | find MiB | compile s | compile MiB | mask | schedule |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        operators = {}

        def line(name, data, suffix, mask, like):
            nonlocal wrong
            path = os.path.join(folder, "graph" + suffix)
            mask = mask.replace("W", str(window(rows) - 1))
            with open(path, "wb") as file:
                file.write(data)
            (found, out, s1, m1), (compiled, why, s2, m2), schedule = measured(binary, path)
            as_said = found == 0 and compiled == 0 and f"  {mask}  " in out and "no near misses" in out
            same = "the operator's" if like is None else "the same" if operators.get(like) == schedule else "ANOTHER"
            wrong += not as_said or same == "ANOTHER"
            said = mask if as_said else "NOT FOUND: " + (out if found else why).strip().splitlines()[-1][:120]
            print(f"| {name} | {s1:.2f} | {m1:.0f} | {s2:.2f} | {m2:.0f} | {said} | {same} |", flush=True)
            return schedule

        for mask in ["none", "causal(0)", "window(W,0,0)"]:
            operators[mask] = line(f"operator, {mask}", operator(rows, heads, mask), ".txt", mask, None)
        for name, lines, scores, mask, like in TEXTS:
            line(name, text("long", rows, heads, lines, scores), ".txt", mask, like)
        for name, nodes, constants, mask in onnx_models(rows, heads):
            line(name, onnx(rows, heads, nodes, constants), ".onnx", mask, mask)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
