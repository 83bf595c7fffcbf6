// SPDX-License-Identifier: Apache-2.0
// hw/bursts.py: requests become bursts inside their windows.
#pragma once

#include <cstdint>

#include "byte_stream.h"
#include "definitions.h"

namespace bitloop {

struct MemoryWindow {
    uint32_t base = 0, size = 0;
};

struct Burst {
    uint32_t address = 0;
    int length = 0;  // beats - 1
    bool final = false;
};

class BurstSplitter {
  public:
    // `allowed`: bit of each window that requests may name.
    BurstSplitter(const Parameters& p, const MemoryWindow* windows, unsigned allowed)
        : windows_(windows), allowed_(allowed), beat_log2_(log2_of(p.data_bits / 8)),
          index_bits_(log2_of(p.burst_beats)) {}

    bool burst_valid() const { return valid_; }
    bool violation() const { return violation_; }
    // Something is on its way through.
    bool busy() const { return checked_valid_ || valid_; }

    Burst burst() const {
        const bool last = blocks_left_ == 0;
        const uint32_t address = (block_ << index_bits_ | first_beat_) << beat_log2_;
        const uint32_t end = last ? last_beat_ : (1u << index_bits_) - 1;
        return {address, int(end - first_beat_), last && marked_};
    }

    bool request_ready() const { return !checked_valid_ || leaves(); }

    // `request`: null unless one is offered. `burst_ready` only in a cycle with `burst_valid`.
    void tick(bool burst_ready, const Request* request) {
        const bool leave = leaves();
        if (burst_ready) {
            if (blocks_left_ == 0) valid_ = false;
            block_++;
            blocks_left_--;
            first_beat_ = 0;
        }
        if (leave) {
            const int block_log2 = beat_log2_ + index_bits_;
            const uint32_t beats = (1u << index_bits_) - 1;
            const uint32_t span = size_ + (address_ & ((1u << block_log2) - 1)) - 1;
            valid_ = true;
            block_ = address_ >> block_log2;
            first_beat_ = address_ >> beat_log2_ & beats;
            blocks_left_ = span >> block_log2;
            last_beat_ = span >> beat_log2_ & beats;
            marked_ = final_;
        }
        if (!checked_valid_ || leave) {
            checked_valid_ = request != nullptr;
            if (request) {
                const MemoryWindow& window = windows_[request->window];
                size_ = request->bytes;
                address_ = window.base + request->offset;
                final_ = request->final;
                violation_ = !(allowed_ >> request->window & 1) || size_ == 0 ||
                             uint64_t(request->offset) + size_ > window.size;
            }
        }
    }

  private:
    static int log2_of(int value) {
        int bits = 0;
        while (value >> (bits + 1)) bits++;
        return bits;
    }

    bool leaves() const { return checked_valid_ && !violation_ && !valid_; }

    const MemoryWindow* windows_;
    unsigned allowed_;
    int beat_log2_, index_bits_;
    bool checked_valid_ = false, violation_ = false, valid_ = false;
    bool final_ = false, marked_ = false;
    uint32_t size_ = 0, address_ = 0;
    uint32_t block_ = 0, first_beat_ = 0, blocks_left_ = 0, last_beat_ = 0;
};

}  // namespace bitloop
