// SPDX-License-Identifier: Apache-2.0
// When each instruction was taken and retired, and which cause the cycles counted for: what a
// picture of a run is drawn from. Not in the hardware: the model fills it, and the simulated core
// from its signals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

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
        queues_.clear();
    }

    void issue(int queue, int line, uint64_t cycle) {
        if (queues_.size() <= size_t(queue)) queues_.resize(queue + 1);
        queues_[queue].instructions.push_back(instructions_.size());
        instructions_.push_back({queue, line, cycle, 0, 0});
    }
    // Inside a queue instructions are taken and retire in order.
    void take(int queue, uint64_t cycle) {
        Queue& q = queues_[queue];
        instructions_[q.instructions[q.taken++]].taken = cycle;
    }
    void retire(int queue, uint64_t cycle) {
        Queue& q = queues_[queue];
        instructions_[q.instructions[q.retired++]].retired = cycle + 1;
    }
    void count(int cause, uint64_t cycle) {
        if (causes_.empty() || causes_.back().cause != cause) causes_.push_back({cause, cycle, 0});
        causes_.back().cycles++;
    }

  private:
    struct Queue {
        std::vector<size_t> instructions;
        size_t taken = 0, retired = 0;
    };

    std::vector<InstructionTime> instructions_;
    std::vector<CauseRun> causes_;
    std::vector<Queue> queues_;
};

}  // namespace bitloop
