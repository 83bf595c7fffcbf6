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
    int want() const { return left_ < 4 ? left_ : 3; }

    // `write_ready`: the activation RAM takes the word offered. Before `ready` and `done`.
    void evaluate(bool write_ready) {
        chunk_ready_ = !write_valid_ || write_ready;
        free_ = !chunk_valid_ || chunk_ready_;
        ready_ = running_ && !beyond_ && free_;
        done_ = write_valid_ && write_ready && last_word_;
    }

    bool ready() const { return ready_; }
    bool done() const { return done_; }

    // The runs hold fewer or more bytes than the pixels.
    bool mismatch(const Given& given) const {
        return given.valid && ready_ && given.final != (last_data(word_done(given)) && rows_ == 1);
    }

    void tick(const Given& given) {
        const bool step = running_ && free_ && (beyond_ || given.valid);
        if (chunk_ready_) {
            write_valid_ = chunk_valid_ && chunk_word_;
            last_word_ = chunk_done_;
            write_address_ = chunk_address_;
        }
        if (free_) chunk_valid_ = step;
        if (step) walk(given);
    }

    void start(const Geometry& geometry) {
        geometry_ = geometry;
        running_ = true;
        beyond_ = false;
        words_ = geometry.words;
        left_ = geometry.first_bytes;
        pixels_ = geometry.pixels;
        rows_ = geometry.rows;
        address_ = row_address_ = geometry.destination;
    }

  private:
    bool word_done(const Given& given) const { return beyond_ || (given.complete && left_ < 4); }
    bool last_data(bool word_done) const { return word_done && words_ == 0 && pixels_ == 1; }

    void walk(const Given& given) {
        const bool word_done = this->word_done(given);
        const bool last_data = !beyond_ && this->last_data(word_done);
        const bool row_done = beyond_ ? extra_ == 1 : last_data && geometry_.extra == 0;
        chunk_word_ = word_done;
        chunk_address_ = address_;
        chunk_done_ = row_done && rows_ == 1;
        left_ -= given.more + 1;
        if (word_done) {
            address_ = (address_ + 1) & kWordMask;
            left_ = words_ == 1 ? geometry_.tail : lanes_ - 1;
            if (words_ == 0) {
                words_ = geometry_.words;
                left_ = geometry_.first_bytes;
                pixels_--;
            } else {
                words_--;
            }
        }
        if (beyond_) {
            extra_--;
            words_ = 0;
        }
        if (last_data) {
            beyond_ = geometry_.extra != 0;
            extra_ = geometry_.extra;
        }
        if (row_done) {
            beyond_ = false;
            pixels_ = geometry_.pixels;
            row_address_ = (row_address_ + geometry_.row_step) & kWordMask;
            address_ = row_address_;
            running_ = rows_ != 1;
            rows_--;
        }
    }

    static constexpr int kWordMask = (1 << kAddressBits) - 1;

    int lanes_;
    Geometry geometry_;
    bool running_ = false, beyond_ = false;  // beyond: words right of the row's last pixel
    int left_ = 0;                           // bytes that the word lacks, minus one
    int words_ = 0, pixels_ = 0, rows_ = 0, extra_ = 0;
    int address_ = 0, row_address_ = 0;
    bool chunk_valid_ = false, chunk_word_ = false, chunk_done_ = false;
    int chunk_address_ = 0;
    bool write_valid_ = false, last_word_ = false;
    int write_address_ = 0;
    bool chunk_ready_ = true, free_ = true, ready_ = false, done_ = false;
};

}  // namespace bitloop
