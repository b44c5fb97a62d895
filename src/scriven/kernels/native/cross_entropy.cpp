// The output layer with its losses: logits = y W^T + bias, of which only exp(logit - the row's largest) stays.
//
// Symbols are worked on in chunks, whose part of W stays in the second-level cache while all rows pass. A row has a
// largest logit in each chunk, and what is kept of the chunk is relative to that; `factors` make probabilities of it.
// On the way back they become the gradients of the logits, in their place, and dy = dlogits W in their wake. What is
// kept has whole groups of columns; the columns that are too many hold zeros.
#include <algorithm>
#include <limits>

#include "blocks.h"
#include "double_math.h"
#include "linear.h"

namespace scriven {
namespace {

constexpr int64_t CACHE = 512 * 1024;  // bytes of W that a chunk may have
constexpr float LOG2_E = 1.44269504f;

template <class F> struct Sizes {
    int64_t rows, inputs, symbols;  // T * N, H, V; not zero
    int64_t columns = groups_of(symbols), width = columns * GROUP;  // groups of symbols, and values kept of a row
    int64_t chunk = chunk_of<F>(inputs, columns, CACHE), chunks = (columns + chunk - 1) / chunk;  // in groups
};

template <class Call> bool possible(const Call *call) {
    if (call->rows < 1 || call->inputs < 1 || call->symbols < 1) return false;
    for (int64_t row = 0; row < call->rows; ++row)
        if (call->targets[row] < 0 || call->targets[row] >= call->symbols) return false;
    return true;
}

template <class F> struct Forward {
    using Number = typename F::Number;
    const CrossEntropyForward *call;
    const Sizes<F> sizes;
    const float *bias;      // (width), minus infinity where there is no symbol
    float *totals;          // (rows, chunks): the sums of what is kept, before it is rounded
    // `factors` have the largest logits first, and then what makes probabilities of what is kept.

    Status make() const {
        const Rows<F> y{static_cast<const Number *>(call->y), sizes.rows, sizes.inputs};
        const Rows<F, float> weight{call->weight, sizes.symbols, sizes.inputs};
        const auto pack = [&](int64_t group, Number *left) { y.pack(group, left); };
        const auto keep = [&](int64_t group, Range columns, float *sums) {
            const int64_t begin = group * GROUP, end = smaller_of(begin + GROUP, sizes.rows);
            for (int64_t row = begin; row < end; ++row, sums += GROUP) softmax(sums, columns, row);
            for (int64_t row = begin; columns.end == sizes.columns && row < end; ++row) finish(row);
        };
        return times_weight(call->threads, sizes.rows, weight, true, sizes.chunk, pack, keep);
    }

    // What is kept of one row's logits (sums without bias) of a chunk, with their largest, their total, and the target's.
    void softmax(float *sums, Range columns, int64_t row) const {
        const int64_t count = columns.end - columns.begin, at = row * sizes.chunks + columns.begin / sizes.chunk;
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
        for (int64_t group = 0, to = row * sizes.width + columns.begin * GROUP; group < count; ++group, to += GROUP) {
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
        const int64_t chunks = sizes.chunks;
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

    Status make() const {
        const Rows<F, float> weight{call->weight, sizes.symbols, sizes.inputs};
        const Out<F> dy{static_cast<Number *>(call->dy), sizes.rows, sizes.inputs};
        const auto pack = [&](int64_t group, Number *left) {
            for (int64_t i = 0; i < GROUP; ++i) gradients(group * GROUP + i, left + i * GROUP);
        };
        const auto finish = [&](int64_t group, Range columns, const float *sums) {
            for (int64_t column = columns.begin; column < columns.end; ++column, sums += SQUARE)
                dy.put(sums, group * GROUP, column * GROUP);
        };
        return times_weight(call->threads, sizes.rows, weight, false, groups_of(sizes.inputs), pack, finish);
    }

    // The gradients of one row's logits, in place of what was kept of them; also as a row of left factors.
    void gradients(int64_t row, Number *left) const {
        const int64_t wide = sizes.columns, chunk = sizes.chunk;
        if (row >= sizes.rows) {
            for (int64_t group = 0; group < wide; ++group) F::store(left + group * SQUARE, F::rounded(all(0.0f)));
            return;
        }
        Number *values = static_cast<Number *>(call->kept) + row * sizes.width;
        const float *factors = call->factors + row * sizes.chunks, dloss = call->dlosses[row];
        const int64_t target = call->targets[row];
        const float probability = F::number(values[target]) * factors[target / GROUP / chunk];
        for (int64_t group = 0; group < wide; ++group) {
            const auto made = F::rounded(F::load(values + group * GROUP) * all(factors[group / chunk] * dloss));
            F::store(values + group * GROUP, made);
            F::store(left + group * SQUARE, made);
        }
        values[target] = left[target / GROUP * SQUARE + target % GROUP] = F::rounded((probability - 1.0f) * dloss);
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
        chunks = Sizes<decltype(format)>{1, inputs, symbols}.chunks;
        return ok;
    });
    return chunks;
}

// The losses of predicting targets (rows) from y (rows, inputs).
SCRIVEN_API int64_t scriven_cross_entropy_forward(const scriven::CrossEntropyForward *call) {
    using namespace scriven;
    if (!possible(call)) return bad_argument;
    return in_format(call->bf16, [&](auto format) {
        using F = decltype(format);
        const Sizes<F> sizes{call->rows, call->inputs, call->symbols};
        const Buffer<float> bias(sizes.width), totals(sizes.rows * sizes.chunks);
        if (!bias || !totals) return no_memory;
        for (int64_t i = 0; i < sizes.width; ++i)
            bias[i] = i >= sizes.symbols ? -std::numeric_limits<float>::infinity() : call->bias ? call->bias[i] : 0.0f;
        return Forward<F>{call, sizes, bias, totals}.make();
    });
}

// dy from dlosses, and the gradients of the logits in place of `kept`, from which come those of the weight and the bias.
SCRIVEN_API int64_t scriven_cross_entropy_backward(const scriven::CrossEntropyBackward *call) {
    using namespace scriven;
    if (!possible(call)) return bad_argument;
    return in_format(call->bf16, [&](auto format) {
        using F = decltype(format);
        const Sizes<F> sizes{call->rows, call->inputs, call->symbols};
        if (const Status made = Backward<F>{call, sizes}.make()) return made;
        return weight_gradient({call->threads, call->bf16, sizes.rows, sizes.inputs, sizes.width, call->y, call->kept, nullptr,
                                call->dweight, call->dbias});
    });
}
