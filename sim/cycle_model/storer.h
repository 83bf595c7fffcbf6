// SPDX-License-Identifier: Apache-2.0
// hw/storer.py: STORE_ACTIVATIONS, from activation words to bytes in memory.
#pragma once

#include "byte_stream.h"
#include "fifo.h"
#include "geometry.h"
#include "run_packer.h"

namespace bitloop {

class Storer {
  public:
    explicit Storer(const Parameters& p)
        : p_(p), walker_(p), packer_(p), segments_(p.storer_segments_ahead),
          about_(p.storer_words_ahead), words_(p.storer_words_ahead) {}

    bool line_ready() const { return !taken_; }
    bool busy() const { return unfinished_ != 0; }
    bool illegal() const { return illegal_; }
    bool beat_valid() const { return packer_.beat_valid(); }

    // The word asked of the activation RAM.
    bool read_valid() const { return reading_ && about_.ready(); }
    int read_address() const { return address_; }

    const Request* request() {
        if (!walker_.active() || !segments_.ready()) return nullptr;
        request_ = walker_.request();
        return &request_;
    }

    // `read_ready`: the activation RAM takes the address; `beat_ready`: the write engine the beat.
    void evaluate(bool read_ready, bool beat_ready) {
        if (!busy()) return;
        start_ = decoded_ && !running_ && walker_.ready();
        send_ = read_valid() && read_ready;
        packer_.evaluate(beat_ready);
        given_ = &extractor_.give(packer_.want());
        extractor_.take(packer_.ready());
        moved_ = words_.valid() && extractor_.word_ready();
    }

    // `retired`: the last response of an instruction comes. Otherwise as `Loader::tick`.
    void tick(const uint8_t* line, bool request_taken, bool retired) {
        if (!busy() && !line) return;
        if (busy()) work(request_taken);
        unfinished_ += (line != nullptr) - retired;
        if (line) {
            line_ = StoreActivations::decode(line);
            illegal_ |= illegal_geometry(line_);
            taken_ = true;
        }
    }

  private:
    struct About {
        int top = 0;
        bool final = false;
    };

    void work(bool request_taken) {
        if (packer_.mismatch(*given_)) illegal_ = true;
        // Words into the extractor.
        Word word;
        if (moved_) {
            const About& about = about_.front();
            const bool part_last = part_ == about.top >> 2;
            const int top = about.top & 3;
            word = {0, part_last ? top : 3, part_last && (about.final || top != 3), about.final};
            part_ = part_last ? 0 : part_ + 1;
            if (part_last) {
                words_.pop();
                about_.pop();
            }
        }
        extractor_.tick(moved_ ? &word : nullptr);
        const bool done = packer_.done(*given_);
        if (segments_.valid() && packer_.segment_ready(*given_)) segments_.pop();
        packer_.tick(*given_, segments_.valid() ? &segments_.front() : nullptr);

        // Words out of the activation RAM.
        if (read_under_way_[1]) words_.push(0);
        read_under_way_[1] = read_under_way_[0];
        read_under_way_[0] = send_;
        if (send_) read();
        if (begin_) {
            reading_ = true;
            address_ = row_address_ = geometry_.destination;
            words_left_ = geometry_.words;
            pixels_left_ = geometry_.pixels;
            rows_left_ = geometry_.rows;
        }
        begin_ = start_;

        // Instructions.
        decoded_ = taken_ && !start_;
        const Walk walk = {int(line_.window), line_.offset, line_.segment_bytes,
                           line_.segment_stride, int(line_.segments)};
        if (request_taken) segments_.push(walker_.segment());
        walker_.tick(start_ ? &walk : nullptr, request_taken);
        if (start_) {
            geometry_ = decode_geometry(p_, line_);
            running_ = true;
            taken_ = false;
        }
        if (done) running_ = false;
        segments_.tick();
        about_.tick();
        words_.tick();
    }

    void read() {
        const bool word_last = words_left_ == 0, pixel_last = word_last && pixels_left_ == 1;
        const bool row_last = pixel_last && rows_left_ == 1;
        about_.push({word_last ? geometry_.tail : p_.lanes - 1, row_last});
        address_ = (address_ + 1) & kWordMask;
        words_left_--;
        if (word_last) {
            words_left_ = geometry_.words;
            pixels_left_--;
        }
        if (pixel_last) {
            pixels_left_ = geometry_.pixels;
            rows_left_--;
            address_ = row_address_ = (row_address_ + geometry_.row_step) & kWordMask;
            reading_ = !row_last;
        }
    }

    static constexpr int kWordMask = (1 << kAddressBits) - 1;

    const Parameters& p_;
    SegmentWalker walker_;
    ByteExtractor extractor_;
    RunPacker packer_;
    Fifo<Segment, 16> segments_;
    Fifo<About, 8> about_;
    Fifo<char, 8> words_;
    StoreActivations line_;
    Geometry geometry_;
    Request request_;
    const Given* given_ = nullptr;
    bool taken_ = false, decoded_ = false, running_ = false, begin_ = false, reading_ = false;
    bool start_ = false, send_ = false, moved_ = false, illegal_ = false;
    bool read_under_way_[2] = {};  // activation RAM's read latency
    int address_ = 0, row_address_ = 0, words_left_ = 0, pixels_left_ = 0, rows_left_ = 0;
    int part_ = 0;
    int unfinished_ = 0;
};

}  // namespace bitloop
