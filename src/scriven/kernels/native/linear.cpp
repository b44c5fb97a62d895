// Products of a layer with what it reads, and their gradients, in any number format.
//
// Those with a weight go over some rows at a time, whose packed values and sums stay in the second-level cache. For the
// gradient of a weight, out[n, m] = sum over k of dy[k, n] x[k, m], where k counts steps and rows (a few thousand). Both
// factors come row after row, so that the left one has columns in the place of rows. Half a thousand rows are packed at a
// time, and as many columns of dy as keep the sums, and what they are made of, in the second-level cache. While they are
// multiplied, the next ones are fetched. A team of threads shares the columns of dy. Each sum is made by one thread in one
// order: results are the same bits for any number of them.
#include "blocks.h"
#include "calls.h"

namespace scriven {
namespace {

constexpr int64_t DEPTH = 512 / GROUP;  // groups of rows that are worked on together
constexpr int64_t AHEAD = 8;  // rows between the one that is read and the one that is fetched: columns of a long row are
                              // too far apart for the processor to guess the next ones
constexpr int64_t TALL = 128 / GROUP;  // groups of rows whose products with a part of a weight follow each other

// Groups of columns of dy that are worked on together: their packed values take 256 KB.
template <class F> constexpr int64_t WIDTH = DEPTH / static_cast<int64_t>(sizeof(typename F::Number));

template <class F> class Gradient {
  public:
    using Number = typename F::Number;

    // out (columns of dy, columns of x); `column_sums` are of dy, or null.
    Gradient(const Rows<F> &dy, const Rows<F> &x, float *out, float *column_sums)
        : dy_(dy), x_(x), out_(out), column_sums_(column_sums), panels_((x.rows + DEPTH * GROUP - 1) / (DEPTH * GROUP)),
          across_(groups_of(x.columns)) {}

    Status make(int64_t threads) const {
        const int64_t downs = groups_of(dy_.columns), squares = WIDTH<F> * across_ * SQUARE;
        threads = smaller_of(threads, downs);
        const Buffer<Number> rights(panels_ * across_ * PART), left(threads * WIDTH<F> * PART);
        const Buffer<float> sums(threads * squares);
        if (!rights || !left || !sums) return no_memory;
        run(threads, [&](const Member &member) {
            const typename F::Registers registers;
            const Range own = member.share(across_);
            for (int64_t panel = 0; panel < panels_; ++panel)
                pack(x_, panel, own, rights + (panel * across_ + own.begin) * PART, false, nullptr);
            member.wait();
            rows_of_out(member.share(downs), rights, left + member.index * WIDTH<F> * PART, sums + member.index * squares);
        });
        return ok;
    }

  private:
    static constexpr int64_t PART = DEPTH * SQUARE, LINE = 64 / sizeof(Number);
    const Rows<F> &dy_, &x_;
    float *const out_, *const column_sums_;
    const int64_t panels_, across_;

    // Groups of rows in a panel: DEPTH but in the last one.
    int64_t depth_of(int64_t panel) const { return smaller_of(groups_of(x_.rows) - panel * DEPTH, DEPTH); }

    // Factors: a panel's groups of rows and some groups of columns, (groups of columns, DEPTH, GROUP, GROUP), as right factors, or
    // turned, as left ones. Adds the columns' own sums to `sums` where it is given.
    void pack(const Rows<F> &from, int64_t panel, Range groups, Number *to, bool turned, float *sums) const {
        alignas(64) Number block[SQUARE];
        for (int64_t column = groups.begin * GROUP; column < groups.end * GROUP; column += GROUP) {
            Number *own = to + (column / GROUP - groups.begin) * PART;
            alignas(64) float total[GROUP] = {};
            for (int64_t k = 0; k < depth_of(panel); ++k, own += SQUARE) {
                Number *right = turned ? block : own;
                for (int64_t i = 0; i < GROUP / 2; ++i) {
                    const int64_t row = (panel * DEPTH + k) * GROUP + 2 * i;
                    for (int64_t at = 0; at < GROUP; at += LINE) {
                        prefetch(from.at(row + AHEAD, column + at));
                        prefetch(from.at(row + AHEAD + 1, column + at));
                    }
                    F::put_pair(from.part(row, column), from.part(row + 1, column), right, i);
                }
                if (sums) F::add_rows(right, total);
                if (turned) F::turn(block, own);
            }
            for (int64_t i = 0; sums && i < smaller_of(from.columns - column, GROUP); ++i) sums[column + i] += total[i];
        }
    }

    // The rows of out that this member shares, of groups of dy's columns. `rights` are the packed right factors, panel after
    // panel, and left and sums this member's own.
    void rows_of_out(Range groups, const Number *rights, Number *left, float *sums) const {
        for (int64_t begin = groups.begin; begin < groups.end; begin += WIDTH<F>) {
            const int64_t end = smaller_of(begin + WIDTH<F>, groups.end), height = end - begin;
            if (!panels_) std::memset(sums, 0, sizeof(float) * height * across_ * SQUARE);
            for (int64_t panel = 0; panel < panels_; ++panel) {
                pack(dy_, panel, {begin, end}, left, F::tiles, column_sums_);
                const bool last = panel + 1 == panels_;  // then the first panel of the next columns follows
                const int64_t next = last ? 0 : panel + 1, column = (last ? end : begin) * GROUP, depth = depth_of(panel);
                const int64_t bytes = smaller_of(height * GROUP, dy_.columns - column) * sizeof(Number);
                Fetch fetch(dy_.at(next * DEPTH * GROUP, column), DEPTH * GROUP, dy_.columns * sizeof(Number), bytes,
                            calls<F, true> * height * across_ * depth);
                fetch.also(rights + next * across_ * PART, across_ * PART * sizeof(Number));
                for (int64_t m = 0; m < across_; ++m)
                    for (int64_t n = 0; n < height; ++n)
                        product_of_columns<F>(left + n * PART, rights + (panel * across_ + m) * PART, depth,
                                              sums + (n * across_ + m) * SQUARE, panel > 0, &fetch);
            }
            for (int64_t n = 0; n < height; ++n) put(sums + n * across_ * SQUARE, (begin + n) * GROUP);
        }
    }

    // The sums of a group of rows of out.
    void put(const float *sums, int64_t row) const {
        for (int64_t i = 0; i < GROUP && row + i < dy_.columns; ++i)
            for (int64_t column = 0; column < x_.columns; column += GROUP)
                std::memcpy(out_ + (row + i) * x_.columns + column, sums + column * GROUP + i * GROUP,
                            smaller_of(x_.columns - column, GROUP) * sizeof(float));
    }
};

// Up to TALL groups of rows of out = x times packed right factors.
template <class F>
void rows_of_product(const Rows<F> &x, Range groups, const typename F::Number *right, typename F::Number *left,
                     float *sums, const Out<F> &out) {
    const int64_t parts = groups_of(x.columns), high = groups.end - groups.begin, wide = groups_of(out.columns);
    const int64_t bytes = x.columns * sizeof(typename F::Number);
    x.pack(groups, left);
    Fetch fetch(x.at(groups.end * GROUP, 0), high * GROUP, bytes, bytes, calls<F, false> * wide * high * parts);
    for (int64_t part = 0; part < parts; part += DEPTH)
        for (int64_t n = 0; n < wide; ++n)
            for (int64_t m = 0; m < high; ++m) {
                float *own = sums + (n * TALL + m) * SQUARE;
                product<F>(left + (m * parts + part) * SQUARE, right + (n * parts + part) * SQUARE,
                           smaller_of(parts - part, DEPTH), own, part > 0, &fetch);
                if (part + DEPTH >= parts) out.put(own, (groups.begin + m) * GROUP, n * GROUP);
            }
}

// y = x times a weight.
template <class F> Status project(const Projection *call) {
    const int64_t m = call->m, n = call->n;
    const Rows<F> x{static_cast<const typename F::Number *>(call->x), call->k, m, nullptr};
    const Out<F> y{static_cast<typename F::Number *>(call->y), call->k, n, call->bias};
    const int64_t parts = groups_of(m), wide = groups_of(n), rows = groups_of(call->k);
    const int64_t threads = smaller_of(call->threads, rows ? rows : 1), tall = TALL * parts * SQUARE;
    const Buffer<typename F::Number> right(wide * parts * SQUARE), left(threads * tall);
    const Buffer<float> sums(threads * TALL * wide * SQUARE);
    if (!right || !left || !sums) return no_memory;
    run(threads, [&](const Member &member) {
        pack_weight<F>(call->weight, call->turned ? n : m, call->turned ? m : n, call->turned, member.share(wide), right,
                       parts * SQUARE);
        member.wait();
        const typename F::Registers registers;
        const Range own = member.share(rows);
        for (int64_t begin = own.begin; begin < own.end; begin += TALL)
            rows_of_product<F>(x, {begin, smaller_of(begin + TALL, own.end)}, right, left + member.index * tall,
                               sums + member.index * TALL * wide * SQUARE, y);
    });
    return ok;
}

// Adds each row of dy to the row of a table that its id names.
template <class F> void add_rows(const AddRows *call, Range columns) {
    const int64_t width = call->n;
    for (int64_t row = 0; row < call->k; ++row)
        for (int64_t i = columns.begin; i < columns.end; i += GROUP) {
            const auto *from = static_cast<const typename F::Number *>(call->dy) + row * width + i;
            float *to = call->dtable + call->ids[row] * width + i;
            const int64_t there = columns.end - i;
            prefetch(from + AHEAD * width);
            F::store(to, F::load(to, there) + F::load(from, there), there);
        }
}

bool possible(int64_t threads, int64_t k, int64_t m, int64_t n) { return threads > 0 && k >= 0 && m > 0 && n > 0; }

}  // namespace
}  // namespace scriven

// dweight (N, M) = dy (K, N) turned, times x (K, M), without the rows that are skipped.
SCRIVEN_API int64_t scriven_weight_gradient(const scriven::WeightGradient *call) {
    using namespace scriven;
    const int64_t k = call->k, m = call->m, n = call->n;
    if (!possible(call->threads, k, m, n)) return bad_argument;
    return in_format(call->bf16, [&](auto format) {
        using F = decltype(format);
        using Number = const typename F::Number *;
        const Rows<F> dy{static_cast<Number>(call->dy), k, n, nullptr}, x{static_cast<Number>(call->x), k, m, call->skip};
        return Gradient<F>(dy, x, call->dweight, call->sums).make(call->threads);
    });
}

// y (K, N) = x (K, M) times weight (M, N), or with `turned` (N, M) turned, fp32 but rounded to the format of x, plus bias (N).
SCRIVEN_API int64_t scriven_projection(const scriven::Projection *call) {
    using namespace scriven;
    if (!possible(call->threads, call->k, call->m, call->n)) return bad_argument;
    return in_format(call->bf16, [&](auto format) { return project<decltype(format)>(call); });
}

SCRIVEN_API int64_t scriven_add_rows(const scriven::AddRows *call) {
    using namespace scriven;
    for (int64_t row = 0; row < call->k; ++row)
        if (call->ids[row] < 0 || call->ids[row] >= call->symbols) return bad_argument;
    return in_format(call->bf16, [&](auto format) {
        using F = decltype(format);
        run(call->threads, [&](const Member &member) {
            const Range groups = member.share(groups_of(call->n));
            add_rows<F>(call, {groups.begin * GROUP, smaller_of(groups.end * GROUP, call->n)});
        });
        return ok;
    });
}
