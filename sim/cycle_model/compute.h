// SPDX-License-Identifier: Apache-2.0
// hw/compute.py: one array step a cycle, unless something is not there yet; and the bank reads of
// hw/operand_fetch.py two cycles later.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "collector.h"
#include "definitions.h"
#include "pixel_walk.h"
#include "step_fetch.h"

namespace bitloop {

class ComputeUnit {
  public:
    explicit ComputeUnit(const Parameters& p)
        : p_(p), fetch_(p), walk_(p), apart_(1 | uint64_t(1) << (p.residual_cycles - 1)) {}

    StepFetch& fetch() { return fetch_; }
    bool instruction_ready() const { return state_ == State::kIdle; }
    bool active() const { return state_ != State::kIdle; }
    bool illegal() const { return illegal_; }
    bool issued() const { return go_; }
    // The load bus is taken.
    bool load_valid() const { return load_valid_; }
    // The output under way from this cycle on, null if none.
    const Output* output() const { return go_ && output_now_ ? &output_ : nullptr; }

    // A program starts.
    void restart() {
        held_valid_ = false;
        since_ = kLongSince;
    }

    // `empty`: the collector's.
    void evaluate(bool empty) {
        go_ = output_now_ = residual_read_ = load_valid_ = false;
        if (state_ == State::kConstants) load_valid_ = was_empty_;
        was_empty_ = empty;
        if (state_ != State::kRun || !fetch_.valid()) return;
        const StepEntry& entry = fetch_.entry();
        entry_end_ = repeat_ == entry.repeat;
        pixel_end_ = entry_end_ && fetch_.last();
        output_now_ = pixel_end_ || entry.emit;
        bool taken = false;
        if (residual_pending_) {
            const int bank = walk_.residual() & kBankMask, base = origin(entry);
            for (int j = 0; j < kStepSlots; j++) {
                taken |= (entry.valid >> j & 1) && ((base + entry.offset[j]) & kBankMask) == bank;
            }
            residual_read_ = !taken || pixel_end_;
        }
        go_ = true;
        if (output_now_) {
            several_ = entry.emit || emitted_ != 0;
            swap_ = walk_.group_start() || several_;
            go_ = !(swap_ && !shadow_full()) && !(pixel_end_ && residual_pending_) &&
                  !(instruction_->residual && (recent_ & apart_));
            if (go_) {
                end_ = pixel_end_ && walk_.end();
                output_ = {walk_.output() + emitted_, end_, instruction_->mark != 0,
                           instruction_->residual != 0};
                illegal_ |= !entry.mac;
            }
        }
    }

    // `line`: null unless an instruction is taken.
    void tick(const uint8_t* line) {
        recent_ <<= 1;
        reads_[1] = reads_[0];
        reads_[0].entry = nullptr;
        reads_[0].residual = -1;
        tick_parameters();
        const bool settled = instruction_ && since_ >= int(instruction_->settle);
        since_ = go_ ? 2 : std::min(since_ + 1, kLongSince);
        switch (state_) {
        case State::kIdle:
            if (line) accept(line);
            return;
        case State::kBegin:
            begin();
            if (state_ == State::kRun && !settled) state_ = State::kSettle;
            return;
        case State::kConstants:
            fetch_.tick(false);
            if (load_valid_ && ++constants_sent_ == p_.constant_words) {
                held_ = constants(*instruction_);
                held_valid_ = true;
                state_ = settled ? State::kRun : State::kSettle;
            }
            return;
        case State::kSettle:
            fetch_.tick(false);
            if (settled) state_ = State::kRun;
            return;
        case State::kRun:
            run();
        }
    }

    // Whether the storer must not read a bank of the activation RAM in this cycle.
    bool denies_store(int bank) const {
        const BankRead& read = reads_[1];
        if (read.residual >= 0) return true;
        if (!read.entry) return false;
        for (int j = 0; j < kStepSlots; j++) {
            if (!(read.entry->valid >> j & 1)) continue;
            const int row = read.row + read.entry->dy[j], column = read.column + read.entry->dx[j];
            const bool inside = read.entry->seed || (row >= 0 && row < int(read.instruction->input_height) &&
                                column >= 0 && column < int(read.instruction->input_width));
            if (inside && ((read.base + read.entry->offset[j]) & kBankMask) == bank) return true;
        }
        return false;
    }

  private:
    enum class State { kIdle, kBegin, kConstants, kSettle, kRun };

    // What a step reads from the activation RAM.
    struct BankRead {
        const StepEntry* entry = nullptr;
        const Compute* instruction = nullptr;
        int base = 0, row = 0, column = 0, residual = -1;
    };

    using Constants = std::array<int64_t, 13>;

    static constexpr int kBankMask = 3;
    static constexpr int kMostOutputs = 4;  // of a pixel

    // Partial sums lie where a residual would.
    int origin(const StepEntry& entry) const { return entry.seed ? walk_.residual() : base_; }

    bool shadow_full() const { return parameters_left_ == 0 && settle_ == 0; }

    void accept(const uint8_t* line) {
        current_ ^= 1;
        instructions_[current_] = Compute::decode(line);
        instruction_ = &instructions_[current_];
        const Compute& i = *instruction_;
        illegal_ |= i.mode > kModeMaximum || (i.mode == kModeDense2 && p_.slices < 4) ||
                    (i.mode == kModeWindow && p_.window_taps == 0) || !i.step_count || !i.groups ||
                    !i.output_height || !i.output_width || i.add_shift > 31 ||
                    int(i.step_base + i.prologue_count + i.step_count) > p_.step_entries;
        constants_sent_ = 0;
        state_ = State::kBegin;
    }

    void begin() {
        fetch_.start(*instruction_);
        walk_.start(*instruction_);
        repeat_ = emitted_ = 0;
        base_ = int(instruction_->input_base);
        residual_pending_ = instruction_->residual;
        parameters_left_ = p_.parameter_words_per_group;
        state_ = held_valid_ && held_ == constants(*instruction_) ? State::kRun : State::kConstants;
    }

    void run() {
        if (go_) {
            const StepEntry& entry = fetch_.entry();
            reads_[0].entry = &entry;
            reads_[0].instruction = instruction_;
            reads_[0].base = origin(entry);
            reads_[0].row = walk_.row();
            reads_[0].column = walk_.column();
        }
        if (residual_read_) {
            reads_[0].residual = walk_.residual();
            residual_pending_ = false;
        }
        if (go_) {
            repeat_++;
            base_ = (base_ + fetch_.entry().increment) & kWordMask;
            if (entry_end_) {
                repeat_ = 0;
                base_ = walk_.input();
            }
            if (output_now_) {
                const bool no_more = several_ ? end_ : walk_.group_end();
                if (swap_ && !no_more) parameters_left_ = p_.parameter_words_per_group;
                emitted_ = (emitted_ + 1) % kMostOutputs;
            }
            if (pixel_end_) {
                emitted_ = 0;
                walk_.advance();
                base_ = walk_.input();
                residual_pending_ = instruction_->residual;
            }
        }
        const bool ended = go_ && output_now_;
        if (ended) recent_ |= 1;
        fetch_.tick(go_ && entry_end_);
        if (ended && end_) {
            fetch_.stop();
            state_ = State::kIdle;
        }
    }

    // The shadow parameters of a group, a word a cycle.
    void tick_parameters() {
        if (parameters_left_ != 0) {
            parameters_left_--;
            settle_ = std::max(0, p_.parameter_lead - 1);
        } else if (settle_ != 0) {
            settle_--;
        }
    }

    // What the columns keep for an instruction; the add's are zero where there is no residual.
    static Constants constants(const Compute& i) {
        Constants values = {i.low,      i.high, i.half_even, i.output_parity,
                            i.residual, i.wrap, i.seeded};
        if (i.residual) {
            values[7] = i.add_output_multiplier;
            values[8] = i.add_residual_multiplier;
            values[9] = i.add_constant;
            values[10] = i.add_shift;
            values[11] = i.add_low;
            values[12] = i.add_high;
        }
        return values;
    }

    static constexpr int kWordMask = (1 << kAddressBits) - 1;
    static constexpr int kLongSince = 63;  // what a counter of the bits of `settle` holds

    const Parameters& p_;
    StepFetch fetch_;
    PixelWalk walk_;
    State state_ = State::kIdle;
    Compute instructions_[2];  // bank reads may still use the one before
    const Compute* instruction_ = nullptr;
    int current_ = 0;
    Constants held_ = {};
    bool held_valid_ = false;
    int constants_sent_ = 0;
    int repeat_ = 0, base_ = 0;
    int emitted_ = 0;  // outputs of this pixel so far
    uint64_t recent_ = 0;  // bit i: an output was issued i + 1 cycles ago
    const uint64_t apart_;  // where an output with a residual must not follow
    bool residual_pending_ = false, illegal_ = false, was_empty_ = false;
    int parameters_left_ = 0, settle_ = 0;
    int since_ = kLongSince;  // one more than the cycles since the last step
    BankRead reads_[2];
    Output output_;
    bool go_ = false, entry_end_ = false, pixel_end_ = false, swap_ = false, end_ = false;
    bool output_now_ = false, several_ = false;
    bool residual_read_ = false, load_valid_ = false;
};

}  // namespace bitloop
