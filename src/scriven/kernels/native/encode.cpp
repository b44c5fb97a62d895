// Symbols -> ids by a table, for text that is read: see kernels/encode.py. What it costs is a small part of decoding,
// hashing and writing, so it has no code for single processors.
#include "common.h"

namespace scriven {
namespace {

constexpr int64_t tables = 4;  // of counts, so that an addition need not wait for the same symbol just before

// Counts symbols of 8 bits.
void count(const uint8_t *symbols, int64_t length, int64_t *counts) {
    constexpr int64_t block = int64_t(1) << 30;  // that no 32 bits overflow in
    for (int64_t start = 0; start < length; start += block) {
        const int64_t end = length - start < block ? length : start + block;
        uint32_t found[tables][256] = {};
        int64_t at = start;
        for (; at + tables <= end; at += tables)
            for (int64_t table = 0; table < tables; table++) found[table][symbols[at + table]]++;
        for (; at < end; at++) found[0][symbols[at]]++;
        for (int64_t symbol = 0; symbol < 256; symbol++) {
            int64_t sum = 0;
            for (const auto &table : found) sum += table[symbol];
            if (sum) counts[symbol] += sum;  // counts may end before the symbols that do not occur
        }
    }
}

// Wider ones: the same one seldom comes twice in a row.
template <typename Symbol>
void count(const Symbol *symbols, int64_t length, int64_t *counts) {
    for (int64_t at = 0; at < length; at++) counts[symbols[at]]++;
}

struct Task {
    const void *symbols;
    int64_t length;
    const int32_t *table;
    int64_t size;  // of the table
    void *ids;
    int64_t *counts;  // of symbols, as many as the table has; or null
};

template <typename Symbol, typename Id>
int64_t translate(const Task &task) {
    const auto *symbols = static_cast<const Symbol *>(task.symbols);
    auto *ids = static_cast<Id *>(task.ids);
    for (int64_t at = 0; at < task.length; at++) {
        if (symbols[at] >= uint64_t(task.size)) return at;
        const int32_t id = task.table[symbols[at]];
        if (id < 0) return at;
        ids[at] = Id(id);
    }
    if (task.counts) count(symbols, task.length, task.counts);
    return task.length;
}

template <typename Symbol>
int64_t translate_to(int64_t id_bytes, const Task &task) {
    if (id_bytes == 1) return translate<Symbol, uint8_t>(task);
    if (id_bytes == 2) return translate<Symbol, uint16_t>(task);
    return id_bytes == 4 ? translate<Symbol, uint32_t>(task) : -1;
}

template <typename Symbol>
int64_t learn(const Symbol *symbols, int64_t length, int32_t *table, int64_t size, int64_t known, int64_t *places) {
    int64_t found = 0;
    for (int64_t at = 0; at < length; at++) {
        if (symbols[at] >= uint64_t(size)) return -1;
        int32_t &id = table[symbols[at]];
        if (id >= 0) continue;
        id = int32_t(known + found);
        places[found++] = at;
    }
    return found;
}

}  // namespace
}  // namespace scriven

// ids[i] = table[symbols[i]], of 1, 2 or 4 bytes each, and counts[symbols[i]] += 1 where counts are wanted.
// Gives `length`; or, where the table has no id (none at all, or below 0), the first such place, nothing counted; or -1
// for other numbers of bytes.
SCRIVEN_API int64_t scriven_text_translate(int64_t symbol_bytes, int64_t id_bytes, const void *symbols, int64_t length,
                                           const int32_t *table, int64_t size, void *ids, int64_t *counts) {
    using namespace scriven;
    const Task task{symbols, length, table, size, ids, counts};
    if (symbol_bytes == 1) return translate_to<uint8_t>(id_bytes, task);
    if (symbol_bytes == 2) return translate_to<uint16_t>(id_bytes, task);
    return symbol_bytes == 4 ? translate_to<uint32_t>(id_bytes, task) : -1;
}

// Gives the symbols without an id (below 0) the ids known, known + 1, ... in the order in which they come, and their
// first places to `places`, which has room for all. Gives how many; -1 for a symbol beyond the table, or other numbers
// of bytes.
SCRIVEN_API int64_t scriven_text_learn(int64_t symbol_bytes, const void *symbols, int64_t length, int32_t *table,
                                       int64_t size, int64_t known, int64_t *places) {
    using namespace scriven;
    if (symbol_bytes == 1) return learn(static_cast<const uint8_t *>(symbols), length, table, size, known, places);
    if (symbol_bytes == 2) return learn(static_cast<const uint16_t *>(symbols), length, table, size, known, places);
    if (symbol_bytes == 4) return learn(static_cast<const uint32_t *>(symbols), length, table, size, known, places);
    return -1;
}
