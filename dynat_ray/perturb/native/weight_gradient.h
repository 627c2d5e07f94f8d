// The gradient of a convolution with respect to its kernels: the transposed algorithm. Tiles of the
// images and of the outputs' gradients are transformed, multiplied and summed at each of 36 points,
// and the sums are transformed back to 3 x 3.

#pragma once

#include <algorithm>

#include "tiling.h"

template <class Format>
class WeightGradient {
 public:
  using Number = typename Format::Number;

  // `gradient` is (K, 3, 3, C).
  WeightGradient(const Number* images, const Number* upstream, float* gradient, Tiling tiling,
                 int64_t channels, int64_t filters)
      : images_(images), upstream_(upstream), gradient_(gradient), tiling_(tiling),
        channels_(channels), filters_(filters) {}

  void run(int threads) {
    std::fill_n(gradient_, filters_ * kKernel * kKernel * channels_, 0.0f);
    const int64_t tiles = tiling_.count();
    if (tiles == 0) return;
    const int64_t blocks = ratio_rounded_up(tiles, kMostTiles);
    const int64_t block = ratio_rounded_up(tiles, blocks * kTogether) * kTogether;
    // A cache line more than needed: strides that are powers of two would share lines.
    panel_stride_ = block * kPanel + 64 / sizeof(Number);
    static thread_local std::vector<Number> images_room, upstream_room, outside_room;
    Number* const images = at_least(images_room, kPoints * point_stride(channels_));
    Number* const upstream = at_least(upstream_room, kPoints * point_stride(filters_));
    const Number* const outside = at_least(outside_room, std::max(channels_, filters_));  // 0
#pragma omp parallel num_threads(threads)
    for (int64_t first = 0; first < tiles; first += block) {
      const int64_t steps = ratio_rounded_up(std::min(block, tiles - first), kTogether);
#pragma omp for schedule(dynamic, 4)
      for (int64_t step = 0; step < steps; ++step) {
        const int64_t tile = first + step * kTogether, place = step * kTogether * kPanel;
        transform_tiles<ImageToPoints, 1>(tile, images_, channels_, outside, images + place);
        transform_tiles<OutputToPoints, 0>(tile, upstream_, filters_, outside, upstream + place);
      }
#pragma omp for schedule(dynamic) collapse(2)
      for (int64_t channel = 0; channel < channels_; channel += kPanel)
        for (int64_t filter = 0; filter < filters_; filter += kRows)
          multiply(images + place_of(channel), upstream + place_of(filter), steps,
                   gradient_ + filter * kKernel * kKernel * channels_ + channel);
    }
  }

 private:
  // What is transformed lies as (36, C / kPanel, tiles / kTogether, kPanel, kTogether).
  static constexpr int kTogether = Format::kTogether;
  // For so many a panel of all points fits into the second-level cache. The sum over more is that
  // of their blocks, however many threads there are.
  static constexpr int64_t kMostTiles = 256 / (sizeof(Number) / sizeof(uint16_t));

  int64_t point_stride(int64_t channels) const { return channels / kPanel * panel_stride_; }

  int64_t place_of(int64_t channel) const {
    return channel / kPanel * panel_stride_ + channel % kPanel * kTogether;
  }

  template <class Transform, int kBefore>
  void transform_tiles(int64_t first, const Number* images, int64_t channels,
                       const Number* outside, Number* to) const {
    constexpr int kSide = Transform::kFrom;
    const Number* from[kTogether][kSide][kSide];
    for (int tile = 0; tile < kTogether; ++tile)
      tiling_.find<kSide, kBefore>(first + tile, images, channels, outside, from[tile]);
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
      Vector all[kPoints][kTogether];
      for (int tile = 0; tile < kTogether; ++tile)
        transform<Transform>(
            [&](int y, int x) { return Format::load(from[tile][y][x] + channel); },
            [&](int y, int x, Vector values) { all[y * kInputs + x][tile] = values; });
      for (int point = 0; point < kPoints; ++point)
        Format::store_together(to + point * point_stride(channels) + place_of(channel),
                               all[point]);
    }
  }

  // Adds to the gradients of a panel of channels and kRows filters.
  void multiply(const Number* images, const Number* upstream, int64_t steps, float* to) const {
    Vector products[kRows][kVectors][kPoints];
    for (int point = 0; point < kPoints; ++point) {
      const Number* image = images + point * point_stride(channels_);
      const Number* row_numbers = upstream + point * point_stride(filters_);
      Vector sums[kRows][kVectors] = {};
      for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 8
        for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 8
          for (int vector = 0; vector < kVectors; ++vector)
            sums[row][vector] =
                Format::multiply_add(sums[row][vector], row_numbers + row * kTogether,
                                     image + vector * kLanes * kTogether);
        image += kPanel * kTogether;
        row_numbers += kPanel * kTogether;
      }
      for (int row = 0; row < kRows; ++row)
        for (int vector = 0; vector < kVectors; ++vector)
          products[row][vector][point] = sums[row][vector];
    }
    for (int row = 0; row < kRows; ++row)
      for (int vector = 0; vector < kVectors; ++vector)
        transform<PointsToKernel>(
            [&](int y, int x) { return products[row][vector][y * kInputs + x]; },
            [&](int y, int x, Vector values) {
              float* const place =
                  to + ((row * kKernel + y) * kKernel + x) * channels_ + vector * kLanes;
              store_floats(place, load_floats(place) + values);
            });
  }

  const Number* images_;
  const Number* upstream_;
  float* gradient_;
  const Tiling tiling_;
  const int64_t channels_, filters_;
  int64_t panel_stride_ = 0;
};
