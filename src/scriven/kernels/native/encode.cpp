// Symbols -> ids by a table; see kernels/encode.py. Its time is small next to decoding, hashing and writing, so it has no
// code for particular processors.
#include "calls.h"
#include "common.h"

namespace scriven {
namespace {

constexpr int64_t tables = 4;  // of counts, so that an addition need not wait for the same symbol just before

// Counts symbols of 8 bits.
void count(const uint8_t *symbols, int64_t length, int64_t *counts) {
    constexpr int64_t block = int64_t(1) << 30;  // 32 bits cannot overflow in a block
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

// Wider symbols: the same one seldom comes twice in a row.
template <typename Symbol>
void count(const Symbol *symbols, int64_t length, int64_t *counts) {
    for (int64_t at = 0; at < length; at++) counts[symbols[at]]++;
}

// Calls are passed by value: no write can change them, so they stay in registers.

template <typename Symbol, typename Id>
int64_t translate(TextTranslate text) {
    const auto *symbols = static_cast<const Symbol *>(text.symbols);
    auto *ids = static_cast<Id *>(text.ids);
    for (int64_t at = 0; at < text.length; at++) {
        if (symbols[at] >= uint64_t(text.size)) return at;
        const int32_t id = text.table[symbols[at]];
        if (id < 0) return at;
        ids[at] = Id(id);
    }
    if (text.counts) count(symbols, text.length, text.counts);
    return text.length;
}

template <typename Symbol>
int64_t translate_to(const TextTranslate &text) {
    if (text.id_bytes == 1) return translate<Symbol, uint8_t>(text);
    if (text.id_bytes == 2) return translate<Symbol, uint16_t>(text);
    return text.id_bytes == 4 ? translate<Symbol, uint32_t>(text) : -1;
}

template <typename Symbol>
int64_t learn(TextLearn text) {
    const auto *symbols = static_cast<const Symbol *>(text.symbols);
    int64_t found = 0;
    for (int64_t at = 0; at < text.length; at++) {
        if (symbols[at] >= uint64_t(text.size)) return -1;
        int32_t &id = text.table[symbols[at]];
        if (id >= 0) continue;
        id = int32_t(text.known + found);
        text.places[found++] = at;
    }
    return found;
}

}  // namespace
}  // namespace scriven

// ids[i] = table[symbols[i]], and counts[symbols[i]] += 1 if there are counts. Returns `length`. If a symbol has no id
// (the table ends before it, or the id is below 0), it returns the first such place, and counts nothing. Returns -1 for
// other numbers of bytes.
SCRIVEN_API int64_t scriven_text_translate(const scriven::TextTranslate *call) {
    using namespace scriven;
    if (call->symbol_bytes == 1) return translate_to<uint8_t>(*call);
    if (call->symbol_bytes == 2) return translate_to<uint16_t>(*call);
    return call->symbol_bytes == 4 ? translate_to<uint32_t>(*call) : -1;
}

// Gives the symbols without an id (below 0) the ids known, known + 1, ... in the order of their appearance, and writes
// their first places. Returns their number, or -1 for a symbol beyond the table and for other numbers of bytes.
SCRIVEN_API int64_t scriven_text_learn(const scriven::TextLearn *call) {
    using namespace scriven;
    if (call->symbol_bytes == 1) return learn<uint8_t>(*call);
    if (call->symbol_bytes == 2) return learn<uint16_t>(*call);
    return call->symbol_bytes == 4 ? learn<uint32_t>(*call) : -1;
}
