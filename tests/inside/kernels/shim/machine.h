// The machine that the kernels run on in a test: CUDA threads as fibers, and memory that knows who may touch it when.
//
// It is as weak as the documents allow. Threads run in a random order between the points where they meet. Copies land
// late and in any order; products are taken only at the wait that covers them. Order between two accesses counts only if
// a barrier makes it (vector clocks), not because it happened that way: so a race is found under every order.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "calls.h"

namespace machine {

constexpr int WARP = 32;
constexpr u32 STACK_BYTES = 64 << 10;

// What is known to have happened: per thread of a block, then per warp's products, then per mbarrier's copies, a time.
using Clock = std::vector<u32>;
void join(Clock& into, const Clock& other);

struct Epoch {
    int block = -1;
    u32 who = 0, time = 0;
};

// A product under way, as one thread issued it.
struct Product {
    float* sum;
    int n;
    u64 a, b;            // descriptors
    const u32* weights;  // the left operand, where it comes from registers
    bool add;
};

struct AsyncCopy {
    u32 to, bytes;
    const u8* from;  // null for zeros
};

struct Block;

struct Thread {
    Block* block;
    int index, warp, lane;
    u8* stack;
    bool started = false, done = false;
    const char* waits_for = nullptr;
    jmp_buf at;
    ucontext_t start;
    Clock seen;
    std::deque<std::vector<Product>> products;      // committed groups, the oldest first
    std::vector<Product> open_products;             // issued since the last commit
    std::vector<bool> written;                      // words of the stack written since the last wgmma_fence
    std::deque<std::vector<AsyncCopy>> copies;
    std::vector<AsyncCopy> open_copies;
    u64 issued = 0;  // products, ever
};

// Where the lanes of a warp meet.
struct Warp {
    const char* at = nullptr;
    int come = 0;
    void* given[WARP];
    std::vector<u32> runnable;  // threads
    u32 products_time = 0;
};

struct NamedBarrier {
    u32 threads = 0, come = 0;
    bool any = false, any_said = false;
    std::vector<bool> here;
    std::vector<Thread*> waiting;
    Clock gathered;
};

struct Mbarrier {
    std::string name;
    u32 expected, pending, phase = 0, number;
    i64 bytes = 0;
    bool fenced = false;
    std::vector<Thread*> waiting;
    Clock gathered, released;
};

// The accesses to one place that a later access must be ordered after.
struct Log {
    Epoch write;
    std::vector<Epoch> reads;
};

// 16 bytes of shared memory.
struct Granule {
    Log engine;             // copies and products
    u16 reading = 0, writing = 0;
    u8 copying = 0;           // a bit for each word that a thread's copy is under way to
    bool by_threads = false;  // written by threads, which engines do not see without a proxy fence
    std::vector<Log> words;   // accesses of threads
};

struct Block {
    int index;
    u8* shared;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::map<u32, NamedBarrier> barriers;
    std::map<u32, Mbarrier> mbarriers;
    std::vector<Granule> granules;
    std::vector<Thread*> waiting_for_products;
    int alive;
};

// ---- fibers.cpp --------------------------------------------------------------------------------------------------------

extern Thread* self;
// What becomes of a fault: it is printed and ends the process, unless told otherwise. One that returns has none to return to:
// it must leave by `abandon`, after which `run` returns false.
extern void (*on_fault)(const char* text);
[[noreturn]] void abandon();
extern u32 shared_bytes;  // of a block

u32 random_below(u32 n);
// Runs `entry` on every thread of the grid, in an order that the seed decides. False if a fault was abandoned.
bool run(int blocks, int threads, u32 shared_bytes, u64 seed, void (*entry)());
// Lets others run until somebody calls `wake`.
void wait(const char* what);
void wake(Thread& thread);
// Lets others run now and then.
void pause();
// Waits for all lanes of the warp; the last one calls `act` with what each gave. Orders no memory.
void meet(const char* what, void* mine, void (*act)(void* given[WARP]));

// ---- shared_memory.cpp -------------------------------------------------------------------------------------------------

void access(const void* at, size_t bytes, bool write, bool aligned = true);
// Faults unless the access comes after all that it must come after.
void check(const Log& log, bool write, const char* where, size_t at);
void note(Log& log, bool write, Epoch by);
inline Epoch now() { return {self->block->index, (u32)self->index, self->seen[self->index]}; }
// Whether accesses to registers and shared memory are looked at; whoever has no interest in them is faster without.
extern bool watches_blocks;
// Where the thread that runs has its stack and shared memory, if accesses to them are not looked at.
struct Unwatched {
    u64 begin = 0, bytes = 0;
};
extern Unwatched unwatched_stack, unwatched_shared;
void engine_read_begins(u32 granule);
void engine_read_ends(u32 granule, Epoch by);
void engine_write_begins(u32 granule);
void engine_write_ends(u32 granule, Epoch by);
void thread_copy_begins(u32 word);
void thread_copy_ends(u32 word);

// ---- global memory: buffers.cpp, or the stand-in of the driver ----------------------------------------------------------

// A buffer that the kernels may touch. `unit`: bytes that are never written in parts; 0 for read-only.
void add_region(const std::string& name, void* at, size_t bytes, int unit);
void clear_regions();
bool inside_region(const void* at, size_t bytes);
// By the thread that runs; `aligned`: the compiler takes it for a multiple of its size.
void access_global(const void* at, size_t bytes, bool write, bool aligned);
void copy_reads(const void* at, size_t bytes);  // by a copy into shared memory, as it lands
void atomic_touches(const void* at);

// ---- barriers.cpp ------------------------------------------------------------------------------------------------------

Mbarrier& mbarrier_at(const u64* bar);
void mbarrier_landed(Mbarrier& bar, u32 bytes);

// ---- copies.cpp --------------------------------------------------------------------------------------------------------

// What a TensorMap holds here, in its opaque words.
struct Box {
    const u8* base;
    u32 element;
    u32 size[3];
    u64 stride[3];  // bytes
    u32 box[3];
};
bool land_a_copy();
void forget_copies();  // of a launch that was abandoned

// ---- products.cpp ------------------------------------------------------------------------------------------------------

extern bool elements_are_bf16;

}  // namespace machine
