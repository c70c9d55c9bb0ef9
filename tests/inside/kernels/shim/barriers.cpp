// Barriers: warps, named barriers of a block, mbarriers. Each of them makes order: who leaves knows all that was known to
// those who came.

#include "machine.h"

namespace machine {

// Nobody asks for an order where nobody looks at accesses.
void join(Clock& into, const Clock& other) {
    if (!watches_blocks) return;
    into.resize(std::max(into.size(), other.size()));
    for (size_t i = 0; i < other.size(); ++i) into[i] = into[i] > other[i] ? into[i] : other[i];
}

static void release(Clock& into) {
    join(into, self->seen);
    ++self->seen[self->index];
}

void warp_sync() {
    meet("warp_sync", &self->seen, [](void* given[WARP]) {
        if (!watches_blocks) return;
        Clock all;
        for (int i = 0; i < WARP; ++i) join(all, *(Clock*)given[i]);
        for (int i = 0; i < WARP; ++i) {
            Clock& seen = *(Clock*)given[i];
            seen = all;
            ++seen[self->warp * WARP + i];
        }
    });
}

u32 shuffle(u32 x, int from) {
    struct Both {
        u32 in, out;
        int from;
    } mine{x, 0, from};
    meet("shuffle", &mine, [](void* given[WARP]) {
        for (int i = 0; i < WARP; ++i) {
            Both& to = *(Both*)given[i];
            to.out = ((Both*)given[to.from])->in;
        }
    });
    return mine.out;
}

u32 atomic(u32* at, u32 (*next)(u32 old, u32 x), u32 x) {
    atomic_touches(at);
    u32 old = *at;
    *at = next(old, x);
    pause();
    return old;
}

bool any_lane(bool x) {
    bool mine = x;
    meet("any_lane", &mine, [](void* given[WARP]) {
        bool any = false;
        for (int i = 0; i < WARP; ++i) any |= *(bool*)given[i];
        for (int i = 0; i < WARP; ++i) *(bool*)given[i] = any;
    });
    return mine;
}

bool barrier(u32 id, u32 threads, bool stay, bool say) {
    NamedBarrier& b = self->block->barriers[id];
    if (b.come == 0) {
        b.threads = threads;
        b.here.assign(self->block->threads.size(), false);
        b.gathered.clear();
    }
    if (b.threads != threads) fault("barrier %u is among %u threads for some and %u for others", id, b.threads, threads);
    if (b.here[self->index]) fault("comes to barrier %u twice before it opens", id);
    b.here[self->index] = true;
    b.any |= say;
    release(b.gathered);
    if (++b.come == threads) {
        b.come = 0;
        b.any_said = b.any;
        b.any = false;
        for (Thread* t : b.waiting) {
            join(t->seen, b.gathered);
            wake(*t);
        }
        b.waiting.clear();
        if (stay) join(self->seen, b.gathered);
        pause();
    } else if (stay) {
        static const char* names[] = {"barrier 0", "barrier 1", "barrier 2", "barrier 3", "barrier 4", "barrier 5"};
        b.waiting.push_back(self);
        wait(id < 6 ? names[id] : "a barrier");
    } else {
        pause();
    }
    return b.any_said;
}

void mbarrier_init(u64* bar, u32 arrivals) {
    access(bar, 8, true);
    auto [at, fresh] = self->block->mbarriers.try_emplace(shared_offset(bar));
    if (!fresh) fault("an mbarrier is initialised twice");
    Mbarrier& b = at->second;
    b.expected = b.pending = arrivals;
    u32 nth = (u32)self->block->mbarriers.size() - 1;
    b.number = (u32)(self->block->threads.size() + self->block->warps.size()) + nth;
    b.name = "mbarrier " + std::to_string(nth);
    if (b.number >= self->seen.size()) fault("more mbarriers than the test foresees");
}

void mbarrier_init_fence() {
    for (auto& [at, b] : self->block->mbarriers) b.fenced = true;
}

Mbarrier& mbarrier_at(const u64* bar) {
    access(bar, 8, false);
    auto at = self->block->mbarriers.find(shared_offset(bar));
    if (at == self->block->mbarriers.end()) fault("an mbarrier is used before it is initialised");
    return at->second;
}

static void advance(Mbarrier& b) {
    if (b.pending || b.bytes) return;
    ++b.phase;
    b.pending = b.expected;
    b.released = b.gathered;
    b.released.resize(std::max(b.released.size(), (size_t)b.number + 1));
    b.released[b.number] = b.phase;  // the copies of the phase
    for (Thread* t : b.waiting) wake(*t);
    b.waiting.clear();
}

void mbarrier_arrive(u64* bar, u32 bytes) {
    Mbarrier& b = mbarrier_at(bar);
    if (b.pending == 0) fault("more threads arrive at an mbarrier than it was made for");
    b.bytes += bytes;
    --b.pending;
    release(b.gathered);
    advance(b);
    pause();
}

void mbarrier_wait(u64* bar, u32 parity) {
    Mbarrier& b = mbarrier_at(bar);
    if (parity > 1) fault("waits for the parity %u", parity);
    while ((b.phase & 1) == parity) {
        b.waiting.push_back(self);
        wait(b.name.c_str());
    }
    join(self->seen, b.released);
}

void mbarrier_landed(Mbarrier& b, u32 bytes) {
    b.bytes -= bytes;
    advance(b);
}

}  // namespace machine
