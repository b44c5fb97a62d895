// A table of n-grams while it is made: arrays per level, written from n-grams in sorted order and read as such again.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "counts.h"

namespace scriven {
namespace {

// An array that grows; where memory is short it stays as it is, and says so.
template <class T> class Growing {
  public:
    Growing() = default;
    ~Growing() { std::free(data_); }
    Growing(const Growing &) = delete;
    Growing &operator=(const Growing &) = delete;
    void push(T value) {
        if (size_ == room_ && !reserve(room_ + room_ / 2 + 64)) return;
        data_[size_++] = value;
    }
    bool reserve(int64_t room) {
        if (room <= room_) return true;
        void *data = std::realloc(data_, static_cast<size_t>(room) * sizeof(T));
        failed_ |= !data;
        if (!data) return false;
        data_ = static_cast<T *>(data);
        room_ = room;
        return true;
    }
    void swap(Growing &other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(room_, other.room_);
        std::swap(failed_, other.failed_);
    }
    void clear() {
        Growing empty;
        swap(empty);
    }
    void shrink(int64_t size) { size_ = size; }
    int64_t size() const { return size_; }
    int64_t bytes() const { return size_ * int64_t(sizeof(T)); }
    bool failed() const { return failed_; }
    T *data() { return data_; }
    const T *data() const { return data_; }
    T &operator[](int64_t i) { return data_[i]; }
    const T &operator[](int64_t i) const { return data_[i]; }

  private:
    T *data_ = nullptr;
    int64_t size_ = 0, room_ = 0;
    bool failed_ = false;
};

// An n-gram as a number: the context's symbols from the newest on and the symbol after it last, each one more than its
// id in `bits` bits; 0 where the context ends. Sorted, they are in the order of a table's nodes.
template <class Key> struct Layout {
    int64_t symbols, longest, bits;

    int64_t shift(int64_t level) const { return (longest + 1 - level) * bits; }  // of the context's symbol `level`
    Key mask() const { return (Key(1) << bits) - 1; }
    int64_t part(Key key, int64_t level) const { return int64_t((key >> shift(level)) & mask()); }
    int64_t successor(Key key) const { return int64_t(key & mask()) - 1; }
    int64_t length(Key key) const {
        int64_t level = 0;
        while (level < longest && part(key, level + 1)) level++;
        return level;
    }
    // How many symbols two contexts have in common, from the newest one on.
    int64_t shared(Key a, Key b, int64_t most) const {
        int64_t level = 0;
        while (level < most && !(((a ^ b) >> shift(level + 1)) & mask())) level++;
        return level;
    }
};

template <class S> struct Level {
    Growing<S> symbols, rows, children;           // of nodes, as in CountsTable
    Growing<S> successors;                        // of entries
    Growing<uint32_t> counts;
    Growing<S> tails;

    int64_t bytes() const {
        return symbols.bytes() + rows.bytes() + children.bytes() + successors.bytes() + counts.bytes() + tails.bytes();
    }
    bool failed() const {
        return symbols.failed() || rows.failed() || children.failed() || successors.failed() || counts.failed() ||
               tails.failed();
    }
    void swap(Level &other) {
        symbols.swap(other.symbols);
        rows.swap(other.rows);
        children.swap(other.children);
        successors.swap(other.successors);
        counts.swap(other.counts);
        tails.swap(other.tails);
    }
};

template <class S> struct Levels {
    Level<S> level[LONGEST + 1];
    int64_t reach = LONGEST;  // the deepest level of tails

    int64_t tail_size(int64_t level) const { return reach - level + 1; }

    int64_t bytes() const {
        int64_t sum = 0;
        for (const Level<S> &each : level) sum += each.bytes();
        return sum;
    }
    bool failed() const {
        bool any = false;
        for (const Level<S> &each : level) any |= each.failed();
        return any;
    }
    void swap(Levels &other) {
        for (int64_t i = 0; i <= LONGEST; i++) level[i].swap(other.level[i]);
        std::swap(reach, other.reach);
    }
};

constexpr uint32_t ALL = UINT32_MAX;

// Up to which count n-grams of a level are left out, 0 for none. It never falls from one level to the next, so that the
// context of an n-gram that is there is there as well.
struct Pruning {
    uint32_t most[LONGEST + 1] = {};

    void leave_out(int64_t level, uint32_t count) {
        for (int64_t deeper = level; deeper <= LONGEST; deeper++) most[deeper] = std::max(most[deeper], count);
    }

    int64_t first_pruned() const {
        int64_t level = 0;
        while (level <= LONGEST && !most[level]) level++;
        return level;
    }
};

// Writes a table from n-grams in sorted order. With `continuations` an n-gram's count is what Kneser-Ney smoothing
// takes: the number of different symbols before it, and its occurrences where there is none (at the start of a text, or
// in the longest contexts). What was left out of a table counts as an occurrence without a symbol before it, so that
// the continuations of n-grams that occurred once stay exact.
template <class Key, class S> class Writer {
  public:
    Writer(const Layout<Key> &layout, const Pruning &pruning, bool continuations, Levels<S> &to)
        : layout_(layout), pruning_(pruning), continuations_(continuations), to_(to) {
        to.reach = std::min(pruning.first_pruned() - 1, layout.longest);
        room_ = Buffer<int64_t>(2 * layout.symbols * (layout.longest + 1));
        touched_ = Buffer<uint32_t>(layout.symbols * (layout.longest + 1));
        if (failed()) return;
        std::fill_n(static_cast<int64_t *>(room_), 2 * layout.symbols * (layout.longest + 1), 0);
        open(0, 0);
    }
    bool failed() const { return !room_ || !touched_; }

    void put(Key key, int64_t count) {
        if (count_ && key == key_) {
            count_ += count;
            return;
        }
        if (count_) {
            const int64_t length = std::min(layout_.length(key_), layout_.length(key));
            const int64_t shared = layout_.shared(key_, key, length);
            write(shared);
            shared_ = shared;
        }
        key_ = key;
        count_ = count;
    }
    void finish() {
        if (count_) write(0);
        while (depth_ >= 0) close();
    }

  private:
    struct Open {
        S symbol;
        int64_t touched, children;
    };

    int64_t *occurrences(int64_t level) { return room_ + 2 * level * layout_.symbols; }
    uint32_t *touched(int64_t level) { return touched_ + level * layout_.symbols; }

    void open(int64_t level, int64_t symbol) {
        open_[level] = {S(symbol), 0, 0};
        depth_ = level;
    }
    void add(int64_t level, int64_t symbol, int64_t count, int64_t continuations) {
        int64_t *both = occurrences(level) + 2 * symbol;
        if (!both[0]) touched(level)[open_[level].touched++] = uint32_t(symbol);
        both[0] += count;
        both[1] += continuations;
    }
    // The n-gram that waits, which has `shared` symbols of its context in common with the next one.
    void write(int64_t shared) {
        const int64_t length = layout_.length(key_), apart = std::max(shared, shared_);
        const bool once = count_ == 1 && length > apart;
        const int64_t stop = once ? apart : length;
        while (depth_ > shared_) close();
        while (depth_ < stop) open(depth_ + 1, layout_.part(key_, depth_ + 1) - 1);
        if (once) write_tail(stop + 1, length);
        add(stop, layout_.successor(key_), count_, once ? 1 : count_);
    }
    void write_tail(int64_t level, int64_t length) {
        if (level > to_.reach) return;
        Level<S> &to = to_.level[level];
        to.symbols.push(S(layout_.part(key_, level) - 1));
        to.rows.push(0);
        to.children.push(0);
        to.tails.push(S(layout_.successor(key_)));
        for (int64_t deeper = level + 1; deeper <= to_.reach; deeper++)
            to.tails.push(S(deeper <= length ? layout_.part(key_, deeper) - 1 : layout_.symbols));
        open_[level - 1].children++;
    }
    void close() {
        const int64_t level = depth_--;
        uint32_t *symbols = touched(level);
        Open &node = open_[level];
        std::sort(symbols, symbols + node.touched);
        Level<S> &to = to_.level[level];
        int64_t rows = 0;
        for (int64_t i = 0; i < node.touched; i++) {
            int64_t *both = occurrences(level) + 2 * int64_t(symbols[i]);
            const bool kept = pruning_.most[level] < ALL && both[0] > int64_t(pruning_.most[level]);
            if (kept) {
                to.successors.push(S(symbols[i]));
                to.counts.push(uint32_t(std::min<int64_t>(both[continuations_], ALL)));
                rows++;
            }
            if (level) add(level - 1, symbols[i], both[0], kept ? 1 : both[0]);
            both[0] = both[1] = 0;
        }
        if (!rows && level) return;
        to.symbols.push(node.symbol);
        to.rows.push(S(rows));
        to.children.push(S(node.children));
        if (level) open_[level - 1].children++;
    }

    const Layout<Key> layout_;
    const Pruning pruning_;
    const bool continuations_;
    Levels<S> &to_;
    Buffer<int64_t> room_{0};  // (levels, V, 2): occurrences, continuations
    Buffer<uint32_t> touched_{0};
    Open open_[LONGEST + 1] = {};
    int64_t depth_ = -1, shared_ = 0, count_ = 0;
    Key key_ = 0;
};

// Reads a table of occurrences as n-grams in sorted order: the same ones that it was made from, but for what was left
// out, whose contexts are shorter.
template <class Key, class S> class Reader {
  public:
    Reader(const Layout<Key> &layout, const Levels<S> &from) : layout_(layout), from_(from), left_(layout.symbols) {}
    bool failed() const { return !left_; }

    // Calls put(key, count).
    template <class Put> void read(Put &&put) {
        if (from_.level[0].symbols.size()) read_node(0, 0, put);
    }

  private:
    template <class Put> void read_node(int64_t level, Key context, Put &&put) {
        const Level<S> &own = from_.level[level];
        At &at = at_[level];
        const int64_t rows = own.rows[at.node], children = own.children[at.node];
        at.node++;
        if (!rows) {
            if (level) read_tail(level, context, put);
            return;
        }
        for (int64_t i = at.entry; i < at.entry + rows; i++) left_[own.successors[i]] = own.counts[i];
        if (children) take_children(level + 1, children);
        for (int64_t i = at.entry; i < at.entry + rows; i++) {
            const int64_t symbol = own.successors[i];
            if (left_[symbol] > 0) put(context | Key(symbol + 1), left_[symbol]);
        }
        at.entry += rows;
        for (int64_t i = 0; i < children; i++) {
            const Key symbol = Key(from_.level[level + 1].symbols[at_[level + 1].node]) + 1;
            read_node(level + 1, context | (symbol << layout_.shift(level + 1)), put);
        }
    }
    void take_children(int64_t level, int64_t children) {
        const Level<S> &own = from_.level[level];
        int64_t entry = at_[level].entry, tail = at_[level].tail;
        for (int64_t node = at_[level].node; node < at_[level].node + children; node++) {
            if (!own.rows[node]) {
                left_[own.tails[tail]]--;
                tail += from_.tail_size(level);
            }
            for (const int64_t end = entry + own.rows[node]; entry < end; entry++)
                left_[own.successors[entry]] -= own.counts[entry];
        }
    }
    template <class Put> void read_tail(int64_t level, Key key, Put &&put) {
        const S *record = from_.level[level].tails.data() + at_[level].tail;
        at_[level].tail += from_.tail_size(level);
        for (int64_t deeper = level + 1; deeper <= from_.reach; deeper++) {
            const int64_t symbol = record[deeper - level];
            if (symbol == layout_.symbols) break;
            key |= Key(symbol + 1) << layout_.shift(deeper);
        }
        put(key | Key(record[0] + 1), 1);
    }

    struct At {
        int64_t node = 0, entry = 0, tail = 0;
    };
    const Layout<Key> layout_;
    const Levels<S> &from_;
    Buffer<int64_t> left_;  // (V): occurrences of a row that no child has
    At at_[LONGEST + 2] = {};
};

}  // namespace
}  // namespace scriven
