// Threads as fibers, and who runs next.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "machine.h"

namespace machine {

Thread* self;
u32 shared_bytes;
Unwatched unwatched_stack, unwatched_shared;
static int grid_blocks;

static std::mt19937_64 random_bits;
static jmp_buf scheduler, abandoned;
static void (*kernel)();
static std::vector<u32> rank_of_warp;  // which warp goes first, if the seed asks for that
static bool ranked;

u32 random_below(u32 n) { return (u32)(random_bits() % n); }

void fault(const char* format, ...) {
    va_list list;
    va_start(list, format);
    char text[1000];
    vsnprintf(text, sizeof text, format, list);
    std::string where = self ? "block " + std::to_string(self->block->index) + " warp " + std::to_string(self->warp) + " lane " +
                                   std::to_string(self->lane) + ": "
                             : "";
    on_fault((where + text).c_str());
    _exit(3);
}

static void print_fault(const char* text) {
    printf("fault: %s\n", text);
    fflush(stdout);
}

void (*on_fault)(const char* text) = print_fault;

void abandon() { _longjmp(abandoned, 1); }

u8* shared_base() { return self->block->shared; }
u32 thread_index() { return self->index; }
u32 block_index() { return self->block->index; }
u32 block_threads() { return (u32)self->block->threads.size(); }
u32 grid_size() { return grid_blocks; }

// Leaves the fiber. Back when the scheduler takes it up again.
static void leave() {
    if (!_setjmp(self->at)) _longjmp(scheduler, 1);
}

static void begin() {
    kernel();
    if (!self->open_products.empty() || !self->products.empty()) fault("ends with products under way");
    bool copies = !self->open_copies.empty();
    for (auto& group : self->copies) copies |= !group.empty();
    if (copies) fault("ends with copies under way");
    self->done = true;
    --self->block->alive;
    _longjmp(scheduler, 1);
}

static void nobody_runs() {
    self = nullptr;
    unwatched_stack = unwatched_shared = {};
}

__attribute__((noinline)) static void resume(Thread* thread) {
    self = thread;
    if (!watches_blocks) {
        unwatched_stack = {(u64)thread->stack, STACK_BYTES};
        unwatched_shared = {(u64)thread->block->shared, shared_bytes};
    }
    thread->waits_for = nullptr;
    if (!_setjmp(scheduler)) {
        if (thread->started) _longjmp(thread->at, 1);
        thread->started = true;
        setcontext(&thread->start);
    }
    nobody_runs();
}

void wait(const char* what) {
    self->waits_for = what;
    leave();
}

void wake(Thread& thread) { thread.block->warps[thread.warp].runnable.push_back(thread.index); }

void pause() {
    if (random_below(2)) return;
    wake(*self);
    leave();
}

void meet(const char* what, void* mine, void (*act)(void* given[WARP])) {
    Warp& warp = self->block->warps[self->warp];
    if (warp.come && warp.at != what && strcmp(warp.at, what))
        fault("is at %s while other lanes of its warp are at %s", what, warp.at);
    warp.at = what;
    warp.given[self->lane] = mine;
    if (++warp.come < WARP) return wait(what);
    warp.come = 0;
    act(warp.given);
    for (int lane = 0; lane < WARP; ++lane)
        if (lane != self->lane) wake(self->block->threads[self->warp * WARP + lane]);
}

// The next thread to run: of the warp that goes first, or of any.
static Thread* choose(std::vector<Block*>& blocks) {
    static std::vector<Warp*> ready;
    static std::vector<Block*> home;
    ready.clear(), home.clear();
    u32 best = ~0u;
    for (Block* block : blocks)
        for (size_t w = 0; w < block->warps.size(); ++w) {
            if (block->warps[w].runnable.empty()) continue;
            if (ranked && rank_of_warp[w] > best) continue;
            if (ranked && rank_of_warp[w] < best) ready.clear(), home.clear(), best = rank_of_warp[w];
            ready.push_back(&block->warps[w]), home.push_back(block);
        }
    if (ready.empty()) return nullptr;
    u32 at = random_below((u32)ready.size());
    std::vector<u32>& list = ready[at]->runnable;
    u32 i = random_below((u32)list.size());
    std::swap(list[i], list.back());
    Thread* thread = &home[at]->threads[list.back()];
    list.pop_back();
    return thread;
}

static void report_deadlock(std::vector<Block*>& blocks) {
    std::map<std::string, std::map<std::string, int>> waits;  // what, then block.warp, then how many lanes
    for (Block* block : blocks)
        for (Thread& t : block->threads)
            if (!t.done) ++waits[t.waits_for ? t.waits_for : "?"][std::to_string(block->index) + "." + std::to_string(t.warp)];
    std::string text;
    for (auto& [what, who] : waits) {
        text += "; at " + what + ": warps (block.warp)";
        for (auto& [warp, lanes] : who) text += " " + warp + (lanes == 32 ? "" : " (" + std::to_string(lanes) + " lanes)");
    }
    fault("deadlock%s", text.c_str());
}

static void start(Block& block, int index, int threads, u8* stacks) {
    block.index = index;
    block.alive = threads;
    block.threads.resize(threads);
    block.warps.resize((threads + WARP - 1) / WARP);
    block.granules.assign(shared_bytes / 16, {});
    block.shared = (u8*)aligned_alloc(1024, (shared_bytes + 1023) / 1024 * 1024);
    memset(block.shared, 0xff, shared_bytes);  // not a number in every type
    for (int i = 0; i < threads; ++i) {
        Thread& t = block.threads[i];
        t.block = &block;
        t.index = i, t.warp = i / WARP, t.lane = i % WARP;
        t.stack = stacks + (size_t)i * STACK_BYTES;
        t.written.assign(STACK_BYTES / 4, false);
        t.seen.assign(threads + block.warps.size() + 64, 0);
        t.seen[i] = 1;
        getcontext(&t.start);
        t.start.uc_stack.ss_sp = t.stack;
        t.start.uc_stack.ss_size = STACK_BYTES;
        t.start.uc_link = nullptr;
        makecontext(&t.start, begin, 0);
        wake(t);
    }
}

// What a launch has made; apart from the frame of `run`, into which an abandoned launch jumps back.
struct Grid {
    std::vector<u8*> free_stacks;
    std::vector<Block*> blocks;
    size_t stack_bytes;
};

static u8* new_stacks(Grid& grid) {
    if (grid.free_stacks.empty()) {
        void* at = mmap(nullptr, grid.stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) fault("no memory for stacks");
        return (u8*)at;
    }
    u8* at = grid.free_stacks.back();
    grid.free_stacks.pop_back();
    return at;
}

static void end(Grid& grid, Block* block) {
    grid.free_stacks.push_back(block->threads[0].stack);
    free(block->shared);
    for (size_t i = 0; i < grid.blocks.size(); ++i)
        if (grid.blocks[i] == block) grid.blocks.erase(grid.blocks.begin() + i);
    delete block;
}

static void play(Grid& grid, int count, int threads, u32 together, u32 late) {
    for (int next = 0;;) {
        for (; grid.blocks.size() < together && next < count; ++next) {
            u8* stacks = new_stacks(grid);
            grid.blocks.push_back(new Block);
            start(*grid.blocks.back(), next, threads, stacks);
        }
        if (random_below(late) == 0) land_a_copy();
        if (Thread* thread = choose(grid.blocks)) {
            resume(thread);
            if (thread->block->alive) continue;
            end(grid, thread->block);
            if (grid.blocks.empty() && next == count) break;
        } else if (!land_a_copy()) {
            report_deadlock(grid.blocks);
        }
    }
    if (land_a_copy()) fault("a block has ended before its copies");
}

bool run(int count, int threads, u32 shared, u64 seed, void (*entry)()) {
    random_bits.seed(seed);
    kernel = entry;
    shared_bytes = (shared + 15) / 16 * 16;
    grid_blocks = count;
    ranked = seed % 3 != 0;
    const u32 together = 1 + (u32)(seed % std::min(count, 8)), late = 1 + random_below(300);
    rank_of_warp.resize((threads + WARP - 1) / WARP);
    for (u32 w = 0; w < rank_of_warp.size(); ++w) rank_of_warp[w] = random_below(8);
    // The warp that feeds the others goes first, or last, more often than chance would have it.
    rank_of_warp[0] = seed % 3 == 1 ? 0 : 9;
    static Grid grid;
    grid.stack_bytes = (size_t)threads * STACK_BYTES;
    const bool whole = !_setjmp(abandoned);
    if (whole) {
        if (shared_bytes > 232448) fault("more shared memory than a block can have");
        play(grid, count, threads, together, late);
    } else {
        nobody_runs();
        forget_copies();
        while (!grid.blocks.empty()) end(grid, grid.blocks.back());
    }
    for (u8* at : grid.free_stacks) munmap(at, grid.stack_bytes);
    grid.free_stacks.clear();
    return whole;
}

}  // namespace machine
