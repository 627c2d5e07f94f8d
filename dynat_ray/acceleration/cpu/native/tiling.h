// How images (B, H, W, C) are cut into tiles of 4 x 4 outputs, and what threads work with.

#pragma once

#include <cstdint>
#include <vector>

#include "transforms.h"

inline int64_t ratio_rounded_up(int64_t number, int64_t by) { return (number + by - 1) / by; }

struct Plane {
  int64_t height, width;
};

class Tiling {
 public:
  // `plane` is cut into tiles of 4 x 4.
  Tiling(int64_t samples, Plane plane)
      : down_(ratio_rounded_up(plane.height, kOutputs)),
        across_(ratio_rounded_up(plane.width, kOutputs)), count_(samples * down_ * across_) {}

  int64_t count() const { return count_; }

  // Where the pixels of a tile are, in images (B, H, W, C) of `plane`: `kSide` x `kSide` of them.
  // Tiles lie `kStep` pixels apart, the first `kBefore` rows and columns before the image. Pixels
  // outside are `outside`.
  template <int kSide, int kStep, int kBefore, class Number>
  void find(int64_t tile, Number* images, Plane plane, int64_t channels, Number* outside,
            Number* (&found)[kSide][kSide]) const {
    const int64_t first_row = tile / across_ % down_ * kStep - kBefore;
    const int64_t first_column = tile % across_ * kStep - kBefore;
    const int64_t sample = tile / (down_ * across_);
    for (int y = 0; y < kSide; ++y) {
      const int64_t row = first_row + y;
      const bool row_inside = tile < count_ && is_inside(row, plane.height);
      Number* const line = images + (sample * plane.height + row) * plane.width * channels;
      for (int x = 0; x < kSide; ++x) {
        const int64_t column = first_column + x;
        found[y][x] =
            row_inside && is_inside(column, plane.width) ? line + column * channels : outside;
      }
    }
  }

 private:
  static bool is_inside(int64_t place, int64_t size) {
    return static_cast<uint64_t>(place) < static_cast<uint64_t>(size);  // below 0 is large
  }

  const int64_t down_, across_, count_;
};

// Memory that a thread keeps from one call to the next. It begins where a cache line does.
template <class Number>
Number* at_least(std::vector<Number>& numbers, int64_t size) {
  constexpr uintptr_t kLine = 64;
  const int64_t needed = size + kLine / sizeof(Number);
  if (static_cast<int64_t>(numbers.size()) < needed) numbers.resize(needed);
  const auto address = reinterpret_cast<uintptr_t>(numbers.data());
  return reinterpret_cast<Number*>((address + kLine - 1) / kLine * kLine);
}
