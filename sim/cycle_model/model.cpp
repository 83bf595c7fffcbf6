// SPDX-License-Identifier: Apache-2.0
// The cycle model behind a C interface.
#include <algorithm>
#include <cstdint>
#include <exception>
#include <iterator>
#include <string>

#include "../memory.h"
#include "core.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace bitloop;

// Fields are decoded eight bytes at a time, which may reach beyond the last window.
constexpr uint64_t kSlack = 16;

class Model {
  public:
    Model(const Parameters& parameters, uint32_t base, uint64_t size, int latency,
          int bytes_per_cycle, int outstanding)
        : memory(base, size + kSlack, parameters.data_bits / 8, latency, bytes_per_cycle,
                 outstanding),
          core(parameters, memory, base, windows) {}

    MemoryWindow windows[kWindows];
    ParametricMemory memory;
    Core core;
    std::string message;
};

Model* as_model(void* handle) { return static_cast<Model*>(handle); }

}  // namespace

// `parameters`: the fields of `Parameters`, in order.
EXPORT void* bitloop_model_create(const int32_t* parameters, uint32_t base, uint64_t size,
                                  int latency, int bytes_per_cycle, int outstanding) {
    try {
        Parameters p;
        std::copy_n(parameters, sizeof p / sizeof *parameters, reinterpret_cast<int32_t*>(&p));
        return new Model(p, base, size, latency, bytes_per_cycle, outstanding);
    } catch (const std::exception&) {
        return nullptr;
    }
}

EXPORT void bitloop_model_destroy(void* handle) { delete as_model(handle); }

EXPORT uint8_t* bitloop_model_memory(void* handle) { return as_model(handle)->memory.data(); }

EXPORT void bitloop_model_window(void* handle, int window, uint32_t base, uint32_t size) {
    as_model(handle)->windows[window] = {base, size};
}

// Run a program: null, or why it does not get to its end; valid until the next call.
EXPORT const char* bitloop_model_run(void* handle, uint32_t offset, uint32_t lines,
                                     uint64_t cycle_limit) {
    Model& model = *as_model(handle);
    model.message = model.core.run(offset, lines, cycle_limit);
    if (model.message.empty()) model.message = model.memory.violation();
    return model.message.empty() ? nullptr : model.message.c_str();
}

// Cycles, then those of each cause.
EXPORT void bitloop_model_counters(void* handle, uint64_t* values) {
    const Counters& counters = as_model(handle)->core.counters();
    values[0] = counters.cycles();
    for (int cause = 0; cause < kCauses; cause++) values[1 + cause] = counters.cause(cause);
}

// Marks written; as many of them as `most` go to `values`.
EXPORT int bitloop_model_trace(void* handle, uint32_t* values, int most) {
    const auto& trace = as_model(handle)->core.counters().trace();
    std::copy_n(trace.begin(), std::min<size_t>(trace.size(), most), values);
    return int(trace.size());
}

EXPORT void bitloop_model_record(void* handle, int on) { as_model(handle)->core.record(on); }

// What the last run recorded; valid until the next run.
EXPORT const InstructionTime* bitloop_model_instructions(void* handle, uint64_t* count) {
    const auto& found = as_model(handle)->core.recorder().instructions();
    *count = found.size();
    return found.data();
}

EXPORT const CauseRun* bitloop_model_causes(void* handle, uint64_t* count) {
    const auto& found = as_model(handle)->core.recorder().causes();
    *count = found.size();
    return found.data();
}
