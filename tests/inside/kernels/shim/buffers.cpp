// Global memory as a test of one kernel has it: buffers with names, which remember their last write and the reads since.

#include "machine.h"

namespace machine {

struct Region {
    std::string name;
    u8* at;
    size_t bytes;
    int unit;
    std::vector<Log> logs;
};
static std::vector<Region> regions;

void add_region(const std::string& name, void* at, size_t bytes, int unit) {
    regions.push_back({name, (u8*)at, bytes, unit, std::vector<Log>(unit ? bytes / unit : 0)});
}

void clear_regions() { regions.clear(); }

static Region* region_of(const void* at, size_t bytes) {
    for (Region& r : regions)
        if ((u8*)at >= r.at && (u8*)at + bytes <= r.at + r.bytes) return &r;
    return nullptr;
}

bool inside_region(const void* at, size_t bytes) { return region_of(at, bytes); }

void access_global(const void* at, size_t bytes, bool write, bool) {
    Region* r = region_of(at, bytes);
    if (!r) {
        std::string near;
        for (Region& r : regions)
            if ((u8*)at + 4096 >= r.at && (u8*)at <= r.at + r.bytes + 4096) near = " (near " + r.name + ")";
        fault("%s memory outside of every buffer%s", write ? "writes" : "reads", near.c_str());
    }
    if (!r->unit) {
        if (write) fault("writes %s, which is only read", r->name.c_str());
        return;
    }
    size_t first = (u8*)at - r->at;
    for (size_t i = first / r->unit; i <= (first + bytes - 1) / r->unit; ++i) {
        check(r->logs[i], write, r->name.c_str(), i * r->unit);
        note(r->logs[i], write, now());
    }
}

void copy_reads(const void* at, size_t bytes) {
    if (!inside_region(at, bytes)) fault("a copy reads outside of every buffer");
}

void atomic_touches(const void* at) {
    if (!inside_region(at, 4)) fault("an atomic outside of every buffer");
}

}  // namespace machine
