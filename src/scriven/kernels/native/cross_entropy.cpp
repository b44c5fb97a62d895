// The output layer with its losses: logits = y W^T + bias, of which only exp(logit - the row's largest) stays.
//
// Symbols are worked on in chunks, whose part of W stays in the second-level cache while all rows pass. A row has a
// largest logit in each chunk, and what is kept of the chunk is relative to that; `factors` make probabilities of it.
// On the way back they become the gradients of the logits, in their place, and dy = dlogits W in their wake. What is
// kept has whole groups of columns; the columns that are too many hold zeros.
#include <algorithm>
#include <limits>

#include "blocks.h"
#include "calls.h"
#include "double_math.h"

namespace scriven {
namespace {

constexpr int64_t CACHE = 512 * 1024;  // bytes of W that a chunk may have
constexpr float LOG2_E = 1.44269504f;

template <class F> struct Sizes {
    int64_t rows, inputs, symbols;  // T * N, H, V

    int64_t parts() const { return groups_of(inputs); }
    int64_t columns() const { return groups_of(symbols); }
    int64_t width() const { return columns() * GROUP; }  // values kept of a row
    int64_t chunk() const { return chunk_of<F>(inputs, columns(), CACHE); }  // groups of columns
    int64_t chunks() const { return (columns() + chunk() - 1) / chunk(); }
    Range columns_of(int64_t number) const {
        return {number * chunk(), smaller_of((number + 1) * chunk(), columns())};
    }
    bool possible(const int64_t *targets) const {
        if (rows < 1 || inputs < 1 || symbols < 1) return false;
        for (int64_t row = 0; row < rows; ++row)
            if (targets[row] < 0 || targets[row] >= symbols) return false;
        return true;
    }
};

template <class F> struct Forward {
    using Number = typename F::Number;
    const CrossEntropyForward *call;
    const Sizes<F> sizes;
    const float *bias;      // (width), minus infinity where there is no symbol
    float *totals;          // (rows, chunks): the sums of what is kept, before it is rounded
    // `factors` have the largest logits first, and then what makes probabilities of what is kept.

    void rows(const Number *weight, Range groups, Number *left, float *sums) const {
        const Rows<F> y{static_cast<const Number *>(call->y), sizes.rows, sizes.inputs};
        times_weight<F>(y, groups, weight, sizes.columns(), sizes.chunk(), left, sums, [&](int64_t group, Range columns) {
            for (int64_t i = 0; i < GROUP && group * GROUP + i < sizes.rows; ++i)
                softmax(sums + i * GROUP, columns, group * GROUP + i);
        });
        for (int64_t row = groups.begin * GROUP; row < groups.end * GROUP && row < sizes.rows; ++row) finish(row);
    }

    // What is kept of one row's logits (sums without bias) of a chunk, with their largest, their total, and the target's.
    void softmax(float *sums, Range columns, int64_t row) const {
        const int64_t count = columns.end - columns.begin, at = row * sizes.chunks() + columns.begin / sizes.chunk();
        Values most = all(-std::numeric_limits<float>::infinity());
        for (int64_t group = 0; group < count; ++group) {
            float *own = sums + group * SQUARE;
            const Values logits = F::load(own) + F::load(bias + (columns.begin + group) * GROUP);
            F::store(own, logits);
            most = larger(most, logits);
        }
        float values[GROUP];
        F::store(values, most);
        const float largest = *std::max_element(values, values + GROUP);
        Lanes total;
        for (int64_t group = 0, to = row * sizes.width() + columns.begin * GROUP; group < count; ++group, to += GROUP) {
            const Values values = F::exp2((F::load(sums + group * SQUARE) - all(largest)) * all(LOG2_E));
            total[group * GROUP] = total[group * GROUP] + values;
            if (call->kept) F::store(static_cast<Number *>(call->kept) + to, F::rounded(values));
        }
        call->factors[at] = largest;
        totals[at] = total.total();
        const int64_t target = call->targets[row] - columns.begin * GROUP;
        if (target >= 0 && target < count * GROUP) call->losses[row] = sums[target / GROUP * SQUARE + target % GROUP];
    }

    // From the largest logits and totals of all chunks: the loss, and what makes probabilities.
    void finish(int64_t row) const {
        const int64_t chunks = sizes.chunks();
        float *factors = call->factors + row * chunks;
        const float *own = totals + row * chunks, most = *std::max_element(factors, factors + chunks);
        float total = 0;
        for (int64_t i = 0; i < chunks; ++i) {
            factors[i] = static_cast<float>(exponential(double(factors[i] - most)));
            total += own[i] * factors[i];
        }
        const float log_total = static_cast<float>(logarithm(total));
        call->losses[row] = most - call->losses[row] + log_total;  // in this order also where logits are huge
        for (int64_t i = 0; i < chunks; ++i) factors[i] /= total;
    }
};

template <class F> struct Backward {
    using Number = typename F::Number;
    const CrossEntropyBackward *call;
    const Sizes<F> sizes;

    void rows(const Number *weight, Range groups, Number *left, float *sums) const {
        const Out<F> dy{static_cast<Number *>(call->dy), sizes.rows, sizes.inputs};
        for (int64_t chunk = 0; chunk < sizes.chunks(); ++chunk) {
            const Range columns = sizes.columns_of(chunk);
            for (int64_t group = groups.begin; group < groups.end; ++group) {
                float *to = sums + (group - groups.begin) * sizes.parts() * SQUARE;
                for (int64_t i = 0; i < GROUP; ++i) gradients(chunk, group * GROUP + i, left + i * GROUP);
                for (int64_t part = 0; part < sizes.parts(); ++part, to += SQUARE) {
                    product<F>(left, weight + (part * sizes.columns() + columns.begin) * SQUARE,
                               columns.end - columns.begin, to, chunk > 0);
                    if (chunk + 1 == sizes.chunks()) dy.put(to, group * GROUP, part * GROUP);
                }
            }
        }
    }

    // The gradients of one row's logits of a chunk, in place of what was kept of them; also as a row of left factors.
    void gradients(int64_t chunk, int64_t row, Number *left) const {
        const Range columns = sizes.columns_of(chunk);
        const int64_t count = columns.end - columns.begin;
        const bool there = row < sizes.rows;
        const float dloss = there ? call->dlosses[row] : 0.0f;
        const float factor = there ? call->factors[row * sizes.chunks() + chunk] : 0.0f;
        Number *values = static_cast<Number *>(call->kept) + row * sizes.width() + columns.begin * GROUP;
        const int64_t target = there ? call->targets[row] - columns.begin * GROUP : -1;
        const bool here = target >= 0 && target < count * GROUP;
        const float probability = here ? F::number(values[target]) * factor : 0.0f;
        for (int64_t group = 0; group < count; ++group) {
            Number *from = values + group * GROUP;
            const auto made = F::rounded(there ? F::load(from) * all(factor * dloss) : all(0.0f));
            if (there) F::store(from, made);
            F::store(left + group * SQUARE, made);
        }
        if (here) values[target] = left[target / GROUP * SQUARE + target % GROUP] = F::rounded((probability - 1.0f) * dloss);
    }
};

}  // namespace
}  // namespace scriven

// The columns of what is kept for so many symbols.
SCRIVEN_API int64_t scriven_cross_entropy_width(int64_t symbols) { return scriven::groups_of(symbols) * scriven::GROUP; }

// Values that a row has in `factors`, for an output layer of such sizes.
SCRIVEN_API int64_t scriven_cross_entropy_chunks(int64_t bf16, int64_t inputs, int64_t symbols) {
    using namespace scriven;
    int64_t chunks = 0;
    in_format(bf16, [&](auto format) {
        chunks = Sizes<decltype(format)>{1, inputs, symbols}.chunks();
        return ok;
    });
    return chunks;
}

// The losses of predicting targets (rows) from y (rows, inputs).
SCRIVEN_API int64_t scriven_cross_entropy_forward(const scriven::CrossEntropyForward *call) {
    using namespace scriven;
    return in_format(call->bf16, [&](auto format) {
        using F = decltype(format);
        const Sizes<F> sizes{call->rows, call->inputs, call->symbols};
        if (!sizes.possible(call->targets)) return bad_argument;
        const int64_t threads = call->threads, part = sizes.parts() * SQUARE, each = sizes.chunk() * SQUARE;
        const Buffer<typename F::Number> packed(sizes.columns() * part), left(threads * part);
        const Buffer<float> bias(sizes.width()), totals(sizes.rows * sizes.chunks()), sums(threads * each);
        if (!packed || !left || !bias || !totals || !sums) return no_memory;
        for (int64_t i = 0; i < sizes.width(); ++i)
            bias[i] = i >= sizes.symbols ? -std::numeric_limits<float>::infinity() : call->bias ? call->bias[i] : 0.0f;
        const Forward<F> forward{call, sizes, bias, totals};
        run(threads, [&](const Member &member) {
            pack_weight<F>(call->weight, sizes.symbols, sizes.inputs, true, member.share(sizes.columns()), packed, part);
            member.wait();
            const typename F::Registers registers;
            forward.rows(packed, member.share(groups_of(sizes.rows)), left + member.index * part, sums + member.index * each);
        });
        return ok;
    });
}

// dy from dlosses, and the gradients of the logits in place of `kept`.
SCRIVEN_API int64_t scriven_cross_entropy_backward(const scriven::CrossEntropyBackward *call) {
    using namespace scriven;
    return in_format(call->bf16, [&](auto format) {
        using F = decltype(format);
        const Sizes<F> sizes{call->rows, call->inputs, call->symbols};
        if (!sizes.possible(call->targets)) return bad_argument;
        const int64_t stride = sizes.columns() * SQUARE, room = sizes.chunk() * SQUARE;
        const Buffer<typename F::Number> packed(sizes.parts() * stride), left(call->threads * room);
        const Buffer<float> sums(groups_of(sizes.rows) * sizes.parts() * SQUARE);
        if (!packed || !left || !sums) return no_memory;
        const Backward<F> backward{call, sizes};
        run(call->threads, [&](const Member &member) {
            pack_weight<F>(call->weight, sizes.symbols, sizes.inputs, false, member.share(sizes.parts()), packed, stride);
            member.wait();
            const typename F::Registers registers;
            const Range groups = member.share(groups_of(sizes.rows));
            backward.rows(packed, groups, left + member.index * room, sums + groups.begin * sizes.parts() * SQUARE);
        });
        return ok;
    });
}
