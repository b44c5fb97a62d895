// Which ids may not follow, so that no stretch of a training text is written: see kernels/suffixes.py.
#pragma once

#include "calls.h"
#include "common.h"

namespace scriven {

// Marks in `found` (symbols,) the ids that follow `ids` (count,) somewhere in the text, within a document.
void mark_followers(const SuffixIndex &index, const int64_t *ids, int64_t count, int64_t symbols, uint8_t *found);

}  // namespace scriven
