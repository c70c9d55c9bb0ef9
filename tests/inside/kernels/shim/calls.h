// What kernel text may call of the machine, and no more: this header is compiled with every kernel.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

namespace machine {

[[noreturn]] void fault(const char* format, ...);

// Who runs, and where its shared memory is.
u8* shared_base();
u32 thread_index();
u32 block_index();
u32 block_threads();
u32 grid_size();
u32 shared_offset(const void* at);

// Meetings: see barriers.cpp.
void warp_sync();
bool any_lane(bool x);
u32 shuffle(u32 x, int from_lane);
u32 atomic(u32* at, u32 (*next)(u32 old, u32 x), u32 x);
bool barrier(u32 id, u32 threads, bool stay, bool say = false);  // whether any thread says yes
void mbarrier_init(u64* bar, u32 arrivals);
void mbarrier_init_fence();
void mbarrier_arrive(u64* bar, u32 bytes);
void mbarrier_wait(u64* bar, u32 parity);

// Copies: see copies.cpp.
void copy_box(void* to, const void* map, u64* bar, i32 x, i32 y, i32 z);
void prefetch(const void* from, u32 bytes);
void copy_async(void* to, const void* from, u32 bytes, bool take);
void copy_async_commit();
void copy_async_wait(u32 left);

// Products: see products.cpp.
float element_value(u16 x);
u16 element_of(float x);
void wgmma_fence();
void wgmma_issue(float* sum, int n, u64 a, u64 b, const u32* weights, bool add);
void wgmma_commit();
void wgmma_wait(u32 left);
void load_matrix(u32* r, const void* row, bool transposed);
void mma_16x8x16(float* d, const u32* a, u32 b0, u32 b1);

}  // namespace machine
