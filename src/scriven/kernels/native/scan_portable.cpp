#include "scan_steps.h"

const scriven::ScanKernels scriven::scan_portable = {forward, backward};
