// Reading a text that is there already, with what each of its ids costs: a chunk of steps at a time, layer after layer.
//
// Only the products with a layer's own state wait for the step before. All others are made for the whole chunk at once;
// and a layer's weights stay in the cache while it reads the chunk.
#pragma once

#include "sampler.h"

namespace scriven {

// A chunk of steps of some rows, on its way through the layers.
struct Passage {
    int64_t steps;
    const int64_t *read, *foretold;  // (steps, rows), `apart` from step to step: read, after the cost of foretold
    double *nats;                    // likewise: what each foretold id costs
    int64_t apart;
    Work step;        // one step of the rows, and their state
    Work chunk;       // all steps of all rows, each as a row: a place
    float *logits;    // (rows + places, logits_stride): those of the step before the chunk, and those of the chunk
    float *sums;      // (places, outputs): what the input adds to a layer's sums
    int64_t *places;  // 0, 1, 2, ...
    const float *x;   // (places, stride): what the next layer reads
};

}  // namespace scriven
