// SPDX-License-Identifier: Apache-2.0
// What the model reads of external memory apart from its timing: program lines and step entries.
#pragma once

#include <cstdint>

#include "bursts.h"

namespace bitloop {

class MemoryImage {
  public:
    MemoryImage(const uint8_t* data, uint32_t base, const MemoryWindow* windows)
        : data_(data), base_(base), windows_(windows) {}

    // Null if the bytes are not all in the window: a request for them is a violation.
    const uint8_t* at(int window, uint32_t offset, uint64_t bytes) const {
        const MemoryWindow& w = windows_[window];
        return offset + bytes <= w.size ? data_ + (w.base - base_) + offset : nullptr;
    }

  private:
    const uint8_t* data_;
    uint32_t base_;
    const MemoryWindow* windows_;
};

}  // namespace bitloop
