// Copies that land late: boxes through the copy engine, and cp.async.

#include <algorithm>
#include <cstring>

#include "machine.h"

namespace machine {

static u32 swizzle(u32 address) { return address ^ (address >> 3 & 0x70); }

struct Flight {
    Block* block;
    Mbarrier* bar;
    u32 to;
    Box box;
    i32 at[3];
    u32 bytes;
    Epoch epoch;
};
static std::vector<Flight> flying;

void prefetch(const void* from, u32 bytes) {
    if ((u64)from % 16 || bytes % 16) fault("prefetches %u bytes from %p, which 16 does not divide", bytes, from);
    if (!inside_region(from, bytes)) fault("prefetches what is outside of every buffer");
}

void copy_box(void* to, const void* map, u64* bar, i32 x, i32 y, i32 z) {
    const Box& box = *(const Box*)map;
    Mbarrier& b = mbarrier_at(bar);
    if (!b.fenced) fault("the copy engine is handed an mbarrier without a fence after its initialisation");
    u32 at = shared_offset(to), bytes = box.box[0] * box.box[1] * box.box[2] * box.element;
    if (at % 1024) fault("a swizzled box goes to %u, which 1024 does not divide", at);
    if (box.box[0] * box.element != 128) fault("rows of a swizzled box have 128 bytes, not %u", box.box[0] * box.element);
    if (at + bytes > shared_bytes) fault("a box ends beyond shared memory");
    for (u32 i = 0; i < bytes; i += 16) engine_write_begins((at + i) / 16);
    flying.push_back({self->block, &b, at, box, {x, y, z}, bytes, {self->block->index, b.number, b.phase + 1}});
    pause();
}

// Row by row; what lies outside of the tensor becomes zero.
static void land(const Flight& f) {
    const Box& box = f.box;
    u32 to = f.to;
    for (u32 z = 0; z < box.box[2]; ++z)
        for (u32 y = 0; y < box.box[1]; ++y) {
            i64 row = (i64)f.at[1] + y, matrix = (i64)f.at[2] + z;
            bool there = row >= 0 && row < (i64)box.size[1] && matrix >= 0 && matrix < (i64)box.size[2];
            i64 begin = std::max<i64>(f.at[0], 0), end = std::min<i64>((i64)f.at[0] + box.box[0], box.size[0]);
            const u8* from = box.base + row * (i64)box.stride[1] + matrix * (i64)box.stride[2];
            if (there && begin < end) copy_reads(from + begin * (i64)box.stride[0], (end - begin) * box.element);
            for (u32 x = 0; x < box.box[0]; ++x, to += box.element) {
                i64 column = (i64)f.at[0] + x;
                u8* place = f.block->shared + swizzle(to);
                if (there && column >= begin && column < end)
                    memcpy(place, from + column * (i64)box.stride[0], box.element);
                else
                    memset(place, 0, box.element);
            }
        }
}

void forget_copies() { flying.clear(); }

bool land_a_copy() {
    if (flying.empty()) return false;
    u32 i = random_below((u32)flying.size());
    Flight f = flying[i];
    flying[i] = flying.back();
    flying.pop_back();
    Thread* before = self;
    self = &f.block->threads[0];
    land(f);
    for (u32 b = 0; b < f.bytes; b += 16) engine_write_ends((f.to + b) / 16, f.epoch);
    mbarrier_landed(*f.bar, f.bytes);
    self = before;
    return true;
}

void copy_async(void* to, const void* from, u32 bytes, bool take) {
    u32 at = shared_offset(to);
    if (at % bytes) fault("cp.async of %u bytes to an address that %u does not divide", bytes, bytes);
    if (take && (uintptr_t)from % bytes) fault("cp.async of %u bytes from an address that %u does not divide", bytes, bytes);
    if (take && !inside_region(from, bytes)) fault("cp.async reads outside of every buffer");
    for (u32 i = 0; i < bytes; i += 4) thread_copy_begins((at + i) / 4);
    self->open_copies.push_back({at, bytes, take ? (const u8*)from : nullptr});
}

void copy_async_commit() {
    self->copies.push_back(std::move(self->open_copies));
    self->open_copies.clear();
    pause();
}

void copy_async_wait(u32 left) {
    while (self->copies.size() > left) {
        for (const AsyncCopy& c : self->copies.front()) {
            if (c.from) copy_reads(c.from, c.bytes);
            if (c.from)
                memcpy(self->block->shared + c.to, c.from, c.bytes);
            else
                memset(self->block->shared + c.to, 0, c.bytes);
            for (u32 i = 0; i < c.bytes; i += 4) thread_copy_ends((c.to + i) / 4);
        }
        self->copies.pop_front();
    }
}

}  // namespace machine
