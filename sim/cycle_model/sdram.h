// SPDX-License-Identifier: Apache-2.0
// boards/sdram.py: when the SDRAM controller takes and gives, its refreshes included. Addresses
// wrap at the memory's end; none is refused.
#pragma once

#include <cstdint>

#include "../memory.h"
#include "definitions.h"
#include "fifo.h"

namespace bitloop {

class Sdram {
  public:
    explicit Sdram(const SdramTiming& timing)
        : t_(timing), beats_(t_.read_buffer), room_(t_.read_buffer) {
        drive();
    }

    const SlaveSignals& out() const { return out_; }

    // Nothing has been asked for since the last refresh but one, so no row is open; the refresh
    // counter is at `phase` of 0 .. refresh_interval - 1.
    void settle(int phase) {
        for (bool& open : open_) open = false;
        until_refresh_ = (phase + kSettling) % t_.refresh_interval;
        for (int i = 0; i < kSettling; i++) step(MasterSignals());
    }

    void step(const MasterSignals& in) {
        const bool pop = out_.rvalid && in.rready;
        const bool free = delay_ == 0, due = refresh_due_;
        const int closing = closing_;
        if (delay_) delay_--;
        if (closing_) closing_--;
        if (until_refresh_ == 0) {
            until_refresh_ = t_.refresh_interval;
            refresh_due_ = true;
        }
        until_refresh_--;

        const bool data_valid = data_.valid(), response_ready = responses_.ready();
        if (in.wvalid && data_.ready()) data_.push(true);
        if (responses_.valid() && in.bready) responses_.pop();

        bool ask = false;
        const bool last = left_ == 0;
        const uint32_t column_mask = (1u << t_.column_bits) - 1;
        const bool end_of_row = (beat_ & column_mask) == column_mask;
        const int bank = beat_ >> t_.column_bits & (kBanks - 1);
        const uint32_t row = beat_ >> (t_.column_bits + 2) & ((1u << t_.row_bits) - 1);
        const bool read_waits = read_held_.waits, write_waits = write_held_.waits;
        switch (state_) {
        case kIdle:
            if (due) {
                state_ = kCloseAll;
            } else if (read_waits && (writing_ || !write_waits)) {
                start(read_held_, false);
            } else if (write_waits && response_ready) {
                start(write_held_, true);
            }
            break;
        case kCloseAll:
            if (free && !closing && !reading_) {
                for (bool& open : open_) open = false;
                delay_ = t_.precharge - 1;
                state_ = kRefresh;
            }
            break;
        case kRefresh:
            if (free) {
                delay_ = t_.refresh - 1;
                refresh_due_ = false;
                state_ = kResume;
            }
            break;
        case kResume: state_ = active_ ? kLookUp : kIdle; break;
        case kLookUp:
            found_row_ = rows_[bank];
            found_open_ = open_[bank];
            state_ = kDecide;
            break;
        case kDecide:
            state_ = !found_open_ ? kOpen : found_row_ == row ? transfer() : kClose;
            break;
        case kClose:
            if (free && !closing) {
                delay_ = t_.precharge - 1;
                open_[bank] = false;
                state_ = kOpen;
            }
            break;
        case kOpen:
            if (free) {
                delay_ = t_.activate - 1;
                closing_ = t_.active - 1;
                open_[bank] = true;
                rows_[bank] = row;
                state_ = transfer();
            }
            break;
        case kRead:
            if (due) {
                state_ = kCloseAll;
            } else if (free && has_room_) {
                ask = true;
                delay_ = t_.words_per_beat - 1;
                next_beat(last, end_of_row);
            }
            break;
        case kWrite:
            if (due) {
                state_ = kCloseAll;
            } else if (free && data_valid && !reading_) {
                data_.pop();
                delay_ = t_.words_per_beat - 1;
                const int recovery = t_.write_recovery + t_.words_per_beat - 1;
                if (closing < recovery) closing_ = recovery;
                if (last) responses_.push(true);
                next_beat(last, end_of_row);
            }
            break;
        }

        // A beat asked for comes back at a fixed time: bit i of `in_flight_` is one that was asked
        // for i + 1 cycles ago.
        const uint64_t top = uint64_t(1) << t_.read_stages;
        const bool arriving = in_flight_ & top;
        if (arriving) beats_.push(last_flags_ & top);
        reading_ = (in_flight_ & (top - 1)) != 0 || ask;
        in_flight_ = (in_flight_ << 1 | ask) & (2 * top - 1);
        last_flags_ = (last_flags_ << 1 | last) & (2 * top - 1);
        if (pop) beats_.pop();
        if (ask != pop) room_ += pop ? 1 : -1;
        has_room_ = room_ != 0;
        beats_.tick();
        data_.tick();
        responses_.tick();

        if (in.arvalid && !read_waits) read_held_ = {true, in.araddr, in.arlen};
        if (in.awvalid && !write_waits) write_held_ = {true, in.awaddr, in.awlen};
        drive();
    }

  private:
    enum State { kIdle, kCloseAll, kRefresh, kResume, kLookUp, kDecide, kClose, kOpen, kRead, kWrite };
    static constexpr int kBanks = 4, kQueued = 4, kMostHeld = 64;
    static constexpr int kSettling = 64;  // longer than a refresh

    struct Address {
        bool waits = false;
        uint32_t address = 0;
        int length = 0;
    };

    State transfer() const { return writing_ ? kWrite : kRead; }

    void start(Address& held, bool writing) {
        held.waits = false;
        beat_ = held.address >> 2;
        left_ = held.length;
        writing_ = writing;
        active_ = true;
        state_ = kLookUp;
    }

    void next_beat(bool last, bool end_of_row) {
        beat_++;
        left_--;
        if (last) {
            active_ = false;
            state_ = kIdle;
        } else if (end_of_row) {
            state_ = kLookUp;
        }
    }

    void drive() {
        out_.arready = !read_held_.waits;
        out_.rvalid = beats_.valid();
        out_.rlast = beats_.valid() && beats_.front();
        out_.awready = !write_held_.waits;
        out_.wready = data_.ready();
        out_.bvalid = responses_.valid();
    }

    SdramTiming t_;
    SlaveSignals out_;
    State state_ = kIdle;
    int delay_ = 0, closing_ = 0, until_refresh_ = 0;
    bool refresh_due_ = false;
    Address read_held_, write_held_;
    uint32_t beat_ = 0;
    int left_ = 0;
    bool writing_ = false, active_ = false;
    uint32_t rows_[kBanks] = {}, found_row_ = 0;
    bool open_[kBanks] = {}, found_open_ = false;
    Fifo<bool, kQueued> data_{kQueued}, responses_{kQueued};
    Fifo<bool, kMostHeld> beats_;
    uint64_t in_flight_ = 0, last_flags_ = 0;
    int room_;
    bool has_room_ = true, reading_ = false;
};

}  // namespace bitloop
