// Drawing from weights: the same rules, in the same order of operations, as scriven/inference/sampling.py.
#include <algorithm>

#include "vector_math.h"

namespace scriven {
namespace {

bool ranks_before(const Candidate &a, const Candidate &b) {
    return a.weight > b.weight || (a.weight == b.weight && a.id < b.id);
}

constexpr int octaves = 64;

// Which octave a weight of at most 1 is in: 0 for 1, 1 for those from 1/2 on, 2 for those from 1/4 on, ...
int octave_of(double weight) {
    uint64_t bits;
    memcpy(&bits, &weight, sizeof bits);
    const uint64_t octave = 1023 - (bits >> 52);
    return octave < octaves ? int(octave) : octaves - 1;
}

double one(double weight) { return weight > 0 ? 1 : 0; }
double itself(double weight) { return weight; }

// Leaves weight to the fewest first in rank whose values reach `wanted` (above 0) together; all where none do.
// Sums the octaves, and ranks the weights of one of them only: to sort all takes several times as long.
template <double value(double)>
void keep_first(double *weights, int64_t count, double wanted, Candidate *room) {
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
        room[candidates] = {weights[id], id};
        candidates += octave == last;
        weights[id] = octave < last ? weights[id] : 0;
    }
    std::sort(room, room + candidates, ranks_before);
    for (int64_t i = 0; i < candidates && held < wanted; i++) {
        weights[room[i].id] = room[i].weight;
        held += value(room[i].weight);
    }
}

double sum_of(const double *weights, int64_t count) {
    double sum = 0;
    for (int64_t id = 0; id < count; id++) sum += weights[id];
    return sum;
}

constexpr int64_t few = 128;  // symbols; more are not ranked as a whole

// How many of the weights stay: those first in rank that no filter takes away.
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

// Leaves those weights that the filters keep, and their ids, in the order of the ids; gives their number.
int64_t filter_few(const Desk &desk, int64_t count, const Drawing &drawing) {
    rank(desk.weights, count, desk.places);
    const int64_t kept = count_kept(desk.weights, desk.places, desk.ids, count, drawing);
    int64_t left = 0;
    for (int64_t id = 0; id < count; id++) {
        desk.weights[left] = desk.weights[id];
        desk.ids[left] = id;
        left += desk.places[id] < kept;
    }
    return left;
}

void filter_many(const Desk &desk, int64_t count, const Drawing &drawing) {
    double *weights = desk.weights;
    if (drawing.top_k > 0 && drawing.top_k < double(count))
        keep_first<one>(weights, count, drawing.top_k, desk.candidates);
    if (drawing.top_p < 1)
        keep_first<itself>(weights, count, drawing.top_p * sum_of(weights, count), desk.candidates);
    for (int64_t id = 0; id < count; id++) weights[id] = weights[id] < drawing.min_p ? 0 : weights[id];
}

// The place at which the cumulated weights pass the share `uniform` of their sum. Changes the weights.
int64_t passed(double *weights, int64_t count, double uniform) {
    double total = 0;
    for (int64_t i = 0; i < count; i++) weights[i] = total += weights[i];
    const double limit = uniform * total;
    int64_t place = 0;
    while (place < count - 1 && weights[place] <= limit) place++;
    return place;
}

}  // namespace

// The first in rank: what a temperature of zero draws.
int64_t likeliest(const float *logits, int64_t count) {
    int64_t best = 0;
    for (int64_t id = 1; id < count; id++)
        if (logits[id] > logits[best]) best = id;
    return best;
}

// The id at which the cumulated weights, filtered, pass the share `uniform` of their sum. The largest weight is 1.
int64_t pick(const Desk &desk, int64_t count, const Drawing &drawing, double uniform) {
    const bool filtered = drawing.top_k > 0 || drawing.top_p < 1 || drawing.min_p > 0;
    if (filtered && count <= few) {
        const int64_t left = filter_few(desk, count, drawing);
        return desk.ids[passed(desk.weights, left, uniform)];
    }
    if (filtered) filter_many(desk, count, drawing);
    return passed(desk.weights, count, uniform);
}

}  // namespace scriven
