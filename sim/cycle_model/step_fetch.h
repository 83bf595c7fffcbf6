// SPDX-License-Identifier: Apache-2.0
// hw/step_fetch.py: step RAM, and the walker that runs ahead of the issue stage.
#pragma once

#include <cstdint>
#include <vector>

#include "definitions.h"

namespace bitloop {

// A step entry as the issue stage needs it.
struct StepEntry {
    uint8_t valid = 0;  // bit j: slot j
    bool mac = false, seed = false, emit = false;
    int8_t dy[kStepSlots] = {}, dx[kStepSlots] = {};
    uint16_t offset[kStepSlots] = {};
    int repeat = 0, increment = 0;

    static StepEntry decode(const uint8_t* raw) {
        const Step step = Step::decode(raw);
        StepEntry entry;
        const uint32_t valid[] = {step.valid0, step.valid1, step.valid2, step.valid3};
        const int32_t dy[] = {step.dy0, step.dy1, step.dy2, step.dy3};
        const int32_t dx[] = {step.dx0, step.dx1, step.dx2, step.dx3};
        const uint32_t offset[] = {step.offset0, step.offset1, step.offset2, step.offset3};
        for (int j = 0; j < kStepSlots; j++) {
            entry.valid |= valid[j] << j;
            entry.dy[j] = int8_t(dy[j]);
            entry.dx[j] = int8_t(dx[j]);
            entry.offset[j] = uint16_t(offset[j]);
        }
        entry.mac = step.mac;
        entry.seed = step.seed;
        entry.emit = step.emit;
        entry.repeat = int(step.repeat);
        entry.increment = step.increment;
        return entry;
    }
};

class StepFetch {
  public:
    explicit StepFetch(const Parameters& p) : ram_(p.step_entries) {}

    void write(int address, const uint8_t* bytes) { ram_[address] = StepEntry::decode(bytes); }

    bool valid() const { return valid_; }
    bool last() const { return last_; }
    const StepEntry& entry() const { return *entry_; }

    void tick(bool consume) {
        const bool entry_moves = !valid_ || consume, read_moves = !read_valid_ || entry_moves;
        if (entry_moves) {
            valid_ = read_valid_;
            entry_ = read_;
            last_ = read_last_;
        }
        if (!read_moves) return;
        read_valid_ = running_;
        if (!running_) return;
        read_last_ = left_ == 1 && !in_prologue_;
        read_ = &ram_[address_];
        if (left_ != 1) {
            address_++;
            left_--;
        } else if (in_prologue_) {
            address_++;
            in_prologue_ = false;
            left_ = step_count_;
        } else if (column_ == width_) {
            begin_row();
        } else {
            address_ = base_ + prologue_count_;
            column_++;
            left_ = step_count_;
        }
    }

    void start(const Compute& instruction) {
        base_ = int(instruction.step_base);
        prologue_count_ = int(instruction.prologue_count);
        step_count_ = int(instruction.step_count);
        width_ = int(instruction.output_width);
        running_ = true;
        read_valid_ = valid_ = false;
        begin_row();
    }

    void stop() { running_ = read_valid_ = valid_ = false; }

  private:
    void begin_row() {
        address_ = base_;
        in_prologue_ = prologue_count_ != 0;
        column_ = 1;
        left_ = in_prologue_ ? prologue_count_ : step_count_;
    }

    std::vector<StepEntry> ram_;
    int base_ = 0, prologue_count_ = 0, step_count_ = 0, width_ = 0;
    bool running_ = false, read_valid_ = false, read_last_ = false, valid_ = false, last_ = false;
    const StepEntry* read_ = nullptr;
    const StepEntry* entry_ = nullptr;
    int address_ = 0, left_ = 0, column_ = 0;
    bool in_prologue_ = false;
};

}  // namespace bitloop
