// SPDX-License-Identifier: Apache-2.0
// An ECP5 netlist, simulated cell by cell, with as much of Verilator's interface as the harness
// uses. `test_netlist.py` writes the ports, and the cells as numbers; nothing is compiled for them.
// Block RAMs and multipliers do what Yosys's mapping and nextpnr's packing rely on.
#pragma once
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

class VerilatedContext {};

namespace netlist {

inline std::string& file() {
    static std::string name;
    return name;
}

using Net = int32_t;

struct Lut {
    Net in[4];
    int32_t table;
};
struct FlipFlop {
    Net d, enable, reset;
    int32_t enable_inverted, reset_value;
};
// Sixteen rows of four bits: the tables of four LUTs that can be written.
struct LutRam {
    Net write, address[4], data[4];
    int32_t luts[4];  // -1 where nobody reads the bit
};
// 2,048 bytes of 9 bits. A port of 9, 18 or 36 bits reaches 1, 2 or 4 of them, those that the
// address from bit 3 up selects; the lowest bits of the address enable the bytes of a wide write.
// At 36 bits A only writes and B only reads, the low halves through DIA and DOA, the high ones
// through DIB and DOB. Only A writes.
struct BlockRam {
    int32_t width, registered[2], reads_while_writing;
    Net data[36], address[2][14], enable[2], output_enable[2], write;
    int32_t bytes[2048];
};
struct Multiplier {
    int32_t pipelined;
    Net factor[2][18], is_signed[2], load[2], load_pipeline, load_output;
};

class Netlist {
  public:
    Netlist() {
        std::FILE* file = std::fopen(netlist::file().c_str(), "rb");
        if (!file) throw std::runtime_error("no netlist");
        std::vector<int32_t> sizes, noise;
        read(file, sizes);
        read(file, outputs_);
        read(file, flip_flops_);
        read(file, luts_);
        read(file, lut_rams_);
        read(file, rams_);
        read(file, multipliers_);
        std::fclose(file);
        noise_ = sizes[0];
        inputs_ = noise_ + sizes[1];
        states_ = inputs_ + sizes[2];
        ram_outputs_ = states_ + int32_t(flip_flops_.size());
        products_ = ram_outputs_ + 36 * int32_t(rams_.size());
        logic_ = products_ + 36 * int32_t(multipliers_.size());
        values_.assign(logic_ + luts_.size(), 0);
        values_[1] = 1;
        for (size_t i = 0; i < flip_flops_.size(); i++) {
            values_[states_ + i] = uint8_t(flip_flops_[i].reset_value);
        }
        next_.resize(flip_flops_.size());
        ram_states_.resize(rams_.size());
        factors_.resize(multipliers_.size());
    }

  protected:
    template <typename T> void put(T& port, int width, int& position) {
        uint32_t words[4] = {};
        static_assert(sizeof port <= sizeof words);
        std::memcpy(words, &port, sizeof port);
        for (int i = 0; i < width; i++) {
            values_[inputs_ + position++] = words[i / 32] >> i % 32 & 1;
        }
    }
    template <typename T> void get(T& port, int width, int& position) {
        uint32_t words[4] = {};
        for (int i = 0; i < width; i++) {
            words[i / 32] |= uint32_t(values_[outputs_[position++]]) << i % 32;
        }
        std::memcpy(&port, words, sizeof port);
    }

    void settle() {
        for (Net net = noise_; net < inputs_; net++) {
            random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
            values_[net] = random_ & 1;
        }
        uint8_t* values = values_.data();
        uint8_t* result = values + logic_;
        for (const Lut& lut : luts_) {
            const int row = values[lut.in[0]] | values[lut.in[1]] << 1 | values[lut.in[2]] << 2 |
                            values[lut.in[3]] << 3;
            *result++ = lut.table >> row & 1;
        }
    }

    // A rising edge: everything sees the values before it.
    void clock() {
        const uint8_t* values = values_.data();
        for (size_t i = 0; i < flip_flops_.size(); i++) {
            const FlipFlop& cell = flip_flops_[i];
            const bool takes = values[cell.enable] ^ cell.enable_inverted;
            const uint8_t kept = takes ? values[cell.d] : values[states_ + i];
            next_[i] = values[cell.reset] ? uint8_t(cell.reset_value) : kept;
        }
        for (const LutRam& ram : lut_rams_) {
            if (!values[ram.write]) continue;
            const int row = number(ram.address, 4);
            for (int i = 0; i < 4; i++) {
                if (ram.luts[i] < 0) continue;
                int32_t& table = luts_[ram.luts[i]].table;
                table = (table & ~(1 << row)) | values[ram.data[i]] << row;
            }
        }
        for (size_t i = 0; i < rams_.size(); i++) step(rams_[i], ram_states_[i]);
        for (size_t i = 0; i < multipliers_.size(); i++) step(multipliers_[i], factors_[i]);

        std::memcpy(&values_[states_], next_.data(), next_.size());
        for (size_t i = 0; i < rams_.size(); i++) {
            for (int half = 0; half < 2; half++) {
                const RamState& state = ram_states_[i];
                const uint32_t word =
                    rams_[i].registered[half] ? state.output[half] : state.latch[half];
                show(ram_outputs_ + 36 * i + 18 * half, word, 18);
            }
        }
        for (size_t i = 0; i < factors_.size(); i++) {
            show(products_ + 36 * i, uint64_t(factors_[i].product), 36);
        }
    }

  private:
    struct RamState {
        uint32_t latch[2] = {}, output[2] = {};
    };
    struct Factors {
        int64_t factor[2] = {}, partial = 0, product = 0;
    };

    template <typename T> static void read(std::FILE* file, std::vector<T>& items) {
        int32_t count = 0;
        if (std::fread(&count, sizeof count, 1, file) != 1) throw std::runtime_error("no count");
        items.resize(count);
        if (std::fread(items.data(), sizeof(T), count, file) != size_t(count)) {
            throw std::runtime_error("the netlist ends early");
        }
    }

    uint32_t number(const Net* nets, int count) const {
        uint32_t found = 0;
        for (int i = 0; i < count; i++) found |= uint32_t(values_[nets[i]]) << i;
        return found;
    }
    void show(size_t first, uint64_t word, int count) {
        for (int i = 0; i < count; i++) values_[first + i] = word >> i & 1;
    }

    void step(BlockRam& ram, RamState& state) {
        const int size = ram.width / 9;
        const bool writes = values_[ram.enable[0]] && values_[ram.write];
        const bool enabled[] = {bool(values_[ram.enable[0]]), bool(values_[ram.enable[1]])};
        uint32_t address[2], first[2];
        for (int port = 0; port < 2; port++) {
            address[port] = number(ram.address[port], 14);
            first[port] = address[port] >> 3 & ~uint32_t(size - 1);
            if (values_[ram.output_enable[port]]) state.output[port] = state.latch[port];
        }
        uint32_t read[2][4] = {};
        for (int i = 0; i < size; i++) {
            for (int port = 0; port < 2; port++) read[port][i] = ram.bytes[first[port] + i];
        }
        for (int i = 0; i < size && writes; i++) {
            if (size > 1 && !(address[0] >> i & 1)) continue;
            const uint32_t byte = number(ram.data + 9 * i, 9);
            ram.bytes[first[0] + i] = int32_t(byte);
            // What B reads of a byte that A writes is undefined: here every bit is wrong.
            if (first[0] == first[1]) read[1][i] = ~byte & 511;
        }
        if (ram.width == 36) {
            if (!enabled[1]) return;
            state.latch[0] = read[1][0] | read[1][1] << 9;
            state.latch[1] = read[1][2] | read[1][3] << 9;
            return;
        }
        if (enabled[0] && (!writes || ram.reads_while_writing)) {
            state.latch[0] = read[0][0] | read[0][1] << 9;
        }
        if (enabled[1]) state.latch[1] = read[1][0] | read[1][1] << 9;
    }

    void step(const Multiplier& cell, Factors& state) {
        const int64_t product = state.factor[0] * state.factor[1];
        if (values_[cell.load_output]) state.product = cell.pipelined ? state.partial : product;
        if (values_[cell.load_pipeline]) state.partial = product;
        for (int i = 0; i < 2; i++) {
            if (!values_[cell.load[i]]) continue;
            const int64_t bits = number(cell.factor[i], 18);
            const bool is_negative = values_[cell.is_signed[i]] && bits >> 17;
            state.factor[i] = is_negative ? bits - (1 << 18) : bits;
        }
    }

    std::vector<Net> outputs_;
    std::vector<FlipFlop> flip_flops_;
    std::vector<Lut> luts_;
    std::vector<LutRam> lut_rams_;
    std::vector<BlockRam> rams_;
    std::vector<Multiplier> multipliers_;
    // Nets in order: 0, 1, noise, inputs, flip-flops, block RAMs, multipliers, LUTs.
    Net noise_, inputs_, states_, ram_outputs_, products_, logic_;
    std::vector<uint8_t> values_, next_;
    std::vector<RamState> ram_states_;
    std::vector<Factors> factors_;
    uint64_t random_ = 0x9E3779B97F4A7C15;
};

}  // namespace netlist

// The file that the next simulations read.
extern "C" __attribute__((visibility("default"))) void netlist_use(const char* name) {
    netlist::file() = name;
}
