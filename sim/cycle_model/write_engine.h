// SPDX-License-Identifier: Apache-2.0
// hw/write_engine.py: bursts of the storer, their beats and responses.
#pragma once

#include "../memory.h"
#include "bursts.h"
#include "fifo.h"
#include "read_engine.h"

namespace bitloop {

class WriteEngine {
  public:
    WriteEngine(const Parameters& p, const MemoryWindow* windows)
        : splitter_(p, windows, 1u << kWindowOutput | 1u << kWindowScratch),
          lengths_(p.bursts_in_flight), marks_(p.bursts_in_flight) {}

    // `beat_valid`: the storer has a beat.
    void evaluate(const SlaveSignals& bus, bool beat_valid) {
        issue_ = send_ = finished_ = false;
        beat_offered_ = beat_waits_ || beat_valid;
        if (!busy()) return;
        issue_ = splitter_.burst_valid() && lengths_.ready() && marks_.ready() &&
                 (!address_valid_ || bus.awready);
        free_ = !data_valid_ || bus.wready;
        send_ = free_ && lengths_.valid() && beat_offered_;
        last_ = index_ == lengths_.front();
        finished_ = bus.bvalid && marks_.valid() && marks_.front();
        if (bus.bvalid) marks_.pop();
        if (send_ && last_) lengths_.pop();
    }

    bool request_ready() const { return splitter_.request_ready(); }
    bool beats_ready() const { return !beat_waits_; }
    bool finished() const { return finished_; }
    bool idle() const { return !address_valid_ && !data_valid_ && !marks_.valid(); }
    bool violation() const { return splitter_.violation(); }

    void drive(MasterSignals& bus) const {
        bus.awvalid = address_valid_;
        bus.awaddr = burst_.address;
        bus.awlen = uint8_t(burst_.length);
        bus.wvalid = data_valid_;
        bus.wlast = data_last_;
        bus.bready = true;
    }

    void tick(bool address_ready, const Request* request) {
        beat_waits_ = beat_offered_ && !send_;
        if (!busy() && !request) return;
        if (address_ready) address_valid_ = false;
        if (issue_) {
            burst_ = splitter_.burst();
            address_valid_ = true;
            lengths_.push(burst_.length);
            marks_.push(burst_.final);
        }
        if (free_) {
            data_valid_ = send_;
            data_last_ = last_;
        }
        if (send_) index_ = last_ ? 0 : index_ + 1;
        splitter_.tick(issue_, request);
        lengths_.tick();
        marks_.tick();
    }

  private:
    bool busy() const { return splitter_.busy() || !idle() || lengths_.valid(); }

    BurstSplitter splitter_;
    Fifo<int, kMostBursts> lengths_;
    Fifo<bool, kMostBursts> marks_;
    Burst burst_;
    int index_ = 0;
    bool address_valid_ = false, data_valid_ = false, data_last_ = false;
    bool issue_ = false, free_ = true, send_ = false, last_ = false;
    bool beat_offered_ = false, beat_waits_ = false;  // aside, while it cannot be sent
    bool finished_ = false;
};

}  // namespace bitloop
