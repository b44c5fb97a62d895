#include "scan_steps.h"

const scriven::ScanKernels scriven::scan_avx2 = {forward, backward};
