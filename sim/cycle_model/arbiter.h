// SPDX-License-Identifier: Apache-2.0
// boards/arbiter.py where only the core asks, and the memory behind it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../memory.h"

namespace bitloop {

// `Slave` is the timing of a memory: `out()` holds what it drives in a cycle, from registers alone,
// and `step` is the edge at its end, as ParametricMemory's.
template <typename Slave> class BoardMemory {
  public:
    template <typename... Arguments>
    explicit BoardMemory(uint64_t size, const Arguments&... arguments)
        : bytes_(size, 0), slave_(arguments...) {
        drive();
    }

    uint8_t* data() { return bytes_.data(); }
    const SlaveSignals& out() const { return out_; }
    std::string violation() const { return ""; }

    // A run begins, long after anything was asked for; `phase` of 0 .. phases() - 1 is where the
    // memory is in what it does by itself.
    void settle(int phase) { slave_.settle(phase); }

    void step(const MasterSignals& in) {
        MasterSignals passed;
        passed.arvalid = read_valid_;
        passed.araddr = read_address_;
        passed.arlen = read_length_;
        passed.rready = in.rready;
        passed.awvalid = write_valid_;
        passed.awaddr = write_address_;
        passed.awlen = write_length_;
        passed.wvalid = owed_ && in.wvalid;
        passed.wlast = in.wlast;
        passed.bready = in.bready;
        const SlaveSignals before = slave_.out();
        slave_.step(passed);

        if (before.arready) read_valid_ = false;
        if (before.awready) write_valid_ = false;
        if (in.arvalid && out_.arready) {
            read_valid_ = true;
            read_address_ = in.araddr;
            read_length_ = in.arlen;
        }
        if (passed.wvalid && before.wready && in.wlast) owed_--;
        if (in.awvalid && out_.awready) {
            write_valid_ = true;
            write_address_ = in.awaddr;
            write_length_ = in.awlen;
            owed_++;
        }
        drive();
    }

  private:
    static constexpr int kOutstanding = 8;

    void drive() {
        out_ = slave_.out();
        out_.arready = !read_valid_ || out_.arready;
        out_.awready = (!write_valid_ || out_.awready) && owed_ < kOutstanding;
        out_.wready = owed_ && out_.wready;
    }

    std::vector<uint8_t> bytes_;
    Slave slave_;
    SlaveSignals out_;
    bool read_valid_ = false, write_valid_ = false;
    uint32_t read_address_ = 0, write_address_ = 0;
    uint8_t read_length_ = 0, write_length_ = 0;
    int owed_ = 0;  // write bursts whose data have not all come
};

}  // namespace bitloop
