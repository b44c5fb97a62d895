// Draws from weights by the same rules, in the same order of operations, as scriven/inference/sampling.py.
#include <algorithm>
#include <cmath>
#include <limits>

#include "suffixes.h"
#include "vector_math.h"

namespace scriven {
namespace {

bool ranks_before(const Candidate &a, const Candidate &b) {
    return a.weight > b.weight || (a.weight == b.weight && a.id < b.id);
}

constexpr int octaves = 64;

// The octave of a weight of at most 1: 0 for 1, 1 for those of at least 1/2, 2 for those of at least 1/4, ...
int octave_of(double weight) {
    uint64_t bits;
    memcpy(&bits, &weight, sizeof bits);
    const uint64_t octave = 1023 - (bits >> 52);
    return octave < octaves ? int(octave) : octaves - 1;
}

double one(double weight) { return weight > 0 ? 1 : 0; }
double itself(double weight) { return weight; }

// Keeps the weights of the fewest top symbols whose values together reach `wanted` (above 0); all if they never do.
// It sums the octaves, and ranks the weights of only one of them: sorting all would take several times as long.
template <double value(double)>
void keep_first(double *weights, int64_t count, double wanted, Candidate *found) {
    double sums[2][octaves] = {}, held = 0;  // two, so that an addition need not wait for the one before
    for (int64_t id = 0; id < count; id++) sums[id % 2][octave_of(weights[id])] += value(weights[id]);
    int last = 0;
    for (; last < octaves - 1; last++) {
        const double after = held + sums[0][last] + sums[1][last];
        if (after >= wanted) break;
        held = after;
    }
    int64_t candidates = 0;
    for (int64_t id = 0; id < count; id++) {
        const int octave = octave_of(weights[id]);
        found[candidates] = {weights[id], id};
        candidates += octave == last;
        weights[id] = octave < last ? weights[id] : 0;
    }
    std::sort(found, found + candidates, ranks_before);
    for (int64_t i = 0; i < candidates && held < wanted; i++) {
        weights[found[i].id] = found[i].weight;
        held += value(found[i].weight);
    }
}

double sum_of(const double *weights, int64_t count) {
    double sum = 0;
    for (int64_t id = 0; id < count; id++) sum += weights[id];
    return sum;
}

constexpr float never = -std::numeric_limits<float>::infinity();

// The logarithm of the sum of the exponentials of the logits that `masked` does not have; never for none.
float rest(const float *logits, const float *masked, int64_t count, double *weights) {
    weigh(logits, weights, count, 1.0);
    float largest = logits[0];
    for (int64_t id = 1; id < count; id++) largest = logits[id] > largest ? logits[id] : largest;
    double sum = 0;
    for (int64_t id = 0; id < count; id++) sum += masked[id] == never ? weights[id] : 0;
    return sum > 0 ? float(double(largest) + logarithm(sum)) : never;
}

constexpr int64_t few = 128;  // symbols; more of them are not ranked as a whole

// Sorts weights of at most 1, of equal ones the first id first: by keys of 16 bits, 5 of them an exponent, then those whose
// keys are the same, which are few.
void sort_few(const double *weights, int64_t count, Candidate *sorted) {
    constexpr int64_t smallest = (1023 - 31) << 10;  // the key of 2^-31, and of all that is less
    alignas(64) int16_t keys[few] = {}, places[few];
    for (int64_t id = 0; id < count; id++) {
        int64_t bits;
        memcpy(&bits, weights + id, sizeof bits);
        const int64_t key = (bits >> 42) - smallest;
        keys[id] = int16_t(key > 0 ? key : 0);
    }
    rank(keys, count, places);
    uint8_t same[few] = {};  // of each place, how many ids with its key were before
    for (int64_t id = 0; id < count; id++) sorted[places[id] + same[places[id]]++] = {weights[id], id};
    for (int64_t last = 1; last < count; last++)
        for (int64_t at = last; at && sorted[at].weight > sorted[at - 1].weight; at--) std::swap(sorted[at], sorted[at - 1]);
}

// Returns how many of the top weights all filters keep.
int64_t count_kept(const Candidate *sorted, int64_t count, const Drawing &drawing) {
    const int64_t first = drawing.top_k > 0 && drawing.top_k < double(count) ? int64_t(drawing.top_k) : count;
    double sums[4] = {};  // several, so that an addition need not wait for the one before
    int64_t place = 0;
    for (; place + 4 <= first; place += 4)
        for (int64_t i = 0; i < 4; i++) sums[i] += sorted[place + i].weight;
    for (; place < first; place++) sums[place % 4] += sorted[place].weight;
    const double all = sums[0] + sums[1] + (sums[2] + sums[3]);
    const double wanted = drawing.top_p < 1 ? drawing.top_p * all : 2 * all;
    double held = sorted->weight;
    int64_t kept = 1;
    while (kept < first && held < wanted && sorted[kept].weight >= drawing.min_p) held += sorted[kept++].weight;
    return kept;
}

// Keeps the weights that the filters leave, and their ids, in the order of the ids. Returns their number.
int64_t filter_few(const DrawBuffers &buffers, int64_t count, const Drawing &drawing) {
    Candidate *sorted = buffers.candidates;
    sort_few(buffers.weights, count, sorted);
    uint64_t marks[few / 64] = {};
    const int64_t kept = count_kept(sorted, count, drawing);
    for (int64_t i = 0; i < kept; i++) marks[sorted[i].id / 64] |= uint64_t{1} << sorted[i].id % 64;
    int64_t left = 0;
    for (int64_t word = 0; word < few / 64; word++)
        for (uint64_t bits = marks[word]; bits; bits &= bits - 1) {
            const int64_t id = 64 * word + __builtin_ctzll(bits);
            buffers.weights[left] = buffers.weights[id];
            buffers.ids[left++] = id;
        }
    return left;
}

void filter_many(const DrawBuffers &buffers, int64_t count, const Drawing &drawing) {
    double *weights = buffers.weights;
    if (drawing.top_k > 0 && drawing.top_k < double(count))
        keep_first<one>(weights, count, drawing.top_k, buffers.candidates);
    if (drawing.top_p < 1)
        keep_first<itself>(weights, count, drawing.top_p * sum_of(weights, count), buffers.candidates);
    for (int64_t id = 0; id < count; id++) weights[id] = weights[id] < drawing.min_p ? 0 : weights[id];
}

// Returns the place where the cumulated weights pass the share `uniform` of their sum. Changes the weights.
int64_t passed(double *weights, int64_t count, double uniform) {
    double total = 0;
    for (int64_t i = 0; i < count; i++) weights[i] = total += weights[i];
    const double limit = uniform * total;
    int64_t place = 0;
    while (place < count - 1 && weights[place] <= limit) place++;
    return place;
}

// The bits that a symbol of this weight costs; infinite for a weight of 0.
double surprise(double weight, double total) { return logarithm(total / weight) * 1.4426950408889634; }

// Keeps the weights of the fewest symbols, those of the most typical surprise, that have the share p. The ids in `found`
// are sorted by their distance to the entropy, for which their `weight` stands.
void keep_typical(double *weights, int64_t count, double p, Candidate *found) {
    const double total = sum_of(weights, count);
    double entropy = 0, held = 0;
    for (int64_t id = 0; id < count; id++)
        if (weights[id] > 0) entropy += weights[id] / total * surprise(weights[id], total);
    int64_t there = 0;
    for (int64_t id = 0; id < count; id++)
        if (weights[id] > 0) found[there++] = {-std::fabs(surprise(weights[id], total) - entropy), id};
    std::sort(found, found + there, ranks_before);
    for (int64_t i = 0; i < there; i++) {
        const int64_t id = found[i].id;
        if (held >= p * total) weights[id] = 0;
        held += weights[id];
    }
}

// Keeps the weights of symbols that cost at most `bound` bits, or else the top one.
void keep_surprise(double *weights, int64_t count, double bound, double total) {
    int64_t best = 0;
    bool any = false;
    for (int64_t id = 1; id < count; id++) best = weights[id] > weights[best] ? id : best;
    for (int64_t id = 0; id < count; id++) {
        if (!(surprise(weights[id], total) <= bound)) weights[id] = 0;
        any |= weights[id] > 0;
    }
    if (!any) weights[best] = 1;
}

constexpr int64_t dry_match = 64;   // symbols of a repetition that are compared at most
constexpr double dry_most = 1e6;    // what is taken from a logit at most

double dry_penalty(const RowPast &past, int64_t length) {
    double penalty = past.dry_multiplier;
    for (int64_t i = past.dry_allowed_length; i < length && penalty < dry_most; i++) penalty *= past.dry_base;
    return penalty < dry_most ? penalty : dry_most;
}

// How many symbols before the one after `place` are the same as the last ones.
int64_t repeated(const int64_t *ids, int64_t place, int64_t count) {
    int64_t length = 0;
    while (length <= place && length < dry_match && ids[place - length] == ids[count - 1 - length]) length++;
    return length;
}

// Takes from the values of symbols that would repeat what was written. `lengths` (V,) is a buffer.
void apply_dry(const RowPast &past, const int64_t *ids, int64_t count, int64_t symbols, int64_t *lengths,
               double *values) {
    for (int64_t id = 0; id < symbols; id++) lengths[id] = 0;
    for (int64_t place = 0; place + 1 < count; place++) {
        if (ids[place] != ids[count - 1]) continue;
        const int64_t length = repeated(ids, place, count), next = ids[place + 1];
        lengths[next] = length > lengths[next] ? length : lengths[next];
    }
    for (int64_t id = 0; id < symbols; id++)
        if (lengths[id] >= past.dry_allowed_length) values[id] -= dry_penalty(past, lengths[id]);
}

// Changes the values of symbols that were written. `counts` (V,) is a buffer.
void apply_penalties(const RowPast &past, const int64_t *ids, int64_t count, int64_t symbols, int64_t *counts,
                     double *values) {
    for (int64_t id = 0; id < symbols; id++) counts[id] = 0;
    for (int64_t i = 0; i < count; i++) counts[ids[i]]++;
    const double factor = past.repetition_penalty;
    for (int64_t id = 0; id < symbols; id++) {
        if (!counts[id]) continue;
        double value = values[id];
        if (factor != 1) value = value > 0 ? value / factor : value * factor;
        values[id] = value - (past.presence_penalty + past.frequency_penalty * double(counts[id]));
    }
}

// Leaves out the ids that would end a stretch of `novel` ids of the training text, all of them written. `marks` (V,) is a
// buffer. Returns whether any id is left, but for <unk>, the last one.
bool leave_novel(const Written &written, int64_t symbols, uint8_t *marks, float *to) {
    const SuffixIndex &index = *written.past.index;
    const int64_t count = written.past.novel - 1;
    if (count > written.count) return true;
    const int64_t *ids = written.ids + written.count - count;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] == index.separator) return true;
    for (int64_t id = 0; id < symbols; id++) marks[id] = 0;
    mark_followers(index, ids, count, symbols - 1, marks);
    bool any = false;
    for (int64_t id = 0; id < symbols - 1; id++) {
        any |= !marks[id];
        if (marks[id]) to[id] = never;
    }
    return any;
}

}  // namespace

// Copies the logits to `to` (V,) with the bias, the penalties and DRY, and without what is not novel, as `adjust` in
// penalties.py does. Returns whether any symbol is left: if none is, the text ends.
bool adjust(const float *logits, int64_t symbols, const Written &written, const DrawBuffers &buffers, float *to) {
    const RowPast &past = written.past;
    double *values = buffers.weights;
    for (int64_t id = 0; id < symbols; id++) values[id] = double(logits[id]) + (past.bias ? double(past.bias[id]) : 0.0);
    const int64_t last = std::min(past.repeat_last_n, written.count);
    if (last)
        apply_penalties(past, written.ids + written.count - last, last, symbols, buffers.places, values);
    const int64_t recent = std::min(past.dry_penalty_last_n, written.count);
    if (past.dry_multiplier > 0)
        apply_dry(past, written.ids + written.count - recent, recent, symbols, buffers.places, values);
    for (int64_t id = 0; id < symbols; id++) to[id] = float(values[id]);
    return !past.index || leave_novel(written, symbols, reinterpret_cast<uint8_t *>(buffers.places), to);
}

// Returns the top symbol, which a temperature of zero draws.
int64_t likeliest(const float *logits, int64_t count) {
    int64_t best = 0;
    for (int64_t id = 1; id < count; id++)
        if (logits[id] > logits[best]) best = id;
    return best;
}

// Copies the logits of the symbols that a rule allows to `to` (V,), as Automaton.constrain does. The last one is the
// end's. Returns whether any symbol is allowed: if none is, the text ends.
bool constrain(const float *logits, int64_t symbols, const RowRule &rule, int64_t state, int64_t left,
               const DrawBuffers &buffers, float *to) {
    if (state < 0 || left <= 0) return false;
    const int32_t *row = rule.next + state * rule.width;
    const int64_t last = symbols - 1;
    bool any = false;
    for (int64_t id = 0; id < last; id++) {
        const int32_t after = row[rule.columns[id]];
        const bool allowed = after >= 0 && rule.distance[after] < left;
        any |= allowed;
        to[id] = allowed ? logits[id] : never;
    }
    to[last] = any && rule.ends && !rule.distance[state] ? rest(logits, to, last, buffers.weights) : never;
    return any;
}

// Returns the id where the cumulated weights, after the filters, pass the share `uniform` of their sum. The largest
// weight is 1.
int64_t pick(const DrawBuffers &buffers, int64_t count, const Drawing &drawing, double uniform) {
    const bool filtered = drawing.top_k > 0 || drawing.top_p < 1 || drawing.min_p > 0;
    if (filtered && count <= few) {
        const int64_t left = filter_few(buffers, count, drawing);
        return buffers.ids[passed(buffers.weights, left, uniform)];
    }
    if (filtered) filter_many(buffers, count, drawing);
    return passed(buffers.weights, count, uniform);
}

// As `pick`, with typical and mirostat, whose bound it changes.
int64_t pick_after(const Written &written, const DrawBuffers &buffers, int64_t count, const Drawing &drawing,
                   double uniform) {
    const RowPast &past = written.past;
    double *weights = buffers.weights, largest = 0;
    if (drawing.top_k > 0 && drawing.top_k < double(count))
        keep_first<one>(weights, count, drawing.top_k, buffers.candidates);
    if (past.typical_p < 1) keep_typical(weights, count, past.typical_p, buffers.candidates);
    if (drawing.top_p < 1)
        keep_first<itself>(weights, count, drawing.top_p * sum_of(weights, count), buffers.candidates);
    for (int64_t id = 0; id < count; id++) largest = std::max(largest, weights[id]);
    for (int64_t id = 0; id < count; id++) weights[id] = weights[id] < drawing.min_p * largest ? 0 : weights[id];
    if (!(past.mirostat_tau > 0)) return passed(weights, count, uniform);
    const double total = sum_of(weights, count);
    for (int64_t id = 0; id < count; id++) buffers.candidates[id].weight = weights[id];
    keep_surprise(weights, count, written.bound, total);
    const int64_t id = passed(weights, count, uniform);
    written.bound -= past.mirostat_eta * (surprise(buffers.candidates[id].weight, total) - past.mirostat_tau);
    return id;
}

}  // namespace scriven
