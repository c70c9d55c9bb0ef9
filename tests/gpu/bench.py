"""What is timed, and how: one launch of each kernel in turn.

A card under load changes its clock by a tenth within a second, so kernels that are compared run launch by launch in turn, in an
order that rotates. Before each launch the device copies more than its caches hold, and the launch is queued meanwhile: no time is
counted in which it waits for this program. The device is idle before another process is asked.
"""

import math
import os
import select
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F

SETS = 4  # of inputs, used in rotation
ROUNDS, FEWEST = 24, 8


class Ours:
    """The binary in its mode `serve`: a line in, a line out. It is started when it is first asked, and again after it died; not
    if it was silent too often, for each time costs the patience."""

    def __init__(self, binary, patience=20, most_silences=3):
        self.binary, self.patience, self.silences = binary, patience, most_silences
        self.process, self.buffer, self.names = None, b"", 0

    def start(self):
        if self.silences == 0:
            raise RuntimeError("the binary gave no answer too often")
        self.process = subprocess.Popen([self.binary, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.buffer = b""
        print("ours:", self.line(), flush=True)
        if (answer := self.line()) != "ready":
            raise RuntimeError(f"serve: {answer}")

    def line(self):
        end = time.monotonic() + self.patience
        out = self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([out], [], [], max(0, end - time.monotonic()))
            read = os.read(out, 1 << 16) if ready else b""
            if not read:
                self.stop()
                self.silences -= not ready
                raise RuntimeError("the binary ended" if ready else f"no answer in {self.patience} s")
            self.buffer += read
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode().strip()

    def ask(self, line):
        if self.process is None:
            self.start()
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError as e:
            self.stop()
            raise RuntimeError("the binary ended") from e
        answer = self.line()
        if answer.startswith("error"):
            self.stop()  # what the device made of it is not known
            raise RuntimeError(f"{line.split()[0]}: {answer}")
        return answer.split()

    def numbers(self, line):
        words = self.ask(line)
        return dict(zip(words[0::2], map(float, words[1::2])))

    def hold(self, request):
        """A kernel of ours: `VERB B HQ HKV SQ SK DK DV causal|full bf16 …`."""
        self.names += 1
        return Held(self, f"k{self.names}", request)

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Held:
    def __init__(self, ours, name, request):
        self.ours, self.name = ours, name
        ours.ask(f"hold {name} {request}")
        self.process = ours.process  # a later one does not hold it

    def launch(self):
        return self.ours.numbers(f"go {self.name}")["ms"]

    def close(self):
        if self.ours.process is self.process:
            self.ours.ask(f"drop {self.name}")


class Lead:
    """Keeps the device busy while Python gets a launch ready, and empties the caches."""

    CYCLES = 1_000_000  # half a millisecond: what the slowest of the calls takes to be queued
    buffers = None

    @classmethod
    def go(cls):
        if cls.buffers is None:
            cls.buffers = [torch.ones(256 << 20, device="cuda", dtype=torch.uint8) for _ in range(2)]
        torch.cuda._sleep(cls.CYCLES)
        cls.buffers[1].copy_(cls.buffers[0])


class Called:
    """A kernel of torch, as a call for each set of inputs."""

    def __init__(self, calls):
        self.calls, self.count = calls, 0
        for call in calls[:2]:
            call()
        torch.cuda.synchronize()

    def launch(self):
        self.count += 1
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        Lead.go()
        before.record()
        self.calls[self.count % len(self.calls)]()
        after.record()
        torch.cuda.synchronize()
        return before.elapsed_time(after)

    def close(self):
        self.calls = []


class Times:
    """Milliseconds of one kernel's launches."""

    def __init__(self, ms):
        self.ms = ms
        self.median, self.least = statistics.median(ms), min(ms)
        low, _, high = statistics.quantiles(ms, n=4) if len(ms) > 1 else [ms[0]] * 3
        self.spread = (high - low) / self.median


def alternate(kernels, log, refused, seconds=3.5, rounds=ROUNDS):
    """Times of each: {name: Times}. `kernels` makes them, {name: function}; one that refuses is left out, but for "ours".
    `log(name, round, ms)` sees every launch, `refused(name, why)` what is left out. As many rounds as fit the seconds, at least
    FEWEST."""
    made, ms = {}, {}
    try:
        for name, make in kernels.items():
            try:
                made[name] = make()
            except Exception as e:
                if name.startswith("ours"):
                    raise
                refused(name, " ".join(str(e).split())[:160])
        names = list(made)
        ms = {name: [] for name in names}
        for name in names:  # warm, not counted
            made[name].launch()
        begin, done = time.monotonic(), 0
        while done < rounds and (done < FEWEST or time.monotonic() - begin < seconds):
            first = done % len(names)
            order = names[first:] + names[:first]
            for name in order if done % 2 == 0 else reversed(order):
                took = made[name].launch()
                ms[name].append(took)
                log(name, done, took)
            done += 1
    finally:
        for kernel in made.values():
            kernel.close()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    return {name: Times(t) for name, t in ms.items()}


def inputs(b, hq, hkv, sq, sk, dk, dv):
    make = lambda h, s, d: torch.randn(b, h, s, d, device="cuda", dtype=torch.bfloat16)
    return make(hq, sq, dk), make(hkv, sk, dk), make(hkv, sk, dv)


def several(*shape):
    return [inputs(*shape) for _ in range(SETS)]


def sdpa(backend):
    from torch.nn.attention import sdpa_kernel

    def call(q, k, v, causal):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])

    return lambda sets, causal: [lambda s=s: call(*s, causal) for s in sets]


def fa3(sets, causal):
    """FlashAttention-3 as vLLM builds it, for rows of any lengths, one sequence after another."""

    def one(q, k, v):
        b, hq, s, d = q.shape
        rows = [x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3]).contiguous() for x in (q, k, v)]
        ends = torch.arange(b + 1, device="cuda", dtype=torch.int32) * s
        none = [None] * 9
        return lambda: torch.ops._vllm_fa3_C.fwd(
            *rows, None, None, None, None, ends, ends, None, None, None, s, s, *none,
            1 / math.sqrt(d), causal, -1, -1, 0.0, True, None, 1, None, 0, None, 1, 0, None,
        )  # fmt: skip

    return [one(*s) for s in sets]


def flex():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    # A kernel for each shape: one for all shapes is slower.
    compiled = torch.compile(flex_attention, dynamic=False)

    def make(sets, causal):
        mask = None
        if causal:
            s = sets[0][0].shape[2]
            mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, s, s, device="cuda")
        gqa = sets[0][0].shape[1] != sets[0][1].shape[1]
        return [lambda s=s: compiled(*s, block_mask=mask, enable_gqa=gqa) for s in sets]

    return make


def partial(name):
    """What a ring of torch calls for a pair of chunks: out, and lse as (B, H, S, 1)."""

    def cudnn(q, k, v, causal):
        out, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, causal, False)[:2]
        return out, lse.reshape(*out.shape[:3], 1)

    def fa2(q, k, v, causal):
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False)[:2]
        return out, lse.reshape(*out.shape[:3], 1)

    return {"cuDNN": cudnn, "FA2": fa2}[name]


def merged(out, lse, block_out, block_lse, second_half):
    """The merge of torch's context-parallel attention, operation by operation: to f32; o −= sigmoid(lse' − lse)·(o − o');
    lse −= logsigmoid(lse − lse'); where the step has the second half of the query rows, that half is cut out and put back."""
    block_out, block_lse = block_out.float(), block_lse.float()
    old_out, old_lse = (x.chunk(2, dim=2)[1] if second_half else x for x in (out, lse))
    new_out = old_out - torch.sigmoid(block_lse - old_lse) * (old_out - block_out)
    new_lse = old_lse - F.logsigmoid(old_lse - block_lse)
    if second_half:
        new_out, new_lse = (torch.cat([x.chunk(2, dim=2)[0], y], dim=2) for x, y in ((out, new_out), (lse, new_lse)))
    return new_out, new_lse
