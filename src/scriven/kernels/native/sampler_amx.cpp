#include "scorer_read.h"

const scriven::Kernels scriven::sampler_amx = {read, weigh, rank, read_layers};
