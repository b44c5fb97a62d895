#include "sampler_read.h"

const scriven::Kernels scriven::sampler_amx = {read, weigh};
