// What is said and asked of the environment: findings, the seed, what fails on request, and the limit of every wait.

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "standin.h"

namespace standin {

static std::string formatted(const char* format, va_list list) {
    va_list again;
    va_copy(again, list);
    std::string out(vsnprintf(nullptr, 0, format, again), 0);
    va_end(again);
    vsnprintf(&out[0], out.size() + 1, format, list);
    return out;
}

std::string text(const char* format, ...) {
    va_list list;
    va_start(list, format);
    return formatted(format, list);
}

void finding(const char* format, ...) {
    va_list list;
    va_start(list, format);
    std::string said = "stand-in: " + formatted(format, list) + "\n";
    (void)!write(2, said.data(), said.size());
    _exit(97);
}

static std::string kept;

void finding_in_the_end(const std::string& text) {
    if (kept.empty()) kept = text;
}

const std::string& finding_kept() { return kept; }

const char* setting(const char* name) {
    const char* value = getenv(("ANNULUS_STANDINS_" + std::string(name)).c_str());
    return value && *value ? value : nullptr;
}

u64 setting(const char* name, u64 otherwise) {
    const char* value = setting(name);
    if (!value) return otherwise;
    char* end;
    u64 number = strtoull(value, &end, 10);
    if (*end) finding("ANNULUS_STANDINS_%s is %s, which is no number", name, value);
    return number;
}

static u64& given_seed() {
    static u64 given = setting("SEED", 1);
    return given;
}
static u64& state() {
    static u64 one = given_seed() * 0x2545f4914f6cdd1d;
    return one;
}

u64 seed() { return given_seed(); }

void seed_anew(u64 seed) {
    given_seed() = seed;
    state() = seed * 0x2545f4914f6cdd1d;
}

// splitmix64 (Steele, Lea, Flood 2014).
u64 random_below(u64 n) {
    u64 z = state() += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (z ^ z >> 31) % n;
}

// ANNULUS_STANDINS_FAIL: `KIND:N` or `KIND:N:CODE`, several with commas between: the N-th of its kind fails, counted from 1.
int fails_now(const char* kind) {
    static const char* const all = setting("FAIL");
    if (!all) return 0;
    static std::map<std::string, u64> counts;
    u64 count = ++counts[kind];
    for (const char* at = all; *at;) {
        const char* end = strchrnul(at, ',');
        std::string one(at, end);
        at = *end ? end + 1 : end;
        char name[64];
        unsigned long long nth, code = 0;
        int found = sscanf(one.c_str(), "%63[^:]:%llu:%llu", name, &nth, &code);
        if (found < 2) finding("ANNULUS_STANDINS_FAIL is %s; KIND:N or KIND:N:CODE is wanted", one.c_str());
        if (strcmp(name, kind) || nth != count) continue;
        std::string k = kind;
        return code ? (int)code : k == "alloc" ? 2 : k == "launch" ? 701 : k == "run" ? 719 : 999;
    }
    return 0;
}

static std::atomic<const char*> under_way{nullptr};
static std::atomic<long> begun{0};

static long seconds() {
    return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void work_begins(const char* what) {
    static const long limit = (long)setting("SECONDS", 120);
    // One in each process: a forked one has no other thread.
    static pid_t watched;
    if (watched != getpid()) {
        watched = getpid();
        std::thread([] {
            for (;; std::this_thread::sleep_for(std::chrono::milliseconds(500))) {
                const char* what = under_way;
                if (what && seconds() - begun > limit) finding("%s has not ended after %ld seconds", what, limit);
            }
        }).detach();
    }
    begun = seconds();
    under_way = what;
}

void work_ends() { under_way = nullptr; }

}  // namespace standin
