// pack: rows of k and v into pieces of the arena, and back. A piece holds all of its keys, (batch, heads, rows, dk), then all
// of its values, (batch, heads, rows, dv): per head a run of bytes that is one run in the tensor too.
//
// Follows types.cuh. COPY is the bytes of one access, 16, 8, 4, 2 or 1: it divides every address and number of bytes below.
// Any grid of a multiple of `copies`, any number of threads.

constexpr int MAX_COPIES = 16;

#if COPY == 16
typedef uint4 Word;
#elif COPY == 8
typedef uint2 Word;
#elif COPY == 4
typedef u32 Word;
#elif COPY == 2
typedef u16 Word;
#else
typedef u8 Word;
#endif

// The run of every head from one place to another; where the runs of the next head are, in bytes.
struct Copy {
    const u8* from;
    u8* to;
    i64 from_head, to_head, bytes;
};

struct Pack {
    Copy copy[MAX_COPIES];
    i32 copies;
    i32 heads;  // batch · heads
};

extern "C" __global__ void pack(const __grid_constant__ Pack p) {
    const Copy& copy = p.copy[blockIdx.x % p.copies];
    const i64 words = copy.bytes / COPY, threads = (i64)(gridDim.x / p.copies) * blockDim.x;
    const i64 first = (i64)(blockIdx.x / p.copies) * blockDim.x + threadIdx.x;
    for (i32 head = 0; head < p.heads; ++head) {
        const Word* const from = reinterpret_cast<const Word*>(copy.from + head * copy.from_head);
        Word* const to = reinterpret_cast<Word*>(copy.to + head * copy.to_head);
        for (i64 i = first; i < words; i += threads) to[i] = from[i];
    }
}
