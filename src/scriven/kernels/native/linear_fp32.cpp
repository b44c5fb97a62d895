// Products of whole arrays in fp32: a layer's with what it reads, and their gradients, in vectors.
//
// out = left right, either of which may come turned. The right factor is packed first, in panels of two vectors of
// columns, by all threads. They share the rows of out then: of some of them, the left factor is packed for some depth at a
// time, so that it stays in the second level of the cache, and multiplied with each panel. Each sum is made by one thread in
// one order, so results are the same bits for any number of them.
#include <utility>

#include "calls.h"
#include "fp32_vectors.h"
#include "thread_team.h"

namespace scriven {
namespace {

constexpr int64_t GROUP = 2 * lanes;  // columns of a panel
constexpr int64_t DEEP = 16;          // of a left factor packed together: a row's are one cache line
constexpr int64_t BLOCK = 32;         // of these, the depth that is worked on at a time
constexpr int64_t ROWS = 48;          // worked on at a time
#if defined(__AVX512F__)
constexpr int IN_REGISTERS = 12;  // rows whose sums are: 24 of 32 registers
#elif defined(__aarch64__)
constexpr int IN_REGISTERS = 8;  // with more, GCC 12 keeps some of them in memory
#else
constexpr int IN_REGISTERS = 6;  // 12 of 16
#endif

// A matrix, row after row, or column after column if it came turned.
struct Matrix {
    const float *values;
    int64_t rows, columns;
    bool turned;

    const float *at(int64_t row, int64_t column) const {
        return values + (turned ? column * rows + row : row * columns + column);
    }
};

constexpr int64_t up(int64_t size, int64_t part) { return (size + part - 1) / part; }
constexpr int64_t less_of(int64_t a, int64_t b) { return a < b ? a : b; }

// Panels of the right factor, (depth rounded up to DEEP, GROUP) each; zeros where there is nothing, and in skipped rows.
void pack_right(const Matrix &right, const uint8_t *skip, Range panels, float *to) {
    const int64_t deep = up(right.rows, DEEP) * DEEP;
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        const int64_t column = panel * GROUP, there = less_of(GROUP, right.columns - column);
        float *own = to + panel * deep * GROUP;
        for (int64_t k = 0; k < deep; ++k, own += GROUP) {
            const int64_t count = k >= right.rows || (skip && skip[k]) ? 0 : there;
            if (!right.turned) std::memcpy(own, right.at(k, column), sizeof(float) * count);
            for (int64_t i = 0; right.turned && i < count; ++i) own[i] = *right.at(k, column + i);
            for (int64_t i = count; i < GROUP; ++i) own[i] = 0;
        }
    }
}

// Some rows of the left factor, for a range of depth: parts of DEEP, (ROWS, DEEP) each, or (DEEP, ROWS) if it came turned.
void pack_left(const Matrix &left, Range rows, Range depth, float *to) {
    const int64_t height = rows.end - rows.begin;
    for (int64_t part = depth.begin; part < depth.end; part += DEEP, to += ROWS * DEEP) {
        const int64_t there = less_of(DEEP, depth.end - part);
        if (there < DEEP) std::memset(to, 0, sizeof(float) * ROWS * DEEP);
        for (int64_t k = 0; left.turned && k < there; ++k)
            std::memcpy(to + k * ROWS, left.at(rows.begin, part + k), sizeof(float) * height);
        for (int64_t row = 0; !left.turned && row < height; ++row) {
            const float *from = left.at(rows.begin + row, part);
            if (there == DEEP) std::memcpy(to + row * DEEP, from, sizeof(float) * DEEP);
            else std::memcpy(to + row * DEEP, from, sizeof(float) * there);
        }
    }
}

// Some rows of one panel of out, (rows, stride), of which `count` columns are there: what is there before, or `first`,
// and the product.
template <int rows, bool turned>
void product(const float *left, const float *right, int64_t parts, const Values *first, float *out, int64_t stride,
             int64_t count) {
    constexpr int64_t next = turned ? ROWS : 1, below = turned ? 1 : DEEP;
    Values low[rows], high[rows];
    for (int row = 0; row < rows; ++row) {
        low[row] = first ? first[0] : load(out + row * stride, count);
        high[row] = first ? first[1] : count > lanes ? load(out + row * stride + lanes, count - lanes) : Values{};
    }
    for (int64_t part = 0; part < parts; ++part, left += ROWS * DEEP)
#pragma GCC unroll 4
        for (int64_t k = 0; k < DEEP; ++k, right += GROUP) {
            const Values right_low = load(right), right_high = load(right + lanes);
#pragma GCC unroll 12
            for (int row = 0; row < rows; ++row) {
                const Values x = spread(left[k * next + row * below]);
                low[row] = multiply_add(x, right_low, low[row]);
                high[row] = multiply_add(x, right_high, high[row]);
            }
        }
    for (int row = 0; row < rows; ++row) {
        store(out + row * stride, count, low[row]);
        if (count > lanes) store(out + row * stride + lanes, count - lanes, high[row]);
    }
}

using Product = void (*)(const float *, const float *, int64_t, const Values *, float *, int64_t, int64_t);

template <bool turned, int... rows> Product product_of(int64_t count, std::integer_sequence<int, rows...>) {
    static constexpr Product products[] = {product<rows + 1, turned>...};
    return products[count - 1];
}

struct Call {
    Matrix left, right;
    const float *bias;
    float *out, *sums;
};

// Rows of out within a range of depth, from packed factors.
void multiply(const Call &call, const float *left, const float *right, Range rows, Range depth) {
    const int64_t columns = call.right.columns, deep = up(call.right.rows, DEEP) * DEEP;
    const int64_t height = rows.end - rows.begin, shares = up(height, IN_REGISTERS);
    const bool turned = call.left.turned;
    constexpr auto counts = std::make_integer_sequence<int, IN_REGISTERS>();
    for (int64_t column = 0; column < columns; column += GROUP, right += deep * GROUP) {
        const int64_t there = less_of(GROUP, columns - column);
        Values first[2] = {};
        if (call.bias) first[0] = load(call.bias + column, there);
        if (call.bias && there > lanes) first[1] = load(call.bias + column + lanes, there - lanes);
        for (int64_t share = 0, row = 0; share < shares; ++share) {
            const int64_t end = (share + 1) * height / shares;
            const Product function = turned ? product_of<true>(end - row, counts) : product_of<false>(end - row, counts);
            function(left + row * (turned ? 1 : DEEP), right + depth.begin * GROUP, up(depth.end - depth.begin, DEEP),
                     depth.begin ? nullptr : first, call.out + (rows.begin + row) * columns + column, columns, there);
            row = end;
        }
    }
}

// Adds the sums of packed rows of a left factor that came turned.
void add_rows(const float *left, int64_t height, int64_t depth, float *sums) {
    for (int64_t k = 0; k < depth; ++k, left += ROWS)
        for (int64_t row = 0; row < height; ++row) sums[row] += left[row];
}

}  // namespace
}  // namespace scriven

// out (rows, columns) = left right + bias.
SCRIVEN_API int64_t scriven_product_fp32(const scriven::ProductFp32 *given) {
    using namespace scriven;
    const int64_t rows = given->rows, columns = given->columns, depth = given->depth;
    if (given->threads < 1 || rows < 1 || columns < 1 || depth < 0 || (given->sums && !given->left_turned))
        return bad_argument;
    const Call call{{given->left, rows, depth, given->left_turned != 0},
                    {given->right, depth, columns, given->right_turned != 0},
                    given->bias,
                    given->out,
                    given->sums};
    const int64_t panels = up(columns, GROUP), blocks = up(rows, ROWS), deep = up(depth, DEEP) * DEEP;
    const int64_t threads = less_of(given->threads, blocks), room = ROWS * BLOCK * DEEP;
    const Buffer<float> right(panels * deep * GROUP), left(threads * room);
    if (!right || !left) return no_memory;
    run(threads, [&](const Member &member) {
        pack_right(call.right, given->skip, member.share(panels), right);
        member.wait();
        const Range own = member.share(blocks);
        float *packed = left + member.index * room;
        for (int64_t at = 0; at == 0 || at < depth; at += BLOCK * DEEP)
            for (int64_t block = own.begin; block < own.end; ++block) {
                const Range part{block * ROWS, less_of(rows, (block + 1) * ROWS)};
                const Range range{at, less_of(depth, at + BLOCK * DEEP)};
                pack_left(call.left, part, range, packed);
                multiply(call, packed, right, part, range);
                if (call.sums) add_rows(packed, part.end - part.begin, range.end - range.begin, call.sums + part.begin);
            }
    });
    return ok;
}
