// SPDX-License-Identifier: Apache-2.0
// Behavioural model of a single-data-rate SDRAM that checks the timing of its data sheet.
//
// step() is one rising edge of the memory's clock: it takes the pins as they are before the edge and
// returns what the memory drives until the next one. A READ taken at edge e can be sampled at edge
// e + CAS latency. Beyond what is driven the bus reads 0xA5A5A5A5.
//
// The first broken rule is kept, with the edge's number: bank not open or already open, tRCD, tRP,
// tRAS, tRC, tRRD, tWR, tRFC, tMRD, clock period, power-up sequence, refreshes owed, both sides
// driving. Up to eight refreshes may be owed, as JEDEC allows.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace bitloop {

struct SdramPins {
    bool cke, cs_n, ras_n, cas_n, we_n;
    uint32_t ba, a, dqm, dq;
    bool dq_oe;
};

class SdramChip {
  public:
    static constexpr int kParameters = 17;

    // `p` holds what Python's SdramChip.model_parameters() lists.
    explicit SdramChip(const std::array<double, kParameters>& p)
        : bytes_(int(p[0]) / 8), row_bits_(int(p[1])), column_bits_(int(p[2])), latency_(int(p[3])),
          period_(p[4]), t_rcd_(p[6]), t_rp_(p[7]), t_ras_(p[8]), t_rc_(p[9]), t_rrd_(p[10]),
          t_wr_(p[11]), t_rfc_(p[12]), t_mrd_(p[13]), interval_(p[14]), power_up_(p[15]),
          power_up_refreshes_(int(p[16])), memory_(size_t(bytes_) << (row_bits_ + column_bits_ + 2)) {
        if (period_ < p[5] - 1e-9) broken("the clock is faster than tCK");
    }

    std::vector<uint8_t>& memory() { return memory_; }
    const std::string& violation() const { return violation_; }
    uint64_t refreshes() const { return refreshes_; }
    uint64_t activations() const { return activations_; }
    uint64_t reads() const { return reads_; }
    uint64_t writes() const { return writes_; }

    uint32_t step(const SdramPins& pins) {
        edge_++;
        // What the memory drives now was decided earlier.
        const bool drives = driven_[0].valid;
        if ((drives || drove_) && pins.dq_oe) broken("controller and memory both drive the data bus");
        drove_ = drives;  // it lets go up to tHZ after the edge: in the next period
        owed();

        const bool selected = pins.cke && !pins.cs_n;
        const int code = selected ? (!pins.ras_n << 2 | !pins.cas_n << 1 | !pins.we_n) : 0;
        if (code && edge_ * period_ < power_up_) broken("a command before the power-up time");
        switch (code) {
            case 0: break;
            case 0b100: activate(pins); break;
            case 0b010: read(pins); break;
            case 0b011: write(pins); break;
            case 0b101: precharge(pins); break;
            case 0b110: refresh(); break;
            case 0b111: set_mode(pins); break;
            default: stop_burst(); break;
        }
        if (code != 0b011) continue_write(pins);

        // Reads: shift, one edge nearer to the bus. A mask takes effect two edges later.
        if (pins.dqm && (driven_[2].valid)) broken("reads are masked");
        for (size_t i = 0; i + 1 < driven_.size(); i++) driven_[i] = driven_[i + 1];
        driven_.back() = Driven();
        return driven_[0].valid ? driven_[0].data : 0xA5A5A5A5u;
    }

  private:
    static constexpr double kLongAgo = -1e18;
    struct Bank {
        bool open = false;
        uint32_t row = 0;
        double activated = kLongAgo, precharged = kLongAgo, written = kLongAgo;
    };
    struct Driven {
        bool valid = false;
        uint32_t data = 0;
    };

    double now() const { return edge_ * period_; }

    // Whether at least `least` nanoseconds have passed since `then`.
    void need(double then, double least, const char* rule) {
        if (now() - then < least - 1e-6) broken(rule);
    }

    void broken(const std::string& rule) {
        if (!violation_.empty()) return;
        char place[64];
        std::snprintf(place, sizeof place, " (edge %llu)", (unsigned long long)edge_);
        violation_ = rule + place;
    }

    // Common to all commands but NOP.
    void settled() {
        need(refreshed_, t_rfc_, "tRFC");
        need(mode_set_, t_mrd_, "tMRD");
    }

    void usable() {
        settled();
        if (!mode_known_) broken("an access before the mode register is set");
    }

    void activate(const SdramPins& pins) {
        usable();
        Bank& bank = banks_[pins.ba & 3];
        if (bank.open) broken("ACTIVE to an open bank");
        need(bank.precharged, t_rp_, "tRP");
        need(bank.activated, t_rc_, "tRC");
        need(activated_, t_rrd_, "tRRD");
        bank.open = true;
        bank.row = pins.a & ((1u << row_bits_) - 1);
        bank.activated = activated_ = now();
        activations_++;
    }

    size_t place(const SdramPins& pins, uint32_t column) const {
        const size_t row = banks_[pins.ba & 3].row;
        return (((row << 2 | (pins.ba & 3)) << column_bits_) | column) * size_t(bytes_);
    }

    Bank& accessed(const SdramPins& pins) {
        usable();
        Bank& bank = banks_[pins.ba & 3];
        if (!bank.open) broken("access to a closed bank");
        need(bank.activated, t_rcd_, "tRCD");
        if (pins.a >> 10 & 1) broken("auto-precharge is not modelled");
        return bank;
    }

    // Columns of a burst stay in its aligned block.
    uint32_t column(const SdramPins& pins, int index) const {
        const uint32_t first = pins.a & ((1u << column_bits_) - 1), mask = burst_ - 1;
        return (first & ~mask) | ((first + index) & mask);
    }

    void read(const SdramPins& pins) {
        accessed(pins);
        write_left_ = 0;
        reads_++;
        for (int i = 0; i < burst_; i++) {
            Driven& slot = driven_[latency_ + i];
            slot.valid = true;
            slot.data = 0;
            const uint8_t* word = &memory_[place(pins, column(pins, i))];
            for (int byte = 0; byte < bytes_; byte++) slot.data |= uint32_t(word[byte]) << 8 * byte;
        }
    }

    void write(const SdramPins& pins) {
        Bank& bank = accessed(pins);
        for (const Driven& slot : driven_) {
            if (slot.valid) broken("a write while reads are under way");
        }
        writes_++;
        write_pins_ = pins;
        write_left_ = burst_ - 1;
        put(pins, 0);
        bank.written = now();
    }

    void continue_write(const SdramPins& pins) {
        if (!write_left_) return;
        put(pins, burst_ - write_left_--);
        banks_[write_pins_.ba & 3].written = now();
    }

    void put(const SdramPins& pins, int index) {
        if (!pins.dq_oe) broken("written data are not driven");
        uint8_t* word = &memory_[place(write_pins_, column(write_pins_, index))];
        for (int byte = 0; byte < bytes_; byte++) {
            if (!(pins.dqm >> byte & 1)) word[byte] = uint8_t(pins.dq >> 8 * byte);
        }
    }

    void stop_burst() { broken("burst stop is not modelled"); }

    void precharge(const SdramPins& pins) {
        settled();
        for (uint32_t i = 0; i < banks_.size(); i++) {
            if (!(pins.a >> 10 & 1) && i != (pins.ba & 3)) continue;
            Bank& bank = banks_[i];
            if (bank.open) {
                need(bank.activated, t_ras_, "tRAS");
                need(bank.written, t_wr_, "tWR");
                if (write_left_ && (write_pins_.ba & 3) == i) broken("a write is cut short");
                bank.precharged = now();
            }
            bank.open = false;
        }
        precharged_ = true;
    }

    void refresh() {
        settled();
        if (!precharged_) broken("REFRESH before the first PRECHARGE");
        for (const Bank& bank : banks_) {
            if (bank.open) broken("REFRESH with an open bank");
            need(bank.precharged, t_rp_, "tRP before REFRESH");
        }
        refreshed_ = now();
        refreshes_++;
        if (mode_known_) owed_ -= 1;
    }

    void set_mode(const SdramPins& pins) {
        settled();
        if (refreshes_ < uint64_t(power_up_refreshes_)) broken("too few refreshes at power-up");
        for (const Bank& bank : banks_) {
            if (bank.open) broken("mode register set with an open bank");
            need(bank.precharged, t_rp_, "tRP before the mode register");
        }
        burst_ = 1 << (pins.a & 7);
        if (burst_ > 2) broken("bursts of more than two words are not modelled");
        if (int(pins.a >> 4 & 7) != latency_) broken("another CAS latency than the clock is for");
        if (pins.a & ~0x77u) broken("an unknown mode");
        mode_known_ = true;
        mode_set_ = now();
        owed_ = 0;
    }

    void owed() {
        if (!mode_known_) return;
        owed_ += period_ / interval_;
        if (owed_ > 8) broken("more than eight refreshes are owed");
        if (owed_ < -8) owed_ = -8;  // at most eight are taken ahead
    }

    int bytes_, row_bits_, column_bits_, latency_;
    double period_, t_rcd_, t_rp_, t_ras_, t_rc_, t_rrd_, t_wr_, t_rfc_, t_mrd_, interval_, power_up_;
    int power_up_refreshes_;
    std::vector<uint8_t> memory_;
    std::array<Bank, 4> banks_;
    std::array<Driven, 8> driven_;
    uint64_t edge_ = 0, refreshes_ = 0, activations_ = 0, reads_ = 0, writes_ = 0;
    double activated_ = kLongAgo, refreshed_ = kLongAgo, mode_set_ = kLongAgo, owed_ = 0;
    bool mode_known_ = false, precharged_ = false, drove_ = false;
    int burst_ = 1, write_left_ = 0;
    SdramPins write_pins_{};
    std::string violation_;
};

}  // namespace bitloop
