// The gradient of a convolution with respect to its kernels: the transposed algorithm. Tiles of the
// images and of the outputs' gradients are transformed, multiplied and summed at each of 36 points,
// and the sums are transformed back to 3 x 3.

#pragma once

#include <algorithm>

#include "convolution.h"

// Filters whose gradients are summed up at once, two vectors of channels for each.
constexpr int kFiltersAtOnce = kLanes / 2;

template <class Format, class Products>
class WeightGradient {
 public:
  using Number = typename Format::Number;
  using Factor = typename Products::Factor;

  // `gradient` is (K, 3, 3, C).
  WeightGradient(const Number* images, const Number* upstream, float* gradient, int64_t samples,
                 Plane plane, int64_t channels, int64_t filters)
      : images_(images), upstream_(upstream), gradient_(gradient), plane_(plane),
        tiling_(samples, plane), channels_(channels), filters_(filters) {}

  void run(int threads) {
    const int64_t tiles = tiling_.count(), size = filters_ * kKernel * kKernel * channels_;
    // What a core transforms it multiplies itself: another would wait for it to come over. So many
    // tiles are summed up by themselves, however many threads there are, so that sums round alike.
    const int64_t parts = std::clamp<int64_t>(tiles / kTilesOfPart, 1, kMostParts);
    const int64_t part = ratio_rounded_up(tiles, parts * kTogether) * kTogether;
    // Threads that are left share the channels, and each transforms what comes from above.
    const int64_t panels = ratio_rounded_up(channels_, kAtOnce);
    const int64_t shares = std::min(ratio_rounded_up(threads, parts), panels);
    std::vector<float> others((parts - 1) * size);
#pragma omp parallel for num_threads(threads) schedule(dynamic) collapse(2)
    for (int64_t number = 0; number < parts; ++number)
      for (int64_t share = 0; share < shares; ++share) {
        const int64_t channel = share * panels / shares * kAtOnce;
        const int64_t end = std::min((share + 1) * panels / shares * kAtOnce, channels_);
        float* const to = number == 0 ? gradient_ : others.data() + (number - 1) * size;
        sum_up(number * part, std::min((number + 1) * part, tiles), channel, end, to);
      }
    if (parts == 1) return;
#pragma omp parallel for num_threads(threads)
    for (int64_t place = 0; place < size; place += kLanes) {
      Vector sum = load_floats(gradient_ + place);
      for (int64_t number = 1; number < parts; ++number)
        sum += load_floats(others.data() + (number - 1) * size + place);
      store_floats(gradient_ + place, sum);
    }
  }

 private:
  static constexpr int kTogether = Products::kTogether, kVectors = Products::kVectors;
  static constexpr int kPanel = Products::kPanel, kPanelsAtOnce = Products::kPanelsAtOnce;
  static constexpr int kAtOnce = kPanelsAtOnce * kPanel;
  static constexpr int64_t kTilesOfPart = 128, kMostParts = 8;
  // Some panels of so many tiles, of all points, fit into a second-level cache.
  static constexpr int64_t kBlock = 128 / (sizeof(Factor) / sizeof(uint16_t));
  // What is transformed lies as (36, C / kPanel, kBlock / kTogether, kPanel, kTogether), with a
  // cache line more than needed: strides that are powers of two would share lines.
  static constexpr int64_t kPanelStride = kBlock * kPanel + 64 / sizeof(Factor);

  static int64_t point_stride(int64_t channels) { return channels / kPanel * kPanelStride; }

  static int64_t place_of(int64_t channel) {
    return channel / kPanel * kPanelStride + channel % kPanel * kTogether;
  }

  // Sums up what tiles `first` to `last` give to the gradients of channels `channel` to `end`.
  void sum_up(int64_t first, int64_t last, int64_t channel, int64_t end, float* gradient) const {
    static thread_local std::vector<Factor> images_room, upstream_room;
    static thread_local std::vector<Number> outside_room;
    const int64_t channels = end - channel;
    Factor* const images = at_least(images_room, kPoints * point_stride(channels));
    Factor* const upstream = at_least(upstream_room, kPoints * point_stride(filters_));
    const Number* const outside = at_least(outside_room, std::max(channels_, filters_));  // 0
    for (int64_t row = 0; row < filters_ * kKernel * kKernel; ++row)
      std::fill_n(gradient + row * channels_ + channel, channels, 0.0f);
    for (int64_t block = first; block < last; block += kBlock) {
      const int64_t steps = ratio_rounded_up(std::min(kBlock, last - block), kTogether);
      for (int64_t step = 0; step < steps; ++step) {
        const int64_t tile = block + step * kTogether, place = step * kTogether * kPanel;
        transform_tiles<ImageToPoints, 1>(tile, images_, channels_, channel, channels, outside,
                                          images + place);
        transform_tiles<OutputToPoints, 0>(tile, upstream_, filters_, 0, filters_, outside,
                                           upstream + place);
      }
      for (int64_t from = 0; from < channels; from += kAtOnce)
        for (int64_t filter = 0; filter < filters_; filter += kFiltersAtOnce) {
          float* const to = gradient + filter * kKernel * kKernel * channels_ + channel + from;
          const Factor* const image = images + place_of(from);
          const Factor* const row = upstream + place_of(filter);
          if (channels - from >= kAtOnce)
            multiply<kPanelsAtOnce>(image, point_stride(channels), row, steps, to);
          else
            multiply<1>(image, point_stride(channels), row, steps, to);
        }
    }
  }

  // Transforms `count` of the channels.
  template <class Transform, int kBefore>
  void transform_tiles(int64_t first, const Number* images, int64_t channels,
                       int64_t first_channel, int64_t count, const Number* outside,
                       Factor* to) const {
    constexpr int kSide = Transform::kFrom;
    const Number* from[kTogether][kSide][kSide];
    for (int tile = 0; tile < kTogether; ++tile)
      tiling_.find<kSide, kOutputs, kBefore>(first + tile, images + first_channel, plane_, channels,
                                             outside, from[tile]);
    for (int64_t channel = 0; channel < count; channel += kLanes) {
      Vector all[kPoints][kTogether];
      for (int tile = 0; tile < kTogether; ++tile)
        transform<Transform>(
            [&](int y, int x) { return Format::load(from[tile][y][x] + channel); },
            [&](int y, int x, Vector values) { all[y * kInputs + x][tile] = values; });
      for (int point = 0; point < kPoints; ++point)
        Products::store_together(to + point * point_stride(count) + place_of(channel),
                               all[point]);
    }
  }

  // Adds to the gradients of panels of channels and some filters.
  template <int kPanels>
  void multiply(const Factor* images, int64_t image_stride, const Factor* upstream, int64_t steps,
                float* to) const {
    Vector products[kFiltersAtOnce][kPanels][kVectors][kPoints];
    for (int point = 0; point < kPoints; ++point) {
      const Factor* image = images + point * image_stride;
      const Factor* row_numbers = upstream + point * point_stride(filters_);
      Vector sums[kFiltersAtOnce][kPanels][kVectors] = {};
      for (int64_t step = 0; step < steps; ++step) {
        add_products<Products>(sums, row_numbers, kTogether, image, kPanelStride);
        image += kPanel * kTogether;
        row_numbers += kPanel * kTogether;
      }
#pragma GCC unroll 8
      for (int row = 0; row < kFiltersAtOnce; ++row)
#pragma GCC unroll 8
        for (int panel = 0; panel < kPanels; ++panel)
#pragma GCC unroll 8
          for (int vector = 0; vector < kVectors; ++vector)
            products[row][panel][vector][point] = sums[row][panel][vector];
    }
    for (int row = 0; row < kFiltersAtOnce; ++row)
      for (int panel = 0; panel < kPanels; ++panel)
        for (int vector = 0; vector < kVectors; ++vector)
          transform<PointsToKernel>(
              [&](int y, int x) { return products[row][panel][vector][y * kInputs + x]; },
              [&](int y, int x, Vector values) {
                float* const place = to + ((row * kKernel + y) * kKernel + x) * channels_ +
                                     panel * kPanel + vector * kLanes;
                store_floats(place, load_floats(place) + values);
              });
  }

  const Number* images_;
  const Number* upstream_;
  float* gradient_;
  const Plane plane_;
  const Tiling tiling_;
  const int64_t channels_, filters_;
};
