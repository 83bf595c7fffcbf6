// SPDX-License-Identifier: Apache-2.0
// hw/byte_stream.py: which bytes of which beats belong to a run, and how many are given a cycle.
#pragma once

#include <cstdint>

#include "definitions.h"

namespace bitloop {

struct Walk {
    int window = 0;
    uint32_t offset = 0, bytes = 0, stride = 0;
    int segments = 0;
};

struct Request {
    int window = 0;
    uint32_t offset = 0, bytes = 0;
    bool final = false;
};

struct Segment {
    uint32_t align = 0, span = 0;
    bool final = false;
};

struct Word {
    int start = 0, end = 0;  // first and last byte that counts
    bool last = false, final = false;
};

struct Given {
    bool valid = false, complete = false, final = false;
    int more = 0;  // bytes - 1
};

class SegmentWalker {
  public:
    explicit SegmentWalker(const Parameters& p) : lane_mask_(p.data_bits / 8 - 1) {}

    bool ready() const { return !active_; }
    bool active() const { return active_; }
    Request request() const { return {left_.window, left_.offset, left_.bytes, last()}; }
    Segment segment() const {
        const uint32_t align = left_.offset & lane_mask_;
        return {align, left_.bytes + align - 1, last()};
    }

    // `walk`: null unless one is taken, in a cycle with `ready`. `sent`: request and segment are.
    void tick(const Walk* walk, bool sent) {
        if (walk) {
            left_ = *walk;
            active_ = true;
        } else if (sent) {
            active_ = !last();
            left_.offset += left_.stride;
            left_.segments--;
        }
    }

  private:
    bool last() const { return left_.segments == 1; }

    uint32_t lane_mask_;
    bool active_ = false;
    Walk left_;
};

class WordTagger {
  public:
    explicit WordTagger(const Parameters& p) : per_beat_(p.data_bits / 32) {}

    bool active() const { return active_; }
    Word word() const { return {start_, last_ ? end_ : 3, last_, final_}; }
    bool segment_ready(bool send) const { return !active_ || (send && last_); }
    bool beat_ready(bool send) const { return send && (last_ || index_ == per_beat_ - 1); }

    // `segment`: null where none is offered.
    void tick(bool send, const Segment* segment) {
        const bool take = segment_ready(send);
        if (send) {
            last_ = words_left_ == 1;
            words_left_--;
            start_ = 0;
            index_ = (index_ + 1) & (per_beat_ - 1);
        }
        if (take) {
            active_ = segment != nullptr;
            if (segment) {
                words_left_ = (segment->span >> 2) - (segment->align >> 2);
                last_ = words_left_ == 0;
                start_ = segment->align & 3;
                end_ = segment->span & 3;
                final_ = segment->final;
                index_ = segment->align >> 2;
            }
        }
    }

  private:
    int per_beat_;
    bool active_ = false, last_ = false, final_ = false;
    uint32_t words_left_ = 0;
    int start_ = 0, end_ = 0, index_ = 0;
};

class ByteExtractor {
  public:
    // What is given where `want` + 1 bytes are wanted; holds for the rest of the cycle.
    const Given& give(int want) {
        const int wanted_last = position_ + want;
        const int limit = current_.last ? current_.end : 4 + following_.end;
        given_.complete = wanted_last <= limit;
        last_ = given_.complete ? wanted_last : limit;
        given_.valid =
            has_current_ && (current_.last || has_following_ || wanted_last < 4);
        given_.more = (last_ - position_) & 3;
        crosses_ = last_ >= 4;
        ends_current_ = current_.last && last_ == current_.end;
        ends_following_ = crosses_ && following_.last && (last_ & 3) == following_.end;
        given_.final =
            (ends_current_ && current_.final) || (ends_following_ && following_.final);
        return given_;
    }

    // Whether the consumer takes them, after `give`.
    void take(bool ready) {
        take_ = given_.valid && ready;
        drop_two_ = take_ && ends_following_;
        drop_one_ = take_ && (crosses_ || ends_current_ || last_ == 3) && !ends_following_;
    }

    bool word_ready() const { return !has_spare_; }

    // `offered`: null unless one comes in, in a cycle with `word_ready`; it waits aside while there
    // is no room.
    void tick(const Word* offered) {
        const bool room = !has_following_ || drop_one_ || drop_two_;
        const bool waits = (has_spare_ || offered) && !room;
        const Word arriving = has_spare_ ? spare_ : offered ? *offered : Word();
        const Word* word = room && (has_spare_ || offered) ? &arriving : nullptr;
        if (waits) spare_ = arriving;
        has_spare_ = waits;
        if (take_) position_ = (last_ + 1) & 3;
        if (drop_one_ && has_following_) {
            if (!crosses_) position_ = following_.start;
            current_ = following_;
            has_following_ = word != nullptr;
            if (word) following_ = *word;
        } else if (!has_current_ || drop_one_ || drop_two_) {
            has_current_ = word != nullptr;
            has_following_ = false;
            if (word) {
                current_ = *word;
                position_ = word->start;
            }
        } else if (!has_following_ && word) {
            following_ = *word;
            has_following_ = true;
        }
        take_ = drop_one_ = drop_two_ = false;
    }

  private:
    Word current_, following_, spare_;
    bool has_current_ = false, has_following_ = false, has_spare_ = false;
    int position_ = 0;
    Given given_;
    int last_ = 0;
    bool crosses_ = false, ends_current_ = false, ends_following_ = false;
    bool take_ = false, drop_one_ = false, drop_two_ = false;
};

}  // namespace bitloop
