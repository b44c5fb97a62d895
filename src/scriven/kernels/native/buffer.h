// Memory for what a kernel needs while it runs.
#pragma once

#include <memory>
#include <new>

#include "common.h"

namespace scriven {
namespace {

// Memory at the start of a cache line, not zeroed; null where there is none left.
template <class T> class Buffer {
  public:
    explicit Buffer(int64_t count) {
        data_.reset(static_cast<T *>(::operator new(static_cast<size_t>(count) * sizeof(T), line, std::nothrow)));
    }
    operator T *() const { return data_.get(); }

  private:
    static constexpr std::align_val_t line{64};
    struct Free {
        void operator()(T *data) const { ::operator delete(data, line); }
    };
    std::unique_ptr<T, Free> data_;
};

}  // namespace
}  // namespace scriven
