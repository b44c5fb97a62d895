#include "sampler_read.h"

const scriven::Kernels scriven::sampler_portable = {read, weigh};
