// SPDX-License-Identifier: Apache-2.0
// When each instruction was taken and retired, and which cause the cycles counted for: what a
// picture of a run is drawn from. Not in the hardware.
#pragma once

#include <cstdint>
#include <vector>

#include "definitions.h"

namespace bitloop {

// Cycles are numbered from 0, the first in which the core runs.
struct InstructionTime {
    int32_t queue, line;  // line of the program, from 0
    uint64_t issued;      // dispatch puts it in its queue's slot
    uint64_t taken;       // the unit takes it
    uint64_t retired;     // the first cycle after its retirement
};

struct CauseRun {
    int64_t cause;
    uint64_t first, cycles;
};

class Recorder {
  public:
    const std::vector<InstructionTime>& instructions() const { return instructions_; }
    const std::vector<CauseRun>& causes() const { return causes_; }

    void start() {
        instructions_.clear();
        causes_.clear();
        for (int q = 0; q < kQueues; q++) under_way_[q].clear();
        for (int q = 0; q < kQueues; q++) taken_[q] = retired_[q] = 0;
    }

    void issue(int queue, int line, uint64_t cycle) {
        under_way_[queue].push_back(instructions_.size());
        instructions_.push_back({queue, line, cycle, 0, 0});
    }
    // Inside a queue instructions are taken and retire in order.
    void take(int queue, uint64_t cycle) {
        instructions_[under_way_[queue][taken_[queue]++]].taken = cycle;
    }
    void retire(int queue, uint64_t cycle) {
        instructions_[under_way_[queue][retired_[queue]++]].retired = cycle + 1;
    }
    void count(int cause, uint64_t cycle) {
        if (causes_.empty() || causes_.back().cause != cause) causes_.push_back({cause, cycle, 0});
        causes_.back().cycles++;
    }

  private:
    std::vector<InstructionTime> instructions_;
    std::vector<CauseRun> causes_;
    std::vector<size_t> under_way_[kQueues];
    size_t taken_[kQueues] = {}, retired_[kQueues] = {};
};

}  // namespace bitloop
