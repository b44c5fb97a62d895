// Counting the n-grams of a text: see kernels/counts.py. A piece of the text at a time is sorted and merged into the
// table, which is pruned when it is too large. Nothing here depends on the processor or on a number of threads.
#include "counts_fit.h"
#include "counts_table.h"

namespace scriven {

namespace {

constexpr int64_t DIGIT = 11;            // bits of a key that are sorted by at once
constexpr int64_t HELD_BLOCKS = 5;       // of held-out symbols
constexpr int64_t HELD_SHARE = 50;       // a block is a 50th of the text
constexpr int64_t HELD_MOST = 20'000;    // or this long
constexpr int64_t HELD_LEAST = 20;       // shorter blocks say nothing
constexpr int64_t ONCE_LEVELS = 3;       // levels that lose what occurred once before the deepest loses all

// Sorts keys by all their bits; `spare` is as long.
template <class Key> void sort_keys(Key *keys, Key *spare, int64_t count, int64_t bits) {
    constexpr int64_t digits = int64_t(1) << DIGIT;
    Key *from = keys, *to = spare;
    for (int64_t shift = 0; shift < bits; shift += DIGIT) {
        int64_t starts[digits] = {};
        for (int64_t i = 0; i < count; i++) starts[int64_t(from[i] >> shift) & (digits - 1)]++;
        int64_t sum = 0;
        for (int64_t &start : starts) {
            const int64_t size = start;
            start = sum;
            sum += size;
        }
        for (int64_t i = 0; i < count; i++) to[starts[int64_t(from[i] >> shift) & (digits - 1)]++] = from[i];
        std::swap(from, to);
    }
    if (from != keys) std::copy_n(from, count, keys);
}

// The bytes that a table takes, or would if n-grams were left out.
template <class S> class Sizes {
  public:
    Sizes(const Levels<S> &table, int64_t longest, int64_t count_bytes)
        : longest_(longest), reach_(table.reach), entry_(symbol + count_bytes) {
        for (int64_t level = 0; level <= longest; level++) add(table.level[level], own_[level]);
    }
    int64_t with(const Pruning &pruning) const {
        const int64_t reach = std::min(pruning.first_pruned() - 1, reach_);
        int64_t sum = 0;
        for (int64_t level = 0; level <= longest_; level++) {
            const Own &own = own_[level];
            if (level <= reach) sum += own.tails * (node + symbol * (reach - level + 1));
            if (!pruning.most[level]) sum += own.once.nodes * node + own.once.entries * entry_;
            if (pruning.most[level] < ALL) sum += own.more.nodes * node + own.more.entries * entry_;
        }
        return sum;
    }

  private:
    static constexpr int64_t symbol = sizeof(S), node = 4 * symbol;  // its part of a block

    struct Part {
        int64_t nodes, entries;
    };
    struct Own {
        Part once, more;  // n-grams that occurred once, and nodes that have no others
        int64_t tails;
    };

    static void add(const Level<S> &from, Own &to) {
        int64_t entry = 0;
        for (int64_t i = 0; i < from.symbols.size(); i++) {
            bool more = false;
            for (const int64_t end = entry + from.rows[i]; entry < end; entry++) {
                (from.counts[entry] > 1 ? to.more : to.once).entries++;
                more |= from.counts[entry] > 1;
            }
            to.tails += !from.rows[i];
            if (from.rows[i]) (more ? to.more : to.once).nodes++;
        }
    }

    const int64_t longest_, reach_, entry_;
    Own own_[LONGEST + 1] = {};
};

// Prunes more until a table takes at most `bytes`: n-grams that occurred once, of the longest contexts, of those
// shorter by one, and by two; then all of the longest contexts; and so on with the next ones. The empty context stays.
template <class S>
Pruning pruned_to(const Levels<S> &table, Pruning pruning, int64_t longest, int64_t bytes, int64_t count_bytes) {
    const Sizes<S> sizes(table, longest, count_bytes);
    for (int64_t top = longest; top >= 1; top--) {
        for (int64_t level = top; level > std::max<int64_t>(top - ONCE_LEVELS, 0); level--) {
            if (sizes.with(pruning) <= bytes) return pruning;
            pruning.leave_out(level, 1);
        }
        if (sizes.with(pruning) <= bytes) return pruning;
        pruning.leave_out(top, ALL);
    }
    return pruning;
}

class Counter {
  public:
    virtual ~Counter() = default;
    virtual int64_t add(const int64_t *ids, int64_t count) = 0;
    virtual int64_t finish(const CountsFinish &to) = 0;
};

template <class Key, class S> class CounterOf final : public Counter {
  public:
    CounterOf(const CountsOpen &request, int64_t bits)
        : request_(request), layout_{request.symbols, request.longest, bits},
          held_size_(std::min(request.total / HELD_SHARE, HELD_MOST)) {
        if (request.boundary >= 0) context_ = first(request.boundary);
        room_ = std::max<int64_t>(request.budget / (8 * int64_t(sizeof(Key))), 1 << 10);
        room_ = std::min(room_, std::max<int64_t>(request.total, 1));
        if (held_size_ < HELD_LEAST) held_size_ = 0;
    }

    int64_t add(const int64_t *ids, int64_t count) override {
        if (!keys_.reserve(room_)) return no_memory;
        for (int64_t i = 0; i < count; i++) {
            const int64_t id = ids[i];
            if (id < 0 || id >= request_.symbols) return bad_argument;
            (is_held(at_++) ? held_ : keys_).push(context_ | Key(id + 1));
            context_ = id == request_.boundary ? first(id) : next(id);
            if (keys_.size() == room_ && !merge()) return no_memory;
        }
        return keys_.failed() || held_.failed() ? no_memory : ok;
    }

    int64_t finish(const CountsFinish &to) override {
        if (keys_.size() && !merge()) return no_memory;
        keys_.clear();
        if (!sort(held_)) return no_memory;
        Pruning pruning = early_;
        for (int64_t i = 0; i < DISCOUNTS; i++) x_[i] = Likelihood::usual(i);
        if (held_.size()) {
            if (!write_final(pruning, false)) return no_memory;
            if (!fit()) return no_memory;
        }
        set_discounts();
        if (!write_final(pruning, true)) return no_memory;
        *to.table = packed_;
        std::copy_n(fit_, 3, to.fit);
        for (int64_t i = 0; i <= layout_.longest; i++) {
            to.pruned[i] = early_.most[i];
            to.pruned[layout_.longest + 1 + i] = pruning.most[i];
        }
        return ok;
    }

  private:
    // The context after a boundary, which is all of it.
    Key first(int64_t id) const { return layout_.longest ? Key(id + 1) << layout_.shift(1) : Key(0); }
    Key next(int64_t id) const {
        const Key older = (context_ >> layout_.bits) & ~layout_.mask();
        return first(id) | older;
    }
    bool is_held(int64_t place) const {
        if (!held_size_) return false;
        const int64_t block = request_.total / HELD_BLOCKS, middle = (block - held_size_) / 2;
        const int64_t within = place % block;
        return within >= middle && within < middle + held_size_ && place / block < HELD_BLOCKS;
    }
    bool sort(Growing<Key> &keys) {
        const Buffer<Key> spare(keys.size() + 1);
        if (!spare) return false;
        sort_keys<Key>(keys.data(), spare, keys.size(), (layout_.longest + 1) * layout_.bits);
        return true;
    }
    // Writes the table with keys put in among its own.
    bool write(const Growing<Key> *keys, const Pruning &pruning, bool continuations, Levels<S> &to) {
        Writer<Key, S> writer(layout_, pruning, continuations, to);
        Reader<Key, S> reader(layout_, table_);
        if (writer.failed() || reader.failed()) return false;
        const int64_t count = keys ? keys->size() : 0;
        int64_t i = 0;
        reader.read([&](Key key, int64_t occurrences) {
            while (i < count && (*keys)[i] <= key) writer.put((*keys)[i++], 1);
            writer.put(key, occurrences);
        });
        while (i < count) writer.put((*keys)[i++], 1);
        writer.finish();
        return !to.failed();
    }
    bool merge() {
        if (!sort(keys_)) return false;
        Levels<S> merged;
        if (!write(&keys_, early_, false, merged)) return false;
        keys_.shrink(0);
        table_.swap(merged);
        if (table_.bytes() <= request_.budget / 4) return true;
        early_ = pruned_to(table_, early_, layout_.longest, request_.budget / 6, sizeof(uint32_t));
        Levels<S> pruned;
        if (!write(nullptr, early_, false, pruned)) return false;
        table_.swap(pruned);
        return true;
    }

    // Makes the result's table, pruned to its bytes; with the held-out symbols or without.
    bool write_final(Pruning &pruning, bool all) {
        pruning = pruned_to(table_, pruning, layout_.longest, request_.bytes, 1);
        Levels<S> made;
        return write(all ? &held_ : nullptr, pruning, true, made) && pack(made);
    }
    bool pack(const Levels<S> &made) {
        for (Growing<S> *each : {&nodes_, &successors_, &tails_}) each->clear();
        counts_.clear();
        large_.clear();
        levels_.clear();
        int64_t size = 0;
        uint32_t sums[3] = {};  // entries, children, tails
        for (int64_t level = 0; level <= layout_.longest + 1; level++) {
            for (int64_t value : {size, int64_t(sums[2]), tails_.size()}) levels_.push(value);
            if (level > layout_.longest) break;
            const Level<S> &own = made.level[level];
            for (int64_t i = 0; i < own.symbols.size(); i++, size++) {
                if (size % NODES_PER_BLOCK == 0 && !open_block(sums)) return false;
                S *to = nodes_.data() + nodes_.size() - BLOCK + size % NODES_PER_BLOCK;
                to[16] = own.symbols[i];
                to[32] = own.rows[i];
                to[48] = own.children[i];
                sums[0] += own.rows[i];
                sums[1] += own.children[i];
                sums[2] += !own.rows[i];
            }
            for (int64_t i = 0; i < own.tails.size(); i++) tails_.push(own.tails[i]);
            for (int64_t i = 0; i < own.counts.size(); i++) {
                if (own.counts[i] >= LARGE) {
                    large_.push(uint32_t(successors_.size()));
                    large_.push(own.counts[i]);
                }
                counts_.push(uint8_t(std::min<uint32_t>(own.counts[i], LARGE)));
                successors_.push(own.successors[i]);
            }
        }
        for (Growing<S> *each : {&nodes_, &successors_, &tails_})
            if (each->failed()) return false;
        CountsTable &table = packed_;
        table.symbols = request_.symbols, table.boundary = request_.boundary, table.width = sizeof(S);
        table.longest = layout_.longest, table.reach = made.reach;
        table.size = size, table.entries = successors_.size(), table.large_size = large_.size() / 2;
        table.tail_size = tails_.size();
        table.levels = levels_.data(), table.nodes = nodes_.data(), table.successors = successors_.data();
        table.counts = counts_.data(), table.large = large_.data(), table.tails = tails_.data();
        table.discounts = discounts_;
        return !counts_.failed() && !large_.failed() && !levels_.failed() && table.entries <= int64_t(ALL) &&
               size <= int64_t(ALL);
    }
    bool open_block(const uint32_t (&sums)[3]) {
        for (int64_t i = 0; i < BLOCK; i++) nodes_.push(0);
        if (nodes_.failed()) return false;
        std::memcpy(nodes_.data() + nodes_.size() - BLOCK, sums, sizeof sums);
        return true;
    }

    bool fit() {
        const int64_t count = held_.size(), levels = layout_.longest + 1;
        Buffer<Witness> witnesses(count * levels);
        Buffer<int8_t> depths(count);
        if (!witnesses || !depths) return false;
        for (int64_t i = 0; i < count; i++) depths[i] = int8_t(witness(held_[i], witnesses + i * levels));
        const Likelihood likelihood(layout_.symbols, layout_.longest, count, witnesses, depths);
        fit_[0] = double(count);
        fit_[1] = likelihood.nats(x_);
        minimise(likelihood, x_);
        fit_[2] = likelihood.nats(x_);
        return true;
    }
    static uint32_t bounded(int64_t value) { return uint32_t(std::min<int64_t>(value, ALL)); }
    int64_t witness(Key key, Witness *to) const {
        const Lookup<S> lookup(packed_);
        const int64_t symbol = layout_.successor(key);
        int64_t depth = 0;
        const auto note = [&](const Evidence &row) {
            to[depth++] = {bounded(row.total), bounded(row.ones), bounded(row.twos), bounded(row.size),
                           bounded(row.count)};
        };
        lookup.visit(layout_.length(key), [&](int64_t i) { return layout_.part(key, i + 1) - 1; },
                     [&](int64_t, typename Lookup<S>::Row row) { note(lookup.evidence(row, symbol)); },
                     [&](int64_t, int64_t successor) { note(lookup.once(successor == symbol)); });
        return depth;
    }
    void set_discounts() {
        for (int64_t i = 0; i < DISCOUNTS; i++) {
            const double limit = LIMITS[i % CLASSES], least = limit / 1024;
            discounts_[i] = std::min(std::max(Likelihood::discount(x_[i], i), least), limit - least);
        }
    }

    const CountsOpen request_;
    const Layout<Key> layout_;
    int64_t held_size_, room_, at_ = 0;
    Key context_ = 0;
    Growing<Key> keys_, held_;
    Levels<S> table_;  // of occurrences
    Pruning early_;    // what the table has been pruned by
    CountsTable packed_ = {};
    double fit_[3] = {}, x_[DISCOUNTS], discounts_[DISCOUNTS] = {};
    Growing<S> nodes_, successors_, tails_;
    Growing<uint8_t> counts_;
    Growing<uint32_t> large_;
    Growing<int64_t> levels_;
};

template <class Key> Counter *counter_of(const CountsOpen &request, int64_t bits) {
    if (request.symbols <= 255) return new (std::nothrow) CounterOf<Key, uint8_t>(request, bits);
    if (request.symbols <= 65535) return new (std::nothrow) CounterOf<Key, uint16_t>(request, bits);
    return new (std::nothrow) CounterOf<Key, uint32_t>(request, bits);
}

}  // namespace
}  // namespace scriven

SCRIVEN_API int64_t scriven_counts_open(const scriven::CountsOpen *call) {
    using namespace scriven;
    constexpr int64_t most_symbols = int64_t(1) << 22;
    const int64_t symbols = call->symbols, longest = call->longest;
    if (symbols < 1 || symbols > most_symbols || longest < 0 || longest > LONGEST) return bad_argument;
    if (call->boundary < -1 || call->boundary >= symbols || call->total < 0) return bad_argument;
    int64_t bits = 1;
    while ((int64_t(1) << bits) <= symbols) bits++;
    const int64_t all = bits * (longest + 1);
    if (all > 128) return bad_argument;
    *call->counter = all <= 64 ? counter_of<uint64_t>(*call, bits) : counter_of<unsigned __int128>(*call, bits);
    return *call->counter ? ok : no_memory;
}

SCRIVEN_API int64_t scriven_counts_add(const scriven::CountsAdd *call) {
    return static_cast<scriven::Counter *>(call->counter)->add(call->ids, call->count);
}

SCRIVEN_API int64_t scriven_counts_finish(const scriven::CountsFinish *call) {
    return static_cast<scriven::Counter *>(call->counter)->finish(*call);
}

SCRIVEN_API void scriven_counts_close(void *counter) { delete static_cast<scriven::Counter *>(counter); }
