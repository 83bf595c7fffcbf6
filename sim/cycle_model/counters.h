// SPDX-License-Identifier: Apache-2.0
// hw/counters.py: cycles, their causes, and the trace of marks.
#pragma once

#include <cstdint>
#include <vector>

#include "definitions.h"

namespace bitloop {

// What the counters look at in a cycle.
struct Activity {
    bool issued = false, active = false;
    unsigned waiting = 0;  // the COMPUTE slot's unsatisfied dependencies, one bit a queue
    bool outputs_pending = false, loader_busy = false, loader_activations = false;
    bool storer_busy = false, marked = false;
};

class Counters {
  public:
    explicit Counters(const Parameters& p) : entries_(p.trace_entries) {}

    uint64_t cycles() const { return cycles_; }
    uint64_t cause(int cause) const { return causes_[cause]; }
    const std::vector<uint32_t>& trace() const { return trace_; }

    void start() {
        cycles_ = 0;
        for (uint64_t& count : causes_) count = 0;
        trace_.clear();
        seen_step_ = false;
    }

    // A running cycle; its cause.
    int tick(const Activity& a) {
        if (a.marked || (a.issued && !seen_step_)) {
            // The cause is registered before it counts, so the counter lags behind.
            if (int(trace_.size()) < entries_) trace_.push_back(cycles_ ? cycles_ - 1 : 0);
            seen_step_ = true;
        }
        cycles_++;
        const int cause = cause_of(a);
        causes_[cause]++;
        return cause;
    }

  private:
    static int cause_of(const Activity& a) {
        const int load_cause = a.loader_activations ? kCauseMemoryWait : kCauseWeightWait;
        if (a.issued) return kCauseCompute;
        if (a.active) return kCauseDrain;
        if (a.waiting >> kQueueLoad & 1) return load_cause;
        if (a.waiting >> kQueueStore & 1) return kCauseMemoryWait;
        if ((a.waiting >> kQueueCompute & 1) || a.outputs_pending) return kCauseDrain;
        if (a.loader_busy) return load_cause;
        return a.storer_busy ? kCauseMemoryWait : kCauseWeightWait;
    }

    int entries_;
    uint64_t cycles_ = 0, causes_[kCauses] = {};
    std::vector<uint32_t> trace_;
    bool seen_step_ = false;
};

}  // namespace bitloop
