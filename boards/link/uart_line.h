// SPDX-License-Identifier: Apache-2.0
// A UART at the other end of a line, by the clock cycle: 8 data bits, no parity, one stop bit.
#pragma once

#include <cstdint>
#include <deque>

namespace bitloop {

class UartLine {
  public:
    // Clock cycles of a bit.
    explicit UartLine(int divisor) : divisor_(divisor) {}

    std::deque<uint8_t> to_board, from_board;
    // Bytes whose stop bit was 0.
    uint64_t framing_errors = 0;

    // Level of the board's input in this cycle; call once a cycle.
    bool drive() {
        if (send_left_ == 0) {
            if (to_board.empty()) return true;
            send_bits_ = uint32_t(to_board.front()) << 1 | 0x200;
            to_board.pop_front();
            send_left_ = 10 * divisor_;
        }
        const int bit = 10 - (send_left_ + divisor_ - 1) / divisor_;
        send_left_--;
        return send_bits_ >> bit & 1;
    }

    // The board's output in this cycle; call once a cycle.
    void sample(bool level) {
        if (receive_left_ == 0) {
            if (!level) receive_left_ = 10 * divisor_ - divisor_ / 2;  // up to the stop bit's middle
            return;
        }
        receive_left_--;
        if (receive_left_ % divisor_) return;
        const int bit = 9 - receive_left_ / divisor_;
        if (bit == 9) {
            if (level) {
                from_board.push_back(receive_bits_);
            } else {
                framing_errors++;
            }
        } else if (bit > 0) {
            receive_bits_ = uint8_t(receive_bits_ >> 1 | level << 7);
        }
    }

    // Nothing under way, either way.
    bool idle() const { return send_left_ == 0 && to_board.empty() && receive_left_ == 0; }

  private:
    int divisor_;
    int send_left_ = 0, receive_left_ = 0;
    uint32_t send_bits_ = 0;
    uint8_t receive_bits_ = 0;
};

}  // namespace bitloop
