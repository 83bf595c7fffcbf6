// SPDX-License-Identifier: Apache-2.0
// The cycle model behind a C interface.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iterator>
#include <string>

#include "../memory.h"
#include "core.h"
#include "on_chip_memory.h"
#include "sdram.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace bitloop;

// Fields are decoded eight bytes at a time, which may reach beyond the last window.
constexpr uint64_t kSlack = 16;

struct Run {
    uint32_t offset, lines;
    uint64_t cycle_limit;
    int phase;  // of a board's memory, as it begins
};

class Model {
  public:
    virtual ~Model() = default;
    virtual std::string run(const Run& run) = 0;
    virtual const Counters& counters() const = 0;
    virtual const Recorder& recorder() const = 0;
    virtual void record(bool on) = 0;
    virtual uint8_t* bytes() = 0;

    MemoryWindow windows[kWindows];
    std::string message;
};

template <typename Memory> class ModelWith : public Model {
  public:
    template <typename... Arguments>
    ModelWith(const Parameters& parameters, uint32_t base, const Arguments&... arguments)
        : memory_(arguments...), core_(parameters, memory_, base, windows) {}

    std::string run(const Run& run) override {
        const std::string message = core_.run(run.offset, run.lines, run.cycle_limit, run.phase);
        return message.empty() ? memory_.violation() : message;
    }
    const Counters& counters() const override { return core_.counters(); }
    const Recorder& recorder() const override { return core_.recorder(); }
    void record(bool on) override { core_.record(on); }
    uint8_t* bytes() override { return memory_.data(); }

  private:
    Memory memory_;
    Core<Memory> core_;
};

template <typename Memory, typename... Arguments>
Model* create(const int32_t* parameters, uint32_t base, const Arguments&... arguments) {
    try {
        Parameters p;
        std::copy_n(parameters, sizeof p / sizeof *parameters, reinterpret_cast<int32_t*>(&p));
        return new ModelWith<Memory>(p, base, arguments...);
    } catch (const std::exception&) {
        return nullptr;
    }
}

Model* as_model(void* handle) { return static_cast<Model*>(handle); }

}  // namespace

// `parameters`: the fields of `Parameters`, in order.
EXPORT void* bitloop_model_create(const int32_t* parameters, uint32_t base, uint64_t size,
                                  int latency, int bytes_per_cycle, int outstanding) {
    const int beat_bytes = parameters[offsetof(Parameters, data_bits) / sizeof *parameters] / 8;
    return create<ParametricMemory>(parameters, base, base, size + kSlack, beat_bytes, latency,
                                    bytes_per_cycle, outstanding);
}

// With a board's memory instead; `timing`: the fields of `SdramTiming`, null for one on the chip.
EXPORT void* bitloop_model_create_board(const int32_t* parameters, uint32_t base, uint64_t size,
                                        const int32_t* timing) {
    if (!timing) return create<BoardMemory<OnChipMemory>>(parameters, base, size + kSlack);
    SdramTiming t;
    std::copy_n(timing, sizeof t / sizeof *timing, reinterpret_cast<int32_t*>(&t));
    return create<BoardMemory<Sdram>>(parameters, base, size + kSlack, t);
}

EXPORT void bitloop_model_destroy(void* handle) { delete as_model(handle); }

EXPORT uint8_t* bitloop_model_memory(void* handle) { return as_model(handle)->bytes(); }

EXPORT void bitloop_model_window(void* handle, int window, uint32_t base, uint32_t size) {
    as_model(handle)->windows[window] = {base, size};
}

// Run a program: null, or why it does not get to its end; valid until the next call.
EXPORT const char* bitloop_model_run(void* handle, uint32_t offset, uint32_t lines,
                                     uint64_t cycle_limit, int phase) {
    Model& model = *as_model(handle);
    model.message = model.run({offset, lines, cycle_limit, phase});
    return model.message.empty() ? nullptr : model.message.c_str();
}

// Cycles, then those of each cause.
EXPORT void bitloop_model_counters(void* handle, uint64_t* values) {
    const Counters& counters = as_model(handle)->counters();
    values[0] = counters.cycles();
    for (int cause = 0; cause < kCauses; cause++) values[1 + cause] = counters.cause(cause);
}

// Marks written; as many of them as `most` go to `values`.
EXPORT int bitloop_model_trace(void* handle, uint32_t* values, int most) {
    const auto& trace = as_model(handle)->counters().trace();
    std::copy_n(trace.begin(), std::min<size_t>(trace.size(), most), values);
    return int(trace.size());
}

EXPORT void bitloop_model_record(void* handle, int on) { as_model(handle)->record(on); }

// What the last run recorded; valid until the next run.
EXPORT const InstructionTime* bitloop_model_instructions(void* handle, uint64_t* count) {
    const auto& found = as_model(handle)->recorder().instructions();
    *count = found.size();
    return found.data();
}

EXPORT const CauseRun* bitloop_model_causes(void* handle, uint64_t* count) {
    const auto& found = as_model(handle)->recorder().causes();
    *count = found.size();
    return found.data();
}
