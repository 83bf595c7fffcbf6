// SPDX-License-Identifier: Apache-2.0
// boards/on_chip_memory.py: when block RAM takes and gives.
#pragma once

#include "../memory.h"
#include "fifo.h"

namespace bitloop {

class OnChipMemory {
  public:
    OnChipMemory() { drive(); }

    const SlaveSignals& out() const { return out_; }
    void settle(int) {}

    void step(const MasterSignals& in) {
        const bool pop = out_.rvalid && in.rready;
        const bool ask = reading_ && room_ != 0;
        if (asked_) beats_.push(asked_last_);
        if (pop) beats_.pop();
        beats_.tick();
        asked_ = ask;
        asked_last_ = left_to_read_ == 0;
        room_ += int(pop) - int(ask);
        if (in.arvalid && out_.arready) {
            reading_ = true;
            left_to_read_ = in.arlen;
        } else if (ask) {
            reading_ = left_to_read_-- != 0;
        }

        const bool take = writing_ && in.wvalid;
        const bool last = take && left_to_write_ == 0;
        if (in.awvalid && out_.awready) {
            writing_ = true;
            left_to_write_ = in.awlen;
        } else if (take) {
            writing_ = left_to_write_-- != 0;
        }
        if (responding_ && in.bready) responding_ = false;
        if (last) responding_ = true;
        drive();
    }

  private:
    static constexpr int kHeld = 4;

    void drive() {
        out_.arready = !reading_;
        out_.rvalid = beats_.valid();
        out_.rlast = beats_.valid() && beats_.front();
        out_.awready = !writing_ && !responding_;
        out_.wready = writing_;
        out_.bvalid = responding_;
    }

    SlaveSignals out_;
    Fifo<bool, kHeld> beats_{kHeld};
    int room_ = kHeld, left_to_read_ = 0, left_to_write_ = 0;
    bool reading_ = false, asked_ = false, asked_last_ = false;
    bool writing_ = false, responding_ = false;
};

}  // namespace bitloop
