// A team of threads that does one piece of native work together, then waits for the next.
//
//     run(threads, [&](const Member &member) { ... member.share(groups) ... member.wait(); ... });
//
// The calling thread is member 0. The others are torch's threads if it is loaded, or are kept from call to call: they
// spin for a moment, waiting for the next call, and then sleep. The results must not depend on the number of members:
// divide the work so that one thread computes each number in a fixed order, and the bits are the same.
#pragma once

#include <type_traits>

#include "common.h"

namespace scriven {

struct Range {
    int64_t begin, end;
};

struct Barrier;

// One thread of the team during one call.
struct Member {
    int64_t index, count;
    Barrier *barrier;

    // Its part of 0 .. total. All parts together are the whole, in order; their sizes differ by one at most.
    Range share(int64_t total) const;

    // Waits until all members have called it the same number of times. Everything that they wrote before is then visible
    // to all. Spins for some microseconds, and then yields the core between two checks.
    void wait() const;
};

using Job = void (*)(void *context, const Member &member);

// Like `run` below, for a function and its context.
void run_team(int64_t threads, Job job, void *context);

namespace {

// Calls work(member) in `threads` threads at the same time, with this one as the first, and returns when all have ended.
// All of them flush denormal numbers. There may be fewer threads: no more than the system gives, and only this one while
// another Python thread has the team.
template <class Function> [[maybe_unused]] void run(int64_t threads, Function &&work) {
    using Plain = typename std::remove_reference<Function>::type;
    run_team(threads, [](void *context, const Member &member) { (*static_cast<Plain *>(context))(member); }, &work);
}

}  // namespace
}  // namespace scriven
