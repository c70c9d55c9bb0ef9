// Who may touch which memory when. The compiler reports every access of the kernels (-fsanitize=thread, with this file in
// the place of its library).
//
// A thread's own stack stands for its registers: those that a product under way uses are not to be touched. Shared memory
// remembers its last write and the reads since; an access that no barrier orders after them is a race. Whatever else is touched
// is global memory, of which buffers.cpp knows here, and tests/standins/driver/memory.cpp in the stand-in of the driver.

#include <algorithm>

#include "machine.h"

namespace machine {

bool watches_blocks = true;

static bool ordered(const Epoch& before, const Clock& seen) {
    return before.block < 0 || (before.block == self->block->index && seen[before.who] >= before.time);
}

static const char* name_of(const Epoch& e) {
    static char text[64];
    u32 threads = (u32)self->block->threads.size(), warps = (u32)self->block->warps.size();
    if (e.who < threads)
        snprintf(text, sizeof text, "block %d warp %u lane %u", e.block, e.who / WARP, e.who % WARP);
    else if (e.who < threads + warps)
        snprintf(text, sizeof text, "a product of block %d warp %u", e.block, e.who - threads);
    else
        snprintf(text, sizeof text, "a copy on mbarrier %u", e.who - threads - warps);
    return text;
}

// Faults unless the access comes after all that it must come after.
void check(const Log& log, bool write, const char* where, size_t at) {
    if (!watches_blocks) return;
    if (!ordered(log.write, self->seen))
        fault("race: %s %s+%zu, which %s wrote; no barrier lies between", write ? "writes" : "reads", where, at, name_of(log.write));
    if (write)
        for (const Epoch& read : log.reads)
            if (!ordered(read, self->seen))
                fault("race: writes %s+%zu, which %s read; no barrier lies between", where, at, name_of(read));
}

void note(Log& log, bool write, Epoch by) {
    if (write) {
        log.write = by;
        log.reads.clear();
        return;
    }
    if (!log.reads.empty() && log.reads.back().who == by.who && log.reads.back().block == by.block) log.reads.pop_back();
    log.reads.push_back(by);
    if (log.reads.size() % 1024) return;
    // Of each reader the last read is enough.
    std::vector<Epoch> last;
    for (size_t i = log.reads.size(); i-- > 0;)
        if (std::none_of(last.begin(), last.end(), [&](const Epoch& e) { return e.who == log.reads[i].who && e.block == log.reads[i].block; }))
            last.push_back(log.reads[i]);
    log.reads = last;
}

// ---- shared memory -----------------------------------------------------------------------------------------------------

u32 shared_offset(const void* at) {
    i64 offset = (const u8*)at - self->block->shared;
    if (offset < 0 || offset >= (i64)shared_bytes) fault("an address outside of shared memory where one inside is wanted");
    return (u32)offset;
}

static void access_shared(u32 at, u32 bytes, bool write) {
    if (!watches_blocks) return;
    for (u32 word = at / 4; word <= (at + bytes - 1) / 4; ++word) {
        Granule& g = self->block->granules[word / 4];
        if (g.writing || g.copying >> word % 4 & 1) fault("touches shared memory at %u while a copy into it is under way", word * 4);
        if (write && g.reading) fault("writes shared memory at %u while a product reads it", word * 4);
        check(g.engine, write, "shared memory", word * 4);
        if (g.words.empty()) g.words.resize(4);
        check(g.words[word % 4], write, "shared memory", word * 4);
        note(g.words[word % 4], write, now());
        if (write) g.by_threads = true;
    }
}

void engine_read_begins(u32 granule) {
    Granule& g = self->block->granules[granule];
    if (g.writing || g.copying) fault("a product reads shared memory at %u while a copy into it is under way", granule * 16);
    if (g.by_threads) fault("a product reads shared memory at %u, which threads wrote, without a proxy fence", granule * 16);
    check(g.engine, false, "shared memory", granule * 16);
    ++g.reading;
}

void engine_read_ends(u32 granule, Epoch by) {
    Granule& g = self->block->granules[granule];
    --g.reading;
    note(g.engine, false, by);
}

void engine_write_begins(u32 granule) {
    Granule& g = self->block->granules[granule];
    if (g.reading) fault("copies into shared memory at %u while a product reads it", granule * 16);
    if (g.writing || g.copying) fault("copies into shared memory at %u while another copy into it is under way", granule * 16);
    check(g.engine, true, "shared memory", granule * 16);
    for (const Log& word : g.words) check(word, true, "shared memory", granule * 16);
    ++g.writing;
}

void engine_write_ends(u32 granule, Epoch by) {
    Granule& g = self->block->granules[granule];
    --g.writing;
    g.by_threads = false;
    g.words.clear();
    note(g.engine, true, by);
}

// A cp.async counts as a write of the thread's own, at the wait.
void thread_copy_begins(u32 word) {
    access_shared(word * 4, 4, true);
    self->block->granules[word / 4].copying |= 1 << word % 4;
}

void thread_copy_ends(u32 word) {
    self->block->granules[word / 4].copying &= ~(1 << word % 4);
    access_shared(word * 4, 4, true);
}

// ---- registers ---------------------------------------------------------------------------------------------------------

static bool overlaps(const void* a, size_t a_bytes, const void* b, size_t b_bytes) {
    return (u8*)a < (u8*)b + b_bytes && (u8*)b < (u8*)a + a_bytes;
}

static void access_registers(const void* at, size_t bytes, bool write) {
    auto touch = [&](const std::vector<Product>& group) {
        for (const Product& p : group) {
            if (overlaps(at, bytes, p.sum, p.n * 2)) fault("touches the sum of a product that is under way");
            if (write && p.weights && overlaps(at, bytes, p.weights, 16)) fault("overwrites an operand of a product that is under way");
        }
    };
    for (const auto& group : self->products) touch(group);
    touch(self->open_products);
    if (write)
        for (size_t i = ((u8*)at - self->stack) / 4; i <= ((u8*)at - self->stack + bytes - 1) / 4; ++i) self->written[i] = true;
}

void access(const void* at, size_t bytes, bool write, bool aligned) {
    if (!self) return;
    if ((u8*)at >= self->stack && (u8*)at < self->stack + STACK_BYTES) {
        if ((u8*)at < self->stack + 4096) fault("the stack of a fiber is too small");
        return access_registers(at, bytes, write);
    }
    if ((u8*)at >= self->block->shared && (u8*)at < self->block->shared + shared_bytes)
        return access_shared((u32)((u8*)at - self->block->shared), (u32)bytes, write);
    access_global(at, bytes, write, aligned);
}

}  // namespace machine

static inline void reported(void* at, size_t bytes, bool write, bool aligned) {
    for (const machine::Unwatched& w : {machine::unwatched_stack, machine::unwatched_shared})
        if ((u64)at - w.begin < w.bytes) return;
    machine::access(at, bytes, write, aligned);
}

#define REPORT(N)                                                          \
    void __tsan_read##N(void* at) { reported(at, N, false, true); }        \
    void __tsan_write##N(void* at) { reported(at, N, true, true); }        \
    void __tsan_unaligned_read##N(void* at) { reported(at, N, false, false); } \
    void __tsan_unaligned_write##N(void* at) { reported(at, N, true, false); }
extern "C" {
REPORT(1)
REPORT(2)
REPORT(4)
REPORT(8)
REPORT(16)
void __tsan_read_range(void* at, unsigned long bytes) { reported(at, bytes, false, false); }
void __tsan_write_range(void* at, unsigned long bytes) { reported(at, bytes, true, false); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
