// Device memory: real memory at the addresses that the host is given, which the host cannot reach. An allocation ends at a page
// that is nowhere; new memory is poisoned; what was freed stays away, and no address is given out twice.
//
// It is also the global memory of the kernels' machine (tests/inside/kernels/shim): the compiler reports every access of a kernel
// before it happens, and the copies of the machine report theirs, so what an operation touched is known to the byte.

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>

#include "machine.h"
#include "standin.h"

namespace standin {

constexpr u64 PAGE = 4096;
constexpr u64 POISON = 0xff;  // not a number in every type

// A page of an allocation, as the operation under way touches it: a bit for every byte, and which block did it.
struct Page {
    u64 read[PAGE / 64] = {}, written[PAGE / 64] = {};
    // 0 for nobody, else a block and 1; several have read.
    u32 reader[PAGE] = {}, writer[PAGE] = {};
};
constexpr u32 SEVERAL = ~0u;

static u64 first_address, last_address, next_address, in_use;
static u32 count;
static std::map<u64, std::unique_ptr<Allocation>>& all() {
    static auto* them = new std::map<u64, std::unique_ptr<Allocation>>;
    return *them;
}
static std::vector<Allocation*> opened;
static std::vector<std::pair<Allocation*, u64>> touched;  // pages
static struct sigaction before_us;

std::string Allocation::name() const { return text("allocation %u (%llu bytes at 0x%llx)", number, bytes, begin); }

// An address of the device that was touched in earnest: by the host, or by a kernel behind the compiler's back.
static void on_fault(int signal, siginfo_t* info, void* context) {
    const u64 at = (u64)info->si_addr;
    if (at < first_address || at >= last_address) {
        sigaction(SIGSEGV, &before_us, nullptr);  // it happens again, to whoever was there before
        return;
    }
    bool writes = false;
#ifdef __x86_64__
    writes = ((ucontext_t*)context)->uc_mcontext.gregs[REG_ERR] & 2;
#endif
    Allocation* a = allocation_at(at);
    finding("%s %s device memory at 0x%llx: %s", machine::self ? "a kernel, unseen by the machine," : "the host", writes ? "writes" : "reads", at,
            !a ? "there is no allocation" : a->gone ? (a->name() + ", which was freed by " + a->freed_by).c_str() : a->name().c_str());
}

// On a GPU it has some result.
static void on_division(int, siginfo_t*, void*) {
    if (machine::self) finding("a kernel divides a whole number by zero");
    signal(SIGFPE, SIG_DFL);  // it happens again
}

void memory_begins() {
    if (first_address) return;
    u64 bytes = 1ull << 40;
    void* at = MAP_FAILED;
    for (; at == MAP_FAILED && bytes >= 1ull << 32; bytes /= 2)
        at = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) finding("there are no addresses for device memory");
    next_address = first_address = (u64)at;
    last_address = first_address + bytes * 2;
    struct sigaction ours = {};
    ours.sa_sigaction = on_fault;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &ours, &before_us);
    ours.sa_sigaction = on_division;
    sigaction(SIGFPE, &ours, nullptr);
}

u64 memory_total() {
    static const u64 total = setting("MEMORY", 4ull << 30);
    return total;
}

u64 memory_free() { return memory_total() - in_use; }

bool is_device_memory(u64 address) { return address >= first_address && address < last_address; }

Allocation* allocate(u64 bytes, Doer made) {
    if (!bytes || bytes > memory_free()) return nullptr;
    const u64 whole = (bytes + PAGE - 1) / PAGE * PAGE, used = (bytes + 255) / 256 * 256;
    if (next_address + PAGE + whole + PAGE > last_address) return nullptr;
    auto a = std::make_unique<Allocation>();
    a->number = ++count;
    a->mapped_begin = next_address + PAGE, a->mapped_bytes = whole;
    a->begin = a->mapped_begin + whole - used, a->bytes = bytes;
    next_address = a->mapped_begin + whole;
    in_use += bytes;
    a->shadow = std::make_unique<Shadow>(a->name(), Range{a->begin, a->begin + bytes}, made);
    a->pages.resize(whole / PAGE);
    if (mprotect((void*)a->mapped_begin, whole, PROT_READ | PROT_WRITE)) finding("there is no memory for %s", a->name().c_str());
    memset((void*)a->mapped_begin, POISON, whole);
    mprotect((void*)a->mapped_begin, whole, PROT_NONE);
    Allocation* out = a.get();
    all()[a->begin] = std::move(a);
    return out;
}

void release(Allocation& a, const std::string& by) {
    a.gone = true;
    a.freed_by = by;
    in_use -= a.bytes;
    opened.erase(std::remove(opened.begin(), opened.end(), &a), opened.end());
    mprotect((void*)a.mapped_begin, a.mapped_bytes, PROT_NONE);
    madvise((void*)a.mapped_begin, a.mapped_bytes, MADV_DONTNEED);
    a.shadow.reset();
    a.pages.clear();
}

std::string live_allocations() {
    std::string out;
    for (auto& [at, a] : all())
        if (!a->gone) out += (out.empty() ? "" : ", ") + a->name();
    return out;
}

Allocation* allocation_at(u64 address) {
    static Allocation* last;
    if (last && address >= last->begin && address < last->begin + last->bytes) return last;
    auto at = all().upper_bound(address);
    if (at == all().begin()) return nullptr;
    Allocation* a = std::prev(at)->second.get();
    if (address >= a->begin + a->bytes) return nullptr;
    return last = a;
}

Allocation* whole_range(u64 at, u64 bytes, std::string& why) {
    Allocation* a = allocation_at(at);
    if (!a)
        why = text("no allocation holds 0x%llx", at);
    else if (a->gone)
        why = "use after free: " + a->name() + " was freed by " + a->freed_by;
    else if (bytes > a->begin + a->bytes - at)
        why = text("%llu bytes from byte %llu on reach beyond the end of %s", bytes, at - a->begin, a->name().c_str());
    else
        return a;
    return nullptr;
}

void open_for_work(Allocation& a) {
    if (a.open) return;
    mprotect((void*)a.mapped_begin, a.mapped_bytes, PROT_READ | PROT_WRITE);
    a.open = true;
    opened.push_back(&a);
}

void close_all() {
    for (Allocation* a : opened) {
        mprotect((void*)a->mapped_begin, a->mapped_bytes, PROT_NONE);
        a->open = false;
    }
    opened.clear();
}

// ---- what an operation touches -------------------------------------------------------------------------------------------

static Page& page_of(Allocation& a, u64 at) {
    const u64 i = (at - a.mapped_begin) / PAGE;
    if (!a.pages[i]) {
        a.pages[i] = std::make_unique<Page>();
        touched.push_back({&a, i});
    }
    return *a.pages[i];
}

static void set(u64* bits, u64 first, u64 n) {
    while (n) {
        const u64 in = first % 64, some = std::min<u64>(n, 64 - in);
        bits[first / 64] |= (some == 64 ? ~0ull : ((1ull << some) - 1)) << in;
        first += some, n -= some;
    }
}

// Calls with every page that the range lies on: the page, the first byte in it, and how many.
template <class F>
static void each_page(Allocation& a, u64 at, u64 bytes, F f) {
    while (bytes) {
        const u64 in = (at - a.mapped_begin) % PAGE, some = std::min(bytes, PAGE - in);
        f(page_of(a, at), in, some);
        at += some, bytes -= some;
    }
}

void note_read(Allocation& a, u64 at, u64 bytes) {
    each_page(a, at, bytes, [](Page& p, u64 first, u64 n) { set(p.read, first, n); });
}

void note_written(Allocation& a, u64 at, u64 bytes) {
    each_page(a, at, bytes, [](Page& p, u64 first, u64 n) { set(p.written, first, n); });
}

void noting_begins() {
    for (auto& [a, i] : touched) a->pages[i].reset();
    touched.clear();
}

static void ranges(const u64* bits, u64 base, u64 low, u64 high, std::vector<Range>& out) {
    for (u64 i = 0; i < PAGE / 64; ++i) {
        for (u64 left = bits[i]; left;) {
            const u64 first = __builtin_ctzll(left);
            const u64 ones = ~(left >> first) ? __builtin_ctzll(~(left >> first)) : 64 - first;
            const u64 begin = std::max(base + i * 64 + first, low), end = std::min(base + i * 64 + first + ones, high);
            left = first + ones >= 64 ? 0 : left >> (first + ones) << (first + ones);
            if (begin >= end) continue;
            if (!out.empty() && out.back().end == begin)
                out.back().end = end;
            else
                out.push_back({begin, end});
        }
    }
}

std::vector<std::pair<Allocation*, Touched>> noting_ends() {
    std::sort(touched.begin(), touched.end(), [](auto& x, auto& y) {
        return x.first->number != y.first->number ? x.first->number < y.first->number : x.second < y.second;
    });
    std::vector<std::pair<Allocation*, Touched>> out;
    for (auto& [a, i] : touched) {
        if (out.empty() || out.back().first != a) out.push_back({a, {}});
        const u64 base = a->mapped_begin + i * PAGE;
        ranges(a->pages[i]->read, base, a->begin, a->begin + a->bytes, out.back().second.reads);
        ranges(a->pages[i]->written, base, a->begin, a->begin + a->bytes, out.back().second.writes);
    }
    noting_begins();
    return out;
}

}  // namespace standin

// ---- the machine's global memory -----------------------------------------------------------------------------------------

namespace machine {

using namespace standin;

bool inside_region(const void* at, size_t bytes) {
    std::string why;
    return whole_range((u64)at, bytes, why);
}

static Allocation& reached(const void* at, size_t bytes, const char* does) {
    std::string why;
    Allocation* a = whole_range((u64)at, bytes, why);
    if (!a) {
        static char text[500];  // no string is left behind where the fault jumps away
        snprintf(text, sizeof text, "%s %zu bytes at %p outside of device memory: %s", does, bytes, at, why.c_str());
        std::string().swap(why);
        fault("%s", text);
    }
    open_for_work(*a);
    return *a;
}

void access_global(const void* at, size_t bytes, bool write, bool aligned) {
    Allocation& a = reached(at, bytes, write ? "writes" : "reads");
    if (aligned && (u64)at % bytes) fault("misaligned: %zu bytes at %p", bytes, at);
    const u32 me = self->block->index + 1;
    each_page(a, (u64)at, bytes, [&](Page& p, u64 first, u64 n) {
        set(write ? p.written : p.read, first, n);
        for (u64 i = first; i < first + n; ++i) {
            if (p.writer[i] && p.writer[i] != me)
                fault("race: %s byte %llu of %s, which block %u of the same launch writes", write ? "writes" : "reads", (u64)at - a.begin + i - first,
                      a.name().c_str(), p.writer[i] - 1);
            if (write && p.reader[i] && p.reader[i] != me)
                fault("race: writes byte %llu of %s, which another block of the same launch reads", (u64)at - a.begin + i - first, a.name().c_str());
            if (write)
                p.writer[i] = me;
            else
                p.reader[i] = p.reader[i] && p.reader[i] != me ? SEVERAL : me;
        }
    });
}

void copy_reads(const void* at, size_t bytes) {
    Allocation& a = reached(at, bytes, "reads, by a copy into shared memory,");
    const u32 me = self->block->index + 1;
    each_page(a, (u64)at, bytes, [&](Page& p, u64 first, u64 n) {
        set(p.read, first, n);
        for (u64 i = first; i < first + n; ++i) {
            if (p.writer[i] && p.writer[i] != me) fault("race: a copy reads what block %u of the same launch writes, in %s", p.writer[i] - 1, a.name().c_str());
            p.reader[i] = p.reader[i] && p.reader[i] != me ? SEVERAL : me;
        }
    });
}

void atomic_touches(const void* at) {
    Allocation& a = reached(at, 4, "changes");
    note_read(a, (u64)at, 4);
    note_written(a, (u64)at, 4);
}

}  // namespace machine
