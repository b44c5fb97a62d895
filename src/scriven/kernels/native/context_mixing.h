// A model of a sequence of symbols that learns while it reads: see kernels/context_mixing.py.
//
// It predicts a symbol bit by bit, the highest first, each from the bits before it and from what came after contexts like
// the present one. In the row of a context, each bit that can come has a history: how many zeros and ones came, and the
// last ones if they are few. Two adaptive tables for each kind of context turn a history into probabilities. A context
// also has its run: the symbol that came last, and how often in a row it did. Small
// networks of one layer mix these; each has a table of weights, from which it takes those of its own kind of context, and
// learns after each bit. Two more mix what the networks say. Mahoney (2005) calls this context mixing.
//
// There are integers only: a reader of the same symbols has the same probabilities to the bit on every processor.
#pragma once

#include <algorithm>

#include "calls.h"
#include "common.h"

namespace scriven {
namespace {

// ln(p / (1 - p)) in 256ths, and back. Probabilities are in 65536ths.
class Logistic {
  public:
    static constexpr int most = 3071;

    Logistic() {
        double power = 1;  // e to the (x / 256)
        for (int x = 0; x <= most; x++, power *= 1.00391388933834757) {
            const int p = std::min(int(65536 * (power / (1 + power)) + 0.5), 65535);
            squashed_[most + x] = uint16_t(p);
            squashed_[most - x] = uint16_t(65536 - p);
        }
        int x = -input;
        for (int i = 0; i < steps; i++) {
            while (x < input && squash(x) < (2 * i + 1) * 65536 / (2 * steps)) x++;
            stretched_[i] = int16_t(x);
        }
    }
    int squash(int x) const { return squashed_[most + std::clamp(x, -most, most)]; }
    int stretch(int p) const { return stretched_[p * steps / 65536]; }  // within -2047 and 2047
    static constexpr int input = 2047;

  private:
    static constexpr int steps = 4096;
    uint16_t squashed_[2 * most + 1];
    int16_t stretched_[steps];
};

// The histories of a bit, numbered: state 0 is the empty one. Up to four bits are remembered in their order; after that,
// how many zeros and ones there were, and the last bit. A bit makes large counts of the other one smaller.
struct Histories {
    uint8_t next[256][2], zeros[256], ones[256];
    uint16_t start[256];  // the probability of a one, before anything is learned

    Histories() {
        State states[256] = {};
        int count = 1;
        for (int i = 0; i < count; i++) {
            for (int bit = 0; bit < 2; bit++) {
                const State state = after(states[i], bit);
                int at = 0;
                while (at < count && !(states[at] == state)) at++;
                if (at == count) states[count++] = state;
                next[i][bit] = uint8_t(at);
            }
            const int zero = states[i].counts[0], one = states[i].counts[1];
            zeros[i] = uint8_t(zero);
            ones[i] = uint8_t(one);
            start[i] = uint16_t((10 * one + 4) * 65536 / (10 * (zero + one) + 8));
        }
    }

  private:
    static constexpr int remembered = 4, last = 64;

    struct State {
        int counts[2], bits;  // the bits after a leading one; or the last one, plus `last`
        bool operator==(const State &other) const {
            return counts[0] == other.counts[0] && counts[1] == other.counts[1] && bits == other.bits;
        }
    };

    static State after(State state, int bit) {
        constexpr int bounds[] = {41, 40, 12, 7, 5, 4};  // of the larger count, by the smaller one
        constexpr int lowered[] = {0, 1, 2, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7};
        int &own = state.counts[bit], &other = state.counts[1 - bit];
        if (own + other < remembered) {
            state.bits = 2 * (state.bits ? state.bits : 1) + bit;
        } else {
            state.bits = last + bit;
            other = other > 13 ? 7 : lowered[other];
        }
        own++;
        int &less = own < other ? own : other, &more = own < other ? other : own;
        less = std::min(less, 5);
        more = std::min(more, bounds[less]);
        return state;
    }
};

// One of its kind, made when it is first used.
template <class Table> const Table &shared() {
    static const Table made;
    return made;
}

inline uint64_t hash(uint64_t a, uint64_t b) {
    uint64_t x = (a + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u ^ (b + 0x632be59bd9b4e019u) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    x *= 0x9e3779b97f4a7c15u;
    return x ^ x >> 29;
}

// Values as they were before they changed. It has room for what one symbol changes, along one path of its bits.
class Journal {
  public:
    explicit Journal(int64_t bytes) : bytes_(bytes) {}
    bool failed() const { return !bytes_; }
    int64_t size() const { return size_; }

    template <class T> void operator()(T *values, int64_t count = 1) {
        const Entry entry{values, count * int64_t(sizeof(T))};
        put(values, entry.bytes);
        put(&entry, sizeof(Entry));
    }
    // Gives values back as they were when the journal had this size.
    void undo(int64_t size) {
        while (size_ > size) {
            Entry entry;
            take(&entry, sizeof(Entry));
            take(entry.values, entry.bytes);
        }
    }

  private:
    struct Entry {
        void *values;
        int64_t bytes;
    };
    void put(const void *from, int64_t bytes) {
        std::memcpy(bytes_ + size_, from, size_t(bytes));
        size_ += bytes;
    }
    void take(void *to, int64_t bytes) {
        size_ -= bytes;
        std::memcpy(to, bytes_ + size_, size_t(bytes));
    }
    Buffer<uint8_t> bytes_;
    int64_t size_ = 0;
};

// What changes without a journal.
struct NoJournal {
    template <class T> void operator()(T *, int64_t = 1) const {}
};

// What the next symbol is, and what came before it. Symbols are numbers from 0 to V - 1, of at most 65536.
class ContextMixer {
  public:
    static constexpr int most_others = 2;  // models whose frequencies it mixes

    ContextMixer(int64_t symbols, const int32_t *kinds, int64_t memory_bits)
        : symbols_(symbols), bits_(symbols <= 256 ? 8 : symbols <= 4096 ? 12 : 16),
          row_mask_((uint64_t(1) << (memory_bits - 4)) - 1), hash_bits_(memory_bits - 6), kinds_(symbols),
          used_(symbols + 1), sums_(most_others * (symbols + 1)), rows_(int64_t(1) << memory_bits), runs_(int64_t(row_mask_ + 1)),
          recent_(int64_t(row_mask_ + 1)), found_(int64_t(matches) << hash_bits_), weights_(selections * padded), maps_(contexts * 256), fine_maps_(contexts * 65536),
          refined_(refiners * refined) {
        if (failed()) return;
        std::copy_n(kinds, symbols, static_cast<int32_t *>(kinds_));
        used_[0] = 0;
        for (int64_t i = 0; i < symbols; i++) used_[i + 1] = used_[i] + (kinds[i] != unused);
        std::memset(rows_, 0, size_t(1) << memory_bits);
        std::memset(runs_, 0, size_t(row_mask_ + 1) * sizeof(uint32_t));
        std::memset(found_, 0, (size_t(matches) << hash_bits_) * sizeof(uint32_t));
        std::fill_n(static_cast<int32_t *>(weights_), selections * padded, one / 20);
        for (int i = 0; i < selections; i++) weights_[i * padded + others] = one / 3;
        for (int i = 0; i < contexts * 256; i++) maps_[i] = first_entry(histories_.start[i % 256]);
        for (int i = 0; i < contexts * 65536; i++) fine_maps_[i] = maps_[i % 256];
        uint16_t row[33];
        for (int i = 0; i < 33; i++) row[i] = uint16_t(logistic_.squash((i - 16) * 128));
        for (int i = 0; i < refiners * refined; i += 33) std::copy_n(row, 33, refined_ + i);
        for (auto &rows : final_)
            for (auto &row : rows) std::fill_n(row, sets, one / sets);
        for (auto &ways : run_maps_)
            for (auto &lengths : ways) std::fill_n(lengths, longest_run + 1, first_entry(62000));
        for (auto &lengths : matched_) std::fill_n(lengths, longest_match + 1, first_entry(60000));
        for (int i = 0; i < 1024; i++) reciprocals_[i] = 10 * one / (10 * i + 16);
        begin();
    }
    bool failed() const {
        return !kinds_ || !used_ || !sums_ || !rows_ || !runs_ || !recent_ || !found_ || !weights_ || !maps_ || !fine_maps_ || !refined_;
    }

    bool knows(int64_t symbol) const { return symbol >= 0 && symbol < symbols_ && kinds_[symbol] != unused; }

    // Takes the next symbol bit by bit: `code(p, place)` gives the bit at a place of the symbol. Its probability to be 1
    // is p / 65536, from 1 to 65535. A bit that only one value leaves a symbol for is not asked for. `frequencies`
    // (others, V), the sums of whose rows have 32 bits, are other models' predictions of the symbol.
    template <class Code> int64_t take(const uint32_t *frequencies, int others, Code &&code) {
        add_up(frequencies, others);
        NoJournal journal;
        int64_t low = 0, high = int64_t(1) << bits_;  // the symbols that it can still be
        for (place_ = 0; place_ < bits_; place_++) {
            const int64_t middle = (low + high) / 2;
            if (place_ % 4 == 0) look_up(journal);
            const bool zeros = any(low, middle), ones = any(middle, high);
            int bit = ones;
            if (zeros && ones) {
                predict(low, middle, std::min(high, symbols_));
                bit = code(probability_, bits_ - 1 - place_);
                learn(bit, journal);
            }
            (bit ? low : high) = middle;
            partial_ = 2 * partial_ + uint32_t(bit);
        }
        extend_runs(uint16_t(low));
        remember(uint16_t(low), true);
        begin();
        return low;
    }

    // Takes a symbol as one that comes before the next ones, and learns nothing from it.
    void observe(int64_t symbol) {
        remember(uint16_t(symbol), false);
        begin();
    }

    // The probability (V,) of each symbol to be the next one, to the bit as `take` would have it. All that it changes is
    // undone, with a journal of `journal_bytes`.
    void distribute(const uint32_t *frequencies, int others, double *probabilities, Journal &journal) {
        add_up(frequencies, others);
        std::fill_n(probabilities, symbols_, 0.0);
        place_ = 0;
        spread(0, int64_t(1) << bits_, 1, probabilities, journal);
        partial_ = 1;
    }
    static constexpr int64_t journal_bytes = 1 << 18;  // 16 bits change less than 16 thousand bytes each

  private:
    static constexpr int one = 65536;
    static constexpr int contexts = 20, matches = 2, sets = 7, refiners = 2;
    static constexpr int per_context = 5, others = per_context * contexts + 2 * matches;
    static constexpr int inputs = others + 2 * most_others + 1, padded = (inputs + 15) / 16 * 16;
    static constexpr int selections = 768 + 256 + 4 * 2048 + 18;  // of weights, of all sets
    static constexpr int refined = 65536 * 33;
    static constexpr int longest_match = 63, longest_run = 31;

    struct Match {
        uint64_t at = 0;  // where the symbol is that it expects
        int length = 0;   // how many symbols before it are those that came now; 0: there is no match
        uint32_t expected = 0;
    };

    struct Run {
        uint16_t symbol;
        int length;  // 0: there is none
    };

    uint16_t back(uint64_t distance) const { return distance > count_ ? 0 : at(count_ - distance); }
    uint16_t at(uint64_t place) const { return recent_[place & row_mask_]; }
    uint64_t above() const {  // the symbol in the line before, in the same column
        const uint64_t place = previous_line_ + column_;
        return place < line_ && count_ - place <= row_mask_ ? at(place) : 0;
    }

    void add_up(const uint32_t *frequencies, int others) {
        others_ = others;
        for (int other = 0; other < others; other++) {
            uint64_t *sums = sums_ + other * (symbols_ + 1);
            sums[0] = 0;
            for (int64_t i = 0; i < symbols_; i++) sums[i + 1] = sums[i] + frequencies[other * symbols_ + i];
        }
    }

    // Shares a probability among the symbols from `low` to `high` - 1, whose first bits are known.
    void spread(int64_t low, int64_t high, double probability, double *to, Journal &journal) {
        if (place_ == bits_) {
            to[low] = probability;
            return;
        }
        const int place = place_;
        const uint32_t partial = partial_;
        const int64_t middle = (low + high) / 2, before = journal.size();
        const bool zeros = any(low, middle), ones = any(middle, high);
        journal(row_, contexts);
        if (place % 4 == 0) look_up(journal);
        for (int bit = 0; bit < 2; bit++) {
            if (!(bit ? ones : zeros)) continue;
            const int64_t changed = journal.size();
            double share = 1;
            journal(match_, matches);
            if (zeros && ones) {
                predict(low, middle, std::min(high, symbols_));
                share = double(bit ? probability_ : one - probability_) / one;
                learn(bit, journal);
            }
            place_ = place + 1;
            partial_ = 2 * partial + uint32_t(bit);
            spread(bit ? middle : low, bit ? high : middle, probability * share, to, journal);
            journal.undo(changed);
            place_ = place;
            partial_ = partial;
        }
        journal.undo(before);
    }

    // Whether there is a symbol from `low` to `high` - 1 that can come.
    bool any(int64_t low, int64_t high) const {
        return low < symbols_ && used_[std::min(high, symbols_)] > used_[low];
    }

    // Prepares for a new symbol.
    void begin() {
        const uint64_t first = back(1), second = back(2), third = back(3), fourth = back(4);
        int i = 0;
        const auto put = [&](uint64_t value) {
            contexts_[i] = hash(value, uint64_t(i));
            __builtin_prefetch(&runs_[contexts_[i] & row_mask_]);
            __builtin_prefetch(row_of(hash(contexts_[i], 1)));
            i++;
        };
        uint64_t order = 0;
        put(order);
        for (uint64_t distance = 1; distance <= 8; distance++) put(order = hash(order, back(distance)));
        put(hash(words_[0], first));
        put(hash(words_[0], words_[1]));
        put(hash(hash(words_[0], words_[1]), words_[2]));
        put(hash(hash(words_[0], first), words_[2]));
        put(second << 16 | fourth);
        put(second << 16 | third);
        put(first << 16 | fourth);
        put(hash(line_start_, first));
        put(hash(std::min<uint64_t>(column_, 255), hash(above(), first)));
        put(letters_);
        put(hash(words_[0], sign_));
        for (i = 0; i < contexts; i++) {
            const uint32_t entry = runs_[contexts_[i] & row_mask_];
            run_[i] = entry >> 24 == contexts_[i] >> 56 ? Run{uint16_t(entry), int(entry >> 16 & 255)} : Run{};
        }
        partial_ = 1;
    }

    // Counts the symbol that came after each context. A new context takes the place of another one.
    void extend_runs(uint16_t symbol) {
        for (int i = 0; i < contexts; i++) {
            const int length = run_[i].length && run_[i].symbol == symbol ? std::min(run_[i].length + 1, longest_run) : 1;
            runs_[contexts_[i] & row_mask_] = uint32_t(contexts_[i] >> 56 << 24) | uint32_t(length) << 16 | symbol;
        }
    }

    // Whether the bits so far are those of the symbol that came last.
    bool runs_on(int context) const {
        return run_[context].length && (run_[context].symbol | 1u << bits_) >> (bits_ - place_) == partial_;
    }
    int run_bit(int context) const { return run_[context].symbol >> (bits_ - 1 - place_) & 1; }
    uint32_t &run_entry(int context) { return run_maps_[context][place_ >= bits_ / 2][run_[context].length]; }

    template <class Log> void look_up(Log &journal) {
        uint64_t numbers[contexts];
        for (int i = 0; i < contexts; i++) {
            numbers[i] = hash(contexts_[i], partial_);
            __builtin_prefetch(row_of(numbers[i]));
        }
        for (int i = 0; i < contexts; i++) row_[i] = find(numbers[i], journal);
    }

    uint8_t *row_of(uint64_t number) { return rows_ + (number & row_mask_) * 16; }

    // The row of a context and of the bits so far: a byte to check it, and the histories of the next four bits, by the
    // bits before. A new row takes the place of that of three which has come least.
    template <class Log> uint8_t *find(uint64_t number, Log &journal) {
        const uint8_t check = uint8_t(number >> 56);
        uint8_t *rarest = nullptr;
        int least = 1 << 16;
        for (uint64_t neighbour = 0; neighbour < 3; neighbour++) {
            uint8_t *row = rows_ + ((number & row_mask_) ^ neighbour) * 16;
            if (row[0] == check) return row;
            const int came = histories_.zeros[row[1]] + histories_.ones[row[1]];
            if (came < least) least = came, rarest = row;
        }
        journal(rarest, 16);
        std::memset(rarest, 0, 16);
        rarest[0] = check;
        return rarest;
    }

    static uint32_t first_entry(int probability) { return uint32_t(probability) << 16; }

    // An entry has a probability in 22 bits, and in 10 the number of bits that it has learned from.
    void adapt(uint32_t &entry, int bit) const {
        const uint32_t count = entry % 1024;
        const int32_t p = int32_t(entry / 1024), error = bit * 4194303 - p;
        const int64_t change = int64_t(error / 8) * reciprocals_[count] / 8192;  // the product needs 36 bits
        entry = uint32_t(p + change) * 1024 + std::min<uint32_t>(count + 1, 1000);
    }

    // Two inputs for a probability: its logarithm against that of the contrary, and how far it is from a half.
    void put(int &i, int p, int sign = 1) {
        inputs_[i++] = sign * logistic_.stretch(p);
        inputs_[i++] = sign * ((p - one / 2) / 32);
    }

    void predict(int64_t low, int64_t middle, int64_t high) {
        const uint32_t within = place_ % 4 ? (partial_ & ((1u << place_ % 4) - 1)) | 1u << place_ % 4 : 1;
        int i = 0, known = 0;
        std::fill_n(inputs_, padded, 0);
        for (int context = 0; context < contexts; context++) {
            history_[context] = row_[context] + within;
            const uint8_t state = *history_[context];
            if (state) {
                put(i, int(maps_[context * 256 + state] >> 16));
                const bool certain = !histories_.zeros[state] || !histories_.ones[state];
                inputs_[i] = certain ? inputs_[i - 2] : 0;
                inputs_[i + 1] = logistic_.stretch(int(fine_entry(context, state) >> 16));
                i += 2;
                known += context >= 1 && context <= 8;
            } else {
                i += per_context - 1;
            }
            if (runs_on(context)) {
                const int likely = logistic_.stretch(int(run_entry(context) >> 16));
                inputs_[i] = run_bit(context) ? likely : -likely;
            }
            i++;
        }
        for (int each = 0; each < matches; each++) {
            Match &match = match_[each];
            if (match.length && (match.expected | 1u << bits_) >> (bits_ - place_) != partial_) match.length = 0;
            if (match.length) put(i, int(entry_of(each) >> 16), expected_bit(each) ? 1 : -1);
            else i += 2;
        }
        for (int other = 0; other < others_; other++) {
            const uint64_t *sums = sums_ + other * (symbols_ + 1);
            const uint64_t all = sums[high] - sums[low], ones = sums[high] - sums[middle];
            if (all) put(i, int(ones * (one - 1) / all));
            else i += 2;
        }
        inputs_[inputs - 1] = 256;
        mix(known);
        refine();
    }

    uint32_t &fine_entry(int context, uint8_t state) {
        return fine_maps_[context * 65536 + int(partial_ % 256) * 256 + state];
    }
    uint32_t &entry_of(int match) { return matched_[match][std::min(match_[match].length, longest_match)]; }
    int expected_bit(int match) const { return match_[match].expected >> (bits_ - 1 - place_) & 1; }

    // What each set of weights says, and what they say together.
    void mix(int known) {
        const uint32_t bits = partial_ & 255, first = back(1), second = back(2);
        const int shorter = std::min(match_[0].length, 15) + (match_[0].length > 0);
        const int longer = match_[1].length ? std::min(match_[1].length, longest_match) / 4 + 1 : 0;
        const int kinds = (kinds_[first] > 0) + 2 * (kinds_[first] == -1) + 4 * (kinds_[second] > 0);
        const int in_word = int(std::min<uint64_t>(letters_in_word_, 15)) * 16;
        const int place = place_ % 8 * 256;
        const int selected[sets] = {
            int(bits) + 256 * (shorter ? longer ? 2 : 1 : 0), 768 + int(first & 255),
            1024 + std::min(known, 7) * 256 + int(bits),      3072 + std::min(longer, 7) * 256 + shorter * 16 % 256,
            5120 + place + int(second & 255),                 7168 + place + in_word + kinds,
            9216 + (others_ ? 1 + (inputs_[others] + 2048) / 256 : 0)};
        final_row_[0] = final_[0][bits];
        final_row_[1] = final_[1][std::min(known, 7) * 32 + longer];
        int64_t together[2] = {};
        for (int set = 0; set < sets; set++) {
            set_weights_[set] = weights_ + int64_t(selected[set]) * padded;
            int32_t sum = 0;
            for (int i = 0; i < padded; i++) sum += set_weights_[set][i] * inputs_[i] >> 8;
            said_[set] = std::clamp(sum / 256, -Logistic::input, Logistic::input);
            for (int i = 0; i < 2; i++) together[i] += int64_t(final_row_[i][set]) * said_[set];
        }
        for (int i = 0; i < 2; i++)
            finally_[i] = int(std::clamp<int64_t>(together[i] / one, -Logistic::most, Logistic::most));
        mixed_ = (finally_[0] + finally_[1]) / 2;
    }

    // The mean of two tables' probabilities, by the mixed one and by the last symbol or the last two. With other models, half
    // of the result is the mixed one itself: they are too good for tables that learn slowly.
    void refine() {
        const uint64_t first = back(1), second = back(2);
        const uint64_t rows[refiners] = {bits_ == 8 ? first << 8 | partial_ : hash(first, partial_),
                                         hash(first << 16 | second, partial_)};
        const int place = (std::clamp(mixed_, -Logistic::input, Logistic::input) + 2048) * 32, part = place % 4096;
        int sum = 0;
        for (int i = 0; i < refiners; i++) {
            uint16_t *row = refined_ + i * refined + int64_t(rows[i] % 65536) * 33 + place / 4096;
            sum += (row[0] * (4096 - part) + row[1] * part) / 4096;
            refined_entry_[i] = row + (part >= 2048);
        }
        const int corrected = sum / refiners, mean = (corrected + logistic_.squash(mixed_)) / 2;
        probability_ = std::clamp(others_ ? mean : corrected, 1, one - 1);
    }

    template <class Log> void learn(int bit, Log &journal) {
        for (int context = 0; context < contexts; context++) {
            uint8_t &state = *history_[context];
            uint32_t &coarse = maps_[context * 256 + state], &fine = fine_entry(context, state);
            journal(&state), journal(&coarse), journal(&fine);
            adapt(coarse, bit);
            adapt(fine, bit);
            if (runs_on(context)) {
                journal(&run_entry(context));
                adapt(run_entry(context), bit == run_bit(context));
            }
            state = histories_.next[state][bit];
        }
        for (int each = 0; each < matches; each++) {
            if (!match_[each].length) continue;
            journal(&entry_of(each));
            adapt(entry_of(each), bit == expected_bit(each));
            if (bit != expected_bit(each)) match_[each].length = 0;
        }
        const int64_t early = 20000;  // symbols, until which weights learn fast
        const int rate = int(std::max<int64_t>(256, 22 * 64 * early / (early + int64_t(count_))));
        for (int set = 0; set < sets; set++) {
            const int32_t error = (bit * one - logistic_.squash(said_[set])) * rate / 1024;
            journal(set_weights_[set], padded);
            for (int i = 0; i < padded; i++) set_weights_[set][i] += (inputs_[i] * error + one / 2) >> 16;
        }
        for (int i = 0; i < 2; i++) {
            const int32_t error = (bit * one - logistic_.squash(finally_[i])) * 6 / 16;
            journal(final_row_[i], sets);
            for (int set = 0; set < sets; set++) final_row_[i][set] += (said_[set] * error + one / 2) >> 16;
        }
        for (uint16_t *entry : refined_entry_) {
            journal(entry);
            *entry = uint16_t(*entry + (bit * (one - 1) - int(*entry)) / 128);
        }
    }

    // `counted` says whether the symbol is one of those that a later repetition is looked for in.
    void remember(uint16_t symbol, bool counted) {
        recent_[count_++ & row_mask_] = symbol;
        const int32_t kind = kinds_[symbol];
        if (kind > 0) {
            words_[0] = hash(words_[0], uint64_t(kind));
            letters_in_word_++;
            letters_ = (letters_ << 16 | uint16_t(kind)) & 0xffffffffffffffu;
        } else {
            if (words_[0]) words_[3] = words_[2], words_[2] = words_[1], words_[1] = words_[0], words_[0] = 0;
            letters_in_word_ = 0;
            if (kind != space) sign_ = symbol;
        }
        column_++;
        if (column_ <= 2) line_start_ = line_start_ << 16 | symbol;
        if (kind == newline) previous_line_ = line_, line_ = count_, column_ = 0, line_start_ = 0;
        for (int each = 0; each < matches; each++) follow(match_[each], each, counted);
    }

    // Looks where the last symbols came before, unless what was expected has come.
    void follow(Match &match, int each, bool counted) {
        constexpr uint64_t shortest[matches] = {5, 12};
        if (match.length) match.at++, match.length = std::min(match.length + 1, longest_match);
        if (count_ < shortest[each]) return;
        uint64_t number = 0;
        for (uint64_t distance = 1; distance <= shortest[each]; distance++) number = hash(number, back(distance));
        uint32_t &last = found_[(int64_t(each) << hash_bits_) + int64_t(number >> (64 - hash_bits_))];
        if (!match.length && last) {
            match.at = count_ - uint32_t(uint32_t(count_) - last);
            uint64_t same = 0;
            while (same < longest_match && same < match.at && count_ - match.at + same < row_mask_ &&
                   at(match.at - 1 - same) == back(1 + same))
                same++;
            match.length = same >= shortest[each] ? int(same) : 0;
        }
        if (counted) last = uint32_t(count_);
        if (count_ - match.at > row_mask_) match.length = 0;
        match.expected = at(match.at);
    }

    static constexpr int32_t space = -1, newline = -2, unused = -3;

    const Logistic &logistic_ = shared<Logistic>();
    const Histories &histories_ = shared<Histories>();
    int64_t symbols_;
    int bits_;
    uint64_t row_mask_;
    int64_t hash_bits_;
    Buffer<int32_t> kinds_;
    Buffer<int64_t> used_;       // (V + 1,): how many symbols below each one can come
    Buffer<uint64_t> sums_;      // (most_others, V + 1): of other models' frequencies
    Buffer<uint8_t> rows_;       // (rows, 16)
    Buffer<uint32_t> runs_;      // (rows,): eight bits to check the context, the run's length and its symbol
    Buffer<uint16_t> recent_;    // the last symbols, in a ring
    Buffer<uint32_t> found_;     // (matches, .): where the last symbols came, by their hash
    Buffer<int32_t> weights_;    // (selections, padded), of 65536ths
    Buffer<uint32_t> maps_;      // (contexts, 256): probabilities by history
    Buffer<uint32_t> fine_maps_; // (contexts, 256, 256): by the symbol's bits so far, and history
    Buffer<uint16_t> refined_;   // (refiners, 65536, 33)
    int32_t final_[2][256][sets];
    uint32_t run_maps_[contexts][2][longest_run + 1];  // how probable the run's symbol is, by the half of its bits
    uint32_t matched_[matches][longest_match + 1];  // how probable what a match expects is, by its length
    int32_t reciprocals_[1024];

    uint64_t count_ = 0, contexts_[contexts];
    uint64_t words_[4] = {}, letters_in_word_ = 0, letters_ = 0, sign_ = 0;
    uint64_t line_ = 0, previous_line_ = 0, column_ = 0, line_start_ = 0;
    Match match_[matches];
    Run run_[contexts];

    int others_ = 0;        // how many other models have a prediction
    int place_ = 0;         // of the bit
    uint32_t partial_ = 1;  // a one, and the bits so far
    uint8_t *row_[contexts], *history_[contexts];
    alignas(64) int32_t inputs_[padded];
    int32_t *set_weights_[sets], *final_row_[2] = {};
    int said_[sets], finally_[2] = {}, mixed_ = 0, probability_ = 0;
    uint16_t *refined_entry_[refiners];
};

}  // namespace
}  // namespace scriven
