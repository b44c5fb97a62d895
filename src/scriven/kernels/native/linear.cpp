// Products of a layer with what it reads, and their gradients, in any number format.
//
// For the gradient of a weight, out[n, m] = sum over k of dy[k, n] x[k, m], where k counts steps and rows (a few thousand).
// Both factors come row after row, so that the left one has columns in the place of rows. Half a thousand rows are packed at
// a time, a panel, and as many columns of dy as keep the sums, and what they are made of, in the second-level cache; row
// after row, since columns of a long row are too far apart for the processor to guess the next ones. A team
// of threads shares the columns of dy. Each sum is made by one thread in one order: results are the same bits for any number
// of them.
#include "linear.h"

#include "blocks.h"

namespace scriven {
namespace {

constexpr int64_t DEPTH = 512 / GROUP;  // groups of rows in a panel
constexpr int64_t CACHE = 1024 * 1024;  // bytes of a weight that all rows pass before the next ones
constexpr int64_t AHEAD = 8;  // rows between the one that is read and the one that is fetched

// The gradient of a weight.
template <class F> struct Gradient {
    using Number = typename F::Number;
    static constexpr int64_t PART = DEPTH * SQUARE, LINE = 64 / sizeof(Number);
    static constexpr int64_t WIDTH = DEPTH / static_cast<int64_t>(sizeof(Number));  // groups of columns of dy: 256 KB
    const Rows<F> dy, x;
    const Out<Fp32> out;  // (columns of dy, columns of x)
    float *column_sums;   // of dy, or null

    int64_t across() const { return groups_of(x.columns); }
    int64_t panels() const { return x.rows ? (x.rows + DEPTH * GROUP - 1) / (DEPTH * GROUP) : 1; }
    // Groups of rows in a panel: DEPTH but in the last one.
    int64_t depth_of(int64_t panel) const { return smaller_of(groups_of(x.rows) - panel * DEPTH, DEPTH); }

    Status make(int64_t threads) const {
        const int64_t squares = WIDTH * across() * SQUARE;
        const Buffer<Number> xs(panels() * across() * PART), dys(threads * WIDTH * PART);
        const Buffer<float> sums(threads * squares);
        if (!xs || !dys || !sums) return no_memory;
        if (column_sums) std::memset(column_sums, 0, sizeof(float) * static_cast<size_t>(dy.columns));
        run(threads, [&](const Member &member) {
            const typename F::Registers registers;
            const Range own = member.share(across()), groups = member.share(groups_of(dy.columns));
            for (int64_t panel = 0; panel < panels(); ++panel)
                pack(x, panel, own, xs + (panel * across() + own.begin) * PART, F::tiles);
            member.wait();
            for (int64_t begin = groups.begin; begin < groups.end; begin += WIDTH)
                columns_of_dy({begin, smaller_of(begin + WIDTH, groups.end)}, xs, dys + member.index * WIDTH * PART,
                            sums + member.index * squares);
        });
        return ok;
    }

    // Factors: a panel's groups of rows and some groups of columns, (groups of columns, DEPTH, GROUP, GROUP), as right factors,
    // or turned, as left ones. Adds the columns' own sums to `sums` where it is given, for WIDTH groups at most.
    void pack(const Rows<F> &from, int64_t panel, Range groups, Number *to, bool turned, float *sums = nullptr) const {
        const int64_t begin = groups.begin * GROUP, end = groups.end * GROUP;
        alignas(64) Number block[SQUARE];
        alignas(64) float totals[WIDTH * GROUP] = {};
        for (int64_t k = 0; k < depth_of(panel); ++k) {
            const int64_t row = (panel * DEPTH + k) * GROUP;
            Number *own = to + k * SQUARE;
            for (int64_t column = begin; column < end; column += GROUP, own += PART) {
                for (int64_t i = 0; i < GROUP; ++i)
                    for (int64_t at = 0; at < GROUP; at += LINE) prefetch(from.at(row + GROUP + i, column + at));
                Number *right = turned ? block : own;
                from.to_right(row, column, right);
                if (sums) F::add_rows(right, totals + (column - begin));
                if (turned) F::turn(block, own);
            }
        }
        for (int64_t column = begin; sums && column < end; column += GROUP) {
            const int64_t there = from.columns - column;
            F::store(sums + column, F::load(sums + column, there) + F::load(totals + (column - begin)), there);
        }
    }

    // The rows of out for some groups of dy's columns. `xs` are x's packed factors, panel after panel, those of the next one
    // fetched meanwhile; `dys` and `sums` are this member's own. Tiles make the sums turned: x mostly has fewer columns than
    // dy, so that less is turned.
    void columns_of_dy(Range groups, const Number *xs, Number *dys, float *sums) const {
        const int64_t height = groups.end - groups.begin;
        for (int64_t panel = 0; panel < panels(); ++panel) {
            pack(dy, panel, groups, dys, false, column_sums);
            const Number *next = xs + (panel + 1) % panels() * across() * PART;
            for (int64_t m = 0; m < across(); ++m)
                for (int64_t n = 0; n < height; ++n) {
                    const Range share = Member{m * height + n, across() * height, nullptr}.share(across() * PART / LINE);
                    for (int64_t line = share.begin; line < share.end; ++line) prefetch_to_second_level(next + line * LINE);
                    const Number *of_dy = dys + n * PART, *of_x = xs + (panel * across() + m) * PART;
                    float *here = sums + (n * across() + m) * SQUARE;
                    product<F, true>(F::tiles ? of_x : of_dy, F::tiles ? of_dy : of_x, depth_of(panel), here, panel > 0);
                }
        }
        alignas(64) float block[SQUARE];
        for (int64_t n = 0; n < height; ++n)
            for (int64_t m = 0; m < across(); ++m) {
                const float *made = sums + (n * across() + m) * SQUARE;
                if (F::tiles) Fp32::turn(made, block), made = block;
                out.put(made, (groups.begin + n) * GROUP, m * GROUP);
            }
    }
};

// y = x times a weight.
template <class F> Status project_in(const Projection *call) {
    const int64_t k = call->k, m = call->m, n = call->n;
    const Rows<F> x{static_cast<const typename F::Number *>(call->x), k, m};
    const Rows<F, float> weight{call->weight, call->turned ? n : m, call->turned ? m : n};
    const Out<F> y{static_cast<typename F::Number *>(call->y), k, n, call->bias};
    const auto pack = [&](int64_t group, typename F::Number *left) { x.pack(group, left); };
    const auto finish = [&](int64_t group, Range columns, const float *sums) {
        for (int64_t column = columns.begin; column < columns.end; ++column, sums += SQUARE)
            y.put(sums, group * GROUP, column * GROUP);
    };
    return times_weight(call->threads, k, weight, call->turned, chunk_of<F>(m, groups_of(n), CACHE), pack, finish);
}

bool possible(int64_t threads, int64_t k, int64_t m, int64_t n) { return threads > 0 && k >= 0 && m > 0 && n > 0; }

}  // namespace

Status project(const Projection &call) {
    if (!possible(call.threads, call.k, call.m, call.n)) return bad_argument;
    return in_format(call.bf16, [&](auto format) { return project_in<decltype(format)>(&call); });
}

Status weight_gradient(const WeightGradient &call) {
    const int64_t k = call.k, m = call.m, n = call.n;
    if (!possible(call.threads, k, m, n)) return bad_argument;
    return in_format(call.bf16, [&](auto format) {
        using F = decltype(format);
        using Number = const typename F::Number *;
        const Rows<F> dy{static_cast<Number>(call.dy), k, n}, x{static_cast<Number>(call.x), k, m, call.skip};
        return Gradient<F>{dy, x, {call.dweight, n, m}, call.sums}.make(call.threads);
    });
}

Status sum_rows(int64_t threads, int64_t bf16, const int64_t *ids, int64_t k, int64_t n, int64_t symbols, const void *dy,
                float *dtable) {
    std::memset(dtable, 0, sizeof(float) * static_cast<size_t>(symbols * n));
    return in_format(bf16, [&](auto format) {
        using F = decltype(format);
        run(threads, [&](const Member &member) {
            const Range groups = member.share(groups_of(n));
            for (int64_t row = 0; row < k; ++row)
                for (int64_t i = groups.begin * GROUP; i < groups.end * GROUP; i += GROUP) {
                    const auto *from = static_cast<const typename F::Number *>(dy) + row * n + i;
                    float *to = dtable + ids[row] * n + i;
                    prefetch(from + AHEAD * n);
                    F::store(to, F::load(to, n - i) + F::load(from, n - i), n - i);
                }
        });
        return ok;
    });
}

}  // namespace scriven

// dweight (N, M) = dy (K, N) turned, times x (K, M), without the rows that are skipped.
SCRIVEN_API int64_t scriven_weight_gradient(const scriven::WeightGradient *call) { return scriven::weight_gradient(*call); }

// y (K, N) = x (K, M) times weight (M, N), or with `turned` (N, M) turned, fp32 but rounded to the format of x, plus bias (N).
SCRIVEN_API int64_t scriven_projection(const scriven::Projection *call) { return scriven::project(*call); }
