// SPDX-License-Identifier: Apache-2.0
// hw/fifo.py, and the buffered queue of Amaranth's library that dispatch and collector use.
#pragma once

namespace bitloop {

// As everywhere in the model, what a cycle does becomes visible with `tick`, at the cycle's end:
// `valid`, `ready` and `front` are those of the cycle's start however often they are asked.
template <typename T, int kMostDepth> class Fifo {
  public:
    explicit Fifo(int depth) : depth_(depth) {}

    bool ready() const { return count_ != depth_; }
    bool valid() const { return count_ != 0; }
    const T& front() const { return items_[head_]; }

    // Only in a cycle with `ready`, or `valid`.
    void push(const T& item) {
        items_[(head_ + count_) % kMostDepth] = item;
        pushed_ = 1;
    }
    void pop() { popped_ = 1; }

    void tick() {
        count_ += pushed_ - popped_;
        if (popped_ && ++head_ == kMostDepth) head_ = 0;
        pushed_ = popped_ = 0;
    }

  private:
    T items_[kMostDepth] = {};
    int depth_, head_ = 0, count_ = 0, pushed_ = 0, popped_ = 0;
};

// amaranth.lib.fifo.SyncFIFOBuffered without its contents: what is written into an empty queue can
// be read two cycles later.
class BufferedFifoLevel {
  public:
    bool readable() const { return output_; }

    void tick(bool write, bool read) {
        const bool moves = inner_ != 0 && (!output_ || read);
        inner_ += int(write) - int(moves);
        if (moves) {
            output_ = true;
        } else if (read) {
            output_ = false;
        }
    }

  private:
    int inner_ = 0;
    bool output_ = false;
};

}  // namespace bitloop
