// SPDX-License-Identifier: Apache-2.0
// hw/activation_unpacker.py: when the words of pixels are complete, and where they go.
#pragma once

#include "byte_stream.h"
#include "definitions.h"
#include "geometry.h"

namespace bitloop {

class ActivationUnpacker {
  public:
    explicit ActivationUnpacker(const Parameters& p) : lanes_(p.lanes) {}

    bool write_valid() const { return write_valid_; }
    int write_address() const { return write_address_; }
    int want() const { return few() && !cross_ ? left_ : 3; }

    // `write_ready`: the activation RAM takes the word offered. Before `ready` and `done`.
    void evaluate(bool write_ready) {
        chunk_ready_ = !write_valid_ || write_ready;
        moves_ = !chunk_.valid || chunk_ready_;
        free_ = !addressed_.valid || moves_;
        ready_ = running_ && !beyond_ && free_;
        done_ = chunk_ready_ && last_word_;
    }

    bool ready() const { return ready_; }
    bool done() const { return done_; }

    // The runs hold fewer or more bytes than the pixels.
    bool mismatch(const Given& given) const {
        return given.valid && ready_ && given.final != (last(given) && rows_ == 1);
    }

    void tick(const Given& given) {
        const bool step = running_ && free_ && (beyond_ || given.valid);
        if (chunk_ready_) {
            write_valid_ = chunk_.valid && chunk_.word;
            last_word_ = chunk_.valid && chunk_.done;
            write_address_ = chunk_.address;
        }
        if (moves_) chunk_ = addressed_;
        if (free_) addressed_.valid = step;
        if (step) walk(given);
    }

    void start(const Geometry& geometry) {
        geometry_ = geometry;
        running_ = true;
        beyond_ = whole_ = cross_ = false;
        words_ = geometry.words;
        left_ = geometry.first_bytes;
        pixels_ = geometry.pixels;
        rows_ = geometry.rows;
        gap_ = geometry.phase;
        address_ = row_address_ = geometry.destination;
    }

  private:
    struct Chunk {
        bool valid = false, word = false, done = false;
        int address = 0;
    };

    bool few() const { return left_ < 4; }
    bool unit_done(const Given& given) const { return few() && (beyond_ || given.complete); }
    bool last(const Given& given) const {
        return unit_done(given) && words_ == 0 && pixels_ == 1;
    }

    // More than two groups' pixels are left of the row, whose last pixel is never in a group.
    bool many() const {
        const bool small = geometry_.skip < 2;
        return pixels_ >> 4 || ((pixels_ & 8) && ((pixels_ & 7) || small)) ||
               ((pixels_ & 4) && (pixels_ & 3) && small);
    }

    void walk(const Given& given) {
        const bool unit_done = this->unit_done(given), due = whole_ || gap_ == 0;
        const bool pixel_done = unit_done && words_ == 0, last = pixel_done && pixels_ == 1;
        const bool row_done = last && (beyond_ || geometry_.extra == 0);
        const bool many = this->many(), crossed = cross_;
        addressed_.word = unit_done && due;
        addressed_.address = address_;
        addressed_.done = row_done && rows_ == 1;
        const int more = beyond_ ? want() : given.more;
        cross_ = geometry_.pairs && whole_ && !few() && many && !beyond_;
        left_ = (left_ - more - 1) & 15;
        if (unit_done && due) address_ = (address_ + 1) & kWordMask;
        if (pixel_done) {
            const int group = (geometry_.skip + 1) * (geometry_.first_bytes + 1) - 1;
            words_ = geometry_.words;
            left_ = geometry_.first_bytes;
            pixels_ = (pixels_ - (whole_ ? geometry_.skip + 1 : 1)) & kPixelMask;
            gap_ = due ? geometry_.skip : gap_ - 1;
            whole_ = geometry_.skip && due && many;
            if (whole_) left_ = crossed ? group ^ 5 ^ 3 : group;  // two bytes came already
        } else if (unit_done) {
            left_ = words_ == 1 ? geometry_.tail : lanes_ - 1;
            words_--;
        }
        if (last && !beyond_) {
            beyond_ = geometry_.extra != 0;
            pixels_ = geometry_.extra;
        }
        if (row_done) {
            beyond_ = false;
            pixels_ = geometry_.pixels;
            gap_ = geometry_.phase;
            row_address_ = (row_address_ + geometry_.row_step) & kWordMask;
            address_ = row_address_;
            running_ = rows_ != 1;
            rows_--;
        }
    }

    static constexpr int kWordMask = (1 << kAddressBits) - 1;
    static constexpr int kPixelMask = 4095;

    int lanes_;
    Geometry geometry_;
    // beyond: right of the row's last pixel; whole: the unit is a group, all pixels up to one with a
    // word; cross: two bytes of the next group are taken too
    bool running_ = false, beyond_ = false, whole_ = false, cross_ = false;
    int left_ = 0;  // bytes to come of this unit, minus one
    int words_ = 0, pixels_ = 0, rows_ = 0;
    int gap_ = 0;  // pixels before the next with a word
    int address_ = 0, row_address_ = 0;
    Chunk addressed_, chunk_;  // in the RAMs' address registers, in their output registers
    bool write_valid_ = false, last_word_ = false;
    int write_address_ = 0;
    bool chunk_ready_ = true, moves_ = true, free_ = true, ready_ = false, done_ = false;
};

}  // namespace bitloop
