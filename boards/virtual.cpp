// SPDX-License-Identifier: Apache-2.0
// A board: its whole top, clocked, with the chips around it, behind a pseudo-terminal.
//
// argv: clock cycles of a bit on the line, then the memory chip's parameters where there is one.
// Prints the terminal's name. Standard input is a way around the line: an address, a size (32 bits
// each, little-endian) and so many bytes go into the memory chip, and a line says so. Ends when
// standard input does, or with 1 and a line on standard error when a chip's data sheet is violated.
// The clock stands still while nothing has come or gone for kPatience cycles, so a board nobody
// talks to costs nothing; a host that waits for the core asks.
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>

#include "Vtop.h"
#include "link/uart_line.h"
#include "verilated.h"
#ifdef BITLOOP_SDRAM
#include "sdram_chip.h"
#endif

namespace {

constexpr int kSlice = 200;          // cycles between looks at the terminal
constexpr uint64_t kPatience = 40000;  // longer than a byte at any baud rate takes
constexpr size_t kQueued = 4096;     // bytes taken from the terminal ahead of the line

class Board {
  public:
    Board(int divisor, char** parameters) : line(divisor), top_(std::make_unique<Vtop>()) {
#ifdef BITLOOP_SDRAM
        std::array<double, bitloop::SdramChip::kParameters> values;
        for (double& value : values) value = std::atof(*parameters++);
        chip_ = std::make_unique<bitloop::SdramChip>(values);
#endif
        (void)parameters;
        top_->rst = 1;
        for (int i = 0; i < 4; i++) cycle();
        top_->rst = 0;
    }
    ~Board() { top_->final(); }

    void cycle() {
        top_->uart_rx = line.drive();
#ifdef BITLOOP_SDRAM
        top_->sdram_dq_i = data_;
#endif
        top_->clk = 0;
        top_->eval();
        line.sample(top_->uart_tx);
#ifdef BITLOOP_SDRAM
        data_ = chip_->step({bool(top_->sdram_cke), bool(top_->sdram_cs_n), bool(top_->sdram_ras_n),
                             bool(top_->sdram_cas_n), bool(top_->sdram_we_n), top_->sdram_ba,
                             top_->sdram_a, top_->sdram_dqm, top_->sdram_dq_o,
                             bool(top_->sdram_dq_oe)});
#endif
        top_->clk = 1;
        top_->eval();
        cycles++;
    }

    // The memory chip's bytes; none where there is no chip.
    std::span<uint8_t> memory() {
#ifdef BITLOOP_SDRAM
        return chip_->memory();
#else
        return {};
#endif
    }

    std::string violation() const {
#ifdef BITLOOP_SDRAM
        return chip_->violation();
#else
        return "";
#endif
    }

    bitloop::UartLine line;
    uint64_t cycles = 0;

  private:
    std::unique_ptr<Vtop> top_;
#ifdef BITLOOP_SDRAM
    std::unique_ptr<bitloop::SdramChip> chip_;
    uint32_t data_ = 0;
#endif
};

// The board's end of a new terminal, -1 if there is none. The other end stays open here too, so that
// hosts can come and go.
int open_terminal() {
    const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || grantpt(terminal) || unlockpt(terminal)) return -1;
    const char* name = ptsname(terminal);
    const int near = name ? open(name, O_RDWR | O_NOCTTY) : -1;
    if (near < 0) return -1;
    termios settings;
    if (tcgetattr(near, &settings)) return -1;
    cfmakeraw(&settings);
    if (tcsetattr(near, TCSANOW, &settings)) return -1;
    fcntl(terminal, F_SETFL, O_NONBLOCK);
    std::printf("%s\n", name);
    std::fflush(stdout);
    return terminal;
}

bool waiting(int input) {
    pollfd descriptor{input, POLLIN, 0};
    return poll(&descriptor, 1, 0) > 0;
}

bool read_all(int input, void* to, size_t size) {
    auto* at = static_cast<uint8_t*>(to);
    while (size) {
        const ssize_t count = read(input, at, size);
        if (count <= 0) return false;
        at += count;
        size -= count;
    }
    return true;
}

// Put into the memory what standard input says; false at its end, or for what does not fit.
bool fill(std::span<uint8_t> memory, int input) {
    uint32_t where[2];
    if (!read_all(input, where, sizeof where)) return false;
    const auto [address, size] = where;
    if (address > memory.size() || size > memory.size() - address) return false;
    if (!read_all(input, memory.data() + address, size)) return false;
    std::puts("written");
    std::fflush(stdout);
    return true;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) return 2;
    Board board(std::atoi(argv[1]), argv + 2);
    const int terminal = open_terminal();
    if (terminal < 0) {
        std::perror("no pseudo-terminal");
        return 1;
    }
    auto& line = board.line;
    uint64_t active = 0;  // cycle of the last byte either way
    uint8_t bytes[kQueued];
    for (;;) {
        if (waiting(STDIN_FILENO) && !fill(board.memory(), STDIN_FILENO)) return 0;
        if (line.to_board.size() < kQueued) {
            const ssize_t count = read(terminal, bytes, kQueued - line.to_board.size());
            if (count > 0) line.to_board.insert(line.to_board.end(), bytes, bytes + count);
        }
        if (!line.idle() || !line.from_board.empty()) active = board.cycles;
        while (!line.from_board.empty()) {
            const uint8_t byte = line.from_board.front();
            if (write(terminal, &byte, 1) != 1) break;  // the host takes it later
            line.from_board.pop_front();
        }
        if (board.cycles - active > kPatience) {
            pollfd either[] = {{terminal, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
            poll(either, 2, -1);
            if (either[0].revents & POLLIN) active = board.cycles;
            continue;
        }
        for (int i = 0; i < kSlice; i++) board.cycle();
        if (!board.violation().empty()) {
            std::fprintf(stderr, "%s\n", board.violation().c_str());
            return 1;
        }
    }
}
