// Whether a table of n-grams from a file can be looked up without leaving its arrays, and gives probabilities.
#include "counts.h"
#include "counts_fit.h"

namespace scriven {
namespace {

template <class S> class Check {
  public:
    explicit Check(const CountsTable &table)
        : table_(table), nodes_(static_cast<const S *>(table.nodes)),
          successors_(static_cast<const S *>(table.successors)), tails_(static_cast<const S *>(table.tails)) {}

    bool good() const { return discounts() && levels() && nodes() && large(); }

  private:
    bool discounts() const {
        for (int64_t i = 0; i < (table_.longest + 1) * KINDS * CLASSES; i++)
            if (!(0 < table_.discounts[i] && table_.discounts[i] < LIMITS[i % CLASSES])) return false;
        return true;
    }
    bool levels() const {
        const int64_t *first = table_.levels, *last = first + 3 * (table_.longest + 1);
        if (first[0] || first[1] || first[2] || last[0] != table_.size || last[2] != table_.tail_size) return false;
        for (int64_t level = 0; level <= table_.longest; level++) {
            const int64_t *own = first + 3 * level, *next = own + 3, heads = next[1] - own[1];
            if (next[0] < own[0] || heads < 0 || heads > next[0] - own[0]) return false;
            if (heads && (level > table_.reach || !level) && table_.size > 1) return false;
            const int64_t size = level && level <= table_.reach ? table_.reach - level + 1 : 0;
            if (next[2] != own[2] + heads * size) return false;
        }
        return table_.size >= 1 && first[3] == 1;
    }
    // Sums are at most those of 2^32 nodes with 2^32 each.
    bool nodes() const {
        int64_t entries = 0, child = 1, tails = 0, level = 0;
        for (int64_t node = 0; node < table_.size; node++) {
            const S *block = nodes_ + node / NODES_PER_BLOCK * BLOCK, *own = block + node % NODES_PER_BLOCK;
            uint32_t head[3];
            std::memcpy(head, block, sizeof head);
            if (own == block && (head[0] != entries || head[1] != child - 1 || head[2] != tails)) return false;
            while (level < table_.longest && table_.levels[3 * level + 3] == node) {
                level++;
                if (table_.levels[3 * level + 1] != tails || child != table_.levels[3 * level + 3]) return false;
            }
            const int64_t rows = own[32], children = own[48];
            if (rows > table_.entries - entries || children > table_.size - child) return false;
            if (!rows && children) return false;
            if (children && level == table_.longest) return false;
            if (!rising(rows, [&](int64_t i) { return successors_[entries + i]; })) return false;
            if (!rising(children, [&](int64_t i) { return symbol_of(child + i); })) return false;
            if (!rows && level && !tail(level, tails)) return false;
            tails += !rows;
            entries += rows;
            child += children;
        }
        return entries == table_.entries && child == table_.size && tails == table_.levels[3 * table_.longest + 4];
    }
    bool tail(int64_t level, int64_t number) const {
        const int64_t *own = table_.levels + 3 * level;
        if (level > table_.reach || number < own[1] || number >= own[4]) return false;
        return int64_t(tails_[own[2] + (number - own[1]) * (table_.reach - level + 1)]) < table_.symbols;
    }
    S symbol_of(int64_t node) const {
        return nodes_[node / NODES_PER_BLOCK * BLOCK + 16 + node % NODES_PER_BLOCK];
    }
    template <class At> bool rising(int64_t count, At &&at) const {
        for (int64_t i = 0; i < count; i++)
            if (int64_t(at(i)) >= table_.symbols || (i && at(i) <= at(i - 1))) return false;
        return true;
    }
    bool large() const {
        int64_t found = 0;
        for (int64_t entry = 0; entry < table_.entries; entry++) {
            if (!table_.counts[entry]) return false;
            if (table_.counts[entry] < LARGE) continue;
            const uint32_t *own = table_.large + 2 * found++;
            if (found > table_.large_size || own[0] != entry || own[1] < LARGE) return false;
        }
        return found == table_.large_size;
    }

    const CountsTable &table_;
    const S *nodes_, *successors_, *tails_;
};

}  // namespace
}  // namespace scriven

// Whether a table may be used, whose arrays are as long as it says: `ok` or `bad_argument`.
SCRIVEN_API int64_t scriven_counts_check(const scriven::CountsTable *table) {
    using namespace scriven;
    const int64_t width = table->symbols <= 255 ? 1 : table->symbols <= 65535 ? 2 : 4;
    if (table->symbols < 1 || table->width != width || table->boundary < -1 || table->boundary >= table->symbols)
        return bad_argument;
    if (table->longest < 0 || table->longest > LONGEST || table->reach < 0 || table->reach > table->longest)
        return bad_argument;
    return by_width(width, [&](auto kind) { return Check<decltype(kind)>(*table).good(); }) ? ok : bad_argument;
}
