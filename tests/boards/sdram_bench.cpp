// SPDX-License-Identifier: Apache-2.0
// Random AXI4 traffic through the controller to the model of the memory, every byte compared.
//
// argv: seed, bursts, pause of the master in 1/16, longest burst, then the model's parameters.
// Prints one line of `name=value` figures, or `FAILED reason` and exits with 1.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "Vtop.h"
#include "sdram_chip.h"
#include "verilated.h"

using bitloop::SdramChip;
using bitloop::SdramPins;

struct Burst {
    uint32_t address;
    int beats, done;
    bool write;
    int id;
    std::vector<uint32_t> data;
    std::vector<uint32_t> strobe;
};

static void fail(const std::string& why) {
    std::printf("FAILED %s\n", why.c_str());
    std::exit(1);
}

int main(int argc, char** argv) {
    const uint32_t seed = std::atoi(argv[1]);
    const int total = std::atoi(argv[2]), pause = std::atoi(argv[3]), longest = std::atoi(argv[4]);
    std::array<double, SdramChip::kParameters> parameters;
    for (int i = 0; i < SdramChip::kParameters; i++) parameters[i] = std::atof(argv[5 + i]);
    SdramChip chip(parameters);
    const uint32_t size = uint32_t(chip.memory().size());
    std::mt19937 random(seed);
    std::vector<uint8_t> expected(size);
    for (uint32_t i = 0; i < size; i++) expected[i] = chip.memory()[i] = uint8_t(i * 2654435761u >> 24);

    Vtop top;
    std::deque<Burst> reads, writes;  // not yet answered
    size_t reads_sent = 0, writes_sent = 0, data_sent = 0;
    int made = 0, answered = 0;
    uint64_t cycle = 0, beats = 0, first_cycle = 0;
    uint32_t dq = 0;
    bool errors = false;
    top.rst = 1;
    uint32_t next = 0;
    auto waits = [&] { return int(random() % 16) < pause; };
    auto overlaps = [&](const Burst& b) {
        for (auto* queue : {&reads, &writes}) {
            for (const Burst& other : *queue) {
                if ((other.write || b.write) && b.address < other.address + 4 * other.beats &&
                    other.address < b.address + 4 * b.beats) {
                    return true;
                }
            }
        }
        return false;
    };
    int idle = 0;  // the last data are still on their way when the last response comes
    while (answered < total || idle++ < 16) {
        // New bursts: mostly near each other, so rows are found open, closed and wrong.
        if (made < total && reads.size() + writes.size() < 6 && top.ready) {
            if (!first_cycle) first_cycle = cycle;
            Burst b;
            b.beats = 1 + random() % longest;
            b.write = random() % 2;
            b.done = 0;
            b.id = random() % 2;
            if (random() % 3 == 0) next = random() % 4096 * 128 % size;
            if (random() % 16 == 0) next = random() % size & ~3u;
            if (random() % 64 == 0) next = size - 128;
            b.address = next;
            if (b.address % 4096 + 4 * b.beats > 4096) b.beats = (4096 - b.address % 4096) / 4;
            if (random() % 50 == 0) b.address += size;  // outside
            next = (b.address + 4 * b.beats) % size;
            if (!overlaps(b)) {
                if (b.write) {
                    for (int i = 0; i < b.beats; i++) {
                        b.data.push_back(random());
                        b.strobe.push_back(random() % 4 ? 15 : random() % 16);
                    }
                }
                (b.write ? writes : reads).push_back(b);
                made++;
            }
        }
        // Drive. A valid stays until it is taken.
        if (!top.read_arvalid && reads_sent < reads.size() && !waits()) {
            top.read_arvalid = 1;
            top.read_araddr = reads[reads_sent].address;
            top.read_arlen = reads[reads_sent].beats - 1;
            top.read_arid = reads[reads_sent].id;
        }
        if (!top.write_awvalid && writes_sent < writes.size() && !waits()) {
            top.write_awvalid = 1;
            top.write_awaddr = writes[writes_sent].address;
            top.write_awlen = writes[writes_sent].beats - 1;
            top.write_awid = writes[writes_sent].id;
        }
        if (!top.write_wvalid && data_sent < writes.size() && !waits()) {
            Burst& b = writes[data_sent];
            top.write_wvalid = 1;
            top.write_wdata = b.data[b.done];
            top.write_wstrb = b.strobe[b.done];
            top.write_wlast = b.done == b.beats - 1;
        }
        top.read_rready = !waits();
        top.write_bready = !waits();
        top.pins_dq_i = dq;
        top.clk = 0;
        top.eval();
        const SdramPins pins{bool(top.pins_cke), bool(top.pins_cs_n), bool(top.pins_ras_n),
                             bool(top.pins_cas_n), bool(top.pins_we_n), top.pins_ba, top.pins_a,
                             top.pins_dqm, top.pins_dq_o, bool(top.pins_dq_oe)};
        const bool ar = top.read_arvalid && top.read_arready;
        const bool aw = top.write_awvalid && top.write_awready;
        const bool w = top.write_wvalid && top.write_wready;
        if (top.read_rvalid && top.read_rready) {
            if (reads.empty() || !reads_sent) fail("data nobody asked for");
            Burst& b = reads.front();
            const bool outside = b.address >= size;
            const uint32_t at = b.address + 4 * b.done;
            if (outside) {
                if (top.read_rresp != 3) fail("a read outside is not refused");
                errors = true;
            } else {
                uint32_t right = 0;
                for (int i = 0; i < 4; i++) right |= uint32_t(expected[(at + i) % size]) << 8 * i;
                if (top.read_rresp != 0) fail("a read is refused");
                if (top.read_rdata != right) {
                    char text[96];
                    std::snprintf(text, sizeof text, "read of %x: %08x, not %08x (cycle %llu)", at,
                                  top.read_rdata, right, (unsigned long long)cycle);
                    fail(text);
                }
            }
            if (top.read_rid != b.id) fail("wrong rid");
            b.done++;
            beats++;
            if (top.read_rlast != (b.done == b.beats)) fail("rlast on the wrong beat");
            if (b.done == b.beats) {
                reads.pop_front();
                reads_sent--;
                answered++;
            }
        }
        if (top.write_bvalid && top.write_bready) {
            if (writes.empty() || !data_sent) fail("a response to nothing");
            const Burst& b = writes.front();
            if (b.done < b.beats) fail("a response before its data");
            if (top.write_bresp != (b.address >= size ? 3 : 0)) fail("wrong bresp");
            if (top.write_bid != b.id) fail("wrong bid");
            for (int i = 0; i < 4 * b.beats && b.address < size; i++) {
                if (b.strobe[i / 4] >> (i % 4) & 1) {
                    expected[b.address + i] = uint8_t(b.data[i / 4] >> 8 * (i % 4));
                }
            }
            beats += b.beats;
            writes.pop_front();
            writes_sent--;
            data_sent--;
            answered++;
        }
        dq = chip.step(pins);
        top.clk = 1;
        top.eval();
        if (ar) {
            top.read_arvalid = 0;
            reads_sent++;
        }
        if (aw) {
            top.write_awvalid = 0;
            writes_sent++;
        }
        if (w) {
            top.write_wvalid = 0;
            Burst& b = writes[data_sent];
            if (++b.done == b.beats) data_sent++;
        }
        cycle++;
        if (cycle == 4) top.rst = 0;
        if (!chip.violation().empty()) fail(chip.violation());
        if (cycle > 200000 + uint64_t(total) * 20 * (longest + 40)) fail("no end");
    }
    for (uint32_t i = 0; i < size; i++) {
        if (expected[i] != chip.memory()[i]) fail("memory differs at the end");
    }
    std::printf("cycles=%llu beats=%llu refreshes=%llu activations=%llu outside=%d power_up=%llu\n",
                (unsigned long long)(cycle - first_cycle), (unsigned long long)beats,
                (unsigned long long)chip.refreshes(), (unsigned long long)chip.activations(),
                int(errors), (unsigned long long)first_cycle);
    return 0;
}
