#include "scorer_read.h"

const scriven::Kernels scriven::sampler_avx2 = {read, weigh, rank, read_layers};
