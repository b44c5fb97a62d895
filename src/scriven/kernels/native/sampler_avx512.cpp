#include "scorer_read.h"

const scriven::Kernels scriven::sampler_avx512 = {read, weigh, rank, read_layers};
