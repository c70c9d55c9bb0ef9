// paced: bytes to another place of the same device, no faster than a link would bring them: what a rank receives that is played alone.
//
// Follows types.cuh and ptx_time.cuh. Both addresses are multiples of 16. Any grid, any number of threads. Each block copies its share, of
// which no part is begun before its time; the launch does not end before all of the time is over. With no bytes it only takes time.

struct Paced {
    const u8* from;
    u8* to;
    i64 bytes;
    i64 nanoseconds;  // below 2^31, so that its products with numbers of accesses are counted in 64 bits
};

// Accesses of a thread between two looks at the clock.
constexpr i64 IN_A_ROW = 4;

// Returns when so much time is over since `begin`, for all threads of the block.
__device__ inline void wait_until(u64 begin, u64 nanoseconds) {
    if (threadIdx.x == 0)
        while (device_time() - begin < nanoseconds) doze();
    __syncthreads();
}

extern "C" __global__ void paced(const __grid_constant__ Paced p) {
    const u64 begin = device_time();
    const i64 words = p.bytes / 16, share = (words + gridDim.x - 1) / gridDim.x;
    const i64 first = (i64)blockIdx.x * share, end = first + share < words ? first + share : words;
    const uint4* const from = reinterpret_cast<const uint4*>(p.from);
    uint4* const to = reinterpret_cast<uint4*>(p.to);
    const i64 part = IN_A_ROW * blockDim.x;
    for (i64 at = first; at < end; at += part) {
        wait_until(begin, (u64)((at - first) * p.nanoseconds / share));
        const i64 next = at + part < end ? at + part : end;
        for (i64 i = at + threadIdx.x; i < next; i += blockDim.x) to[i] = from[i];
    }
    // What is less than one access.
    if (blockIdx.x == 0 && threadIdx.x < p.bytes % 16) p.to[words * 16 + threadIdx.x] = p.from[words * 16 + threadIdx.x];
    wait_until(begin, (u64)p.nanoseconds);
}
