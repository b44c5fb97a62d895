// Probabilities from a table of n-grams: see kernels/counts.py.
#include <atomic>

#include "counts_mix.h"
#include "thread_team.h"

namespace scriven {
namespace {

constexpr int64_t PLACES_PER_SHARE = 256;

// Calls work(range) in up to `threads` threads that share `places`.
template <class Work> void share(int64_t threads, int64_t places, Work &&work) {
    const int64_t most = places / PLACES_PER_SHARE;
    run(threads < most ? threads : most, [&](const Member &member) { work(member.share(places)); });
}

// Calls work(reading, range) in up to `threads` threads that share `places`.
template <class Work> int64_t read(const CountsTable &table, int64_t threads, int64_t places, Work &&work) {
    const Buffer<double> unigrams(table.symbols);
    if (!unigrams) return no_memory;
    return by_width(table.width, [&](auto kind) -> int64_t {
        Reading<decltype(kind)>(table, nullptr).fill_unigrams(unigrams);
        const Reading<decltype(kind)> reading(table, unigrams);
        share(threads, places, [&](Range range) { work(reading, range); });
        return ok;
    });
}

}  // namespace
}  // namespace scriven

SCRIVEN_API int64_t scriven_counts_score(const scriven::CountsScore *call) {
    using namespace scriven;
    const CountsTable &table = *call->table;
    const int64_t length = call->length, each = length - call->first;
    if (call->rows < 0 || call->first < 0 || each < 0) return bad_argument;
    if (!within(call->ids, call->rows * length, table.symbols)) return bad_argument;
    std::atomic<bool> failed{false};
    const int64_t status = read(table, call->threads, call->rows * each, [&](const auto &reading, Range range) {
        const Buffer<double> p(call->right ? table.symbols : 0);
        if (!p) failed = true;
        for (int64_t i = range.begin; p && i < range.end; i++) {
            const Text text{call->ids + i / each * length, 1, table.boundary};
            const int64_t place = call->first + i % each, symbol = text[place];
            if (!call->right) {
                call->nats[i] = -logarithm(reading.probability(text, place));
                continue;
            }
            reading.distribute(text, place, table.longest, p);
            call->nats[i] = -logarithm(p[symbol]);
            call->right[i] = std::max_element(p + 0, p + table.symbols) - p == symbol;
        }
    });
    return status ? status : failed ? int64_t(no_memory) : int64_t(ok);
}

SCRIVEN_API int64_t scriven_counts_distribution(const scriven::CountsDistribution *call) {
    using namespace scriven;
    const CountsTable &table = *call->table;
    if (call->rows < 0 || call->length < 0) return bad_argument;
    if (!within(call->ids, call->rows * call->length, table.symbols)) return bad_argument;
    return read(table, 1, call->rows, [&](const auto &reading, Range range) {
        for (int64_t row = range.begin; row < range.end; row++) {
            const Text text{call->ids + row * call->length, 1, table.boundary};
            reading.distribute(text, call->length, table.longest, call->probabilities + row * table.symbols);
        }
    });
}

SCRIVEN_API int64_t scriven_counts_mix(const scriven::CountsMix *call) {
    using namespace scriven;
    const CountsTable &table = *call->partner->table;
    const int64_t rows = call->rows, places = call->length - call->first;
    if (rows < 0 || call->first < 0 || places < 0) return bad_argument;
    if (!within(call->ids, rows * call->length, table.symbols)) return bad_argument;
    const Mixer mixer(call->partner);
    std::atomic<bool> failed{mixer.failed()};
    if (!failed)
        share(call->threads, rows * places, [&](Range range) {
            const Buffer<double> p(table.symbols);
            if (!p) failed = true;
            for (int64_t i = range.begin; p && i < range.end; i++) {
                const Text text{call->ids + i % rows, rows, table.boundary};
                float *logits = call->logits + i * table.symbols;
                mixer.mix(text, call->first + i / rows + 1, logits, p, logits);
            }
        });
    return failed ? no_memory : ok;
}
