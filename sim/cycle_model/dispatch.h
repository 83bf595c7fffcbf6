// SPDX-License-Identifier: Apache-2.0
// hw/dispatch.py: program fetch, one slot a queue, retirement.
#pragma once

#include <algorithm>
#include <cstdint>

#include "byte_stream.h"
#include "definitions.h"
#include "fifo.h"

namespace bitloop {

class Dispatch {
  public:
    explicit Dispatch(const Parameters& p)
        : p_(p), depth_(p.prefetch_bytes * 8 / p.data_bits),
          beats_a_line_(8 * kLineBytes / p.data_bits), space_(depth_) {}

    // `program`: the first line; `offset`: where it lies in the program window.
    void start(const uint8_t* program, uint32_t offset, uint32_t lines) {
        line_ = program;
        offset_ = offset;
        lines_left_ = lines;
        halted_ = false;
        dispatched_ = 0;
        std::fill(retired_, retired_ + kQueues, uint16_t(0));
    }

    const Request* request(bool loading) {
        const int most = p_.request_bytes / int(kLineBytes);
        const bool modest = space_ > depth_ - p_.lines_beside_loads * beats_a_line_;
        if (lines_left_ == 0 || halted_ || space_ < most * beats_a_line_ || (!modest && loading)) {
            return nullptr;
        }
        ask_ = std::min(lines_left_, uint32_t(most));
        request_ = {int(kWindowProgram), offset_, ask_ * uint32_t(kLineBytes), false};
        return &request_;
    }

    // `ready[q]`: unit q takes an instruction.
    void evaluate(const bool ready[kQueues]) {
        unsigned free = 0;
        for (int q = 0; q < kQueues; q++) {
            waiting_[q] = slots_[q].full ? unsatisfied(slots_[q]) : 0;
            handed_[q] = slots_[q].full && !waiting_[q] && ready[q];
            if (!slots_[q].full) free |= 1u << q;
        }
        line_taken_ = false;
        fills_ = kNothing;
        if (count_ != beats_a_line_) return;
        if (halted_) {
            line_taken_ = true;
        } else if (second_) {
            line_taken_ = true;
            fills_ = kSecondHalf;
        } else {
            opcode_ = int(*line_ & 15);
            const int queue = queue_of(opcode_);
            if (opcode_ == kOpHalt) {
                line_taken_ = true;
            } else if (queue < 0) {
                illegal_opcode_ = true;
            } else if (free >> queue & 1) {
                line_taken_ = true;
                fills_ = queue;
            }
        }
    }

    // The instruction that queue q's unit takes in this cycle, null if none.
    const uint8_t* handed(int queue) const { return handed_[queue] ? slots_[queue].line : nullptr; }
    // The queue that an instruction enters at this cycle's end, -1 if none; the line it ends with.
    int issues() const { return fills_ == kSecondHalf ? int(kQueueCompute) : issue_of(fills_); }
    int line() const { return int(dispatched_); }
    // The COMPUTE slot's unsatisfied dependencies, one bit a queue.
    unsigned waiting() const { return waiting_[kQueueCompute]; }
    bool illegal_opcode() const { return illegal_opcode_; }
    uint32_t dispatched() const { return dispatched_; }

    bool finished() const {
        bool idle = halted_ && space_ == depth_ && count_ == 0;
        for (int q = 0; q < kQueues; q++) idle = idle && !slots_[q].full && !under_way_[q];
        return idle;
    }

    // `asked`: the request was taken; `beat`: a beat comes in; `retired[q]`: in this cycle.
    void tick(bool asked, bool beat, const bool retired[kQueues]) {
        const bool popped = (count_ != beats_a_line_ || line_taken_) && prefetch_.readable();
        const bool was_halted = halted_;
        for (int q = 0; q < kQueues; q++) {
            if (handed_[q]) slots_[q].full = false;
            under_way_[q] -= retired[q];
            retired_[q] += retired[q];
        }
        if (line_taken_) take_line();
        count_ = (line_taken_ ? 0 : count_) + popped;
        prefetch_.tick(beat, popped);
        space_ += popped;
        if (asked) space_ -= int(ask_) * beats_a_line_;
        if (was_halted) {
            lines_left_ = 0;
        } else if (asked) {
            offset_ += p_.request_bytes;
            lines_left_ -= ask_;
        }
    }

  private:
    static constexpr int kNothing = -1, kSecondHalf = -2;

    struct Slot {
        const uint8_t* line = nullptr;
        uint16_t waits[kQueues] = {};
        bool full = false;
    };

    static int queue_of(int opcode) {
        switch (opcode) {
        case kOpLoadWeights:
        case kOpLoadParameters:
        case kOpLoadSteps:
        case kOpLoadActivations:
        case kOpLoadTable:
            return kQueueLoad;
        case kOpCompute:
            return kQueueCompute;
        case kOpStoreActivations:
            return kQueueStore;
        default:
            return -1;
        }
    }

    static int issue_of(int fills) { return fills == kQueueCompute ? -1 : fills; }

    unsigned unsatisfied(const Slot& slot) const {
        unsigned bits = 0;
        for (int q = 0; q < kQueues; q++) {
            bits |= unsigned(uint16_t(retired_[q] - slot.waits[q]) >> 15) << q;
        }
        return bits;
    }

    void take_line() {
        if (!halted_) dispatched_++;
        if (fills_ == kSecondHalf) {
            slots_[kQueueCompute].full = true;
            under_way_[kQueueCompute]++;
            second_ = false;
        } else if (fills_ != kNothing) {
            const Header header = Header::decode(line_);
            Slot& slot = slots_[fills_];
            slot.line = line_;
            slot.waits[kQueueLoad] = uint16_t(header.wait_load);
            slot.waits[kQueueCompute] = uint16_t(header.wait_compute);
            slot.waits[kQueueStore] = uint16_t(header.wait_store);
            if (fills_ == kQueueCompute) {
                second_ = true;
            } else {
                slot.full = true;
                under_way_[fills_]++;
            }
        } else if (!halted_) {
            halted_ = true;
        }
        line_ += kLineBytes;
    }

    const Parameters& p_;
    int depth_, beats_a_line_;
    int space_;  // beats neither asked for nor held
    const uint8_t* line_ = nullptr;
    uint32_t offset_ = 0, lines_left_ = 0, ask_ = 0, dispatched_ = 0;
    int count_ = 0;  // beats of the line being assembled
    bool halted_ = true, second_ = false, illegal_opcode_ = false;
    BufferedFifoLevel prefetch_;
    Request request_;
    Slot slots_[kQueues];
    uint16_t retired_[kQueues] = {};
    int under_way_[kQueues] = {};
    unsigned waiting_[kQueues] = {};
    bool handed_[kQueues] = {};
    bool line_taken_ = false;
    int fills_ = kNothing, opcode_ = 0;
};

}  // namespace bitloop
