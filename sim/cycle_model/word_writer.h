// SPDX-License-Identifier: Apache-2.0
// hw/word_writer.py: weights, parameters and step entries, 32 bits a cycle; a table, 8.
#pragma once

#include "byte_stream.h"
#include "definitions.h"

namespace bitloop {

class WordWriter {
  public:
    explicit WordWriter(const Parameters& p)
        : parameter_parts_(p.parameter_words_per_group), step_parts_(kStepBits / 32) {}

    static int want(int opcode) { return opcode == kOpLoadTable ? 0 : 3; }

    // `load_ready`: the load bus is free. Before `ready`, `done` and `step_written`.
    void evaluate(int opcode, bool load_ready) {
        taken_ = step_written_ = false;
        if (word_valid_) {
            if (opcode == kOpLoadWeights) {
                taken_ = load_ready;
            } else if (opcode == kOpLoadParameters) {
                taken_ = part_ == 0 || load_ready;  // the first word stays here
            } else {
                taken_ = true;
                step_written_ = opcode == kOpLoadSteps && part_ == step_parts_ - 1;
            }
        }
        ready_ = running_ && (!word_valid_ || taken_);
        done_ = taken_ && word_final_;
    }

    bool ready() const { return ready_; }
    bool done() const { return done_; }
    // A step entry is complete: number `steps_written` of the instruction.
    bool step_written() const { return step_written_; }
    int steps_written() const { return steps_; }

    void tick(int opcode, const Given& given) {
        if (!word_valid_ || taken_) {
            word_valid_ = running_ && given.valid;
            word_final_ = given.final;
            if (given.valid && given.final) running_ = false;
        }
        if (taken_ && opcode != kOpLoadWeights) {
            const int last = opcode == kOpLoadParameters ? parameter_parts_ : step_parts_ - 1;
            if (part_ == last) {
                part_ = 0;
                steps_++;
            } else {
                part_++;
            }
        }
    }

    void start() {
        running_ = true;
        part_ = steps_ = 0;
    }

  private:
    int parameter_parts_, step_parts_;
    bool running_ = false, word_valid_ = false, word_final_ = false;
    int part_ = 0, steps_ = 0;
    bool taken_ = false, step_written_ = false, ready_ = false, done_ = false;
};

}  // namespace bitloop
