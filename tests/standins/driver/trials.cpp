// Trials: one process plays the same again and again, each time in a forked copy of itself, under another seed and with another fault
// planted in the calls of the host. What a trial did to the stand-ins ends with it.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "standin.h"

namespace standin {

// `CALL:N:HOW` or `CALL:N:HOW:NUMBER`: the N-th call of a function in this trial, counted from 1, is another one.
static struct {
    std::string call, how;
    u64 nth = 0, number = 0;
} fault;
static bool trial, here;
static std::map<std::string, u64> counts;
static std::vector<Taken> all_taken;
static std::map<u64, u64> moves;

static void plant(const std::string& text) {
    char call[64] = "", how[64] = "";
    unsigned long long nth = 0, number = 0;
    if (!text.empty() && sscanf(text.c_str(), "%63[^:]:%llu:%63[^:]:%llu", call, &nth, how, &number) < 3)
        finding("the fault to be planted is %s; CALL:N:HOW or CALL:N:HOW:NUMBER is wanted", text.c_str());
    fault = {call, how, nth, number};
}

bool planted(const char* how, u64& number) {
    number = fault.number;
    return here && fault.how == how;
}

void no_such_fault() { _exit(96); }

bool left_out(const char* name) {
    if (!trial) return false;
    here = ++counts[name] == fault.nth && fault.call == name;
    u64 number;
    return planted("left out", number);
}

u64 planted_bytes(u64 bytes) {
    u64 number;
    return planted("less", number) ? bytes - number : planted("more", number) ? bytes + number : bytes;
}

void note_allocation(const Taken& one) {
    if (trial) all_taken.push_back(one);
}

const std::vector<Taken>& taken_in_trial() { return all_taken; }

const void* another_event(const void* event, bool records) {
    static std::vector<const void*> recorded;
    auto at = recorded.end();
    u64 number;
    if (planted("another", number)) {
        // Behind what was recorded before the event, for a wait; behind all, for a record.
        if (!records) at = std::find(recorded.rbegin(), recorded.rend(), event).base();
        while (at != recorded.begin() && *(at - 1) == event) --at;
        if (at == recorded.begin()) no_such_fault();
        event = *(at - 1);
    }
    if (trial && records) recorded.push_back(event);
    return event;
}

void move_allocation(u64 from, u64 to) { moves[from] = to; }

u64 moved(u64 at) {
    auto to = moves.find(at);
    return to == moves.end() ? at : to->second;
}

}  // namespace standin

using namespace standin;

extern "C" {

// Begins a trial. In the copy it returns -1: the trial is played, and left by `annulus_standins_leave`. In the process itself it waits
// for the copy's end, and returns its status, or 1000 and the signal; what the copy wrote is there, so much of it as there is room for.
int annulus_standins_trial(u64 seed, const char* planted, char* said, u64 room) {
    int ends[2];
    if (pipe(ends)) return -2;
    const pid_t copy = fork();
    if (copy < 0) return -2;
    if (!copy) {
        dup2(ends[1], 1), dup2(ends[1], 2);
        close(ends[0]), close(ends[1]);
        seed_anew(seed);
        trial = true;
        plant(planted);
        return -1;
    }
    close(ends[1]);
    u64 count = 0;
    char part[512];
    for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) {
        const u64 fits = std::min<u64>(n, room - 1 - count);
        memcpy(said + count, part, fits);
        count += fits;
    }
    said[count] = 0;
    close(ends[0]);
    int status;
    if (waitpid(copy, &status, 0) != copy) return -2;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

// Ends a trial: what was called how often is its last line.
void annulus_standins_leave(int code) {
    std::string all = "calls";
    for (auto& [name, count] : counts) all += text(" %s:%llu", name.c_str(), count);
    all += "\n";
    (void)!write(2, all.data(), all.size());
    _exit(code);
}

}  // extern "C"
