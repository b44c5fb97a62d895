// The team's threads: those of the OpenMP library that torch has loaded, or POSIX threads, or only the caller.
//
// Torch's threads spin for milliseconds after each piece of work. Other threads would get only half of the cores then,
// and a training step took twice as long. So the team uses the same threads.
#include "thread_team.h"

#include <atomic>

#if !defined(_WIN32)
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <chrono>
#include <new>
#endif

namespace scriven {

struct alignas(64) Barrier {
    std::atomic<int64_t> arrived{0}, round{0};
};

namespace {

constexpr int64_t SPINS = 200;  // checks before it yields the core: some microseconds

inline void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void let_others() {
#if !defined(_WIN32)
    sched_yield();
#endif
}

template <class Ready> void look_out(Ready &&ready) {
    for (int64_t spins = 0; !ready(); ++spins) spins < SPINS ? pause() : let_others();
}

void work_alone(Job job, void *context) {
    const FlushDenormals flush;
    job(context, {0, 1, nullptr});
}

}  // namespace

Range Member::share(int64_t total) const { return {total * index / count, total * (index + 1) / count}; }

void Member::wait() const {
    if (count == 1) return;
    const int64_t round = barrier->round.load(std::memory_order_relaxed);
    if (barrier->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
        barrier->arrived.store(0, std::memory_order_relaxed);
        barrier->round.store(round + 1, std::memory_order_release);
        return;
    }
    look_out([&] { return barrier->round.load(std::memory_order_acquire) != round; });
}

#if defined(_WIN32)

void run_team(int64_t, Job job, void *context) { work_alone(job, context); }

#else

namespace {

constexpr std::chrono::microseconds AWAKE(200);  // for a thread to spin before it sleeps

struct Call {
    Job job;
    void *context;
    Barrier barrier;
    int64_t kept = 1;  // members, if the threads are kept here

    void as(int64_t index, int64_t count) {
        const FlushDenormals flush;
        job(context, {index, count, &barrier});
    }
};

// A thread that waits for calls, forever.
struct alignas(64) Kept {
    const int64_t index;
    std::atomic<Call *> call{nullptr};  // to be made; null once it is done
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;  // held to pass a call, and to fall asleep
    pthread_cond_t given = PTHREAD_COND_INITIALIZER;

    explicit Kept(int64_t number) : index(number) {}

    void give(Call *next) {
        pthread_mutex_lock(&mutex);
        call.store(next, std::memory_order_release);
        pthread_cond_signal(&given);
        pthread_mutex_unlock(&mutex);
    }
    bool idle() const { return !call.load(std::memory_order_acquire); }
    void next() {
        const auto until = std::chrono::steady_clock::now() + AWAKE;
        look_out([&] { return !idle() || std::chrono::steady_clock::now() > until; });
        pthread_mutex_lock(&mutex);
        while (idle()) pthread_cond_wait(&given, &mutex);
        pthread_mutex_unlock(&mutex);
    }
    static void *live(void *self) {
        auto *kept = static_cast<Kept *>(self);
        for (;;) {
            kept->next();
            Call *given = kept->call.load(std::memory_order_relaxed);
            given->as(kept->index, given->kept);
            kept->call.store(nullptr, std::memory_order_release);
        }
    }
};

// Makes thread `index`. It gets no signals, which are for the program's own threads. Null if it cannot be made.
Kept *made(int64_t index) {
    auto *kept = new (std::nothrow) Kept(index);
    if (!kept) return nullptr;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    const bool failed = pthread_create(&thread, nullptr, Kept::live, kept);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!failed) pthread_detach(thread);
    else delete kept;
    return failed ? nullptr : kept;
}

// The functions that compilers call for a parallel region: all are null, or none.
struct OpenMP {
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
    int (*number)(), (*count)();

    template <class Function> static void find(const char *name, Function &function) {
        function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
    }
    static OpenMP found() {
        OpenMP library;
        find("GOMP_parallel", library.parallel);
        find("omp_get_thread_num", library.number);
        find("omp_get_num_threads", library.count);
        return library.parallel && library.number && library.count ? library : OpenMP{};
    }
};

OpenMP openmp{};      // looked up at every call until torch is there
bool forked = false;  // a forked child has no threads, which the library does not notice

void in_region(void *given) {
    auto *call = static_cast<Call *>(given);
    call->as(openmp.number(), openmp.count());
}

bool run_in_region(Call &call, int64_t threads) {
    if (!openmp.parallel) openmp = OpenMP::found();
    if (!openmp.parallel || forked) return false;
    openmp.parallel(in_region, &call, static_cast<unsigned>(threads), 0);
    return true;
}

constexpr int64_t LIMIT = 256;
Kept *kept[LIMIT];  // by index; the first place is the caller's and stays empty. They end with the process
std::atomic_flag taken = ATOMIC_FLAG_INIT;

// A forked child has only the thread that forked.
void forget() {
    forked = true;
    for (Kept *&each : kept) each = nullptr;
    taken.clear();
}

[[maybe_unused]] const int forgets = pthread_atfork(nullptr, nullptr, forget);

// The number of members for a call that wants `threads` of them.
int64_t members(int64_t threads) {
    if (threads > LIMIT) threads = LIMIT;
    for (int64_t index = 1; index < threads; ++index)
        if (!kept[index] && !(kept[index] = made(index))) return index;
    return threads;
}

}  // namespace

void run_team(int64_t threads, Job job, void *context) {
    if (threads <= 1 || taken.test_and_set(std::memory_order_acquire)) return work_alone(job, context);
    Call call{job, context, {}};
    if (!run_in_region(call, threads)) {
        call.kept = members(threads);
        for (int64_t index = 1; index < call.kept; ++index) kept[index]->give(&call);
        call.as(0, call.kept);
        for (int64_t index = 1; index < call.kept; ++index) look_out([&] { return kept[index]->idle(); });
    }
    taken.clear(std::memory_order_release);
}

#endif

}  // namespace scriven
