// Convolutions by Winograd's algorithm: a block of tiles is transformed, multiplied by 36 matrices of
// kernels, one for each of 36 points, and transformed back, all while it is in the cache.

#pragma once

#include <algorithm>

#include "tiling.h"

// A block of tiles fits into half of a small second-level cache, but is large enough to be worth
// reading kernels for.
constexpr int64_t kBlockBytes = 1 << 18;
constexpr int64_t kFewestTiles = 64;

// Kernels (K, C, 3, 3), anywhere in memory, in float32.
struct Weight {
  const float* numbers;
  int64_t filter, channel, row, column;  // numbers from one to the next
};

// Transformed kernels are (36, K / kPanel, C / kTogether, kPanel, kTogether).
template <class Format>
void transform_kernels(const Weight& weight, typename Format::Number* to, int64_t channels,
                       int64_t filters, int threads) {
  const int64_t panels = filters / kPanel;
#pragma omp parallel for num_threads(threads) collapse(2)
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t channel = 0; channel < channels; channel += Format::kTogether) {
      for (int lane = 0; lane < kPanel; lane += kLanes) {
        Vector all[kPoints][Format::kTogether];
        for (int c = 0; c < Format::kTogether; ++c) {
          const float* from = weight.numbers + (panel * kPanel + lane) * weight.filter +
                              (channel + c) * weight.channel;
          transform<KernelToPoints>(
              [&](int y, int x) {
                const float* const first = from + y * weight.row + x * weight.column;
                if (weight.filter == 1) return load_floats(first);
                Vector kernels;
                for (int filter = 0; filter < kLanes; ++filter)
                  kernels[filter] = first[filter * weight.filter];
                return kernels;
              },
              [&](int y, int x, Vector values) { all[y * kInputs + x][c] = values; });
        }
        for (int point = 0; point < kPoints; ++point)
          Format::store_together(to + (point * panels + panel) * channels * kPanel +
                                     channel * kPanel + lane * Format::kTogether,
                                 all[point]);
      }
    }
  }
}

template <class Format>
class Convolution {
 public:
  using Number = typename Format::Number;

  Convolution(const Number* images, const Number* kernels, const float* bias, Number* outputs,
              Tiling tiling, int64_t channels, int64_t filters)
      : images_(images), kernels_(kernels), bias_(bias), outputs_(outputs), tiling_(tiling),
        channels_(channels), filters_(filters) {}

  void run(int threads) {
    const int64_t tiles = tiling_.count(), panels = filters_ / kPanel;
    if (tiles == 0) return;
    // Where there are few tiles, threads share the kernels and not the tiles: reading kernels is
    // what takes the time then.
    const int64_t shares = std::clamp<int64_t>(ratio_rounded_up(kFewestTiles * threads, tiles), 1,
                                               std::min<int64_t>(threads, panels));
    const int64_t bytes_a_tile = kPoints * (channels_ * sizeof(Number) + kPanel * sizeof(float));
    const int64_t most = std::max(kFewestTiles, kBlockBytes / bytes_a_tile);
    const int64_t at_once = ratio_rounded_up(threads, shares);
    const int64_t blocks = ratio_rounded_up(tiles, most * at_once) * at_once;
    const int64_t block = ratio_rounded_up(ratio_rounded_up(tiles, blocks), kRows) * kRows;
    // A cache line more than needed: strides that are powers of two would share lines.
    tiles_stride_ = block * channels_ + 64 / sizeof(Number);
    products_stride_ = block * kPanel + 64 / sizeof(float);
#pragma omp parallel for num_threads(threads) schedule(dynamic) collapse(2)
    for (int64_t first = 0; first < tiles; first += block)
      for (int64_t share = 0; share < shares; ++share)
        convolve(first, std::min(block, tiles - first), share * panels / shares,
                 (share + 1) * panels / shares);
  }

 private:
  void convolve(int64_t first, int64_t count, int64_t first_panel, int64_t last_panel) const {
    static thread_local std::vector<Number> tiles_room, outside_room, nowhere_room;
    static thread_local std::vector<float> products_room;
    Number* const tiles = at_least(tiles_room, kPoints * tiles_stride_);
    const Number* const outside = at_least(outside_room, channels_);  // never written to: 0
    Number* const nowhere = at_least(nowhere_room, kPanel);
    float* const products = at_least(products_room, kPoints * products_stride_);
    for (int64_t tile = 0; tile < count; ++tile)
      transform_tile(first + tile, tiles + tile * channels_, outside);
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      for (int point = 0; point < kPoints; ++point) {
        const Number* const next =
            point + 1 < kPoints ? kernels_of(point + 1, panel) : kernels_of(0, panel + 1);
        for (int64_t tile = 0; tile < count; tile += kRows)
          multiply(tiles + point * tiles_stride_ + tile * channels_, kernels_of(point, panel), next,
                   products + point * products_stride_ + tile * kPanel);
      }
      for (int64_t tile = 0; tile < count; ++tile)
        transform_back(first + tile, panel * kPanel, products + tile * kPanel, nowhere);
    }
  }

  const Number* kernels_of(int point, int64_t panel) const {
    return kernels_ + (point * (filters_ / kPanel) + panel) * channels_ * kPanel;
  }

  void transform_tile(int64_t tile, Number* to, const Number* outside) const {
    const Number* from[kInputs][kInputs];
    tiling_.find<kInputs, 1>(tile, images_, channels_, outside, from);
    for (int64_t channel = 0; channel < channels_; channel += kLanes)
      transform<ImageToPoints>(
          [&](int y, int x) { return Format::load(from[y][x] + channel); },
          [&](int y, int x, Vector values) {
            Format::store(to + (y * kInputs + x) * tiles_stride_ + channel, values);
          });
  }

  // Multiplies kRows tiles (kRows, C), of one point, by a panel of kernels (C, kPanel), and has the
  // kernels that come next fetched from memory.
  void multiply(const Number* tiles, const Number* kernels, const Number* next, float* to) const {
    Vector sums[kRows][kVectors] = {};
    for (int64_t channel = 0; channel < channels_; channel += Format::kTogether) {
      __builtin_prefetch(next + channel * kPanel);
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 8
        for (int vector = 0; vector < kVectors; ++vector)
          sums[row][vector] = Format::multiply_add(
              sums[row][vector], tiles + row * channels_ + channel,
              kernels + channel * kPanel + vector * kLanes * Format::kTogether);
    }
    for (int row = 0; row < kRows; ++row)
      for (int vector = 0; vector < kVectors; ++vector)
        store_floats(to + row * kPanel + vector * kLanes, sums[row][vector]);
  }

  void transform_back(int64_t tile, int64_t filter, const float* products, Number* nowhere) const {
    Number* to[kOutputs][kOutputs];
    tiling_.find<kOutputs, 0>(tile, outputs_ + filter, filters_, nowhere, to);
    for (int lane = 0; lane < kPanel; lane += kLanes) {
      const Vector bias = bias_ == nullptr ? Vector{} : load_floats(bias_ + filter + lane);
      transform<PointsToOutput>(
          [&](int y, int x) {
            return load_floats(products + (y * kInputs + x) * products_stride_ + lane);
          },
          [&](int y, int x, Vector values) { Format::store(to[y][x] + lane, values + bias); });
    }
  }

  const Number* images_;
  const Number* kernels_;
  const float* bias_;
  Number* outputs_;
  const Tiling tiling_;
  const int64_t channels_, filters_;
  int64_t tiles_stride_ = 0, products_stride_ = 0;
};
