// A team of threads that does one piece of native work together, and waits for the next one between them.
//
//     run(threads, [&](const Member &member) { ... member.share(groups) ... member.wait(); ... });
//
// The calling thread is member 0. The others are torch's where it is loaded, or are kept from call to call: they look
// out for the next one for a moment, and then sleep. What they are given must not depend on how many they are: cut it
// where every number is computed by one thread in one order, and the results are the same bits.
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

    // Its part of 0 .. total: all parts together are the whole, in order, and differ by one at most.
    Range share(int64_t total) const;

    // Until all members have come here as often; what they wrote before is then seen by all. Spins for some
    // microseconds, and then lets others have the core between two looks.
    void wait() const;
};

using Job = void (*)(void *context, const Member &member);

// `run` below, of a function and what it is about.
void run_team(int64_t threads, Job job, void *context);

namespace {

// Calls work(member) in `threads` threads at once, this one among them, and ends when all have ended. Denormal numbers
// are flushed in all of them. There may be fewer: no more than the system gives, and this one alone while another
// thread of Python's is at it.
template <class Function> [[maybe_unused]] void run(int64_t threads, Function &&work) {
    using Plain = typename std::remove_reference<Function>::type;
    run_team(threads, [](void *context, const Member &member) { (*static_cast<Plain *>(context))(member); }, &work);
}

}  // namespace
}  // namespace scriven
