// The output layer with its losses: logits = y W^T + bias, of which only exp(logit - the row's largest) stays, in bf16.
//
// Symbols are worked on in chunks, whose part of W stays in the second-level cache while all rows pass. A row has a
// largest logit in each chunk, and what is kept of the chunk is relative to that; `factors` make probabilities of it.
// On the way back they become the gradients of the logits, in their place, and dy = dlogits W in their wake. What is
// kept has whole groups of columns; the columns that are too many hold zeros.
#include <cmath>
#include <limits>

#include "bf16_vectors.h"
#include "calls.h"
#include "thread_team.h"

namespace scriven {
namespace {

constexpr int64_t CACHE = 512 * 1024;  // bytes of W that a chunk may have
constexpr float LOG2_E = 1.44269504f;

struct Sizes {
    int64_t rows, inputs, symbols;  // T * N, H, V

    int64_t parts() const { return groups_of(inputs); }
    int64_t columns() const { return groups_of(symbols); }
    int64_t width() const { return columns() * GROUP; }  // values kept of a row
    int64_t chunk() const {                              // groups of columns
        const int64_t most = CACHE / (parts() * 2 * TILE * static_cast<int64_t>(sizeof(bf16)));
        return most < 1 ? 1 : most < columns() ? most : columns();
    }
    int64_t chunks() const { return (columns() + chunk() - 1) / chunk(); }
    Range columns_of(int64_t number) const {
        const int64_t begin = number * chunk(), end = begin + chunk();
        return {begin, end < columns() ? end : columns()};
    }
    int64_t rows_of(int64_t group) const { return rows - group * GROUP < GROUP ? rows - group * GROUP : GROUP; }
};

struct Forward {
    Sizes sizes;
    const bf16 *y;          // (rows, inputs)
    const float *bias;      // (symbols)
    const int64_t *targets;  // (rows)
    float *losses;          // (rows)
    bf16 *kept;             // (rows, width), or null
    float *factors;         // (rows, chunks): the largest logits, and then what makes probabilities of what is kept
    float *totals;          // (rows, chunks): the sums of what is kept, before it is rounded
};

struct Backward {
    Sizes sizes;
    const int64_t *targets;
    const float *factors, *dlosses;  // (rows, chunks), (rows)
    bf16 *kept, *dy;                 // (rows, width), (rows, inputs)
};

// 32 rows of y from `row` on, as left factors; zeros where there are no more.
void pack_rows(const bf16 *y, int64_t row, int64_t rows, int64_t columns, bf16 *to) {
    for (int64_t column = 0; column < columns; column += GROUP)
        for (int64_t i = 0; i < GROUP; ++i, to += GROUP) {
            const __mmask32 lanes = row + i < rows ? lanes32(columns - column) : 0;
            _mm512_store_si512(to, _mm512_maskz_loadu_epi16(lanes, y + (row + i) * columns + column));
        }
}

// What is kept of one row's logits (sums without bias) of a chunk, with their largest and their total.
void softmax(const Forward &all_, float *sums, Range columns, const float *bias, int64_t row, float *largest,
             float *total) {
    const int64_t count = columns.end - columns.begin;
    __m512 most = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int64_t group = 0; group < count; ++group) {
        const Values logits = load(sums + group * SQUARE) + load(bias + (columns.begin + group) * GROUP);
        store(sums + group * SQUARE, logits);
        most = _mm512_max_ps(most, _mm512_max_ps(logits.low, logits.high));
    }
    *largest = _mm512_reduce_max_ps(most);
    const Values base = all(*largest);
    Values sum = all(0.0f);
    bf16 *to = all_.kept ? all_.kept + row * all_.sizes.width() + columns.begin * GROUP : nullptr;
    for (int64_t group = 0; group < count; ++group) {
        Values values = (load(sums + group * SQUARE) - base) * all(LOG2_E);
        exp2<1>(&values);
        sum = sum + values;
        if (to) _mm512_storeu_si512(to + group * GROUP, rounded(values));
    }
    *total = _mm512_reduce_add_ps(_mm512_add_ps(sum.low, sum.high));
}

// From the largest logits and totals of all chunks: the loss, and what makes probabilities.
void finish(const Forward &own, int64_t row) {
    const int64_t chunks = own.sizes.chunks();
    float *factors = own.factors + row * chunks;
    const float *totals = own.totals + row * chunks;
    float most = factors[0];
    for (int64_t i = 1; i < chunks; ++i) most = factors[i] > most ? factors[i] : most;
    float total = 0;
    for (int64_t i = 0; i < chunks; ++i) total += totals[i] * std::exp(factors[i] - most);
    own.losses[row] = most - own.losses[row] + std::log(total);  // in this order also where logits are huge
    for (int64_t i = 0; i < chunks; ++i) factors[i] = std::exp(factors[i] - most) / total;
}

void forward(const Forward &own, const bf16 *weight, const float *bias, Range groups, bf16 *left, float *sums) {
    const Sizes &sizes = own.sizes;
    const int64_t part = sizes.parts() * 2 * TILE;
    for (int64_t chunk = 0; chunk < sizes.chunks(); ++chunk) {
        const Range columns = sizes.columns_of(chunk);
        for (int64_t group = groups.begin; group < groups.end; ++group) {
            pack_rows(own.y, group * GROUP, sizes.rows, sizes.inputs, left);
            for (int64_t column = columns.begin; column < columns.end; ++column) {
                product(left, weight + column * part, sizes.parts(), sums + (column - columns.begin) * SQUARE, false);
            }
            for (int64_t i = 0; i < sizes.rows_of(group); ++i) {
                const int64_t row = group * GROUP + i, at = row * sizes.chunks() + chunk;
                softmax(own, sums + i * GROUP, columns, bias, row, own.factors + at, own.totals + at);
                const int64_t target = own.targets[row] - columns.begin * GROUP;
                if (target >= 0 && target < (columns.end - columns.begin) * GROUP)
                    own.losses[row] = sums[target / GROUP * SQUARE + i * GROUP + target % GROUP];
            }
        }
    }
    for (int64_t row = groups.begin * GROUP; row < groups.end * GROUP && row < sizes.rows; ++row) finish(own, row);
}

// The gradients of one row's logits of a chunk, in place of what was kept of them; also as a row of left factors.
void to_gradients(const Backward &own, int64_t chunk, int64_t row, bf16 *left) {
    const Range columns = own.sizes.columns_of(chunk);
    const float dloss = own.dlosses[row];
    const Values factor = all(own.factors[row * own.sizes.chunks() + chunk] * dloss);
    bf16 *values = own.kept + row * own.sizes.width() + columns.begin * GROUP;
    for (int64_t group = 0; group < columns.end - columns.begin; ++group) {
        const __m512i gradients = rounded(fp32(_mm512_loadu_si512(values + group * GROUP)) * factor);
        _mm512_storeu_si512(values + group * GROUP, gradients);
        _mm512_store_si512(left + group * 2 * TILE, gradients);
    }
}

void subtract_target(const Backward &own, int64_t chunk, int64_t row, bf16 before, bf16 *left) {
    const Range columns = own.sizes.columns_of(chunk);
    const int64_t target = own.targets[row] - columns.begin * GROUP;
    const float probability = float_of_bf16(before) * own.factors[row * own.sizes.chunks() + chunk];
    const bf16 gradient = bf16_of_float((probability - 1.0f) * own.dlosses[row]);
    own.kept[row * own.sizes.width() + own.targets[row]] = gradient;
    left[target / GROUP * 2 * TILE + target % GROUP] = gradient;
}

void gradients_of_rows(const Backward &own, int64_t chunk, int64_t group, bf16 *left) {
    const Range columns = own.sizes.columns_of(chunk);
    for (int64_t i = 0; i < GROUP; ++i) {
        const int64_t row = group * GROUP + i;
        bf16 *to = left + i * GROUP;
        if (row >= own.sizes.rows) {
            for (int64_t k = 0; k < columns.end - columns.begin; ++k)
                _mm512_store_si512(to + k * 2 * TILE, _mm512_setzero_si512());
            continue;
        }
        const int64_t target = own.targets[row];
        const bool here = target >= columns.begin * GROUP && target < columns.end * GROUP;
        const bf16 before = here ? own.kept[row * own.sizes.width() + target] : bf16{0};
        to_gradients(own, chunk, row, to);
        if (here) subtract_target(own, chunk, row, before, to);
    }
}

void put_rows(const Backward &own, int64_t group, const float *sums) {
    const int64_t inputs = own.sizes.inputs;
    for (int64_t part = 0; part < own.sizes.parts(); ++part)
        for (int64_t i = 0; i < own.sizes.rows_of(group); ++i)
            _mm512_mask_storeu_epi16(own.dy + (group * GROUP + i) * inputs + part * GROUP,
                                     lanes32(inputs - part * GROUP), rounded(load(sums + part * SQUARE + i * GROUP)));
}

void backward(const Backward &own, const bf16 *weight, Range groups, bf16 *left, float *sums) {
    const Sizes &sizes = own.sizes;
    const int64_t own_sums = sizes.parts() * SQUARE;
    for (int64_t chunk = 0; chunk < sizes.chunks(); ++chunk) {
        const Range columns = sizes.columns_of(chunk);
        for (int64_t group = groups.begin; group < groups.end; ++group) {
            float *to = sums + (group - groups.begin) * own_sums;
            gradients_of_rows(own, chunk, group, left);
            for (int64_t part = 0; part < sizes.parts(); ++part) {
                product(left, weight + (part * sizes.columns() + columns.begin) * 2 * TILE,
                        columns.end - columns.begin, to + part * SQUARE, chunk > 0);
            }
            if (chunk + 1 == sizes.chunks()) put_rows(own, group, to);
        }
    }
}

bool possible(const Sizes &sizes, const int64_t *targets) {
    if (sizes.rows < 1 || sizes.inputs < 1 || sizes.symbols < 1) return false;
    for (int64_t row = 0; row < sizes.rows; ++row)
        if (targets[row] < 0 || targets[row] >= sizes.symbols) return false;
    return true;
}

}  // namespace
}  // namespace scriven

// Values that a row has in `factors`, for an output layer of such sizes.
SCRIVEN_API int64_t scriven_cross_entropy_chunks(int64_t inputs, int64_t symbols) {
    return scriven::Sizes{1, inputs, symbols}.chunks();
}

// The losses of predicting targets (rows) from y (rows, inputs).
SCRIVEN_API int64_t scriven_cross_entropy_forward(const scriven::CrossEntropyForward *call) {
    using namespace scriven;
    const Sizes sizes{call->rows, call->inputs, call->symbols};
    if (!possible(sizes, call->targets)) return bad_argument;
    const int64_t threads = call->threads, part = sizes.parts() * 2 * TILE;
    const Buffer<bf16> packed(sizes.columns() * part), left(threads * part);
    const Buffer<float> whole(sizes.width()), totals(sizes.rows * sizes.chunks()), sums(threads * sizes.chunk() * SQUARE);
    if (!packed || !left || !whole || !totals || !sums) return no_memory;
    for (int64_t i = 0; i < sizes.width(); ++i)
        whole[i] = i >= sizes.symbols ? -std::numeric_limits<float>::infinity() : call->bias ? call->bias[i] : 0.0f;
    const Forward own{sizes, call->y, whole, call->targets, call->losses, call->kept, call->factors, totals};
    run(threads, [&](const Member &member) {
        pack_turned(call->weight, sizes.symbols, sizes.inputs, member.share(sizes.columns()), packed, part);
        member.wait();
        const Tiles tiles;
        forward(own, packed, whole, member.share(groups_of(sizes.rows)), left + member.index * part,
                sums + member.index * sizes.chunk() * SQUARE);
    });
    return ok;
}

// dy from dlosses, and the gradients of the logits in place of `kept`.
SCRIVEN_API int64_t scriven_cross_entropy_backward(const scriven::CrossEntropyBackward *call) {
    using namespace scriven;
    const Sizes sizes{call->rows, call->inputs, call->symbols};
    if (!possible(sizes, call->targets)) return bad_argument;
    const int64_t stride = sizes.columns() * 2 * TILE, room = sizes.chunk() * 2 * TILE;
    const Buffer<bf16> packed(sizes.parts() * stride), left(call->threads * room);
    const Buffer<float> sums(groups_of(sizes.rows) * sizes.parts() * SQUARE);
    if (!packed || !left || !sums) return no_memory;
    const Backward own{sizes, call->targets, call->factors, call->dlosses, call->kept, call->dy};
    run(call->threads, [&](const Member &member) {
        pack_straight(call->weight, sizes.symbols, sizes.inputs, member.share(sizes.parts()), packed, stride);
        member.wait();
        const Tiles tiles;
        const Range groups = member.share(groups_of(sizes.rows));
        backward(own, packed, groups, left + member.index * room, sums + groups.begin * sizes.parts() * SQUARE);
    });
    return ok;
}
