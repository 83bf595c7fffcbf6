// SPDX-License-Identifier: Apache-2.0
// hw/pixel_walk.py: groups, rows and pixels of a COMPUTE.
#pragma once

#include "definitions.h"

namespace bitloop {

class PixelWalk {
  public:
    explicit PixelWalk(const Parameters& p) : groups_per_word_(p.groups_per_word) {}

    int input() const { return input_.address; }
    int output() const { return output_.address; }
    int residual() const { return residual_.address; }
    int row() const { return row_; }
    int column() const { return column_; }
    bool group_start() const { return x_ == 1 && y_ == 1; }
    bool group_end() const { return group_ == i_->groups; }
    bool end() const {
        return x_ == i_->output_width && y_ == i_->output_height && group_end();
    }

    // `instruction` must live until the last `advance`.
    void start(const Compute& instruction) {
        i_ = &instruction;
        picks_ = i_->mode == kModeDepthwise || i_->mode == kModeWindow || i_->mode == kModeMaximum;
        x_ = y_ = group_ = 1;
        part_ = 0;
        input_.start(i_->input_base);
        output_.start(i_->output_base);
        residual_.start(i_->residual_base);
        row_ = i_->origin_y;
        column_ = i_->origin_x;
    }

    void advance() {
        const bool last_x = x_ == i_->output_width, last_y = y_ == i_->output_height;
        const bool next_word = part_ == groups_per_word_ - 1;
        input_.advance(last_x, last_y, i_->input_pixel_step, i_->input_row_step,
                       next_word && picks_);
        output_.advance(last_x, last_y, i_->output_pixel_step, i_->output_row_step, next_word);
        residual_.advance(last_x, last_y, i_->residual_pixel_step, i_->residual_row_step,
                          next_word);
        x_++;
        column_ += int(i_->stride_x);
        if (!last_x) return;
        x_ = 1;
        y_++;
        column_ = i_->origin_x;
        row_ += int(i_->stride_y);
        if (!last_y) return;
        y_ = 1;
        row_ = i_->origin_y;
        group_++;
        part_ = next_word ? 0 : part_ + 1;
    }

  private:
    struct Address {
        int address = 0, row = 0, group = 0;

        void start(int base) { address = row = group = base; }
        void advance(bool last_x, bool last_y, int pixel_step, int row_step, int group_step) {
            constexpr int mask = (1 << kAddressBits) - 1;
            if (!last_x) {
                address = (address + pixel_step) & mask;
            } else if (!last_y) {
                address = row = (row + row_step) & mask;
            } else {
                address = row = group = (group + group_step) & mask;
            }
        }
    };

    int groups_per_word_;
    const Compute* i_ = nullptr;
    bool picks_ = false;
    uint32_t x_ = 1, y_ = 1, group_ = 1;
    int part_ = 0, row_ = 0, column_ = 0;
    Address input_, output_, residual_;
};

}  // namespace bitloop
