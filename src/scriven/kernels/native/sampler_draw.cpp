// Drawing from weights: the same rules, in the same order of operations, as scriven/inference/sampling.py.
#include <algorithm>

#include "sampler.h"

namespace scriven {
namespace {

bool ranks_before(const Candidate &a, const Candidate &b) {
    return a.weight > b.weight || (a.weight == b.weight && a.id < b.id);
}

// Sorts candidates that come in the order of their ids. Few of them by counting those before each: nothing to foretell
// for the processor, which mistakes half of a sort's comparisons.
void rank(Candidate *candidates, int64_t count) {
    constexpr int64_t few = 64;
    if (count > few) return std::sort(candidates, candidates + count, ranks_before);
    double weights[few];
    int64_t ids[few];
    for (int64_t i = 0; i < count; i++) {
        weights[i] = candidates[i].weight;
        ids[i] = candidates[i].id;
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t before = 0;
        for (int64_t j = 0; j < i; j++) before += weights[j] >= weights[i];
        for (int64_t j = i + 1; j < count; j++) before += weights[j] > weights[i];
        candidates[before] = {weights[i], ids[i]};
    }
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
    rank(room, candidates);
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

}  // namespace

// The first in rank: what a temperature of zero draws.
int64_t likeliest(const float *logits, int64_t count) {
    int64_t best = 0;
    for (int64_t id = 1; id < count; id++)
        if (logits[id] > logits[best]) best = id;
    return best;
}

// The id at which the cumulated weights, filtered, pass the share `uniform` of their sum. The largest weight is 1.
// Changes the weights; `room` is for as many candidates.
int64_t pick(double *weights, int64_t count, const Drawing &drawing, double uniform, Candidate *room) {
    if (drawing.top_k > 0 && drawing.top_k < double(count)) keep_first<one>(weights, count, drawing.top_k, room);
    if (drawing.top_p < 1) keep_first<itself>(weights, count, drawing.top_p * sum_of(weights, count), room);
    double total = 0;
    for (int64_t id = 0; id < count; id++) {
        if (weights[id] < drawing.min_p) weights[id] = 0;
        weights[id] = total += weights[id];
    }
    const double limit = uniform * total;
    int64_t id = 0;
    while (id < count - 1 && weights[id] <= limit) id++;
    return id;
}

}  // namespace scriven
