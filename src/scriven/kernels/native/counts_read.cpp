// Probabilities from a table of n-grams: see kernels/counts.py.
#include "counts.h"
#include "thread_team.h"

namespace scriven {
namespace {

constexpr int64_t PLACES_PER_SHARE = 256;

// The ids of one row, of which those before a place are its context, back to the boundary or the row's start.
struct Text {
    const int64_t *ids;
    int64_t boundary;

    int64_t context(int64_t place, int64_t longest) const {
        int64_t length = 0;
        while (length < longest && length < place) {
            length++;
            if (ids[place - length] == boundary) break;
        }
        return length;
    }
};

template <class S> void distribute(const CountsTable &table, const Lookup<S> &lookup, const Text &text, int64_t place,
                                   double *to) {
    const int64_t symbols = table.symbols;
    for (int64_t i = 0; i < symbols; i++) to[i] = 1.0 / double(symbols);
    const auto back_off = [&](const Step &step) {
        for (int64_t i = 0; i < symbols; i++) to[i] = to[i] * step.backoff;
    };
    lookup.visit(
        text.context(place, table.longest), [&](int64_t i) { return text.ids[place - 1 - i]; },
        [&](int64_t level, typename Lookup<S>::Row row) {
            const Step step(table, level, lookup.evidence(row, -1));
            back_off(step);
            lookup.each(row, [&](int64_t symbol, int64_t count) { to[symbol] += step.seen(count); });
        },
        [&](int64_t level, int64_t successor) {
            const Step step(table, level, lookup.once(1));
            back_off(step);
            to[successor] += step.seen(1);
        });
}

// `unigrams` (V,) are the probabilities after no context.
template <class S> double probability(const CountsTable &table, const Lookup<S> &lookup, const double *unigrams,
                                      const Text &text, int64_t place) {
    const int64_t symbol = text.ids[place];
    double p = unigrams[symbol];
    const auto step = [&](int64_t level, const Evidence &row) { p = Step(table, level, row).of(p, row.count); };
    lookup.visit(text.context(place, table.longest), [&](int64_t i) { return text.ids[place - 1 - i]; },
                 [&](int64_t level, typename Lookup<S>::Row row) {
                     if (level) step(level, lookup.evidence(row, symbol));
                 },
                 [&](int64_t level, int64_t successor) { step(level, lookup.once(successor == symbol)); });
    return p;
}

bool within(const int64_t *ids, int64_t count, int64_t symbols) {
    bool all = true;
    for (int64_t i = 0; i < count; i++) all &= 0 <= ids[i] && ids[i] < symbols;
    return all;
}

}  // namespace
}  // namespace scriven

SCRIVEN_API int64_t scriven_counts_score(const scriven::CountsScore *call) {
    using namespace scriven;
    const CountsTable &table = *call->table;
    const int64_t length = call->length, each = length - call->first, *ids = call->ids;
    if (call->rows < 0 || call->first < 0 || each < 0 || !within(ids, call->rows * length, table.symbols))
        return bad_argument;
    const int64_t places = call->rows * each, shares = places / PLACES_PER_SHARE;
    const Buffer<double> unigrams(table.symbols);
    if (!unigrams) return no_memory;
    by_width(table.width, [&](auto kind) {
        const Lookup<decltype(kind)> lookup(table);
        distribute(table, lookup, {ids, table.boundary}, 0, unigrams);
        run(call->threads < shares ? call->threads : shares, [&](const Member &member) {
            const Range range = member.share(places);
            for (int64_t i = range.begin; i < range.end; i++) {
                const Text text{ids + i / each * length, table.boundary};
                const int64_t place = call->first + i % each;
                call->nats[i] = -logarithm(probability<decltype(kind)>(table, lookup, unigrams, text, place));
            }
        });
    });
    return ok;
}

SCRIVEN_API int64_t scriven_counts_distribution(const scriven::CountsDistribution *call) {
    using namespace scriven;
    const CountsTable &table = *call->table;
    if (call->rows < 0 || call->length < 0 || !within(call->ids, call->rows * call->length, table.symbols))
        return bad_argument;
    by_width(table.width, [&](auto kind) {
        const Lookup<decltype(kind)> lookup(table);
        for (int64_t row = 0; row < call->rows; row++)
            distribute(table, lookup, {call->ids + row * call->length, table.boundary}, call->length,
                       call->probabilities + row * table.symbols);
    });
    return ok;
}
