// SPDX-License-Identifier: Apache-2.0
// The Verilated core with its clock and its memory behind a C interface: nobody crosses into Python
// while the clock runs.
//
// One cycle: inputs and clk = 0, evaluate (combinational paths settle), sample, clk = 1, evaluate.
// Register accesses and the program's run share the clock; STATUS is polled by AXI4-Lite reads every
// kPollCycles cycles while the core works.
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>

#include "Vtop.h"
#include "memory.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif
#ifdef BITLOOP_RECORD
#include "Vtop___024root.h"
#include "cycle_model/recorder.h"

// A signal as Verilator calls it; in names it writes an underscore after another as _05F.
#define CORE(unit, signal) bitloop_core__DOT__##unit##__DOT__##signal
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using bitloop::MasterSignals;
using bitloop::ParametricMemory;
using bitloop::SlaveSignals;

constexpr int kPollCycles = 32;
constexpr int kRegisterCycles = 10000;  // a register access that takes longer is a failure
constexpr uint32_t kStatusBusy = 1;

// A data port is an integer up to 64 bits and an array of 32-bit words beyond.
template <typename T> void get_bytes(const T& port, uint8_t* bytes) {
    std::memcpy(bytes, &port, sizeof port);
}
template <typename T> void set_bytes(T& port, const uint8_t* bytes) {
    std::memcpy(&port, bytes, sizeof port);
}

class Simulation {
  public:
    Simulation(uint32_t base, uint64_t size, int latency, int bytes_per_cycle, int outstanding,
               const char* vcd)
        : context_(std::make_unique<VerilatedContext>()),
          memory(base, size, sizeof(Vtop::m_axi_rdata), latency, bytes_per_cycle, outstanding) {
#if VM_TRACE
        context_->traceEverOn(true);
#endif
        top_ = std::make_unique<Vtop>(context_.get(), "core");
#if VM_TRACE
        if (vcd && *vcd) {
            trace_ = std::make_unique<VerilatedVcdC>();
            top_->trace(trace_.get(), 99);
            trace_->open(vcd);
        }
#endif
        (void)vcd;
        top_->clk = 0;
        reset();
    }

    ~Simulation() {
        top_->final();
#if VM_TRACE
        if (trace_) trace_->close();
#endif
    }

    void reset() {
        top_->s_axil_awvalid = top_->s_axil_wvalid = top_->s_axil_bready = 0;
        top_->s_axil_arvalid = top_->s_axil_rready = 0;
        top_->rst = 1;
        for (int i = 0; i < 4; i++) cycle();
        top_->rst = 0;
        memory.reset();
    }

    void cycle() {
        const SlaveSignals& out = memory.out();
        top_->m_axi_arready = out.arready;
        top_->m_axi_rvalid = out.rvalid;
        if (out.rvalid) {
            set_bytes(top_->m_axi_rdata, out.rdata);
            top_->m_axi_rresp = out.rresp;
            top_->m_axi_rlast = out.rlast;
        }
        top_->m_axi_awready = out.awready;
        top_->m_axi_wready = out.wready;
        top_->m_axi_bvalid = out.bvalid;
        top_->m_axi_bresp = out.bresp;
        top_->clk = 0;
        top_->eval();
        dump();
        record();

        MasterSignals in;
        in.arvalid = top_->m_axi_arvalid;
        in.araddr = top_->m_axi_araddr;
        in.arlen = top_->m_axi_arlen;
        in.arsize = top_->m_axi_arsize;
        in.arburst = top_->m_axi_arburst;
        in.rready = top_->m_axi_rready;
        in.awvalid = top_->m_axi_awvalid;
        in.awaddr = top_->m_axi_awaddr;
        in.awlen = top_->m_axi_awlen;
        in.awsize = top_->m_axi_awsize;
        in.awburst = top_->m_axi_awburst;
        in.wvalid = top_->m_axi_wvalid;
        if (in.wvalid) {
            in.wlast = top_->m_axi_wlast;
            in.wstrb = top_->m_axi_wstrb;
            get_bytes(top_->m_axi_wdata, in.wdata);
        }
        in.bready = top_->m_axi_bready;
        aw_taken = top_->s_axil_awvalid && top_->s_axil_awready;
        w_taken = top_->s_axil_wvalid && top_->s_axil_wready;
        b_taken = top_->s_axil_bvalid && top_->s_axil_bready;
        ar_taken = top_->s_axil_arvalid && top_->s_axil_arready;
        r_taken = top_->s_axil_rvalid && top_->s_axil_rready;
        r_data = top_->s_axil_rdata;
        response = r_taken ? top_->s_axil_rresp : top_->s_axil_bresp;

        top_->clk = 1;
        top_->eval();
        dump();
        if (!top_->rst) memory.step(in);
        cycles++;
    }

    // 0, or -1 if the port does not answer or answers with an error.
    int write_register(uint32_t address, uint32_t value) {
        top_->s_axil_awaddr = address;
        top_->s_axil_wdata = value;
        top_->s_axil_wstrb = 15;
        top_->s_axil_awvalid = top_->s_axil_wvalid = top_->s_axil_bready = 1;
        for (int i = 0; i < kRegisterCycles; i++) {
            cycle();
            if (aw_taken) top_->s_axil_awvalid = 0;
            if (w_taken) top_->s_axil_wvalid = 0;
            if (b_taken) {
                top_->s_axil_bready = 0;
                return response ? -1 : 0;
            }
        }
        return -1;
    }

    int read_register(uint32_t address, uint32_t* value) {
        top_->s_axil_araddr = address;
        top_->s_axil_arvalid = top_->s_axil_rready = 1;
        for (int i = 0; i < kRegisterCycles; i++) {
            cycle();
            if (ar_taken) top_->s_axil_arvalid = 0;
            if (r_taken) {
                top_->s_axil_rready = 0;
                *value = r_data;
                return response ? -1 : 0;
            }
        }
        return -1;
    }

    // Clock until STATUS is not busy: 0. 1: still busy after max_cycles. -1: the port failed.
    int wait(uint32_t status_address, uint64_t max_cycles) {
        const uint64_t end = cycles + max_cycles;
        for (;;) {
            uint32_t status = 0;
            if (read_register(status_address, &status)) return -1;
            if (!(status & kStatusBusy)) return 0;
            if (cycles >= end) return 1;
            for (int i = 0; i < kPollCycles; i++) cycle();
        }
    }

#ifdef BITLOOP_RECORD
    bitloop::Recorder recorder;  // of the last program
#endif

  private:
    // What recorded.vlt makes visible, of a cycle in which the core runs.
    void record() {
#ifdef BITLOOP_RECORD
        const Vtop___024root& core = *top_->rootp;
        // The cause is that of the cycle before.
        if (core.CORE(counters, counting)) {
            recorder.count(core.CORE(counters, cause), running_cycles_ - 1);
        }
        if (core.CORE(counters, start)) {
            recorder.start();
            running_cycles_ = 0;
        }
        if (!core.CORE(counters, running)) return;
        const uint64_t cycle = running_cycles_++;
        const bool taken[] = {  // in the order of hw.isa.Queue
            core.CORE(dispatch, load___05Fvalid) && core.CORE(dispatch, load___05Fready),
            core.CORE(dispatch, compute___05Fvalid) && core.CORE(dispatch, compute___05Fready),
            core.CORE(dispatch, store___05Fvalid) && core.CORE(dispatch, store___05Fready),
        };
        for (int queue = 0; queue < 3; queue++) {
            if (core.CORE(dispatch, issue) >> queue & 1) {
                recorder.issue(queue, int(core.CORE(dispatch, dispatched)), cycle);
            }
            if (taken[queue]) recorder.take(queue, cycle);
            if (core.CORE(dispatch, retired) >> queue & 1) recorder.retire(queue, cycle);
        }
#endif
    }

    void dump() {
#if VM_TRACE
        if (trace_) trace_->dump(time_);
        time_ += 5;
#endif
    }

    std::unique_ptr<VerilatedContext> context_;
    std::unique_ptr<Vtop> top_;
#if VM_TRACE
    std::unique_ptr<VerilatedVcdC> trace_;
    uint64_t time_ = 0;
#endif
#ifdef BITLOOP_RECORD
    uint64_t running_cycles_ = 0;
#endif
    bool aw_taken = false, w_taken = false, b_taken = false, ar_taken = false, r_taken = false;
    uint32_t r_data = 0;
    int response = 0;

  public:
    uint64_t cycles = 0;
    ParametricMemory memory;
};

Simulation* as_simulation(void* handle) { return static_cast<Simulation*>(handle); }

}  // namespace

EXPORT void* bitloop_create(uint32_t base, uint64_t size, int latency, int bytes_per_cycle,
                            int outstanding, const char* vcd) {
    try {
        return new Simulation(base, size, latency, bytes_per_cycle, outstanding, vcd);
    } catch (const std::exception&) {
        return nullptr;
    }
}

EXPORT void bitloop_destroy(void* handle) { delete as_simulation(handle); }

EXPORT void bitloop_reset(void* handle) { as_simulation(handle)->reset(); }

EXPORT uint8_t* bitloop_memory(void* handle) { return as_simulation(handle)->memory.data(); }

EXPORT int bitloop_write_register(void* handle, uint32_t address, uint32_t value) {
    return as_simulation(handle)->write_register(address, value);
}

EXPORT int bitloop_read_register(void* handle, uint32_t address, uint32_t* value) {
    return as_simulation(handle)->read_register(address, value);
}

EXPORT int bitloop_wait(void* handle, uint32_t status_address, uint64_t max_cycles) {
    return as_simulation(handle)->wait(status_address, max_cycles);
}

EXPORT uint64_t bitloop_cycles(void* handle) { return as_simulation(handle)->cycles; }

EXPORT void bitloop_beats(void* handle, uint64_t* read, uint64_t* written) {
    *read = as_simulation(handle)->memory.beats_read;
    *written = as_simulation(handle)->memory.beats_written;
}

// The first AXI rule the core broke, "" if none; valid until the next call.
EXPORT const char* bitloop_violation(void* handle) {
    return as_simulation(handle)->memory.violation().c_str();
}

EXPORT void bitloop_fault(void* handle, int fault, uint32_t address) {
    as_simulation(handle)->memory.set_fault(static_cast<bitloop::Fault>(fault), address);
}

EXPORT void bitloop_pause(void* handle, uint32_t per_1024, uint64_t seed) {
    as_simulation(handle)->memory.pause(per_1024, seed);
}

#ifdef BITLOOP_RECORD
// What the last program recorded; valid until the next one.
EXPORT const bitloop::InstructionTime* bitloop_instructions(void* handle, uint64_t* count) {
    const auto& found = as_simulation(handle)->recorder.instructions();
    *count = found.size();
    return found.data();
}

EXPORT const bitloop::CauseRun* bitloop_causes(void* handle, uint64_t* count) {
    const auto& found = as_simulation(handle)->recorder.causes();
    *count = found.size();
    return found.data();
}
#endif
