// Suffix arrays: which stretches of a text stand in another one, the training text; see kernels/suffixes.py.
//
// Suffixes are sorted by induction (Nong, Zhang and Chan: Linear suffix array construction by almost pure
// induced-sorting, 2009). A suffix is small if it is less than the one after it, else large; the empty one is the least
// of all. A small suffix after a large one is a valley. The order of the valleys gives that of all large suffixes, in one
// pass, and these that of all small ones, in another. The valleys are sorted by the same two passes: these sort them as
// far as the next valley, which gives each a name, and the names are a text of half the length at most.
#include "suffixes.h"

namespace scriven {
namespace {

constexpr int32_t ahead = 32;  // places in an order, whose symbols are fetched from memory early
constexpr int64_t short_stretch = 32, kept_stretches = 1024, kept_shifts = 64;
constexpr int compared_bits = 9;

// Calls visit(place) for each valley, from the last to the first.
template <class Symbol, class Visit>
void visit_valleys(const Symbol *text, int32_t length, Visit visit) {
    bool small = false;  // whether the suffix after `place` is
    for (int32_t place = length - 2; place >= 0; place--) {
        if (text[place] < text[place + 1]) {
            small = true;
        } else if (text[place] > text[place + 1]) {
            if (small) visit(place + 1);
            small = false;
        }
    }
}

// The first place of each symbol's suffixes in the order, or with `ends` the place after their last one.
void set_edges(const int32_t *counts, int32_t symbols, bool ends, int32_t *edges) {
    int32_t sum = 0;
    for (int32_t symbol = 0; symbol < symbols; symbol++) {
        sum += counts[symbol];
        edges[symbol] = ends ? sum : sum - counts[symbol];
    }
}

template <class Symbol> void fetch(const Symbol *text, int32_t place) {
    const int32_t wanted = place < 0 ? ~place : place;
    __builtin_prefetch(text + (wanted ? wanted - 1 : 0));
}

// Sorts all suffixes, given the valleys at the ends of their symbols' parts of the order, and 0 elsewhere. A place is
// kept as its complement, below 0, where the suffix before it is not of the kind that a pass sorts.
template <class Symbol>
void induce(const Symbol *text, int32_t length, const int32_t *counts, int32_t symbols, int32_t *edges, int32_t *order) {
    set_edges(counts, symbols, false, edges);
    const auto put_large = [&](int32_t place) {
        const Symbol symbol = text[place];
        order[edges[symbol]++] = place > 0 && text[place - 1] < symbol ? ~place : place;
    };
    put_large(length - 1);
    for (int32_t i = 0; i < length; i++) {
        if (i + ahead < length) fetch(text, order[i + ahead]);
        const int32_t place = order[i];
        order[i] = ~place;
        if (place > 0) put_large(place - 1);
    }
    set_edges(counts, symbols, true, edges);
    for (int32_t i = length - 1; i >= 0; i--) {
        if (i >= ahead) fetch(text, order[i - ahead]);
        const int32_t place = order[i];
        if (place <= 0) {
            order[i] = ~place;
            continue;
        }
        const int32_t before = place - 1;
        const Symbol symbol = text[before];
        order[--edges[symbol]] = before == 0 || text[before - 1] > symbol ? ~before : before;
    }
}

// Moves the valleys to the front of the order of all suffixes. Returns their number, or -1 without memory.
template <class Symbol> int32_t gather_valleys(const Symbol *text, int32_t length, int32_t *order) {
    const Buffer<uint64_t> bits(length / 64 + 1);
    if (!bits) return -1;
    memset(bits, 0, (length / 64 + 1) * sizeof(uint64_t));
    visit_valleys(text, length, [&](int32_t place) { bits[place / 64] |= uint64_t(1) << place % 64; });
    int32_t count = 0;
    for (int32_t i = 0; i < length; i++) {
        const int32_t place = order[i];
        order[count] = place;
        count += bits[place / 64] >> place % 64 & 1;
    }
    return count;
}

// Names the sorted valleys at the front of the order by what each has up to the next one, that included: equal ones
// have one name. The names, from 0 on, are written to the end of the order, in the order of the text. Returns how many
// there are.
template <class Symbol> int32_t name_valleys(const Symbol *text, int32_t length, int32_t *order, int32_t valleys) {
    int32_t *at = order + valleys;  // of each valley: no two are next to each other, so that half of its place is its own
    for (int32_t i = valleys; i < length; i++) order[i] = 0;
    int32_t next = length;
    visit_valleys(text, length, [&](int32_t place) {
        at[place / 2] = (next < length ? next + 1 : length) - place;
        next = place;
    });
    int32_t names = 0, last = -1, last_size = 0;
    for (int32_t i = 0; i < valleys; i++) {
        const int32_t place = order[i], size = at[place / 2];
        bool same = last >= 0 && size == last_size && place + size < length && last + size < length;
        for (int32_t k = 0; same && k < size; k++) same = text[place + k] == text[last + k];
        if (!same) names++, last = place, last_size = size;
        at[place / 2] = names;
    }
    int32_t end = length;
    for (int32_t i = length - 1; i >= valleys; i--)
        if (order[i]) order[--end] = order[i] - 1;
    return names;
}

// Puts the sorted valleys, at the front of the order, to the ends of their symbols' parts.
template <class Symbol>
void spread_valleys(const Symbol *text, int32_t length, int32_t *edges, int32_t *order, int32_t valleys) {
    for (int32_t i = valleys; i < length; i++) order[i] = 0;
    for (int32_t i = valleys - 1; i >= 0; i--) {
        const int32_t place = order[i];
        order[i] = 0;
        order[--edges[text[place]]] = place;
    }
}

// Writes the places of all suffixes, sorted, to `order` (length,). Symbols are below `symbols`.
template <class Symbol> Status sort_suffixes(const Symbol *text, int32_t length, int32_t symbols, int32_t *order) {
    if (!length) return ok;
    const Buffer<int32_t> counts(symbols), edges(symbols);
    if (!counts || !edges) return no_memory;
    memset(counts, 0, symbols * sizeof(int32_t));
    for (int32_t i = 0; i < length; i++) counts[text[i]]++;
    memset(order, 0, length * sizeof(int32_t));
    set_edges(counts, symbols, true, edges);
    visit_valleys(text, length, [&](int32_t place) { order[--edges[text[place]]] = place; });
    induce(text, length, counts, symbols, edges, order);
    const int32_t valleys = gather_valleys(text, length, order);
    if (valleys < 0) return no_memory;
    if (valleys > 1) {
        const int32_t names = name_valleys(text, length, order, valleys);
        if (names < valleys) {
            int32_t *shorter = order + length - valleys, last = valleys;
            const Status status = sort_suffixes(shorter, valleys, names, order);
            if (status != ok) return status;
            visit_valleys(text, length, [&](int32_t place) { shorter[--last] = place; });
            for (int32_t i = 0; i < valleys; i++) order[i] = shorter[order[i]];
        }
    }
    set_edges(counts, symbols, true, edges);
    spread_valleys(text, length, edges, order, valleys);
    induce(text, length, counts, symbols, edges, order);
    return ok;
}

template <class Symbol> Status sort_text(const SuffixSort &call) {
    const auto *text = static_cast<const Symbol *>(call.text);
    for (int64_t i = 0; i < call.length; i++)
        if (int64_t(text[i]) >= call.symbols) return bad_argument;
    return sort_suffixes(text, int32_t(call.length), int32_t(call.symbols), call.order);
}

// A block of the text, whose order may come from a damaged file: no place outside of the text is looked at.
template <class Symbol> struct View {
    const Symbol *text;
    const int32_t *order;
    int64_t length, count;

    explicit View(const SuffixBlock &block)
        : text(static_cast<const Symbol *>(block.text)), order(block.order), length(block.length), count(block.count) {}

    int64_t size(int64_t place) const { return place >= 0 && place < length ? length - place : 0; }

    // How many ids of a query the suffix at a place begins with, of which `known` are known already.
    int64_t common(int64_t place, const int64_t *ids, int64_t count, int64_t known) const {
        const int64_t most = size(place) < count ? size(place) : count;
        int64_t same = known < most ? known : most;
        while (same < most && int64_t(text[place + same]) == ids[same]) same++;
        return same;
    }

    // Whether a suffix comes before a query, with which it begins for `same` ids.
    bool is_before(int64_t place, const int64_t *ids, int64_t count, int64_t same) const {
        return same < count && (same >= size(place) || int64_t(text[place + same]) < ids[same]);
    }
};

// The first suffix in an order that does not come before a query, and the longest beginning that suffixes there share
// with it.
struct Found {
    int64_t first, length, place;
};

// Finds a query of `count` ids in an order. `common(place, known)` says how many of them the suffix at a place begins with.
template <class Symbol, class Common>
Found find(const View<Symbol> &view, const int64_t *ids, int64_t count, Common common) {
    Found found = {0, 0, -1};
    int64_t last = view.count, low = 0, high = 0;  // and what the suffixes just outside of them share with the query
    while (found.first < last) {
        const int64_t middle = found.first + (last - found.first) / 2, place = view.order[middle];
        const int64_t same = common(place, low < high ? low : high);
        if (same > found.length) found.length = same, found.place = place;
        if (view.is_before(place, ids, count, same)) {
            found.first = middle + 1, low = same;
        } else {
            last = middle, high = same;
        }
    }
    return found;
}

// Where long stretches end that two texts share, by how far apart they are: if one at p is like the other at i for n ids,
// then at p + 1 it is like the other at i + 1 for n - 1 ids. A new stretch takes the place of an old one.
template <int64_t size> class StretchEnds {
  public:
    // How many ids are alike from `start` on, and from `offset` ids later on in the other text, if that is kept; else -1.
    int64_t length(int64_t offset, int64_t start) const {
        const Stretch &kept = stretches[uint64_t(offset) % size];
        return kept.offset == offset && kept.start <= start && start < kept.end ? kept.end - start : -1;
    }

    void keep(int64_t offset, int64_t start, int64_t end) {
        stretches[uint64_t(offset) % size] = {offset, start, end};
    }

  private:
    struct Stretch {
        int64_t offset, start, end;
    };
    Stretch stretches[size] = {};
};

// Compares the suffixes of a text with a query from one of its places after the other, so that no long stretch is read
// again from each of them. In a copied text, a stretch ends where it did before. In a text that repeats itself, the query is
// like itself some ids before, where the suffix was compared with it already.
template <class Symbol> class LongStretches {
  public:
    LongStretches(const View<Symbol> &view, const int64_t *ids) : view(view), ids(ids) {}

    // How many of `count` ids from `start` on the suffix at a place begins with, of which `known` are known already.
    // They end where a document does, at the same id for all places of it.
    int64_t common(int64_t place, int64_t start, int64_t count, int64_t known) {
        const int64_t few = known + short_stretch < count ? known + short_stretch : count;
        const int64_t same = view.common(place, ids + start, few, known);
        if (same < known + short_stretch) return same;
        const int64_t kept = ends.length(place - start, start);
        if (kept >= 0) return kept;
        Compared &before = compared[uint64_t(place) * 0x9E3779B97F4A7C15u >> (64 - compared_bits)];
        const int64_t length = before.place == place && before.end == start + count && before.start < start
                                   ? compare_again(before, place, start, count, same)
                                   : view.common(place, ids + start, count, same);
        ends.keep(place - start, start, start + length);
        before = {place, start, length, start + count};
        return length;
    }

  private:
    // A suffix that was compared with the query at `start`, which ends at `end`.
    struct Compared {
        int64_t place, start, length, end;
    };

    int64_t compare_again(const Compared &before, int64_t place, int64_t start, int64_t count, int64_t same) {
        const int64_t alike = common_in_query(before.start, start, count);
        if (alike < before.length) return alike;
        if (alike > before.length) return before.length;
        return view.common(place, ids + start, count, alike > same ? alike : same);
    }

    // How many ids of the query are the same from two of its places on, of `count` from the later one.
    int64_t common_in_query(int64_t first, int64_t second, int64_t count) {
        const int64_t kept = own_ends.length(first - second, second);
        if (kept >= 0) return kept;
        int64_t alike = 0;
        while (alike < count && ids[first + alike] == ids[second + alike]) alike++;
        own_ends.keep(first - second, second, second + alike);
        return alike;
    }

    const View<Symbol> &view;
    const int64_t *ids;
    StretchEnds<kept_stretches> ends;
    StretchEnds<kept_shifts> own_ends;
    Compared compared[1 << compared_bits] = {};
};

// Calls visit(symbol) for each symbol that follows a query somewhere in a block, once for each.
template <class Symbol, class Visit>
void visit_followers(const View<Symbol> &view, const int64_t *ids, int64_t count, Visit visit) {
    const auto common = [&](int64_t place, int64_t known) { return view.common(place, ids, count, known); };
    int64_t at = find(view, ids, count, common).first;
    while (at < view.count) {
        const int64_t place = view.order[at];
        if (view.common(place, ids, count, 0) < count) return;
        if (view.size(place) == count) {  // it ends there, with the block
            at++;
            continue;
        }
        const Symbol symbol = view.text[place + count];
        visit(symbol);
        const auto is_after = [&](int64_t there) {
            const int64_t other = view.order[there];
            return view.common(other, ids, count, 0) < count || view.size(other) == count ||
                   view.text[other + count] > symbol;
        };
        int64_t step = 1;
        while (at + step < view.count && !is_after(at + step)) at += step, step *= 2;
        int64_t last = at + step < view.count ? at + step : view.count;
        at++;
        while (at < last) {
            const int64_t middle = at + (last - at) / 2;
            if (is_after(middle)) last = middle;
            else at = middle + 1;
        }
    }
}

template <class Symbol>
void mark(const SuffixIndex &index, const int64_t *ids, int64_t count, int64_t symbols, uint8_t *found) {
    for (int64_t i = 0; i < index.blocks; i++)
        visit_followers(View<Symbol>(index.block[i]), ids, count, [&](Symbol symbol) {
            if (int64_t(symbol) < symbols && int64_t(symbol) != index.separator) found[symbol] = 1;
        });
}

template <class Symbol> void match(const SuffixMatch &call) {
    const SuffixIndex &index = *call.index;
    for (int64_t start = call.first; start < call.last; start++)
        call.lengths[start] = call.blocks[start] = 0, call.places[start] = -1;
    for (int64_t block = 0; block < index.blocks; block++) {
        const View<Symbol> view(index.block[block]);
        LongStretches<Symbol> stretches(view, call.ids);
        int64_t end = call.first;  // of the document of the query
        for (int64_t start = call.first; start < call.last; start++) {
            if (call.ids[start] == index.separator) continue;
            if (end <= start)
                for (end = start; end < call.length && call.ids[end] != index.separator;) end++;
            const int64_t count = end - start;
            const Found found = find(view, call.ids + start, count, [&](int64_t place, int64_t known) {
                return stretches.common(place, start, count, known);
            });
            if (found.length > call.lengths[start])
                call.lengths[start] = found.length, call.blocks[start] = block, call.places[start] = found.place;
        }
    }
}

}  // namespace

void mark_followers(const SuffixIndex &index, const int64_t *ids, int64_t count, int64_t symbols, uint8_t *found) {
    if (index.width == 1) mark<uint8_t>(index, ids, count, symbols, found);
    if (index.width == 2) mark<uint16_t>(index, ids, count, symbols, found);
    if (index.width == 4) mark<uint32_t>(index, ids, count, symbols, found);
}

}  // namespace scriven

SCRIVEN_API int64_t scriven_suffix_sort(const scriven::SuffixSort *call) {
    using namespace scriven;
    if (call->length < 0 || call->length > INT32_MAX || call->symbols < 1 || call->symbols > INT32_MAX)
        return bad_argument;
    if (call->width == 1) return sort_text<uint8_t>(*call);
    if (call->width == 2) return sort_text<uint16_t>(*call);
    return call->width == 4 ? sort_text<uint32_t>(*call) : bad_argument;
}

SCRIVEN_API int64_t scriven_suffix_match(const scriven::SuffixMatch *call) {
    using namespace scriven;
    if (call->first < 0 || call->first > call->last || call->last > call->length) return bad_argument;
    if (call->index->width == 1) match<uint8_t>(*call);
    else if (call->index->width == 2) match<uint16_t>(*call);
    else if (call->index->width == 4) match<uint32_t>(*call);
    else return bad_argument;
    return ok;
}

SCRIVEN_API int64_t scriven_suffix_follow(const scriven::SuffixFollow *call) {
    using namespace scriven;
    mark_followers(*call->index, call->ids, call->count, call->symbols, call->found);
    return ok;
}
