#include "scan_steps.h"

const scriven::ScanKernels scriven::scan_avx512 = {forward, backward};
