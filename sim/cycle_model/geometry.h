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
    int extra = 0;        // further words at a row's end
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

// A count is 0: an illegal field.
template <typename Line> bool illegal_geometry(const Line& line) {
    return !line.segments || !line.segment_bytes || !line.height || !line.width || !line.channels;
}

}  // namespace bitloop
