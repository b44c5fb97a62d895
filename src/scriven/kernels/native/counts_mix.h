// Probabilities from a table of n-grams, and logits of a network that are mixed with them: see kernels/counts.py.
#pragma once

#include <algorithm>

#include "counts.h"

namespace scriven {
namespace {

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
    // `unigrams` are those of `fill_unigrams`.
    Reading(const CountsTable &table, const double *unigrams) : table_(table), lookup_(table), unigrams_(unigrams) {}

    // The probabilities (V,) after no context.
    void fill_unigrams(double *to) const {
        std::fill_n(to, table_.symbols, 1.0 / double(table_.symbols));
        const auto none = [](int64_t) { return int64_t{-1}; };
        lookup_.visit(0, none, [&](int64_t level, Row row) { add(level, row, to); }, [](int64_t, int64_t) {});
    }

    double probability(const Text &text, int64_t place) const {
        const int64_t symbol = text[place];
        double p = unigrams_[symbol];
        const auto step = [&](int64_t level, const Evidence &row) { p = Step(table_, level, row).of(p, row.count); };
        visit(text, place, table_.longest,
              [&](int64_t level, Row row) { step(level, lookup_.evidence(row, symbol)); },
              [&](int64_t level, int64_t successor) { step(level, lookup_.once(successor == symbol)); });
        return p;
    }

    // The probabilities (V,) after contexts of `longest` symbols at most; returns the level of the longest one that the
    // table has.
    int64_t distribute(const Text &text, int64_t place, int64_t longest, double *to) const {
        int64_t deepest = 0;
        std::copy_n(unigrams_, table_.symbols, to);
        visit(text, place, longest,
              [&](int64_t level, Row row) {
                  deepest = level;
                  add(level, row, to);
              },
              [&](int64_t level, int64_t successor) {
                  deepest = level;
                  const Step step(table_, level, lookup_.once(1));
                  back_off(step, to);
                  to[successor] += step.seen(1);
              });
        return deepest;
    }

  private:
    using Row = typename Lookup<S>::Row;

    // All contexts but the empty one.
    template <class Rows, class Tails>
    void visit(const Text &text, int64_t place, int64_t longest, Rows &&row, Tails &&tail) const {
        lookup_.visit(text.context(place, longest), [&](int64_t i) { return text[place - 1 - i]; },
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
    const double *unigrams_;
};

}  // namespace

// What a network's logits are mixed with, if anything: made once for a call, and read by many threads.
class Mixer {
  public:
    // `partner` may be null: logits then stay as they are.
    explicit Mixer(const CountsPartner *partner) : partner_(partner) {
        if (!partner) return;
        unigrams_.reset(new (std::nothrow) double[size_t(table().symbols)]);
        if (failed()) return;
        by_width(table().width, [&](auto kind) {
            Reading<decltype(kind)>(table(), nullptr).fill_unigrams(unigrams_.get());
            return 0;
        });
    }
    bool failed() const { return partner_ && !unigrams_; }
    explicit operator bool() const { return partner_; }

    // Makes logits (V,) of the id at a place of a text, after at least one, those of the mixture: `to` may be `logits`.
    // `p` (V,) is room to compute in.
    void mix(const Text &text, int64_t place, const float *logits, double *p, float *to) const {
        const int64_t level = by_width(table().width, [&](auto kind) {
            return Reading<decltype(kind)>(table(), unigrams_.get()).distribute(text, place, partner_->longest, p);
        });
        const double network = partner_->weights[2 * level], counts = partner_->weights[2 * level + 1];
        for (int64_t i = 0; i < table().symbols; i++) to[i] = float(network * double(logits[i]) + counts * logarithm(p[i]));
    }
    int64_t boundary() const { return table().boundary; }

  private:
    const CountsTable &table() const { return *partner_->table; }

    const CountsPartner *partner_;
    std::unique_ptr<double[]> unigrams_;  // (V,)
};

}  // namespace scriven
