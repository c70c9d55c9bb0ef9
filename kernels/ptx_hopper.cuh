// The instructions of sm_90a: the copy engine and the matrix products of a warpgroup. `Wgmma<N>` stands after this text,
// generated for the widths that the key needs.

// Copies a box of a 3-D tensor to shared memory; what lies outside of the tensor becomes zero. Completes on `bar`.
__device__ inline void copy_box(void* to, const TensorMap* map, u64* bar, i32 x, i32 y, i32 z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
            shared_address(to)),
        "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y), "r"(z)
        : "memory");
}

// Brings bytes into the L2 cache; address and number are multiples of 16.
__device__ inline void prefetch(const void* from, u32 bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

template <int N>
__device__ inline void registers_down() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N>
__device__ inline void registers_up() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// Orders accesses of registers before the products that follow.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most N of the warpgroup's groups are under way.
template <int N>
__device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Keeps the compiler from moving uses of registers across products that are under way.
template <int N>
__device__ inline void hold(float (&r)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(r[i])::"memory");
}

template <int N>
__device__ inline void hold(u32 (&r)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+r"(r[i])::"memory");
}

// Describes a tile in shared memory with rows of 128 bytes in the 128-byte swizzle. Strides in bytes: `leading` between
// panels of 64 elements (operands with the inner axis along columns), `stride` between groups of 8 rows.
__device__ inline u64 tile_descriptor(const void* at, u32 leading, u32 stride) {
    u32 low = (shared_address(at) & 0x3ffff) >> 4 | (leading >> 4) << 16;
    return low | (u64)(stride >> 4 | 1u << 30) << 32;
}

// A descriptor that many bytes further on, inside of the swizzled tile.
__device__ inline u64 tile_advance(u64 descriptor, u32 bytes) {
    return (u32)((u32)descriptor + (bytes >> 4)) | (descriptor >> 32) << 32;
}

// The same descriptor; see `forgotten`.
__device__ inline u64 tile_pin(u64 descriptor) { return forgotten((u32)descriptor) | (descriptor >> 32) << 32; }
