// SPDX-License-Identifier: Apache-2.0
// hw/geometry.py: how an instruction's pixels lie in activation words.
#pragma once

#include "definitions.h"

namespace bitloop {

struct Geometry {
    int destination = 0, row_step = 0, rows = 0, pixels = 0;
    int words = 0;        // of a pixel, minus one
    int tail = 0;         // highest lane in use of the last of them
    int first_bytes = 0;  // bytes of the pixel in its first word, minus one
    int extra = 0;        // further pixels at a row's end
    int skip = 0;         // folded pixels without a word between those that have one
    int phase = 0;        // and before the first
    bool pairs = false;   // two groups of six bytes may be taken as three times four
};

template <typename Line> Geometry decode_geometry(const Parameters& p, const Line& line) {
    Geometry geometry;
    const int last = line.channels - 1;
    geometry.destination = line.destination;
    geometry.row_step = line.row_step;
    geometry.rows = line.height;
    geometry.pixels = line.width;
    geometry.words = last / p.lanes;
    geometry.tail = last % p.lanes;
    geometry.first_bytes = geometry.words == 0 ? geometry.tail : p.lanes - 1;
    return geometry;
}

inline void decode_folding(Geometry& geometry, const LoadActivations& line) {
    if (!line.fold) return;
    geometry.extra = line.fold_extra;
    geometry.skip = line.fold_skip;
    geometry.phase = line.fold_phase;
    geometry.pairs = line.channels == 3 && line.fold_skip == 1 && line.segments < 2;
}

inline bool illegal_folding(const Parameters& p, const LoadActivations& line) {
    return line.fold && (line.channels > 4 || int(line.fold * line.channels) > p.lanes ||
                         line.fold_phase > line.fold_skip);
}

// A count is 0.
template <typename Line> bool illegal_geometry(const Line& line) {
    return !line.segments || !line.segment_bytes || !line.height || !line.width || !line.channels;
}

}  // namespace bitloop
