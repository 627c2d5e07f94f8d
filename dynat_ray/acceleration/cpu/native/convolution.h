// Convolutions by Winograd's algorithm: a block of tiles is transformed, multiplied by matrices of
// kernels, one for each point, and transformed back, all while it is in the cache.

#pragma once

#include <unistd.h>

#include <algorithm>

#include "products.h"
#include "tiling.h"
#include "transforms.h"

// A block of tiles fits into half of a small second-level cache, but is large enough to be worth
// reading kernels for.
constexpr int64_t kBlockBytes = 1 << 18;
constexpr int64_t kFewestTiles = 60;

// Products fit into half of the second-level cache that there is.
inline int64_t bytes_of_products() {
  static const int64_t half = sysconf(_SC_LEVEL2_CACHE_SIZE) / 2;
  return half;
}

// Sums that are formed at once, two vectors of them for each of so many tiles, fill the registers:
// 24 of 32, or 12 of 16.
constexpr int kFewRows = kLanes / 4;
constexpr int kRows = 3 * kFewRows;

// Kernels (K, C, 3, 3), anywhere in memory, in float32.
struct Weight {
  const float* numbers;
  int64_t filter, channel, row, column;  // numbers from one to the next
};

// Transformed kernels are (36, K / kPanel, C / kTogether, kPanel, kTogether). With a scale, by which
// they are multiplied, its inverse follows them.
template <class Transform, class Products>
void transform_kernels(const Weight& weight, float scale, typename Products::Factor* to,
                       int64_t channels, int64_t filters, int threads) {
  constexpr int kPanel = Products::kPanel, kTogether = Products::kTogether;
  const int64_t panels = filters / kPanel;
  // Where a vector's filters lie side by side, it can be read at once.
  const bool side_by_side = Products::filter_of(0, 1) * weight.filter == 1;
#pragma omp parallel for num_threads(threads) collapse(2)
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t channel = 0; channel < channels; channel += kTogether) {
      for (int vector = 0; vector < kPanel / kLanes; ++vector) {
        Vector all[kPoints][kTogether];
        for (int c = 0; c < kTogether; ++c) {
          const float* from =
              weight.numbers + panel * kPanel * weight.filter + (channel + c) * weight.channel;
          transform<Transform>(
              [&](int y, int x) {
                const float* const first = from + y * weight.row + x * weight.column;
                if (side_by_side) return load_floats(first + vector * kLanes);
                Vector kernels;
                for (int lane = 0; lane < kLanes; ++lane)
                  kernels[lane] = first[Products::filter_of(vector, lane) * weight.filter];
                return kernels;
              },
              [&](int y, int x, Vector values) { all[y * kInputs + x][c] = scale * values; });
        }
        for (int point = 0; point < kPoints; ++point)
          Products::store_together(to + (point * panels + panel) * channels * kPanel +
                                     channel * kPanel + vector * kLanes * kTogether,
                                 all[point]);
      }
    }
  }
  if (!Products::kScaled) return;
  const float inverse = 1.0f / scale;
  std::memcpy(to + kPoints * channels * filters, &inverse, sizeof inverse);
}

// A convolution without stride, and its gradient.
struct Plain {
  using Inputs = ImageToPoints;
  using Outputs = PointsToOutput;
  // From a tile's first pixel to the next tile's, and from the first tile's to the image's.
  static constexpr int kInputStep = kOutputs, kInputBefore = 1, kOutputStep = kOutputs;
};

// One with a stride of 2, and its gradient.
struct Strided {
  using Inputs = StridedImageToPoints;
  using Outputs = PointsToStridedOutput;
  static constexpr int kInputStep = 2 * kOutputs, kInputBefore = 1, kOutputStep = kOutputs;
};

struct StridedGradient {
  using Inputs = UpstreamToPoints;
  using Outputs = PointsToStridedInput;
  static constexpr int kInputStep = kOutputs, kInputBefore = 0, kOutputStep = 2 * kOutputs;
};

template <class Scheme, class Format, class Products>
class Convolution {
 public:
  using Number = typename Format::Number;
  using Factor = typename Products::Factor;
  using Product = typename Products::Product;
  using Scale = typename Products::Scale;

  // The smaller plane of images `from` and outputs `to` is the one that is cut into tiles.
  Convolution(const Number* images, const Factor* kernels, const float* bias, Number* outputs,
              int64_t samples, Plane from, Plane to, int64_t channels, int64_t filters)
      : images_(images), kernels_(kernels), bias_(bias), outputs_(outputs), from_(from), to_(to),
        tiling_(samples, Scheme::kInputStep > kOutputs ? to : from), channels_(channels),
        filters_(filters) {
    if (Products::kScaled)
      std::memcpy(&kernel_inverse_, kernels + kPoints * channels * filters, sizeof(float));
  }

  void run(int threads) {
    const int64_t tiles = tiling_.count(), panels = filters_ / kPanel;
    if (tiles == 0) return;
    // Where there are few tiles, threads share the kernels and not the tiles: reading kernels is
    // what takes the time then.
    const int64_t shares = std::clamp<int64_t>(ratio_rounded_up(kFewestTiles * threads, tiles), 1,
                                               std::min<int64_t>(threads, panels));
    const int64_t bytes_a_tile =
        kAllPoints * (channels_ * sizeof(Factor) + kAtOnce * sizeof(Product));
    const int64_t most = std::max(kFewestTiles, kBlockBytes / bytes_a_tile);
    const int64_t at_once = ratio_rounded_up(threads, shares);
    const int64_t blocks = ratio_rounded_up(tiles, most * at_once) * at_once;
    block_ = ratio_rounded_up(ratio_rounded_up(tiles, blocks), kFewRows) * kFewRows;
    // A cache line more than needed: strides that are powers of two would share lines.
    tiles_stride_ = block_ * channels_ + 64 / sizeof(Factor);
    const int64_t needed = ratio_rounded_up(panels, shares * kPanelsAtOnce);
    const int64_t fit = bytes_of_products() / (kAllPoints * block_ * kAtOnce * sizeof(Product));
    panels_in_cache_ = std::clamp<int64_t>(fit, 1, needed) * kPanelsAtOnce;
    products_stride_ = block_ * panels_in_cache_ * kPanel + 64 / sizeof(Product);
#pragma omp parallel for num_threads(threads) schedule(dynamic) collapse(2)
    for (int64_t first = 0; first < tiles; first += block_)
      for (int64_t share = 0; share < shares; ++share)
        convolve(first, std::min(block_, tiles - first), share * panels / shares,
                 (share + 1) * panels / shares);
  }

 private:
  static constexpr int kSide = Scheme::Inputs::kTo, kAllPoints = kSide * kSide;
  static constexpr int kPanel = Products::kPanel, kPanelsAtOnce = Products::kPanelsAtOnce;
  static constexpr int kAtOnce = kPanelsAtOnce * kPanel;

  void convolve(int64_t first, int64_t count, int64_t first_panel, int64_t last_panel) const {
    static thread_local std::vector<Factor> tiles_room;
    static thread_local std::vector<Scale> scales_room;
    static thread_local std::vector<Number> outside_room, nowhere_room;
    static thread_local std::vector<Product> products_room;
    static thread_local std::vector<float> no_bias_room;
    Factor* const tiles = at_least(tiles_room, kAllPoints * tiles_stride_);
    Scale* const scales = at_least(scales_room, count);
    const Number* const outside = at_least(outside_room, channels_);  // never written to: 0
    Number* const nowhere = at_least(nowhere_room, kAtOnce);
    Product* const products = at_least(products_room, kAllPoints * products_stride_);
    const float* const bias = bias_ == nullptr ? at_least(no_bias_room, filters_) : bias_;
    for (int64_t tile = 0; tile < count; ++tile)
      scales[tile] = transform_tile(first + tile, tiles + tile * kPanel, outside);
    for (int64_t begin = first_panel; begin < last_panel; begin += panels_in_cache_) {
      const int64_t end = std::min(begin + panels_in_cache_, last_panel);
      multiply_all(tiles, begin, end, products, count);
      for (int64_t panel = begin; panel < end; panel += kPanelsAtOnce) {
        const Product* const from = products + (panel - begin) * block_ * kPanel;
        const int64_t panels = std::min<int64_t>(kPanelsAtOnce, end - panel);
        for (int64_t tile = 0; tile < count; ++tile)
          transform_back(first + tile, panel * kPanel, panels * kPanel, from + tile * kAtOnce,
                         scales[tile], bias, nowhere);
      }
    }
  }

  const Factor* kernels_of(int point, int64_t panel) const {
    const int y = std::min(point / kSide, kInputs - 1), x = std::min(point % kSide, kInputs - 1);
    return kernels_ + ((y * kInputs + x) * (filters_ / kPanel) + panel) * channels_ * kPanel;
  }

  // To (points, C / kPanel, block, kPanel).
  Scale transform_tile(int64_t tile, Factor* to, const Number* outside) const {
    constexpr int kFrom = Scheme::Inputs::kFrom;
    const Number* from[kFrom][kFrom];
    tiling_.template find<kFrom, Scheme::kInputStep, Scheme::kInputBefore>(
        tile, images_, from_, channels_, outside, from);
    const Scale scale = Products::scale_of(from, channels_);
    for (int64_t channel = 0; channel < channels_; channel += Products::kValues) {
      const int64_t place = channel / kPanel * block_ * kPanel + channel % kPanel;
      transform<typename Scheme::Inputs>(
          [&](int y, int x) {
            return Products::template load_pixel<Format>(from[y][x] + channel, scale);
          },
          [&](int y, int x, auto values) {
            Products::store(to + (y * kSide + x) * tiles_stride_ + place, values);
          });
    }
    return scale;
  }

  // All panels meet the tiles of one point before those of the next, which are in the cache then.
  void multiply_all(const Factor* tiles, int64_t begin, int64_t end, Product* to,
                    int64_t count) const {
    for (int point = 0; point < kAllPoints; ++point) {
      const Factor* const from = tiles + point * tiles_stride_;
      Product* sums = to + point * products_stride_;
      for (int64_t panel = begin; panel < end; panel += kPanelsAtOnce) {
        const Factor* const kernels = kernels_of(point, panel);
        const bool last_of_point = panel + kPanelsAtOnce >= end;
        const Factor* const next = !last_of_point         ? kernels_of(point, panel + kPanelsAtOnce)
                                   : point + 1 < kAllPoints ? kernels_of(point + 1, begin)
                                                            : kernels_of(0, end);
        if (end - panel >= kPanelsAtOnce)
          multiply_rows<kPanelsAtOnce>(from, kernels, next, sums, count);
        else
          multiply_rows<1>(from, kernels, next, sums, count);
        sums += block_ * kAtOnce;
      }
    }
  }

  template <int kPanels>
  void multiply_rows(const Factor* tiles, const Factor* kernels, const Factor* next, Product* to,
                     int64_t count) const {
    for (int64_t tile = 0; tile < count;) {
      const Factor* const from = tiles + tile * kPanel;
      Product* const sums = to + tile * kAtOnce;
      // Few rows by themselves are slow: four times as many as are left become two and two.
      const int64_t left = ratio_rounded_up(count - tile, kFewRows);
      if (left == 3 || left > 4) {
        multiply<kRows, kPanels>(from, kernels, next, sums);
        tile += kRows;
      } else if (left > 1) {
        multiply<2 * kFewRows, kPanels>(from, kernels, next, sums);
        tile += 2 * kFewRows;
      } else {
        multiply<kFewRows, kPanels>(from, kernels, next, sums);
        tile += kFewRows;
      }
    }
  }

  // Multiplies tiles, of one point, by panels of kernels, and has the kernels that come next
  // fetched from memory.
  template <int kTiles, int kPanels>
  void multiply(const Factor* tiles, const Factor* kernels, const Factor* next, Product* to) const {
    constexpr int kTogether = Products::kTogether;
    const int64_t panel_size = channels_ * kPanel;
    for (int64_t begin = 0; begin < channels_; begin += Products::kMostAdded) {
      const int64_t end = std::min(begin + Products::kMostAdded, channels_);
      typename Products::Sum sums[kTiles][kPanels][Products::kVectors] = {};
      for (int64_t first = begin; first < end; first += kPanel) {
        for (int channel = 0; channel < kPanel; channel += kTogether) {
#pragma GCC unroll 8
          for (int panel = 0; panel < kPanels; ++panel)
            __builtin_prefetch(next + panel * panel_size);
          add_products<Products>(sums, tiles + channel, kPanel, kernels, panel_size);
          kernels += kPanel * kTogether;
          next += kPanel * kTogether;
        }
        tiles += block_ * kPanel;
      }
#pragma GCC unroll 16
      for (int row = 0; row < kTiles; ++row)
#pragma GCC unroll 8
        for (int panel = 0; panel < kPanels; ++panel)
          Products::store_sums(to + row * kAtOnce + panel * kPanel, sums[row][panel], begin > 0);
    }
  }

  void transform_back(int64_t tile, int64_t filter, int64_t filters, const Product* products,
                      Scale scale, const float* bias, Number* nowhere) const {
    constexpr int kTo = Scheme::Outputs::kTo;
    Number* to[kTo][kTo];
    tiling_.template find<kTo, Scheme::kOutputStep, 0>(tile, outputs_ + filter, to_, filters_,
                                                       nowhere, to);
    for (int64_t lane = 0; lane < filters; lane += Products::kValues)
      transform<typename Scheme::Outputs>(
          [&](int y, int x) {
            return Products::load_product(products + (y * kSide + x) * products_stride_ + lane);
          },
          [&](int y, int x, auto values) {
            Products::template store_pixel<Format>(to[y][x] + lane, values, scale, kernel_inverse_,
                                                   bias + filter + lane);
          });
  }

  const Number* images_;
  const Factor* kernels_;
  const float* bias_;
  Number* outputs_;
  const Plane from_, to_;
  const Tiling tiling_;
  const int64_t channels_, filters_;
  float kernel_inverse_ = 1.0f;
  int64_t block_ = 0, panels_in_cache_ = 0, tiles_stride_ = 0, products_stride_ = 0;
};
