// SPDX-License-Identifier: Apache-2.0
// hw/collector.py, and the array before it: outputs come a fixed time after they were issued.
#pragma once

#include <cstdint>

#include "definitions.h"
#include "fifo.h"

namespace bitloop {

struct Output {
    int address = 0;
    bool end = false, mark = false, residual = false;
};

class Collector {
  public:
    explicit Collector(const Parameters& p)
        : latency_(p.output_latency), residual_cycles_(p.residual_cycles) {}

    void evaluate(uint64_t now) {
        valid_ = count_ != 0 && due_[head_] == now;
    }

    bool output_valid() const { return valid_; }
    const Output& output() const { return outputs_[head_]; }
    // Of the output of the cycle before.
    bool retired() const { return retired_; }
    bool marked() const { return marked_; }
    bool empty() const { return !notes_.readable() && !recent_[0] && !recent_[1]; }

    // `issued`: null unless an output is under way from this cycle on.
    void tick(uint64_t now, const Output* issued) {
        retired_ = valid_ && output().end;
        marked_ = retired_ && output().mark;
        if (valid_) {
            head_ = (head_ + 1) % kMost;
            count_--;
        }
        if (issued) {
            const int tail = (head_ + count_) % kMost;
            due_[tail] = now + latency_ + (issued->residual ? residual_cycles_ : 0);
            outputs_[tail] = *issued;
            count_++;
        }
        notes_.tick(recent_[0], valid_);
        recent_[1] = recent_[0];
        recent_[0] = issued != nullptr;
    }

  private:
    static constexpr int kMost = 256;  // more than any latency

    int latency_, residual_cycles_;
    uint64_t due_[kMost] = {};
    Output outputs_[kMost];
    int head_ = 0, count_ = 0;
    BufferedFifoLevel notes_;
    bool recent_[2] = {};  // an output was issued in the cycle before, in the one before that
    bool valid_ = false, retired_ = false, marked_ = false;
};

}  // namespace bitloop
