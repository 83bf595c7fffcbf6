// SPDX-License-Identifier: Apache-2.0
// hw/run_packer.py: bytes into the beats of their runs.
#pragma once

#include "byte_stream.h"
#include "definitions.h"

namespace bitloop {

class RunPacker {
  public:
    explicit RunPacker(const Parameters& p) : per_beat_(p.data_bits / 32) {}

    bool beat_valid() const { return beat_valid_; }
    int want() const { return ((word_last_ ? end_ : 3) - lane_) & 3; }

    // `beat_ready`: the write engine takes the beat. Before `ready`.
    void evaluate(bool beat_ready) {
        free_ = !beat_valid_ || beat_ready;
        ready_ = active_ && free_;
    }

    bool ready() const { return ready_; }
    bool segment_ready(const Given& given) const { return !active_ || run_done(given); }
    bool done(const Given& given) const { return run_done(given) && final_; }
    // The pixels hold fewer or more bytes than the runs.
    bool mismatch(const Given& given) const {
        return ready_ && given.valid && given.final != (word_last_ && given.complete && final_);
    }

    // `segment`: null where none is offered.
    void tick(const Given& given, const Segment* segment) {
        const bool step = ready_ && given.valid, word_done = step && given.complete;
        const bool take = segment_ready(given);
        if (free_) beat_valid_ = word_done && (word_last_ || index_ == per_beat_ - 1);
        if (step) lane_ = (lane_ + given.more + 1) & 3;
        if (word_done) {
            lane_ = 0;
            word_last_ = words_left_ == 1;
            words_left_--;
            index_ = (index_ + 1) & (per_beat_ - 1);
        }
        if (take) {
            active_ = segment != nullptr;
            if (segment) {
                words_left_ = (segment->span >> 2) - (segment->align >> 2);
                word_last_ = words_left_ == 0;
                lane_ = segment->align & 3;
                index_ = segment->align >> 2;
                end_ = segment->span & 3;
                final_ = segment->final;
            }
        }
    }

  private:
    bool run_done(const Given& given) const {
        return ready_ && given.valid && given.complete && word_last_;
    }

    int per_beat_;
    bool active_ = false, word_last_ = false, final_ = false, beat_valid_ = false;
    uint32_t words_left_ = 0;
    int lane_ = 0, index_ = 0, end_ = 0;
    bool free_ = true, ready_ = false;
};

}  // namespace bitloop
