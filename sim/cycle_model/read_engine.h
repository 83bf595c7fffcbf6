// SPDX-License-Identifier: Apache-2.0
// hw/read_engine.py: bursts of instruction fetch and loader, their beats in order.
#pragma once

#include "../memory.h"
#include "bursts.h"
#include "fifo.h"

namespace bitloop {

constexpr int kMostBursts = 16;
constexpr int kBeatsHeld = 4;

class ReadEngine {
  public:
    static constexpr int kFetch = 0, kLoader = 1;  // clients

    ReadEngine(const Parameters& p, const MemoryWindow* windows)
        : splitters_{{p, windows, 1u << kWindowProgram}, {p, windows, ~0u}},
          owners_(p.bursts_in_flight), beats_(kBeatsHeld) {}

    // What a cycle's registers and the bus say; before anything below.
    void evaluate(const SlaveSignals& bus) {
        if (!busy()) {
            issue_ = beat_ = false;
            return;
        }
        client_ = splitters_[kFetch].burst_valid() ? kFetch : kLoader;
        issue_ = splitters_[client_].burst_valid() && owners_.ready() &&
                 (!address_valid_ || bus.arready);
        beat_ = bus.rvalid && beats_.ready();
        if (beat_) {
            beats_.push(owners_.front());
            if (bus.rlast) owners_.pop();
        }
    }

    bool request_ready(int client) const {
        return splitters_[client].request_ready();
    }
    bool response_valid(int client) const { return beats_.valid() && beats_.front() == client; }
    void take_response() { beats_.pop(); }
    bool idle() const { return !address_valid_ && !owners_.valid(); }
    bool violation() const { return splitters_[0].violation() || splitters_[1].violation(); }
    bool beat() const { return beat_; }

    void drive(MasterSignals& bus) const {
        bus.arvalid = address_valid_;
        bus.araddr = burst_.address;
        bus.arlen = uint8_t(burst_.length);
        bus.rready = beats_.ready();
    }

    // `requests`: null where none is offered.
    void tick(bool address_ready, const Request* const requests[2]) {
        if (!busy() && !requests[0] && !requests[1]) return;
        if (address_ready) address_valid_ = false;
        if (issue_) {
            burst_ = splitters_[client_].burst();
            address_valid_ = true;
            owners_.push(client_);
        }
        for (int client = 0; client < 2; client++) {
            splitters_[client].tick(issue_ && client_ == client, requests[client]);
        }
        owners_.tick();
        beats_.tick();
    }

  private:
    bool busy() const {
        return splitters_[0].busy() || splitters_[1].busy() || address_valid_ ||
               owners_.valid() || beats_.valid();
    }

    BurstSplitter splitters_[2];
    Fifo<int, kMostBursts> owners_;
    Fifo<int, kBeatsHeld> beats_;
    Burst burst_;
    bool address_valid_ = false;
    bool issue_ = false, beat_ = false;
    int client_ = 0;
};

}  // namespace bitloop
