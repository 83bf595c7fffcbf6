// SPDX-License-Identifier: Apache-2.0
// hw/loader.py: LOAD instructions, from bus requests to the memories they fill.
#pragma once

#include "activation_unpacker.h"
#include "byte_stream.h"
#include "fifo.h"
#include "geometry.h"
#include "memory_image.h"
#include "word_writer.h"

namespace bitloop {

class Loader {
  public:
    explicit Loader(const Parameters& p)
        : p_(p), walker_(p), tagger_(p), words_(p), pixels_(p), tasks_(p.loader_instructions_ahead),
          segments_(p.loader_segments_ahead) {}

    bool line_ready() const { return !taken_; }
    bool busy() const { return unfinished_ != 0; }
    bool busy_activations() const { return busy_activations_; }
    bool retired() const { return on_the_way_ >> (p_.loader_write_latency - 1) & 1; }
    bool illegal() const { return illegal_; }

    // The word offered to the activation RAM.
    bool write_valid() const { return pixels_.write_valid(); }
    int write_address() const { return pixels_.write_address(); }

    // The request offered, null if none.
    const Request* request() {
        if (!walker_.active() || !segments_.ready()) return nullptr;
        request_ = walker_.request();
        return &request_;
    }

    // `load_ready`: the load bus is free; `write_ready`: the activation RAM takes the word;
    // `beat_valid`: the read engine has a beat. Returns whether the beat is used up.
    bool evaluate(bool load_ready, bool write_ready, bool beat_valid) {
        if (!busy()) return false;
        start_ = tasks_.valid() && !working_;
        words_.evaluate(opcode_, load_ready);
        pixels_.evaluate(write_ready);
        const bool is_pixels = opcode_ == kOpLoadActivations;
        const Given& given = extractor_.give(is_pixels ? pixels_.want() : WordWriter::want(opcode_));
        given_ = &given;
        extractor_.take(pixels_.ready() || words_.ready());
        done_ = words_.done() || pixels_.done();
        send_ = tagger_.active() && beat_valid && extractor_.word_ready();
        word_ = tagger_.word();
        return tagger_.beat_ready(send_);
    }

    // A step entry is complete: its place in the step RAM and its bytes.
    bool step_written() const { return busy() && words_.step_written(); }
    int step_address() const { return task_.destination + words_.steps_written(); }
    const uint8_t* step_bytes() const { return task_.bytes + words_.steps_written() * kStepBytes; }

    // `line`: null unless an instruction is taken; `image`: bytes of its window; `request_taken`:
    // the request offered was.
    void tick(const uint8_t* line, const MemoryImage& image, bool request_taken) {
        if (!busy() && !line) return;
        if (busy()) work(request_taken);
        const bool was_retired = retired();
        on_the_way_ = on_the_way_ << 1 | done_;
        unfinished_ += (line != nullptr) - was_retired;
        done_ = false;
        if (line) decode(line, image);
    }

  private:
    struct Task {
        int opcode = 0, destination = 0;
        const uint8_t* bytes = nullptr;  // of the instruction's first entry, steps only
        Geometry geometry;
    };

    void work(bool request_taken) {
        const bool leave = decoded_ && walker_.ready() && tasks_.ready();
        if (leave) tasks_.push(next_);
        if (done_) {
            tasks_.pop();
            working_ = false;
        }
        if (pixels_.mismatch(*given_)) illegal_ = true;
        // The unit's own cycle first, then what `start` sets.
        pixels_.tick(*given_);
        words_.tick(opcode_, *given_);
        extractor_.tick(send_ ? &word_ : nullptr);
        if (segments_.valid() && tagger_.segment_ready(send_)) segments_.pop();
        tagger_.tick(send_, segments_.valid() ? &segments_.front() : nullptr);
        if (start_) {
            task_ = tasks_.front();
            opcode_ = task_.opcode;
            working_ = true;
            busy_activations_ = opcode_ == kOpLoadActivations;
            if (busy_activations_) {
                pixels_.start(task_.geometry);
            } else {
                words_.start();
            }
        }
        if (request_taken) segments_.push(walker_.segment());
        walker_.tick(leave ? &walk_ : nullptr, request_taken);
        segments_.tick();
        tasks_.tick();
        decoded_ = taken_ && !leave;
        if (leave) taken_ = false;
    }

    void decode(const uint8_t* raw, const MemoryImage& image) {
        taken_ = true;
        next_ = Task();
        next_.opcode = Header::decode(raw).opcode;
        uint32_t count = 0;
        switch (next_.opcode) {
        case kOpLoadActivations: {
            const auto line = LoadActivations::decode(raw);
            next_.geometry = decode_geometry(p_, line);
            decode_folding(next_.geometry, line);
            walk_ = {int(line.window), line.offset, line.segment_bytes, line.segment_stride,
                     int(line.segments)};
            illegal_ |= illegal_geometry(line) || illegal_folding(p_, line);
            return;
        }
        case kOpLoadTable: {
            const auto line = LoadTable::decode(raw);
            walk_ = {int(line.window), line.offset, kTableBytes, 0, 1};
            return;
        }
        case kOpLoadWeights: {
            const auto line = LoadWeights::decode(raw);
            count = line.count;
            walk_ = {int(line.window), line.offset, count * p_.weight_row_bytes, 0, 1};
            break;
        }
        case kOpLoadParameters: {
            const auto line = LoadParameters::decode(raw);
            const uint32_t bytes = (p_.parameter_words_per_group + 1) * 4 * p_.columns;
            count = line.count;
            walk_ = {int(line.window), line.offset, count * bytes, 0, 1};
            break;
        }
        default: {
            const auto line = LoadSteps::decode(raw);
            count = line.count;
            walk_ = {int(line.window), line.offset, count * kStepBytes, 0, 1};
            next_.destination = line.destination;
            next_.bytes = image.at(line.window, line.offset, walk_.bytes);
            illegal_ |= int(line.destination + count) > p_.step_entries;
        }
        }
        illegal_ |= count == 0;
    }

    static constexpr uint32_t kTableBytes = 256;

    const Parameters& p_;
    SegmentWalker walker_;
    WordTagger tagger_;
    ByteExtractor extractor_;
    WordWriter words_;
    ActivationUnpacker pixels_;
    Fifo<Task, 8> tasks_;
    Fifo<Segment, 16> segments_;
    bool taken_ = false, decoded_ = false;
    Walk walk_;
    Task next_, task_;
    Request request_;
    Word word_;
    const Given* given_ = nullptr;
    int opcode_ = kOpLoadWeights;
    bool working_ = false, busy_activations_ = false, illegal_ = false;
    bool start_ = false, done_ = false, send_ = false;
    unsigned on_the_way_ = 0;
    int unfinished_ = 0;
};

}  // namespace bitloop
