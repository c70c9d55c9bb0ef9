// Capture of streams, and graphs that are launched.

#include <set>

#include "standin.h"

namespace standin {

template <class T>
static std::map<void*, T>& held() {
    static auto* all = new std::map<void*, T>;
    return *all;
}

static std::map<Stream*, std::shared_ptr<Capture>>& captures() {
    static auto* all = new std::map<Stream*, std::shared_ptr<Capture>>;  // by the stream that began it
    return *all;
}

std::shared_ptr<Capture> capture_of(Stream* s) {
    for (auto& [origin, c] : captures())
        if (c->ends.count(s)) return c;
    return nullptr;
}

bool anything_captures() { return !captures().empty(); }

void break_captures() {
    for (auto& [origin, c] : captures()) c->broken = true;
}

void forget_stream(Stream* s) {
    if (auto c = capture_of(s)) c->broken = true;
}

int capture_begins(Stream* s, u32 mode) {
    static u32 count;
    if (mode > 2) return 1;
    if (s == stream_of(nullptr)) return 900;
    if (capture_of(s)) return 401;
    auto c = std::make_shared<Capture>();
    c->number = ++count;
    c->origin = s;
    c->ends[s] = {};
    captures()[s] = c;
    return 0;
}

int capture_work(Capture& c, Stream* s, Work work) {
    if (c.broken) return 901;
    work.number = name_operation(work.what + text(" on stream %u, in capture %u", s->number, c.number));
    c.nodes.push_back({std::move(work), s->who, c.ends[s]});
    c.ends[s] = {(int)c.nodes.size() - 1};
    return 0;
}

int capture_ends(Stream* s, Graph** graph) {
    *graph = nullptr;
    auto at = captures().find(s);
    if (at == captures().end()) return capture_of(s) ? 903 : 401;
    std::shared_ptr<Capture> c = at->second;
    captures().erase(at);
    c->ended = true;
    if (c->broken) return 901;
    // Every stream that takes part must have come back to the one that began.
    std::set<int> before(c->ends[s].begin(), c->ends[s].end());
    for (int i = (int)c->nodes.size() - 1; i >= 0; --i)
        if (before.count(i)) before.insert(c->nodes[i].after.begin(), c->nodes[i].after.end());
    for (auto& [other, ends] : c->ends)
        for (int end : ends)
            if (!before.count(end)) {
                fprintf(stderr, "stand-in: %s is captured, and stream %u never waits for it\n", operation_name(c->nodes[end].work.number).c_str(),
                        s->number);
                return 904;
            }
    auto g = std::make_unique<Graph>();
    g->nodes = std::move(c->nodes);
    *graph = g.get();
    held<std::unique_ptr<Graph>>()[g.get()] = std::move(g);
    return 0;
}

Graph* graph_of(void* handle) {
    auto at = held<std::unique_ptr<Graph>>().find(handle);
    return at == held<std::unique_ptr<Graph>>().end() ? nullptr : at->second.get();
}

int destroy_graph(void* handle) { return held<std::unique_ptr<Graph>>().erase(handle) ? 0 : 400; }

int instantiate(Graph* g, void** executable) {
    static u32 count;
    auto e = std::make_shared<Executable>();
    e->number = ++count;
    e->nodes = g->nodes;
    std::map<u32, u32> lanes;
    for (Node& n : e->nodes) {
        auto [at, fresh] = lanes.try_emplace(n.lane, (u32)lanes.size());
        if (fresh) e->components.push_back(new_component());
        n.lane = at->second;
    }
    *executable = e.get();
    held<std::shared_ptr<Executable>>()[e.get()] = e;
    return 0;
}

std::shared_ptr<Executable> executable_of(void* handle) {
    auto at = held<std::shared_ptr<Executable>>().find(handle);
    return at == held<std::shared_ptr<Executable>>().end() ? nullptr : at->second;
}

int destroy_executable(void* handle) { return held<std::shared_ptr<Executable>>().erase(handle) ? 0 : 400; }

std::shared_ptr<GraphRun> graph_begins(Executable& g, const Clock& clock) {
    auto run = std::make_shared<GraphRun>();
    const size_t n = g.nodes.size();
    run->ends.resize(n), run->left.resize(n), run->next.resize(n);
    for (size_t i = 0; i < n; ++i) {
        run->left[i] = g.nodes[i].after.size();
        for (int before : g.nodes[i].after) run->next[before].push_back(i);
        if (!run->left[i]) run->ready.push_back(i);
    }
    // One run of a graph begins after the one before has ended.
    run->begin = clock;
    join(run->begin, g.last);
    run->all = run->begin;
    g.running = true;
    return run;
}

static const Work& work_of(const Executable& g, const std::map<size_t, Work>& anew, size_t node) {
    const auto own = anew.find(node);
    return own == anew.end() ? g.nodes[node].work : own->second;
}

bool graph_is_able(const Executable& g, GraphRun& run, const std::map<size_t, Work>& anew) {
    std::vector<size_t> able;
    for (size_t at = 0; at < run.ready.size(); ++at)
        if (const Work& w = work_of(g, anew, run.ready[at]); !w.elsewhere || w.elsewhere()) able.push_back(at);
    if (able.empty()) return g.nodes.empty();
    run.able = able[random_below(able.size())];
    return true;
}

bool graph_goes_on(Executable& g, GraphRun& run, const std::map<size_t, Work>& anew, Clock& clock,
                   const std::function<void(const Work&, Doer, const Clock&)>& one) {
    if (!run.ready.empty()) {
        std::swap(run.ready[run.able], run.ready.back());
        const size_t i = run.ready.back();
        run.ready.pop_back();
        const Node& node = g.nodes[i];
        Clock seen = run.begin;
        for (int before : node.after) join(seen, run.ends[before]);
        const u32 who = g.components[node.lane];
        if (seen.size() <= who) seen.resize(who + 1);
        const Work& work = work_of(g, anew, i);
        one(work, {who, ++seen[who], node.work.number}, seen);
        join(run.all, seen);
        run.ends[i] = std::move(seen);
        for (size_t j : run.next[i])
            if (!--run.left[j]) run.ready.push_back(j);
    }
    if (!run.ready.empty()) return false;
    join(clock, run.all);
    g.last = run.all;
    g.running = false;
    return true;
}

}  // namespace standin
