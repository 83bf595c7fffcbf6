// SPDX-License-Identifier: Apache-2.0
// Random AXI4 traffic through arbiter and memory, and to the model of their timing: what both drive
// must be the same in every cycle.
//
// argv: seed, cycles, share of cycles in 1/16 in which the master takes or gives nothing, longest
// burst, first cycle of the traffic, the fields of SdramTiming, then the chip's parameters. Prints
// `beats=N refreshes=N`, or `FAILED` with the first cycle that differs and exits with 1.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <random>
#include <string>

#include "Vtop.h"
#include "arbiter.h"
#include "definitions.h"
#include "on_chip_memory.h"
#include "sdram.h"
#include "verilated.h"
#ifdef BITLOOP_SDRAM
#include "sdram_chip.h"
using Slave = bitloop::Sdram;
#else
using Slave = bitloop::OnChipMemory;
#endif

using namespace bitloop;

int main(int, char** argv) {
    const int seed = std::atoi(argv[1]), cycles = std::atoi(argv[2]), pause = std::atoi(argv[3]);
    const int longest = std::atoi(argv[4]), first = std::atoi(argv[5]);
    argv += 6;
#ifdef BITLOOP_SDRAM
    SdramTiming timing;
    for (size_t i = 0; i < sizeof timing / sizeof(int32_t); i++) {
        reinterpret_cast<int32_t*>(&timing)[i] = std::atoi(*argv++);
    }
    std::array<double, SdramChip::kParameters> parameters;
    for (double& value : parameters) value = std::atof(*argv++);
    SdramChip chip(parameters);
    BoardMemory<Slave> model(0, timing);
    uint32_t data = 0;
    // hw: the refresh counter after reset.
    int until_refresh = timing.refresh_interval - kRefreshSlack;
#else
    BoardMemory<Slave> model(0);
#endif
    Vtop top;
    std::mt19937 random(seed);
    auto waits = [&] { return int(random() % 16) < pause; };
    MasterSignals in;
    std::deque<int> writes;  // beats still to send
    uint32_t next = 0;
    uint64_t beats = 0;
    top.rst = 1;
    for (int cycle = -4; cycle < first + cycles; cycle++) {
        if (cycle == 0) top.rst = 0;
        const bool traffic = cycle >= first;
        if (cycle == first) {
            if (!top.ready) return std::puts("FAILED not ready in time"), 1;
#ifdef BITLOOP_SDRAM
            model.settle(until_refresh);
#endif
        }
        // The master's signals; a valid stays until it is taken.
        if (traffic) {
            auto address = [&](uint32_t& where, uint8_t& length) {
                if (random() % 3 == 0) next = random() % 65536 * 128;
                where = next;
                int count = 1 + random() % longest;
                if (where % 4096 + 4 * count > 4096) count = (4096 - where % 4096) / 4;
                length = count - 1;
                next = (next + 4 * count) % (8 << 20);
            };
            if (!in.arvalid && !waits()) {
                in.arvalid = true;
                address(in.araddr, in.arlen);
            }
            if (!in.awvalid && writes.size() < 4 && !waits()) {
                in.awvalid = true;
                address(in.awaddr, in.awlen);
                writes.push_back(in.awlen + 1);
            }
            if (!in.wvalid && !writes.empty() && !waits()) {
                in.wvalid = true;
                in.wlast = writes.front() == 1;
            }
            in.rready = !waits();
            in.bready = !waits();
        }
        top.read_arvalid = in.arvalid;
        top.read_araddr = in.araddr;
        top.read_arlen = in.arlen;
        top.read_rready = in.rready;
        top.write_awvalid = in.awvalid;
        top.write_awaddr = in.awaddr;
        top.write_awlen = in.awlen;
        top.write_wvalid = in.wvalid;
        top.write_wlast = in.wlast;
        top.write_wstrb = 15;
        top.write_bready = in.bready;
#ifdef BITLOOP_SDRAM
        top.pins_dq_i = data;
#endif
        top.clk = 0;
        top.eval();
        const SlaveSignals out = model.out();
        if (traffic) {
            const struct {
                const char* name;
                bool rtl, model;
            } wires[] = {
                {"arready", bool(top.read_arready), out.arready},
                {"rvalid", bool(top.read_rvalid), out.rvalid},
                {"rlast", top.read_rvalid && top.read_rlast, out.rlast},
                {"awready", bool(top.write_awready), out.awready},
                {"wready", bool(top.write_wready), out.wready},
                {"bvalid", bool(top.write_bvalid), out.bvalid},
            };
            for (const auto& wire : wires) {
                if (wire.rtl == wire.model) continue;
                std::printf("FAILED %s is %d, %d in the model, in cycle %d\n", wire.name, wire.rtl,
                            wire.model, cycle - first);
                return 1;
            }
            model.step(in);
            beats += (out.rvalid && in.rready) + (out.wready && in.wvalid);
            if (out.arready) in.arvalid = false;
            if (in.awvalid && out.awready) in.awvalid = false;
            if (in.wvalid && out.wready) {
                in.wvalid = false;
                if (--writes.front() == 0) writes.pop_front();
            }
        }
#ifdef BITLOOP_SDRAM
        if (cycle >= 0) until_refresh = (until_refresh ? until_refresh : timing.refresh_interval) - 1;
        data = chip.step({bool(top.pins_cke), bool(top.pins_cs_n), bool(top.pins_ras_n),
                          bool(top.pins_cas_n), bool(top.pins_we_n), top.pins_ba, top.pins_a,
                          top.pins_dqm, top.pins_dq_o, bool(top.pins_dq_oe)});
        if (!chip.violation().empty()) return std::printf("FAILED %s\n", chip.violation().c_str()), 1;
#endif
        top.clk = 1;
        top.eval();
    }
#ifdef BITLOOP_SDRAM
    std::printf("beats=%llu refreshes=%llu\n", (unsigned long long)beats,
                (unsigned long long)chip.refreshes());
#else
    std::printf("beats=%llu refreshes=0\n", (unsigned long long)beats);
#endif
    return 0;
}
