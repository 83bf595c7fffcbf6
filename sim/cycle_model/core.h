// SPDX-License-Identifier: Apache-2.0
// hw/core.py: the components, joined. In every cycle those that look only at registers and at the
// bus come first, then those that look at what the others decide, then all move on.
#pragma once

#include <cstdint>
#include <string>

#include "../memory.h"
#include "arbiter.h"
#include "bursts.h"
#include "collector.h"
#include "compute.h"
#include "counters.h"
#include "dispatch.h"
#include "loader.h"
#include "memory_image.h"
#include "read_engine.h"
#include "recorder.h"
#include "storer.h"
#include "write_engine.h"

namespace bitloop {

// What a memory does before a run: the host's register accesses leave it time to recover its rate.
inline void settle(ParametricMemory& memory, const MasterSignals& signals, int) {
    for (int i = 0; i < 4 * kMaxBeatBytes; i++) memory.step(signals);
}
template <typename Slave>
void settle(BoardMemory<Slave>& memory, const MasterSignals&, int phase) {
    memory.settle(phase);
}

template <typename Memory> class Core {
  public:
    Core(const Parameters& p, Memory& memory, uint32_t memory_base,
         const MemoryWindow* windows)
        : p_(p), memory_(memory), image_(memory.data(), memory_base, windows), reader_(p_, windows),
          writer_(p_, windows), dispatch_(p_), loader_(p_), storer_(p_), compute_(p_),
          collector_(p_), counters_(p_) {
        while (8 << signals_.arsize < p.data_bits) signals_.arsize++;
        signals_.awsize = signals_.arsize;
    }

    const Counters& counters() const { return counters_; }
    const Recorder& recorder() const { return recorder_; }
    // Whether runs are recorded from now on.
    void record(bool on) { recording_ = on; }

    // Run a program to its end: an empty string, or why it does not get there. `phase`: as
    // BoardMemory's.
    std::string run(uint32_t offset, uint32_t lines, uint64_t cycle_limit, int phase) {
        drive();
        settle(memory_, signals_, phase);
        dispatch_.start(image_.at(kWindowProgram, offset, lines * kLineBytes), offset, lines);
        compute_.restart();
        counters_.start();
        recorder_.start();
        int patience = p_.watchdog_cycles;
        for (;;) {
            const bool finished = dispatch_.finished() && reader_.idle() && writer_.idle();
            const bool illegal = compute_.illegal();
            const bool progress = cycle();
            if (finished) return "";
            if (reader_.violation() || writer_.violation()) return failed("WINDOW_VIOLATION");
            if (loader_.illegal() || storer_.illegal() || illegal) {
                return failed("ILLEGAL_FIELD");
            }
            if (dispatch_.illegal_opcode()) return failed("ILLEGAL_OPCODE");
            patience = progress ? p_.watchdog_cycles : patience - 1;
            if (patience < 0) return failed("TIMEOUT");
            if (counters_.cycles() >= cycle_limit) {
                return "still busy after " + std::to_string(cycle_limit) + " cycles";
            }
        }
    }

  private:
    std::string failed(const char* error) const {
        return std::string("the core stops with ") + error + " after " +
               std::to_string(dispatch_.dispatched()) + " program lines";
    }

    void drive() {
        reader_.drive(signals_);
        writer_.drive(signals_);
    }

    // One cycle; whether the watchdog sees progress.
    bool cycle() {
        const SlaveSignals& bus = memory_.out();
        drive();

        // Registers and the bus alone decide these.
        collector_.evaluate(now_);
        compute_.evaluate(collector_.empty());
        reader_.evaluate(bus);
        writer_.evaluate(bus, storer_.beat_valid());

        // The activation RAM: a bank is read by compute or storer, written by collector or loader.
        const bool load_write =
            !(collector_.output_valid() && loader_.write_valid() &&
              ((collector_.output().address ^ loader_.write_address()) & 3) == 0);
        const bool store_read =
            storer_.read_valid() && !compute_.denies_store(storer_.read_address() & 3);

        const bool loader_beat = reader_.response_valid(ReadEngine::kLoader);
        const bool beat_used = loader_.evaluate(!compute_.load_valid(), load_write, loader_beat);
        storer_.evaluate(store_read, writer_.beats_ready());
        const bool ready[kQueues] = {loader_.line_ready(), compute_.instruction_ready(),
                                     storer_.line_ready()};
        dispatch_.evaluate(ready);

        Activity activity;
        activity.issued = compute_.issued();
        activity.active = compute_.active();
        activity.waiting = dispatch_.waiting();
        activity.outputs_pending = !collector_.empty();
        activity.loader_busy = loader_.busy();
        activity.loader_activations = loader_.busy_activations();
        activity.storer_busy = storer_.busy();
        activity.marked = collector_.marked();
        const bool retired[kQueues] = {loader_.retired(), collector_.retired(), writer_.finished()};
        const int cause = counters_.tick(activity);
        if (recording_) record(cause, retired);
        const bool progress = compute_.issued() || collector_.output_valid() || reader_.beat() ||
                              (signals_.wvalid && bus.wready) || bus.bvalid || retired[0] ||
                              retired[1] || retired[2];

        // Everything moves on.
        const Request* requests[] = {dispatch_.request(loader_.busy()), loader_.request()};
        const Request* store_request = storer_.request();
        const bool asked = requests[0] && reader_.request_ready(ReadEngine::kFetch);
        const bool load_asked = requests[1] && reader_.request_ready(ReadEngine::kLoader);
        const bool store_asked = store_request && writer_.request_ready();
        const bool line_beat = reader_.response_valid(ReadEngine::kFetch);
        if (line_beat || beat_used) reader_.take_response();
        if (loader_.step_written()) {
            compute_.fetch().write(loader_.step_address(), loader_.step_bytes());
        }
        loader_.tick(dispatch_.handed(kQueueLoad), image_, load_asked);
        storer_.tick(dispatch_.handed(kQueueStore), store_asked, retired[kQueueStore]);
        collector_.tick(now_, compute_.output());
        compute_.tick(dispatch_.handed(kQueueCompute));
        dispatch_.tick(asked, line_beat, retired);
        reader_.tick(bus.arready, requests);
        writer_.tick(bus.awready, store_request);
        memory_.step(signals_);
        now_++;
        return progress;
    }

    void record(int cause, const bool retired[kQueues]) {
        const uint64_t cycle = counters_.cycles() - 1;
        recorder_.count(cause, cycle);
        if (dispatch_.issues() >= 0) recorder_.issue(dispatch_.issues(), dispatch_.line(), cycle);
        for (int q = 0; q < kQueues; q++) {
            if (dispatch_.handed(q)) recorder_.take(q, cycle);
            if (retired[q]) recorder_.retire(q, cycle);
        }
    }

    Parameters p_;
    Memory& memory_;
    MasterSignals signals_;
    MemoryImage image_;
    ReadEngine reader_;
    WriteEngine writer_;
    Dispatch dispatch_;
    Loader loader_;
    Storer storer_;
    ComputeUnit compute_;
    Collector collector_;
    Counters counters_;
    Recorder recorder_;
    bool recording_ = false;
    uint64_t now_ = 0;
};

}  // namespace bitloop
