// SPDX-License-Identifier: Apache-2.0
// Parametric AXI4 memory: deterministic, and simple enough for an exact cycle model.
//
// The contract. Cycles are numbered by rising clock edges. Signal values "in cycle t" are those
// sampled at edge t; a handshake happens in cycle t if valid and ready are both high in cycle t.
// All outputs of the memory in cycle t + 1 depend only on its state after edge t, never on inputs
// of the same cycle. L = latency (at least 1), P = bytes_per_cycle, D = bytes of a beat (the data
// bus), O = outstanding.
//
// Read channel
//   * arready in cycle t is high if fewer than O bursts are in flight. A burst is in flight from the
//     cycle after its AR handshake up to and including the cycle of its last R handshake.
//   * Bursts are answered in order. The first beat of a burst with its AR handshake in cycle t can
//     be on R in cycle t + L at the earliest, and not before the last beat of the burst before it
//     was taken. Two bursts whose latencies have passed stream without a gap.
//   * Rate: a credit, at most D + p - 1 with p = min(P, D), starts full. Each cycle, after that
//     cycle's handshake has taken D from it, it grows by p up to its limit. rvalid in a cycle needs
//     a credit of at least D. So P >= D gives a beat every cycle, and P < D one every D / P cycles
//     on average.
//   * Once rvalid is high it and the data stay until taken.
//
// Write channel (independent of the read channel, with a credit of its own)
//   * awready in cycle t is high if fewer than O bursts are in flight: from the cycle after the AW
//     handshake up to and including the cycle of the B handshake.
//   * wready is high if a burst with its AW handshake in an earlier cycle lacks data, and the credit
//     is at least D. Data belongs to bursts in the order of their addresses. A beat is in memory, as
//     far as reads presented in later cycles are concerned, at the edge that takes it.
//   * With the last W handshake of a burst in cycle t, bvalid can be high in cycle t + L at the
//     earliest, responses in order, one a cycle.
//
// A beat outside [base, base + size) is answered DECERR (a write is dropped, a read gives 0xEE).
//
// Faults and pauses are for tests only, and off by default: see `Fault` and `pause`.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

namespace bitloop {

constexpr int kMaxBeatBytes = 16;

enum Response : uint8_t { kOkay = 0, kSlaveError = 2, kDecodeError = 3 };

enum class Fault : int {
    kNone = 0,
    kReadError = 1,    // beats that hold the address answer SLVERR
    kWriteError = 2,   // a burst that writes the address answers SLVERR
    kReadSilent = 3,   // a read burst that holds the address is never answered
    kWriteSilent = 4,  // a write burst that holds the address is never answered
};

// What the master drives in a cycle.
struct MasterSignals {
    bool arvalid = false, rready = false, awvalid = false, wvalid = false, wlast = false;
    bool bready = false;
    uint8_t arlen = 0, awlen = 0, arsize = 0, awsize = 0, arburst = 1, awburst = 1;
    uint32_t araddr = 0, awaddr = 0;
    uint32_t wstrb = 0;
    uint8_t wdata[kMaxBeatBytes] = {};
};

// What the memory drives in a cycle.
struct SlaveSignals {
    bool arready = false, rvalid = false, rlast = false, awready = false, wready = false;
    bool bvalid = false;
    uint8_t rresp = kOkay, bresp = kOkay;
    uint8_t rdata[kMaxBeatBytes] = {};
};

class ParametricMemory {
  public:
    ParametricMemory(uint32_t base, uint64_t size, int beat_bytes, int latency, int bytes_per_cycle,
                     int outstanding)
        : base_(base), bytes_(size, 0), beat_bytes_(beat_bytes), latency_(latency),
          rate_(bytes_per_cycle < beat_bytes ? bytes_per_cycle : beat_bytes),
          outstanding_(outstanding), read_credit_(credit_limit()), write_credit_(credit_limit()) {
        drive();
    }

    uint8_t* data() { return bytes_.data(); }
    uint64_t size() const { return bytes_.size(); }
    const SlaveSignals& out() const { return out_; }

    // Beats moved since construction.
    uint64_t beats_read = 0, beats_written = 0;

    // The first broken AXI rule, empty if none.
    const std::string& violation() const { return violation_; }

    void set_fault(Fault fault, uint32_t address) {
        fault_ = fault;
        fault_address_ = address;
    }

    // Withhold each ready and each new valid with probability per_1024 / 1024. 0 turns it off.
    void pause(uint32_t per_1024, uint64_t seed) {
        pause_per_1024_ = per_1024;
        random_ = seed * 0x9E3779B97F4A7C15ull + 0x2545F4914F6CDD1Dull;
    }

    // Forget all bursts in flight, as a reset of the bus does; memory contents stay.
    void reset() {
        reads_.clear();
        writes_.clear();
        read_credit_ = write_credit_ = credit_limit();
        writes_with_data_ = 0;
        presented_ = responding_ = false;
        previous_ = MasterSignals();
        previous_out_ = SlaveSignals();
        drive();
    }

    // One rising edge: `in` are the master's signals in the cycle that ends, `out()` before the call
    // the memory's; after the call `out()` holds the next cycle's.
    void step(const MasterSignals& in) {
        check(in);
        if (out_.rvalid && in.rready) take_read_beat();
        if (out_.wready && in.wvalid) take_write_beat(in);
        if (out_.bvalid && in.bready) {
            writes_.pop_front();
            writes_with_data_--;
            responding_ = false;
        }
        if (in.arvalid && out_.arready) {
            reads_.push_back({now_ + latency_, in.araddr, in.arlen + 1u});
        }
        if (in.awvalid && out_.awready) {
            writes_.push_back({0, in.awaddr, in.awlen + 1u});
        }
        grow(read_credit_);
        grow(write_credit_);
        now_++;
        drive();
    }

  private:
    struct Burst {
        uint64_t ready;  // first cycle in which the data or the response can be on the bus
        uint32_t address;
        uint32_t beats;  // still to come
        uint8_t response = kOkay;
        bool silent = false;
    };

    int credit_limit() const { return beat_bytes_ + rate_ - 1; }

    void grow(int& credit) {
        credit += rate_;
        if (credit > credit_limit()) credit = credit_limit();
    }

    bool inside(uint32_t address) const {
        return address >= base_ && uint64_t(address) - base_ + beat_bytes_ <= bytes_.size();
    }

    bool faulty(Fault fault, uint32_t address) const {
        return fault_ == fault && address <= fault_address_ &&
               fault_address_ - address < uint32_t(beat_bytes_);
    }

    bool faulty_burst(Fault fault, const Burst& burst) const {
        return fault_ == fault && aligned(burst.address) <= fault_address_ &&
               fault_address_ - aligned(burst.address) < burst.beats * uint32_t(beat_bytes_);
    }

    uint32_t aligned(uint32_t address) const { return address & ~uint32_t(beat_bytes_ - 1); }

    bool paused() {
        if (!pause_per_1024_) return false;
        random_ ^= random_ << 13;
        random_ ^= random_ >> 7;
        random_ ^= random_ << 17;
        return ((random_ >> 24) & 1023) < pause_per_1024_;
    }

    void take_read_beat() {
        Burst& burst = reads_.front();
        burst.address = aligned(burst.address) + beat_bytes_;
        read_credit_ -= beat_bytes_;
        presented_ = false;
        beats_read++;
        if (--burst.beats == 0) reads_.pop_front();
    }

    void take_write_beat(const MasterSignals& in) {
        Burst& burst = writes_[writes_with_data_];
        const uint32_t address = aligned(burst.address);
        if (in.wlast != (burst.beats == 1)) broken("wlast on the wrong beat", burst.address);
        if (inside(address)) {
            uint8_t* memory = bytes_.data() + (address - base_);
            for (int i = 0; i < beat_bytes_; i++) {
                if (in.wstrb >> i & 1) memory[i] = in.wdata[i];
            }
        } else {
            burst.response = kDecodeError;
        }
        if (faulty(Fault::kWriteError, address)) burst.response = kSlaveError;
        if (faulty(Fault::kWriteSilent, address)) burst.silent = true;
        burst.address = address + beat_bytes_;
        write_credit_ -= beat_bytes_;
        beats_written++;
        if (--burst.beats == 0) {
            burst.ready = now_ + latency_;
            writes_with_data_++;
        }
    }

    void drive() {
        out_.arready = reads_.size() < size_t(outstanding_) && !paused();
        out_.awready = writes_.size() < size_t(outstanding_) && !paused();
        out_.wready = writes_.size() > writes_with_data_ && write_credit_ >= beat_bytes_ && !paused();

        if (!presented_) {
            presented_ = !reads_.empty() && now_ >= reads_.front().ready &&
                         read_credit_ >= beat_bytes_ &&
                         !faulty_burst(Fault::kReadSilent, reads_.front()) && !paused();
            if (presented_) {
                const Burst& burst = reads_.front();
                const uint32_t address = aligned(burst.address);
                out_.rlast = burst.beats == 1;
                out_.rresp = inside(address) ? kOkay : kDecodeError;
                if (faulty(Fault::kReadError, address)) out_.rresp = kSlaveError;
                if (inside(address)) {
                    std::memcpy(out_.rdata, bytes_.data() + (address - base_), beat_bytes_);
                } else {
                    std::memset(out_.rdata, 0xEE, beat_bytes_);
                }
            }
        }
        out_.rvalid = presented_;

        if (!responding_) {
            responding_ = writes_with_data_ > 0 && now_ >= writes_.front().ready &&
                          !writes_.front().silent && !paused();
            if (responding_) out_.bresp = writes_.front().response;
        }
        out_.bvalid = responding_;
    }

    void check_address(const char* channel, bool valid, bool was_valid, bool was_ready,
                       uint32_t address, uint32_t was_address, int length, int was_length, int size,
                       int burst) {
        if (was_valid && !was_ready) {
            if (!valid) broken(std::string(channel) + "valid fell before ready", was_address);
            if (address != was_address || length != was_length) {
                broken(std::string(channel) + " changed before ready", was_address);
            }
        }
        if (!valid) return;
        if (burst != 1) broken(std::string(channel) + "burst is not INCR", address);
        if ((1 << size) != beat_bytes_) {
            broken(std::string(channel) + "size is not the bus width", address);
        }
        const uint64_t last = uint64_t(aligned(address)) + uint64_t(length + 1) * beat_bytes_ - 1;
        if (address >> 12 != last >> 12) {
            broken(std::string(channel) + " burst crosses 4 KB", address);
        }
    }

    void check(const MasterSignals& in) {
        if (in.arvalid || previous_.arvalid) {
            check_address("ar", in.arvalid, previous_.arvalid, previous_out_.arready, in.araddr,
                          previous_.araddr, in.arlen, previous_.arlen, in.arsize, in.arburst);
        }
        if (in.awvalid || previous_.awvalid) {
            check_address("aw", in.awvalid, previous_.awvalid, previous_out_.awready, in.awaddr,
                          previous_.awaddr, in.awlen, previous_.awlen, in.awsize, in.awburst);
        }
        if (previous_.wvalid && !previous_out_.wready) {
            if (!in.wvalid) {
                broken("wvalid fell before ready", 0);
            } else if (in.wlast != previous_.wlast || in.wstrb != previous_.wstrb ||
                       std::memcmp(in.wdata, previous_.wdata, beat_bytes_) != 0) {
                broken("w changed before ready", 0);
            }
        }
        previous_ = in;
        previous_out_.arready = out_.arready;
        previous_out_.awready = out_.awready;
        previous_out_.wready = out_.wready;
    }

    void broken(const std::string& rule, uint32_t address) {
        if (!violation_.empty()) return;
        char place[64];
        std::snprintf(place, sizeof place, " (address 0x%08x, cycle %llu)", address,
                      static_cast<unsigned long long>(now_));
        violation_ = rule + place;
    }

    uint32_t base_;
    std::vector<uint8_t> bytes_;
    int beat_bytes_, latency_, rate_, outstanding_;
    int read_credit_, write_credit_;
    uint64_t now_ = 0;
    std::deque<Burst> reads_, writes_;
    size_t writes_with_data_ = 0;                  // bursts at the front of writes_ awaiting B
    bool presented_ = false, responding_ = false;  // R or B holds a valid answer not yet taken
    SlaveSignals out_, previous_out_;
    MasterSignals previous_;
    Fault fault_ = Fault::kNone;
    uint32_t fault_address_ = 0;
    uint32_t pause_per_1024_ = 0;
    uint64_t random_ = 1;
    std::string violation_;
};

}  // namespace bitloop
