// Who comes after whom: vector clocks over streams, the host and the lanes of graphs, and what every byte was last touched by.
//
// That one operation ran after another says nothing: only a stream, an event or a wait of the host makes order. So a missing
// event is found in every order in which the work happens to be done.

#include <algorithm>

#include "standin.h"

namespace standin {

void join(Clock& into, const Clock& other) {
    if (into.size() < other.size()) into.resize(other.size());
    for (size_t i = 0; i < other.size(); ++i)
        if (other[i] > into[i]) into[i] = other[i];
}

u32 new_component() {
    static u32 next = 0;
    return next++;
}

static std::vector<std::string>& names() {
    static std::vector<std::string> all;
    return all;
}

u32 name_operation(const std::string& what) {
    names().push_back(text("#%zu %s", names().size() + 1, what.c_str()));
    return (u32)names().size() - 1;
}

const std::string& operation_name(u32 operation) { return names()[operation]; }

static bool known(const Doer& d, const Clock& seen) { return d.who < seen.size() && seen[d.who] >= d.time; }

Shadow::Shadow(const std::string& called, Range all, Doer made) : name(called) { parts[all.begin] = Part{all.end, false, made, {}}; }

// The part that begins at this place, which is cut there.
std::map<u64, Shadow::Part>::iterator Shadow::split(u64 at) {
    auto part = parts.upper_bound(at);
    if (part == parts.begin()) return part;
    --part;
    if (part->first == at) return part;
    if (part->second.end <= at) return std::next(part);
    Part rest = part->second;
    part->second.end = at;
    return parts.emplace_hint(std::next(part), at, std::move(rest));
}

[[noreturn]] static void race(const char* does, Doer by, u64 begin, u64 end, const std::string& where, const char* did, Doer before) {
    finding("race: %s %s bytes %llu to %llu of %s, which %s %s; nothing orders the one after the other", operation_name(by.operation).c_str(), does, begin,
            end, where.c_str(), operation_name(before.operation).c_str(), did);
}

void Shadow::read(Range r, Doer by, const Clock& seen, bool must_be_written) {
    if (r.begin >= r.end) return;
    const u64 base = parts.begin()->first;
    split(r.end);
    for (auto at = split(r.begin); at != parts.end() && at->first < r.end; ++at) {
        Part& p = at->second;
        if (!known(p.writer, seen)) race("reads", by, at->first - base, p.end - base, name, p.written ? "writes" : "makes", p.writer);
        if (must_be_written && !p.written)
            finding_in_the_end(text("%s reads bytes %llu to %llu of %s, which nobody has written", operation_name(by.operation).c_str(),
                                    at->first - base, p.end - base, name.c_str()));
        bool there = false;
        for (Doer& d : p.readers)
            if (d.who == by.who) d = by, there = true;
        if (!there) p.readers.push_back(by);
    }
}

void Shadow::write(Range r, Doer by, const Clock& seen, const char* how) {
    if (r.begin >= r.end) return;
    const u64 base = parts.begin()->first;
    split(r.end);
    auto first = split(r.begin), at = first;
    for (; at != parts.end() && at->first < r.end; ++at) {
        const Part& p = at->second;
        if (!known(p.writer, seen)) race(how, by, at->first - base, p.end - base, name, p.written ? "writes" : "makes", p.writer);
        for (const Doer& d : p.readers)
            if (!known(d, seen)) race(how, by, at->first - base, p.end - base, name, "reads", d);
    }
    parts.erase(first, at);
    parts[r.begin] = Part{r.end, true, by, {}};
}

void Shadow::make(Doer by, const Clock& seen) {
    const Range all{parts.begin()->first, parts.rbegin()->second.end};
    write(all, by, seen, "makes");
    parts.begin()->second.written = false;
}

std::vector<Range> Shadow::unwritten(Range r) const {
    std::vector<Range> out;
    auto at = parts.upper_bound(r.begin);
    if (at != parts.begin()) --at;
    for (; at != parts.end() && at->first < r.end; ++at)
        if (!at->second.written) out.push_back({std::max(at->first, r.begin), std::min(at->second.end, r.end)});
    return out;
}

void Shadow::unwrite(Range r) {
    split(r.end);
    for (auto at = split(r.begin); at != parts.end() && at->first < r.end; ++at) at->second.written = false;
}

}  // namespace standin
