// SPDX-License-Identifier: Apache-2.0
// The board's end of the link with registers and memory behind it, as a C library. With a UART where
// BITLOOP_DIVISOR is defined, else on bytes.
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "Vtop.h"
#include "memory.h"
#include "verilated.h"
#ifdef BITLOOP_DIVISOR
#include "uart_line.h"
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))
#define PORT(bus, wire) bus##___05F##wire

namespace {

constexpr uint32_t kBase = 0x10000000;

struct RegisterWrite {
    uint32_t address, value;
};

class Bench {
  public:
    Bench(uint64_t bytes, int latency, int pause_per_1024)
        : top_(std::make_unique<Vtop>(&context_, "link")), memory(kBase, bytes, 4, latency, 4, 8) {
        memory.pause(pause_per_1024, 1);
        top_->clk = 0;
        top_->rst = 1;
        for (int i = 0; i < 4; i++) cycle();
        top_->rst = 0;
        cycles = 0;
    }
    ~Bench() { top_->final(); }

    void cycle() {
#ifdef BITLOOP_DIVISOR
        top_->rx = line.drive();
#else
        top_->PORT(rx, valid) = !to_board.empty();
        if (!to_board.empty()) top_->PORT(rx, payload) = to_board.front();
        top_->PORT(tx, ready) = 1;
#endif
        const bitloop::SlaveSignals& out = memory.out();
        top_->PORT(memory_read, arready) = out.arready;
        top_->PORT(memory_read, rvalid) = out.rvalid;
        std::memcpy(&top_->PORT(memory_read, rdata), out.rdata, 4);
        top_->PORT(memory_read, rresp) = out.rresp;
        top_->PORT(memory_read, rlast) = out.rlast;
        top_->PORT(memory_write, awready) = out.awready;
        top_->PORT(memory_write, wready) = out.wready;
        top_->PORT(memory_write, bvalid) = out.bvalid;
        top_->PORT(memory_write, bresp) = out.bresp;
        top_->PORT(registers, awready) = top_->PORT(registers, wready) = !silent_registers;
        top_->PORT(registers, arready) = !silent_registers;
        top_->PORT(registers, bvalid) = written_ == 3;
        top_->PORT(registers, bresp) = 0;
        top_->PORT(registers, rvalid) = reading_;
        top_->PORT(registers, rdata) = value_;
        top_->PORT(registers, rresp) = 0;
        top_->clk = 0;
        top_->eval();

        bitloop::MasterSignals in;
        in.arvalid = top_->PORT(memory_read, arvalid);
        in.araddr = top_->PORT(memory_read, araddr);
        in.arlen = top_->PORT(memory_read, arlen);
        in.arsize = top_->PORT(memory_read, arsize);
        in.arburst = top_->PORT(memory_read, arburst);
        in.rready = top_->PORT(memory_read, rready);
        in.awvalid = top_->PORT(memory_write, awvalid);
        in.awaddr = top_->PORT(memory_write, awaddr);
        in.awlen = top_->PORT(memory_write, awlen);
        in.awsize = top_->PORT(memory_write, awsize);
        in.awburst = top_->PORT(memory_write, awburst);
        in.wvalid = top_->PORT(memory_write, wvalid);
        in.wlast = top_->PORT(memory_write, wlast);
        in.wstrb = top_->PORT(memory_write, wstrb);
        std::memcpy(in.wdata, &top_->PORT(memory_write, wdata), 4);
        in.bready = top_->PORT(memory_write, bready);
#ifdef BITLOOP_DIVISOR
        line.sample(top_->tx);
#else
        if (!to_board.empty() && top_->PORT(rx, ready)) to_board.pop_front();
        if (top_->PORT(tx, valid)) from_board.push_back(top_->PORT(tx, payload));
#endif
        registers();
        top_->clk = 1;
        top_->eval();
        if (!top_->rst) memory.step(in);
        cycles++;
    }

    std::deque<uint8_t>& sent() {
#ifdef BITLOOP_DIVISOR
        return line.to_board;
#else
        return to_board;
#endif
    }
    std::deque<uint8_t>& received() {
#ifdef BITLOOP_DIVISOR
        return line.from_board;
#else
        return from_board;
#endif
    }

    bool silent_registers = false;
    std::vector<RegisterWrite> writes;
    uint64_t cycles = 0;

  private:
    // Reading gives the number of writes there were; all accesses are kept.
    void registers() {
        if (written_ == 3 && top_->PORT(registers, bready)) written_ = 0;
        if (reading_ && top_->PORT(registers, rready)) reading_ = false;
        if (silent_registers) return;
        if (top_->PORT(registers, awvalid)) {
            address_ = top_->PORT(registers, awaddr);
            written_ |= 1;
        }
        if (top_->PORT(registers, wvalid)) {
            value_ = top_->PORT(registers, wdata);
            written_ |= 2;
            if (written_ == 3) writes.push_back({address_, value_});
        }
        if (top_->PORT(registers, arvalid)) {
            reading_ = true;
            value_ = uint32_t(writes.size());
        }
    }

    VerilatedContext context_;
    std::unique_ptr<Vtop> top_;
    int written_ = 0;
    bool reading_ = false;
    uint32_t address_ = 0, value_ = 0;
#ifdef BITLOOP_DIVISOR
    bitloop::UartLine line{BITLOOP_DIVISOR};
#else
    std::deque<uint8_t> to_board, from_board;
#endif

  public:
    bitloop::ParametricMemory memory;
};

Bench* bench(void* handle) { return static_cast<Bench*>(handle); }

}  // namespace

EXPORT void* link_create(uint64_t bytes, int latency, int pause_per_1024) {
    return new Bench(bytes, latency, pause_per_1024);
}
EXPORT void link_destroy(void* handle) { delete bench(handle); }
EXPORT void link_send(void* handle, const uint8_t* bytes, uint64_t count) {
    bench(handle)->sent().insert(bench(handle)->sent().end(), bytes, bytes + count);
}

// Clock until bytes have come and the line has taken all it was given, or for so many cycles; the
// bytes that have come.
EXPORT uint64_t link_run(void* handle, uint64_t cycles, uint8_t* bytes, uint64_t room, int stop) {
    auto& received = bench(handle)->received();
    for (uint64_t i = 0; i < cycles && !(stop && !received.empty()); i++) bench(handle)->cycle();
    uint64_t count = 0;
    for (; count < room && !received.empty(); count++) {
        bytes[count] = received.front();
        received.pop_front();
    }
    return count;
}

EXPORT uint8_t* link_memory(void* handle) { return bench(handle)->memory.data(); }
EXPORT uint64_t link_cycles(void* handle) { return bench(handle)->cycles; }
EXPORT const RegisterWrite* link_writes(void* handle, uint64_t* count) {
    *count = bench(handle)->writes.size();
    return bench(handle)->writes.data();
}
EXPORT void link_silence_registers(void* handle, int silent) {
    bench(handle)->silent_registers = silent;
}
EXPORT void link_fault(void* handle, int fault, uint32_t address) {
    bench(handle)->memory.set_fault(static_cast<bitloop::Fault>(fault), address);
}
EXPORT const char* link_violation(void* handle) {
    return bench(handle)->memory.violation().c_str();
}
