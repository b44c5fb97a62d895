// Draws from weights by the same rules, in the same order of operations, as scriven/inference/sampling.py.
#include <algorithm>
#include <cmath>
#include <limits>

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
    return sum > 0 ? float(double(largest) + std::log(sum)) : never;
}

constexpr int64_t few = 128;  // symbols; more of them are not ranked as a whole

// Returns how many of the top weights all filters keep.
int64_t count_kept(const double *weights, const int64_t *places, int64_t *ids, int64_t count, const Drawing &drawing) {
    for (int64_t id = 0; id < count; id++) ids[places[id]] = id;
    const int64_t first = drawing.top_k > 0 && drawing.top_k < double(count) ? int64_t(drawing.top_k) : count;
    double sums[4] = {};  // several, so that an addition need not wait for the one before
    for (int64_t place = 0; place < first; place++) sums[place % 4] += weights[ids[place]];
    const double all = sums[0] + sums[1] + (sums[2] + sums[3]);
    const double wanted = drawing.top_p < 1 ? drawing.top_p * all : 2 * all;
    double held = 0;
    int64_t kept = 0;
    while (kept < first && held < wanted && weights[ids[kept]] >= drawing.min_p) held += weights[ids[kept++]];
    return kept;
}

// Keeps the weights that the filters leave, and their ids, in the order of the ids. Returns their number.
int64_t filter_few(const DrawBuffers &buffers, int64_t count, const Drawing &drawing) {
    rank(buffers.weights, count, buffers.places);
    const int64_t kept = count_kept(buffers.weights, buffers.places, buffers.ids, count, drawing);
    int64_t left = 0;
    for (int64_t id = 0; id < count; id++) {
        buffers.weights[left] = buffers.weights[id];
        buffers.ids[left] = id;
        left += buffers.places[id] < kept;
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

}  // namespace

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

}  // namespace scriven
