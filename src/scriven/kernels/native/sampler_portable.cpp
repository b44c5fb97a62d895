#include "scorer_read.h"

const scriven::Kernels scriven::sampler_portable = {read, weigh, rank, read_layers};
