// Probabilities from a table of n-grams: see kernels/counts.py.
#include <algorithm>
#include <atomic>

#include "counts.h"
#include "thread_team.h"

namespace scriven {
namespace {

constexpr int64_t PLACES_PER_SHARE = 256;

// The ids of one row, `stride` apart, of which those before a place are its context, back to the boundary or the start.
struct Text {
    const int64_t *ids;
    int64_t stride, boundary;

    int64_t operator[](int64_t place) const { return ids[place * stride]; }
    int64_t context(int64_t place, int64_t longest) const {
        int64_t length = 0;
        while (length < longest && length < place) {
            length++;
            if ((*this)[place - length] == boundary) break;
        }
        return length;
    }
};

template <class S> class Reading {
  public:
    explicit Reading(const CountsTable &table) : table_(table), lookup_(table), unigrams_(table.symbols) {
        if (failed()) return;
        std::fill_n(static_cast<double *>(unigrams_), table.symbols, 1.0 / double(table.symbols));
        const auto none = [](int64_t) { return int64_t{-1}; };
        lookup_.visit(0, none, [&](int64_t level, Row row) { add(level, row, unigrams_); }, [](int64_t, int64_t) {});
    }
    bool failed() const { return !unigrams_; }

    double probability(const Text &text, int64_t place) const {
        const int64_t symbol = text[place];
        double p = unigrams_[symbol];
        const auto step = [&](int64_t level, const Evidence &row) { p = Step(table_, level, row).of(p, row.count); };
        visit(text, place, [&](int64_t level, Row row) { step(level, lookup_.evidence(row, symbol)); },
              [&](int64_t level, int64_t successor) { step(level, lookup_.once(successor == symbol)); });
        return p;
    }

    // The probabilities (V,); returns the level of the longest context that the table has.
    int64_t distribute(const Text &text, int64_t place, double *to) const {
        int64_t longest = 0;
        std::copy_n(static_cast<const double *>(unigrams_), table_.symbols, to);
        visit(text, place,
              [&](int64_t level, Row row) {
                  longest = level;
                  add(level, row, to);
              },
              [&](int64_t level, int64_t successor) {
                  longest = level;
                  const Step step(table_, level, lookup_.once(1));
                  back_off(step, to);
                  to[successor] += step.seen(1);
              });
        return longest;
    }

    void mix(const Text &text, int64_t place, const double *weights, double *p, float *logits) const {
        const double *own = weights + 2 * distribute(text, place, p);
        for (int64_t i = 0; i < table_.symbols; i++)
            logits[i] = float(own[0] * double(logits[i]) + own[1] * logarithm(p[i]));
    }

  private:
    using Row = typename Lookup<S>::Row;

    // All contexts but the empty one.
    template <class Rows, class Tails> void visit(const Text &text, int64_t place, Rows &&row, Tails &&tail) const {
        lookup_.visit(text.context(place, table_.longest), [&](int64_t i) { return text[place - 1 - i]; },
                      [&](int64_t level, Row found) {
                          if (level) row(level, found);
                      },
                      tail);
    }
    void add(int64_t level, Row row, double *to) const {
        const Step step(table_, level, lookup_.evidence(row, -1));
        back_off(step, to);
        lookup_.each(row, [&](int64_t symbol, int64_t count) { to[symbol] += step.seen(count); });
    }
    void back_off(const Step &step, double *to) const {
        for (int64_t i = 0; i < table_.symbols; i++) to[i] *= step.backoff;
    }

    const CountsTable &table_;
    const Lookup<S> lookup_;
    const Buffer<double> unigrams_;  // (V,) after no context
};

// Calls work(reading, member) in up to `threads` threads that share `places`.
template <class Work> int64_t read(const CountsTable &table, int64_t threads, int64_t places, Work &&work) {
    const int64_t most = places / PLACES_PER_SHARE;
    return by_width(table.width, [&](auto kind) -> int64_t {
        const Reading<decltype(kind)> reading(table);
        if (reading.failed()) return no_memory;
        run(threads < most ? threads : most, [&](const Member &member) { work(reading, member.share(places)); });
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
    return read(table, call->threads, call->rows * each, [&](const auto &reading, Range range) {
        for (int64_t i = range.begin; i < range.end; i++) {
            const Text text{call->ids + i / each * length, 1, table.boundary};
            call->nats[i] = -logarithm(reading.probability(text, call->first + i % each));
        }
    });
}

SCRIVEN_API int64_t scriven_counts_distribution(const scriven::CountsDistribution *call) {
    using namespace scriven;
    const CountsTable &table = *call->table;
    if (call->rows < 0 || call->length < 0) return bad_argument;
    if (!within(call->ids, call->rows * call->length, table.symbols)) return bad_argument;
    return read(table, 1, call->rows, [&](const auto &reading, Range range) {
        for (int64_t row = range.begin; row < range.end; row++) {
            const Text text{call->ids + row * call->length, 1, table.boundary};
            reading.distribute(text, call->length, call->probabilities + row * table.symbols);
        }
    });
}

SCRIVEN_API int64_t scriven_counts_mix(const scriven::CountsMix *call) {
    using namespace scriven;
    const CountsTable &table = *call->table;
    const int64_t rows = call->rows, places = call->length - call->first;
    if (rows < 0 || call->first < 0 || places < 0) return bad_argument;
    if (!within(call->ids, rows * call->length, table.symbols)) return bad_argument;
    std::atomic<bool> failed{false};
    const int64_t status = read(table, call->threads, rows * places, [&](const auto &reading, Range range) {
        const Buffer<double> p(table.symbols);
        if (!p) failed = true;
        for (int64_t i = range.begin; p && i < range.end; i++) {
            const Text text{call->ids + i % rows, rows, table.boundary};
            reading.mix(text, call->first + i / rows + 1, call->weights, p, call->logits + i * table.symbols);
        }
    });
    return status ? status : failed ? int64_t(no_memory) : int64_t(ok);
}
