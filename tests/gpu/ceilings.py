"""What the card can do at most: copies, matrix products by cuBLAS, and by a loop of this project's own instructions without any
traffic of memory; and whether a copy needs multiprocessors."""

import ctypes
import time

import torch

import bench

BLOCK_ROWS, DEPTH = 128, 128
WARPGROUPS = 2


def loop_text(n, from_registers):
    """Two warpgroups of 64 rows that multiply by n columns, 128 deep, again and again: a (128, 128) in shared memory or registers,
    b in shared memory, (n, 128) with a there (as q·kᵀ), (128, n) with a in registers (as weights·v). 128-byte swizzle."""
    count = n // 2
    sums = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    registers = ", ".join(f"%{i}" for i in range(count))
    name = f"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{{registers}}}"
    at = lambda i: f"%{count + i}"
    if from_registers:
        product = f'"{{.reg .pred p;\\nsetp.ne.b32 p, {at(5)}, 0;\\n{name}, {{{at(0)}, {at(1)}, {at(2)}, {at(3)}}}, {at(4)}, p, 1, 1, 1;}}\\n"'
        operands = '"r"(a[4 * i]), "r"(a[4 * i + 1]), "r"(a[4 * i + 2]), "r"(a[4 * i + 3]), "l"(b_tile + i * 128), "r"(i)'
    else:
        product = f'"{{.reg .pred p;\\nsetp.ne.b32 p, {at(2)}, 0;\\n{name}, {at(0)}, {at(1)}, p, 1, 1, 0, 0;}}\\n"'
        operands = f'"l"(a_tile + (i / 4 * 8192 + i % 4 * 32) / 16), "l"(b_tile + (i / 4 * {n * 128} + i % 4 * 32) / 16), "r"(i)'
    # Columns of b as they lie, and the bytes between its panels of 64 of them.
    rows, columns = (DEPTH, n) if from_registers else (n, DEPTH)
    leading = rows * 128 if from_registers else 16
    return f"""
typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
extern __shared__ __align__(1024) unsigned char shared[];
__device__ inline u64 descriptor(const void* p, u32 leading) {{
    u32 low = ((u32)__cvta_generic_to_shared(p) & 0x3ffff) >> 4 | leading / 16 << 16;
    return low | (u64)(1024 / 16 | 1u << 30) << 32;
}}
// Rows of 64 columns, a panel behind the other; of a row its 16-byte units are exchanged by the row's number.
__device__ inline void fill(unsigned char* to, const u16* from, int rows, int columns) {{
    for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {{
        int row = i / columns, column = i % columns;
        int at = column / 64 * rows * 128 + row * 128 + ((column % 64 / 8) ^ (row & 7)) * 16 + column % 8 * 2;
        *(u16*)(to + at) = from[i];
    }}
}}
extern "C" __global__ void __launch_bounds__({WARPGROUPS * 128}, 1) loop(const u16* a_in, const u16* b_in, float* out, int rounds) {{
    const int wg = threadIdx.x / 128, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    for (int g = 0; g < {WARPGROUPS}; ++g) fill(shared + g * 16384, a_in + g * 64 * {DEPTH}, 64, {DEPTH});
    unsigned char* b = shared + {WARPGROUPS} * 16384;
    fill(b, b_in, {rows}, {columns});
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    const u64 a_tile = descriptor(shared + wg * 16384, 16), b_tile = descriptor(b, {leading});
    u32 a[32];
    for (int i = 0; i < 8; ++i)
        for (int h = 0; h < 4; ++h) {{
            int row = wg * 64 + warp * 16 + lane / 4 + h % 2 * 8, k = i * 16 + h / 2 * 8 + lane % 4 * 2;
            a[4 * i + h] = *(const u32*)(a_in + row * {DEPTH} + k);
        }}
    float d[{count}];
#pragma unroll
    for (int i = 0; i < {count}; ++i) d[i] = 0.0f;
#pragma unroll 1
    for (int r = 0; r < rounds; ++r) {{
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int i = 0; i < 8; ++i)
            asm volatile({product} : {sums} : {operands});
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
    }}
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < {count}; ++i) asm volatile("" : "+f"(d[i]) :: "memory");
    if (blockIdx.x == 0)
#pragma unroll
        for (int i = 0; i < {count}; ++i) {{
            int row = wg * 64 + warp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
            out[row * {n} + column] = d[i];
        }}
}}
"""


SPIN = """
extern "C" __global__ void __launch_bounds__(1024) spin(int cycles) {
    for (long long begin = clock64(); clock64() - begin < cycles;) {}
}
"""


def compiled(text):
    """Machine code of sm_90a, by the NVRTC that torch loads."""
    lib = torch.cuda._utils._get_nvrtc_library()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    options = [b"--gpu-architecture=sm_90a", b"--std=c++17"]

    def ok(what, status):
        if status:
            lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value + 1)
            lib.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"{what}: {status}: {log.value.decode()}")

    ok("nvrtcCreateProgram", lib.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"loop.cu", 0, None, None))
    ok("nvrtcCompileProgram", lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)))
    ok("nvrtcGetCUBINSize", lib.nvrtcGetCUBINSize(program, ctypes.byref(size)))
    code = ctypes.create_string_buffer(size.value)
    ok("nvrtcGetCUBIN", lib.nvrtcGetCUBIN(program, code))
    return code.raw


def kernel(text, name, shared):
    made = torch.cuda._utils._cuda_load_module(compiled(text), [name])[name]
    made.set_shared_memory_config(shared)
    return made


class Loop:
    """The loop of products on every multiprocessor, on random numbers."""

    def __init__(self, n, from_registers, multiprocessors, milliseconds=8):
        self.shared = WARPGROUPS * 16384 + n * 256
        self.kernel = kernel(loop_text(n, from_registers), "loop", self.shared)
        self.grid = (multiprocessors, 1, 1)
        self.a = torch.randn(BLOCK_ROWS, DEPTH, device="cuda", dtype=torch.bfloat16)
        self.b = torch.randn(*((DEPTH, n) if from_registers else (n, DEPTH)), device="cuda", dtype=torch.bfloat16)
        self.out = torch.full((BLOCK_ROWS, n), float("nan"), device="cuda")
        of_round = 2 * BLOCK_ROWS * n * DEPTH * multiprocessors
        self.rounds = int(milliseconds * 7e11 / of_round)
        self.flop = of_round * self.rounds
        self.run(3)
        b = self.b.double() if from_registers else self.b.double().T
        expected = self.a.double() @ b
        wrong = ((self.out.double() - expected).norm() / expected.norm()).item()
        if not wrong < 1e-3:
            raise RuntimeError(f"the loop's product is wrong: relative error {wrong:.2e}")

    def run(self, rounds=None):
        args = [self.a, self.b, self.out, self.rounds if rounds is None else rounds]
        self.kernel(self.grid, (WARPGROUPS * 128, 1, 1), args, self.shared)


def ceilings(r):
    """Rates of copies and products, launch by launch in turn."""
    multiprocessors = torch.cuda.get_device_properties().multi_processor_count
    x = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    y = torch.empty_like(x)
    squares = [torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(4)]
    work = {
        "copy of 2 GiB, read and written": (4 * x.numel(), "TB/s", lambda: bench.Called([lambda: y.copy_(x)])),
        "product of 8192³, cuBLAS": (
            2 * 8192**3,
            "TFLOP/s",
            lambda: bench.Called([lambda a=a, b=b: a @ b for a, b in zip(squares, squares[1:])]),
        ),
    }
    for n in (128, 256):
        for from_registers in (False, True):
            name = f"loop of m64n{n}k16, a from {'registers' if from_registers else 'shared memory'}"
            try:
                loop = Loop(n, from_registers, multiprocessors)
            except Exception as e:
                r.failed(name, e)
                continue
            work[name] = (loop.flop, "TFLOP/s", lambda loop=loop: bench.Called([loop.run]))
    times = bench.alternate({name: make for name, (_, _, make) in work.items()}, r.log("ceilings", ""), r.refused("ceilings"))
    out = r.out
    out("\n## Ceilings\n")
    out("| what | median | best | spread |\n|---|---|---|---|")
    for name, t in times.items():
        amount, unit, _ = work[name]
        rate = lambda ms: f"{amount / ms / 1e9:.2f}" if unit == "TB/s" else f"{amount / ms / 1e9:.0f}"
        out(f"| {name} | {rate(t.median)} {unit} | {rate(t.least)} | {t.spread:.1%} |")
        r.record("ceilings", what=name, amount=amount, unit=unit, median_ms=t.median, least_ms=t.least, spread=t.spread)


class Attributes(ctypes.Structure):
    """cudaMemcpyAttributes of CUDA 13: order of the source's reads, hints of places, flags."""

    _fields_ = [("order", ctypes.c_int), ("hints", ctypes.c_int * 4), ("flags", ctypes.c_uint)]


def batch_copy(to, source, stream):
    """A copy that asks not to be done by multiprocessors: cudaMemcpyFlagPreferOverlapWithCompute."""
    runtime = ctypes.CDLL(f"libcudart.so.{torch.version.cuda.split('.')[0]}")
    pointer = lambda x: (ctypes.c_void_p * 1)(x.data_ptr())
    bytes_, first = (ctypes.c_size_t * 1)(source.numel() * source.element_size()), (ctypes.c_size_t * 1)(0)
    attributes = Attributes(order=1, flags=1)
    status = runtime.cudaMemcpyBatchAsync(
        pointer(to), pointer(source), bytes_, ctypes.c_size_t(1), ctypes.byref(attributes), first, ctypes.c_size_t(1),
        ctypes.c_void_p(stream.cuda_stream),
    )  # fmt: skip
    if status:
        raise RuntimeError(f"cudaMemcpyBatchAsync: {status}")


def copies(r, ours):
    """Whether a copy needs multiprocessors, and what a copy and a kernel that run together cost each other."""
    out = r.out
    multiprocessors = torch.cuda.get_device_properties().multi_processor_count
    spin = kernel(SPIN, "spin", 110 << 10)
    source = torch.randint(0, 255, (1 << 30,), device="cuda", dtype=torch.uint8)
    to = torch.empty_like(source)
    work, side = torch.cuda.Stream(), torch.cuda.Stream()

    def plain():
        with torch.cuda.stream(side):
            to.copy_(source, non_blocking=True)

    kinds = {"cudaMemcpyAsync": plain, "cudaMemcpyBatchAsync, to overlap": lambda: batch_copy(to, source, side)}
    pair = lambda: [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def beside(launch, copy):
        """Milliseconds of the kernel and of the copy, and whether the copy ended first."""
        torch.cuda.synchronize()
        (k0, k1), (c0, c1) = pair(), pair()
        if launch is not None:
            with torch.cuda.stream(work):
                k0.record()
                launch()
                k1.record()
            time.sleep(0.001)  # it has begun
        first = None
        if copy is not None:
            c0.record(side)
            copy()
            c1.record(side)
            c1.synchronize()
            first = launch is not None and not k1.query()
        torch.cuda.synchronize()
        return launch and k0.elapsed_time(k1), copy and c0.elapsed_time(c1), first

    def best(launch, copy):
        runs = sorted((beside(launch, copy) for _ in range(5)), key=lambda r: r[0] or r[1])
        return runs[2]

    # 2048 threads on every multiprocessor: no block of any other kernel fits beside them.
    spinning = lambda: spin((2 * multiprocessors, 1, 1), (1024, 1, 1), [60_000_000], 110 << 10)
    loop = Loop(128, False, multiprocessors, milliseconds=20)
    out("\n## A copy of 1 GiB on the device beside a kernel\n")
    out("A kernel that holds every thread of every multiprocessor, and the loop of products (m64n128k16 from shared memory).\n")
    out("| copy | alone, ms | beside the spinning kernel, ms | ended first | beside the loop, ms | loop alone, ms | loop beside, ms |")
    out("|---|---|---|---|---|---|---|")
    for name, copy in kinds.items():
        try:
            copy()
            _, alone, _ = best(None, copy)
            _, spun, first = best(spinning, copy)
            loop_alone, _, _ = best(loop.run, None)
            loop_with, copy_with, _ = best(loop.run, copy)
        except Exception as e:
            out(f"| {name} | failed: {' '.join(str(e).split())[:200]} | | | | | |")
            r.failed(f"copies: {name}")
            continue
        r.record("copies", copy=name, alone_ms=alone, beside_spinning_ms=spun, ended_first=bool(first), beside_loop_ms=copy_with)
        out(f"| {name} | {alone:.3f} | {spun:.3f} | {'yes' if first else 'no'} | {copy_with:.3f} | {loop_alone:.2f} | {loop_with:.2f} |")

    out("\nThe same of attn_partial, 32/8 heads, S 16384, D 128, full, and cudaMemcpyAsync on another stream:\n")
    ours_kernel = ours.hold("time 1 32 8 16384 16384 128 128 full bf16")
    middle = lambda numbers: sorted(numbers)[len(numbers) // 2]
    alone = middle([ours_kernel.launch() for _ in range(7)])
    out("| MiB copied | copy alone, ms | copy beside, ms | kernel alone, ms | kernel beside, ms |")
    out("|---|---|---|---|---|")
    for mib in (256, 1024, 4096):
        copy = middle([ours.numbers(f"copy {mib}")["ms"] for _ in range(7)])
        both = [ours.numbers(f"beside {ours_kernel.name} {mib}") for _ in range(7)]
        with_kernel, with_copy = middle([b["copy"] for b in both]), middle([b["ms"] for b in both])
        r.record("copies", mib=mib, copy_ms=copy, copy_beside_ms=with_kernel, kernel_ms=alone, kernel_beside_ms=with_copy)
        out(f"| {mib} | {copy:.3f} | {with_kernel:.3f} | {alone:.3f} | {with_copy:.3f} |")
    ours_kernel.close()
