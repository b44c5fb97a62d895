// What an n-gram model of a text is in memory, and how a context is looked up: see kernels/counts.py.
//
// The contexts of a text are a trie: the root is the empty context, and a child's context has one symbol more, before
// those of its parent. A node has a row: the symbols that came after its context, each with a count. All nodes are
// numbered level by level, so that the children of each one follow each other, sorted by symbol, as do those of the
// next. A context that occurred once has no row and no children: a tail has the symbol that came after it, and the
// symbols before it.
#pragma once

#include "calls.h"
#include "double_math.h"

namespace scriven {

constexpr int64_t LONGEST = 15;  // symbols of a context, at most
constexpr int64_t KINDS = 4;     // of contexts, by how many different symbols came after them: see kind_of
constexpr int64_t CLASSES = 3;   // of counts: 1, 2, and more
constexpr int64_t DISCOUNTS = (LONGEST + 1) * KINDS * CLASSES;  // at most
constexpr int64_t NODES_PER_BLOCK = 16;
constexpr int64_t BLOCK = 64;   // places of a block of nodes: symbols from 16 on, rows from 32, children from 48
constexpr uint8_t LARGE = 255;  // stands for a count that is among the large ones

namespace {

// 1, 2, 3 to 4, or more different symbols.
inline int64_t kind_of(int64_t size) { return size <= 2 ? size - 1 : size <= 4 ? 2 : 3; }
inline int64_t class_of(int64_t count) { return count < 3 ? count - 1 : 2; }

// What a context's row amounts to, and the count of one symbol in it.
struct Evidence {
    int64_t total = 0, ones = 0, twos = 0, size = 0, count = 0;
};

// The recursion of interpolated Kneser-Ney smoothing at one level: the probability of a symbol is
// lower * backoff + (count - discount) * scale, where the last term is only of symbols in the row.
struct Step {
    double backoff, scale;
    const double *discounts;  // (CLASSES)

    Step(const CountsTable &table, int64_t level, const Evidence &row) {
        discounts = table.discounts + (level * KINDS + kind_of(row.size)) * CLASSES;
        scale = 1.0 / double(row.total);
        const int64_t more = row.size - row.ones - row.twos;
        backoff = discounts[0] * double(row.ones) + discounts[1] * double(row.twos) + discounts[2] * double(more);
        backoff *= scale;
    }
    double seen(int64_t count) const { return (double(count) - discounts[class_of(count)]) * scale; }
    double of(double lower, int64_t count) const { return lower * backoff + (count ? seen(count) : 0.0); }
};

inline bool within(const int64_t *ids, int64_t count, int64_t symbols) {
    bool all = true;
    for (int64_t i = 0; i < count; i++) all &= 0 <= ids[i] && ids[i] < symbols;
    return all;
}

// Looks contexts up in a table.
template <class S> class Lookup {
  public:
    explicit Lookup(const CountsTable &table)
        : table_(table), nodes_(static_cast<const S *>(table.nodes)),
          successors_(static_cast<const S *>(table.successors)), tails_(static_cast<const S *>(table.tails)) {}

    struct Row {
        int64_t begin, end;  // entries
    };

    // Calls row(level, Row) for every context that ends what `symbol(0)`, `symbol(1)`, ... say, the newest first, as
    // far as the table has it, from the empty one on; tail(level, successor) for those that occurred once.
    template <class Symbol, class Rows, class Tails>
    void visit(int64_t length, Symbol &&symbol, Rows &&row, Tails &&tail) const {
        int64_t node = 0;
        for (int64_t level = 0;; level++) {
            const S *own = block(node) + node % NODES_PER_BLOCK;
            const int64_t rows = own[32], children = own[48];
            const Sums before = before_node(node);
            if (level && !rows) return visit_tail(level, before.tails, length, symbol, tail);
            if (!rows) return;
            row(level, Row{before.entries, before.entries + rows});
            if (level == length || level == table_.longest) return;
            node = find(1 + before.children, children, symbol(level), [&](int64_t i) { return symbol_of(i); });
            if (node < 0) return;
        }
    }

    // The row summed up; `symbol` is that of the count, or -1.
    Evidence evidence(Row row, int64_t symbol) const {
        Evidence found;
        found.size = row.end - row.begin;
        int32_t total = 0, ones = 0, twos = 0, large = 0;
        for (int64_t i = row.begin; i < row.end; i++) {
            const int32_t count = table_.counts[i];
            total += count;
            ones += count == 1;
            twos += count == 2;
            large += count == LARGE;
        }
        found.total = total + (large ? excess(row) : 0);
        found.ones = ones;
        found.twos = twos;
        const int64_t entry = find(row.begin, found.size, symbol, [&](int64_t i) { return int64_t(successors_[i]); });
        found.count = entry < 0 ? 0 : count_of(entry);
        return found;
    }

    // Calls entry(symbol, count) for all of a row.
    template <class Entry> void each(Row row, Entry &&entry) const {
        for (int64_t i = row.begin; i < row.end; i++) entry(int64_t(successors_[i]), count_of(i));
    }

    static Evidence once(int64_t count) {
        Evidence found;
        found.total = found.ones = found.size = 1;
        found.count = count;
        return found;
    }

  private:
    struct Sums {
        int64_t entries, children, tails;
    };

    const S *block(int64_t node) const { return nodes_ + node / NODES_PER_BLOCK * BLOCK; }
    int64_t symbol_of(int64_t node) const { return block(node)[16 + node % NODES_PER_BLOCK]; }

    Sums before_node(int64_t node) const {
        const S *own = block(node);
        uint32_t head[3], sums[3] = {};
        std::memcpy(head, own, sizeof head);
        const uint32_t count = uint32_t(node % NODES_PER_BLOCK);
        for (uint32_t i = 0; i < NODES_PER_BLOCK; i++) {  // of vectors, without a branch
            const uint32_t before = i < count;
            sums[0] += before * own[32 + i];
            sums[1] += before * own[48 + i];
            sums[2] += before * (own[32 + i] == 0);
        }
        return {int64_t(head[0]) + sums[0], int64_t(head[1]) + sums[1], int64_t(head[2]) + sums[2]};
    }

    // Where a symbol is among `count` sorted ones from `begin` on; -1 where it is not.
    template <class At> static int64_t find(int64_t begin, int64_t count, int64_t symbol, At &&at) {
        while (count > 1) {
            const int64_t half = count / 2;
            begin += at(begin + half) <= symbol ? half : 0;
            count -= half;
        }
        return count && at(begin) == symbol ? begin : -1;
    }

    template <class Symbol, class Tails>
    void visit_tail(int64_t level, int64_t number, int64_t length, Symbol &&symbol, Tails &&tail) const {
        const int64_t *own = table_.levels + 3 * level;
        const S *record = tails_ + own[2] + (number - own[1]) * (table_.reach - level + 1);
        tail(level, int64_t(record[0]));
        for (int64_t deeper = level + 1; deeper <= table_.reach && deeper <= length; deeper++) {
            if (int64_t(record[deeper - level]) != symbol(deeper - 1)) return;
            tail(deeper, int64_t(record[0]));
        }
    }

    // The first large count whose entry is not before this one.
    int64_t large_from(int64_t entry) const {
        int64_t begin = 0, end = table_.large_size;
        while (begin < end) {
            const int64_t middle = (begin + end) / 2;
            if (table_.large[2 * middle] < entry) begin = middle + 1;
            else end = middle;
        }
        return begin;
    }

    int64_t count_of(int64_t entry) const {
        const uint8_t count = table_.counts[entry];
        return count < LARGE ? count : int64_t(table_.large[2 * large_from(entry) + 1]);
    }

    // What the large counts of a row have above LARGE.
    int64_t excess(Row row) const {
        int64_t sum = 0;
        for (int64_t i = large_from(row.begin); i < table_.large_size && table_.large[2 * i] < row.end; i++)
            sum += int64_t(table_.large[2 * i + 1]) - LARGE;
        return sum;
    }

    const CountsTable &table_;
    const S *nodes_, *successors_, *tails_;
};

// Calls work(S{}) with the type of a table's symbols.
template <class Work> auto by_width(int64_t width, Work &&work) {
    return width == 1 ? work(uint8_t{}) : width == 2 ? work(uint16_t{}) : work(uint32_t{});
}

}  // namespace
}  // namespace scriven
