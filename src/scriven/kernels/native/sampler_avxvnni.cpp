#include "scorer_read.h"

const scriven::Kernels scriven::sampler_avxvnni = {read, weigh, rank, read_layers};
